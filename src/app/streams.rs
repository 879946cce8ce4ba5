//! Open streams that end: those whose caller has lost the right to them, as this gateway learns of it, and those whose
//! access token has run out while nobody refreshed the session.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::MissedTickBehavior;

use crate::{
    clock::{Clock, Timestamp},
    config::settings::Tokens,
    gate::{
        caller::{Caller, Signer},
        keyring::Keyring,
        open_streams::{Forgiven, OpenStreams},
    },
    policy::{
        claims::Claims,
        ids::{ApiKeyId, SessionId},
        reason::Reason,
        standing::standing,
    },
    store::{SharedStore, feed::Authorization, memory::revocations::Revocations},
    telemetry::metrics::Metrics,
};

/// How often streams are looked at. A right that is gone ends them sooner, where it is taken away.
const EVERY: Duration = Duration::from_millis(250);

/// Sessions that are asked after at once.
const QUESTIONS: usize = 4;

/// When a store that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(5);

/// The streams of a gateway.
pub(super) fn open(
    tokens: &Tokens,
    known: &Arc<Revocations>,
    keys: Option<(Arc<Keyring>, Arc<dyn Clock>)>,
    metrics: &Arc<Metrics>,
) -> Arc<OpenStreams> {
    let known = Arc::clone(known);
    // A key that is gone before its token has expired was retired. One that this gateway may not have read of was not.
    let retired = move |caller: &Caller| {
        keys.as_ref().is_some_and(|(keyring, clock)| {
            let live = Timestamp::from_seconds(caller.claims().expires) > clock.now();
            live && !keyring.verifies(caller.kid()) && !keyring.is_cut_off()
        })
    };
    let forgiven = Forgiven { leeway: tokens.leeway, grace: tokens.stream_grace };
    let revoked = Box::new(move |caller: &Caller| {
        let claims = caller.claims();
        let own = match caller.signer() {
            Signer::Own(session) => Some(*session),
            Signer::Foreign(_) => None,
            Signer::ApiKey(key) => return api_key_lost(&known, *key, claims),
        };
        let ended =
            own.is_some_and(|session| known.ended(session) || known.revoked(&claims.token_id) || retired(caller));
        if ended || known.void(&claims.issuer, &claims.subject, claims.issued) {
            return Some(Reason::SessionEnded);
        }
        // An id must be read for it: only where anybody's rights have changed.
        let user = own.filter(|_| known.holds_rights()).and_then(|_| claims.subject.parse().ok())?;
        let rights = known.newer_rights(user, claims.authorization_version)?;
        has_less(claims, &rights).then_some(Reason::RoleMissing)
    });
    Arc::new(OpenStreams::new(revoked, forgiven, Arc::clone(metrics)))
}

/// Why a key's streams may not go on. Its scopes are its own: of its owner's rights roles and organisation count.
fn api_key_lost(known: &Revocations, key: ApiKeyId, claims: &Claims) -> Option<Reason> {
    if known.api_key_revoked(key) {
        return Some(Reason::ApiKeyRevoked);
    }
    let owner = claims.subject.parse().ok().filter(|_| known.holds_rights())?;
    let rights = known.newer_rights(owner, claims.authorization_version)?;
    let scopes = claims.scopes.iter().map(ToString::to_string).collect();
    has_less(claims, &Authorization { scopes, ..Authorization::clone(&rights) }).then_some(Reason::RoleMissing)
}

/// Whether something was taken away of what a stream was opened with, and its service was told. More ends nothing.
fn has_less(claims: &Claims, now: &Authorization) -> bool {
    let lost = |before: &str, now: &[String]| !now.iter().any(|one| one == before);
    claims.roles.iter().any(|role| lost(role, &now.roles))
        || claims.scopes.iter().any(|scope| lost(scope, &now.scopes))
        || (claims.org.is_some() && claims.org.as_deref() != now.org.as_deref())
}

/// Ends what has lost its right, for ever: of a session that another gateway ended this one learns in between. Other
/// issuers' tokens run out here, too, since nothing must be asked: a store that answers late holds up no such end.
pub(super) async fn look_again(streams: Arc<OpenStreams>, clock: Arc<dyn Clock>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        streams.look_again();
        streams.end_expired(clock.now());
    }
}

/// Asks after the sessions of streams whose token has run out, for ever.
pub(super) async fn ask_after(
    streams: Arc<OpenStreams>,
    store: Option<SharedStore>,
    tokens: Tokens,
    clock: Arc<dyn Clock>,
) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let life = tokens.access_ttl.saturating_add(tokens.leeway).saturating_add(tokens.stream_grace);
    loop {
        every.tick().await;
        let now = clock.now();
        // Without a store there are no sessions of ours.
        let (due, Some(store)) = (streams.due(now), &store) else { continue };
        let ask = |session| ask(&streams, store, session, life, now);
        stream::iter(due).for_each_concurrent(QUESTIONS, ask).await;
    }
}

/// Asks after one. A store that does not answer ends nothing.
async fn ask(streams: &OpenStreams, store: &SharedStore, session: SessionId, life: Duration, now: Timestamp) {
    match store.session(session).await {
        Ok(found) => {
            let facts = found.as_ref().map(|session| session.facts(true));
            streams.settle(session, standing(facts.as_ref(), life, now), now);
        }
        Err(fault) => {
            tracing::debug!(%session, %fault, "a session with open streams was asked after in vain");
            streams.ask_again(session, now, now.plus(AGAIN));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{claims::tests::claims, ids::UserId};

    #[test]
    fn a_stream_loses_its_right_with_anything_that_is_taken_away_and_with_nothing_that_is_given() {
        let opened = Claims {
            roles: vec!["analyst".into(), "user".into()],
            scopes: vec!["docs:read".into()],
            org: Some("acme".into()),
            ..claims()
        };
        let now = |roles: &[&str], scopes: &[&str], org: Option<&str>| {
            let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
            let user = UserId(uuid::Uuid::from_u128(1));
            Authorization { user, version: 9, roles: owned(roles), scopes: owned(scopes), org: org.map(Into::into) }
        };
        let (both, read) = (["analyst", "user"], ["docs:read"]);
        for (rights, less) in [
            (now(&both, &read, Some("acme")), false),
            (now(&["admin", "analyst", "user"], &["docs:read", "docs:write"], Some("acme")), false),
            (now(&["user"], &read, Some("acme")), true),
            (now(&both, &[], Some("acme")), true),
            (now(&both, &read, Some("other")), true),
            (now(&both, &read, None), true),
        ] {
            assert_eq!(has_less(&opened, &rights), less, "{rights:?}");
        }
        let nowhere = Claims { org: None, ..opened };
        assert!(!has_less(&nowhere, &now(&both, &read, Some("acme"))));
    }
}
