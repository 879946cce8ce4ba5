//! The gateway from outside: real sockets, real stores, a scripted service behind it. One binary, so that everything is
//! linked once and shares one PostgreSQL cluster.
//!
//! Each file is one promise. The main job: [`journeys`], [`sessions`] (how one lives and ends), [`sessions_api`] (how
//! its user sees and ends it), [`browsers`] (what front ends rely on), [`openapi`] (the portal is as it is described),
//! [`storeless`] (a gateway that keeps nothing).
//!
//! Who may: [`access_matrix`] (who may call what), [`admin_api`], [`admin_lockouts`] and [`admin_quotas`] (what
//! administrators see and do, from where), [`credential_stuffing`] (who is found out), [`bad_input`], [`bad_frames`],
//! [`smuggling`] and [`wrong_tokens`] (what is refused), [`issuers`] and [`issuer_keys`] (whose tokens count besides
//! ours), [`cross_origin`] (which pages may read and write), [`forward_auth`] (what other proxies are told), [`oauth`]
//! (what services are told of tokens), [`revocations`] (what is taken away from tokens that are out there),
//! [`api_keys`] (what they are worth, and until when) and [`api_key_lookups`] (what that costs the store), [`limits`],
//! [`limit_keys`], [`limit_caps`], [`limit_streams`], [`limit_bound`], [`limit_evasion`], [`shared_limits`] and
//! [`quotas`] (who pays for whom), [`lockout`] (who may guess, and whom that keeps out), [`isolation`] and [`overload`]
//! (what others do costs nobody else), [`floods`] and [`frame_floods`] (who is refused before anybody is known);
//! [`attacks`] (whole journeys, honest clients beside them, on one gateway and on three; single ways around one rule
//! are in the files before).
//!
//! What passes: [`proxying`], [`identities`] and [`presets`] (in which forms a service is told who calls), [`hygiene`]
//! (what nobody says in the gateway's place), [`timeouts`] (who is cut), [`memory`] (what bodies cost), [`websockets`],
//! [`streams`] (what ends with its caller's right to it), [`usage`] and [`budgets`] (what language models are asked
//! for, and for how much).
//!
//! When things fail or change: [`clusters`] (services), [`lost_store`], [`redis_sentinel`] (a master that another
//! replaces), [`reload`] and [`reload_files`] (the configuration, under requests), [`key_rotation`] and
//! [`key_commands`] (signing keys, under requests and by hand), [`account_commands`] (users and revocations, by hand);
//! [`three_gateways`] (processes and links, under load).
//!
//! What operators see: [`start`], [`seeing`] (log, metrics, health), [`secrets`] (what is never printed), [`traces`]
//! and [`trace_calls`] (what a collector is handed), [`trace_context`] (which trace a request is in), [`exemplars`]
//! (how a metric leads to one), [`audit`] (what was done, by whom) and [`webhooks`] (who is told at once).
//!
//! With real programs: [`python_clients`], [`node_clients`], [`deployments`].

#[cfg(test)]
#[path = "../harness/mod.rs"]
mod harness;
#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;

/// Each named test once on SQLite and once on PostgreSQL, each time on a store of its own.
#[cfg(test)]
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::harness::gateway::Engine::Sqlite).await;
                }
            )*
        }
        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::harness::gateway::Engine::Postgres).await;
                }
            )*
        }
    };
}

/// Each named test on one gateway with each store, and on two gateways with one PostgreSQL and one Redis.
#[cfg(test)]
macro_rules! on_every_deployment {
    ($($name:ident),* $(,)?) => {
        on_every_deployment!(on_sqlite, crate::harness::gateways::Deployment::One(crate::harness::gateway::Engine::Sqlite), $($name)*);
        on_every_deployment!(on_postgres, crate::harness::gateways::Deployment::One(crate::harness::gateway::Engine::Postgres), $($name)*);
        on_every_deployment!(on_two_gateways, crate::harness::gateways::Deployment::Two, $($name)*);
    };
    ($module:ident, $deployment:expr, $($name:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($deployment).await;
                }
            )*
        }
    };
}

#[cfg(test)]
mod access_matrix;
#[cfg(test)]
mod account_commands;
#[cfg(test)]
mod admin_api;
#[cfg(test)]
mod admin_lockouts;
#[cfg(test)]
mod admin_quotas;
#[cfg(test)]
mod api_key_lookups;
mod api_keys;
#[cfg(test)]
mod attacks;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod bad_frames;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod browsers;
#[cfg(test)]
mod budgets;
#[cfg(test)]
mod clusters;
#[cfg(test)]
mod credential_stuffing;
#[cfg(test)]
mod cross_origin;
#[cfg(test)]
mod deployments;
#[cfg(test)]
mod exemplars;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod forward_auth;
#[cfg(test)]
mod frame_floods;
#[cfg(test)]
mod hygiene;
#[cfg(test)]
mod identities;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod issuer_keys;
#[cfg(test)]
mod issuers;
#[cfg(test)]
mod journeys;
#[cfg(test)]
mod key_commands;
#[cfg(test)]
mod key_rotation;
#[cfg(test)]
mod limit_bound;
#[cfg(test)]
mod limit_caps;
#[cfg(test)]
mod limit_evasion;
#[cfg(test)]
mod limit_keys;
#[cfg(test)]
mod limit_streams;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod lockout;
#[cfg(test)]
mod lost_store;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod node_clients;
#[cfg(test)]
mod oauth;
#[cfg(test)]
mod openapi;
#[cfg(test)]
mod overload;
#[cfg(test)]
mod presets;
#[cfg(test)]
mod proxying;
#[cfg(test)]
mod python_clients;
#[cfg(test)]
mod quotas;
mod redis_sentinel;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod reload_files;
#[cfg(test)]
mod revocations;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod seeing;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod sessions_api;
#[cfg(test)]
mod shared_limits;
#[cfg(test)]
mod smuggling;
#[cfg(test)]
mod start;
#[cfg(test)]
mod storeless;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod three_gateways;
#[cfg(test)]
mod timeouts;
#[cfg(test)]
mod trace_calls;
#[cfg(test)]
mod trace_context;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod usage;
#[cfg(test)]
mod webhooks;
#[cfg(test)]
mod websockets;
#[cfg(test)]
mod wrong_tokens;
