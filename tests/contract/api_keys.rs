//! API keys: as many as a user may have and no more, gone for everybody once revoked, looked up with their owner as of
//! now.

use portcullis::{
    clock::{Entropy, SystemEntropy, Timestamp},
    policy::ids::{ApiKeyId, UserId},
    store::{
        AuditEntry, AuditEvent,
        api_keys::{ApiKey, ApiKeyMade, NewApiKey},
        feed::News,
    },
};

use crate::fixture::{Fixture, NOW, entry, seconds, user_id};

on_both_engines! {
    a_key_comes_back_as_it_was_made_and_with_its_owner,
    a_key_may_be_limited_to_roles_or_to_none,
    a_user_s_keys_are_listed_newest_first_and_nobody_else_s,
    making_and_revoking_are_audited_with_the_key_s_id,
    a_user_has_no_more_than_may_be_however_many_are_made_at_once,
    nobody_and_nobody_inactive_gets_a_key,
    a_revoked_key_is_gone_and_told_to_every_gateway,
    nobody_revokes_another_s_key,
    of_two_who_revoke_one_does,
    a_last_use_is_kept_to_the_minute_and_never_goes_back,
    the_owner_is_as_of_now,
    a_deleted_owner_takes_the_keys_along,
}

fn id() -> ApiKeyId {
    ApiKeyId(SystemEntropy.uuid_v7(NOW))
}

fn new(owner: UserId, name: &str) -> NewApiKey {
    let key = ApiKey {
        id: id(),
        owner,
        name: name.into(),
        roles: None,
        scopes: vec!["docs:read".into(), "docs:write".into()],
        created_at: NOW,
        expires_at: Some(NOW.plus(seconds(3_600))),
        last_used_at: None,
    };
    NewApiKey { key, hash: [7; 32] }
}

fn by(owner: UserId, event: AuditEvent) -> AuditEntry {
    AuditEntry { user: Some(owner), ..entry(event, NOW) }
}

async fn make(on: &Fixture, new: &NewApiKey) -> ApiKeyMade {
    on.store.create_api_key(new, 25, &by(new.key.owner, AuditEvent::ApiKeyCreated)).await.unwrap()
}

async fn made(on: &Fixture, owner: UserId, name: &str) -> ApiKeyId {
    let new = new(owner, name);
    assert_eq!(make(on, &new).await, ApiKeyMade::Made);
    new.key.id
}

async fn revoke(on: &Fixture, owner: UserId, id: ApiKeyId) -> bool {
    on.store.revoke_api_key(owner, id, &by(owner, AuditEvent::ApiKeyRevoked)).await.unwrap()
}

async fn last_used(on: &Fixture, id: ApiKeyId) -> Option<Timestamp> {
    on.store.api_key(id).await.unwrap().unwrap().key.last_used_at
}

async fn a_key_comes_back_as_it_was_made_and_with_its_owner(on: Fixture) {
    let (owner, _) = on.registered("ann@example.org").await;
    let asked = new(owner.id, "nightly import");
    assert_eq!(make(&on, &asked).await, ApiKeyMade::Made);
    let known = on.store.api_key(asked.key.id).await.unwrap().unwrap();
    assert_eq!((known.key, known.hash, known.owner), (asked.key, [7; 32], owner));
    assert_eq!(on.store.api_key(id()).await.unwrap(), None);
}

async fn a_key_may_be_limited_to_roles_or_to_none(on: Fixture) {
    let (owner, _) = on.registered("ann@example.org").await;
    for roles in [None, Some(vec![]), Some(vec!["user".to_owned(), "analyst".to_owned()])] {
        let mut asked = new(owner.id, "x");
        asked.key.roles.clone_from(&roles);
        asked.key.expires_at = None;
        assert_eq!(make(&on, &asked).await, ApiKeyMade::Made);
        let known = on.store.api_key(asked.key.id).await.unwrap().unwrap();
        assert_eq!((known.key.roles, known.key.expires_at), (roles, None));
    }
}

async fn a_user_s_keys_are_listed_newest_first_and_nobody_else_s(on: Fixture) {
    let (ann, _) = on.registered("ann@example.org").await;
    let (bob, _) = on.registered("bob@example.org").await;
    for (name, age) in [("old", 20), ("new", 0), ("middle", 10)] {
        let mut asked = new(ann.id, name);
        asked.key.created_at = NOW.minus(seconds(age));
        // One that has run out is there until somebody removes it.
        asked.key.expires_at = Some(NOW.minus(seconds(5)));
        make(&on, &asked).await;
    }
    made(&on, bob.id, "another's").await;
    let names = async |most| -> Vec<String> {
        on.store.api_keys_of(ann.id, most).await.unwrap().into_iter().map(|key| key.name).collect()
    };
    assert_eq!(names(10).await, ["new", "middle", "old"]);
    assert_eq!(names(2).await, ["new", "middle"]);
    assert_eq!(on.store.api_keys_of(user_id(), 10).await.unwrap(), []);
}

