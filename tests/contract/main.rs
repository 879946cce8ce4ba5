//! The store's contract: every promise in the comments of `store::Store`, held on both engines; and what Redis and
//! Redis Cluster do for several gateways (`redis`, `redis_cluster`, `redis_sentinel`, `wakes`).
//!
//! One test function a promise, run on PostgreSQL and on SQLite by `on_both_engines!`; what only one engine has (a
//! server that dies, a file that is reopened) is in `outage` and `opening`.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a fixture that cannot set its stage fails the test; clippy sees tests only in functions marked as such"
)]

#[path = "../support/mod.rs"]
mod support;

/// Runs each test on both engines, with a fresh store.
macro_rules! on_both_engines {
    ($($test:ident,)*) => {
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::fixture::Fixture::postgres().await).await;
                }
            )*
        }
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::fixture::Fixture::sqlite().await).await;
                }
            )*
        }
    };
}

mod accounts;
mod api_keys;
mod audit;
mod audit_chain;
mod devices;
mod faults;
mod feed;
mod fixture;
mod keys;
mod lockout_pages;
mod lockouts;
mod opening;
mod outage;
mod outbox;
mod proxy;
mod quotas;
mod redis;
mod redis_cluster;
mod redis_sentinel;
mod refresh;
mod sessions;
mod tabs;
mod wakes;