async fn making_and_revoking_are_audited_with_the_key_s_id(on: Fixture) {
    let (ann, _) = on.registered("ann@example.org").await;
    let id = made(&on, ann.id, "x").await;
    assert!(revoke(&on, ann.id, id).await);
    assert_eq!(on.events(ann.id).await, [AuditEvent::ApiKeyCreated, AuditEvent::ApiKeyRevoked]);
    for row in on.store.audit_of(ann.id, 10).await.unwrap() {
        assert_eq!(row.detail.unwrap(), format!(r#"{{"api_key":"{id}"}}"#));
    }
}

async fn a_user_has_no_more_than_may_be_however_many_are_made_at_once(on: Fixture) {
    let (ann, _) = on.registered("ann@example.org").await;
    let (bob, _) = on.registered("bob@example.org").await;
    made(&on, bob.id, "another's").await;
    let keys: Vec<_> = (0..6).map(|number| new(ann.id, &number.to_string())).collect();
    let entries: Vec<_> = keys.iter().map(|_| by(ann.id, AuditEvent::ApiKeyCreated)).collect();
    let all = keys.iter().zip(&entries).map(|(key, entry)| on.store.create_api_key(key, 2, entry));
    let all: Vec<_> = futures_util::future::join_all(all).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(all.iter().filter(|made| **made == ApiKeyMade::Made).count(), 2, "{all:?}");
    assert_eq!(all.iter().filter(|made| **made == ApiKeyMade::TooMany).count(), 4, "{all:?}");
    assert_eq!(on.store.api_keys_of(ann.id, 10).await.unwrap().len(), 2);
    assert_eq!(on.audited("api_key_created").await, 3, "one of bob's");
}

async fn nobody_and_nobody_inactive_gets_a_key(on: Fixture) {
    let (ann, _) = on.registered("ann@example.org").await;
    on.tamper("UPDATE users SET active = false").await;
    assert_eq!(make(&on, &new(ann.id, "x")).await, ApiKeyMade::NoOwner);
    assert_eq!(make(&on, &new(user_id(), "x")).await, ApiKeyMade::NoOwner);
    assert_eq!(on.audited("api_key_created").await, 0);
}

async fn a_revoked_key_is_gone_and_told_to_every_gateway(on: Fixture) {
    let (ann, _) = on.registered("ann@example.org").await;
    let (id, kept) = (made(&on, ann.id, "x").await, made(&on, ann.id, "y").await);
    assert_eq!(on.news().await, []);
    assert!(revoke(&on, ann.id, id).await);
    assert_eq!(on.news().await, [News::ApiKey(id)]);
    assert_eq!(on.store.api_key(id).await.unwrap(), None);
    assert!(on.store.api_key(kept).await.unwrap().is_some());
}

async fn nobody_revokes_another_s_key(on: Fixture) {
    let (ann, _) = on.registered("ann@example.org").await;
    let (bob, _) = on.registered("bob@example.org").await;
    let id = made(&on, ann.id, "x").await;
    assert!(!revoke(&on, bob.id, id).await);
    assert!(on.store.api_key(id).await.unwrap().is_some());
    assert_eq!((on.news().await, on.audited("api_key_revoked").await), (vec![], 0));
}

async fn of_two_who_revoke_one_does(on: Fixture) {
    let (ann, _) = on.registered("ann@example.org").await;
    let id = made(&on, ann.id, "x").await;
    let both = futures_util::future::join(revoke(&on, ann.id, id), revoke(&on, ann.id, id)).await;
    assert!(both.0 ^ both.1, "{both:?}");
    assert_eq!((on.news().await.len(), on.audited("api_key_revoked").await), (1, 1));
}

async fn a_last_use_is_kept_to_the_minute_and_never_goes_back(on: Fixture) {
    let (ann, _) = on.registered("ann@example.org").await;
    let (id, other) = (made(&on, ann.id, "x").await, made(&on, ann.id, "y").await);
    let at = |after| NOW.plus(seconds(after));
    assert_eq!(last_used(&on, id).await, None);
    for (after, kept) in [(0, 0), (59, 0), (60, 60), (30, 60), (0, 60), (121, 121)] {
        on.store.note_api_key_uses(&[(id, at(after))]).await.unwrap();
        assert_eq!(last_used(&on, id).await, Some(at(kept)), "{after}");
    }
    assert_eq!(last_used(&on, other).await, None);
    let gone = ApiKeyId(SystemEntropy.uuid_v7(NOW));
    on.store.note_api_key_uses(&[(gone, at(0)), (other, at(5))]).await.unwrap();
    assert_eq!(last_used(&on, other).await, Some(at(5)));
}

async fn the_owner_is_as_of_now(on: Fixture) {
    let (ann, _) = on.registered("ann@example.org").await;
    let id = made(&on, ann.id, "x").await;
    let roles = ["analyst".to_owned(), "user".to_owned()];
    let told = by(ann.id, AuditEvent::AuthorizationChanged);
    let after = on.store.change_authorization(ann.id, &roles, Some("acme"), &told).await.unwrap();
    assert_eq!(on.store.api_key(id).await.unwrap().unwrap().owner, after);
    on.tamper("UPDATE users SET active = false").await;
    assert!(!on.store.api_key(id).await.unwrap().unwrap().owner.active);
}

async fn a_deleted_owner_takes_the_keys_along(on: Fixture) {
    let (ann, _) = on.registered("ann@example.org").await;
    let id = made(&on, ann.id, "x").await;
    on.tamper("DELETE FROM users").await;
    assert_eq!(on.store.api_key(id).await.unwrap(), None);
    assert_eq!(on.store.api_keys_of(ann.id, 10).await.unwrap(), []);
}
