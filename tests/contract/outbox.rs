//! Messages for webhooks: written with their cause or not at all, claimed by one at a time, bounded.

use std::sync::{Arc, Mutex};

use portcullis::{
    clock::SystemEntropy,
    policy::{refresh::RefreshRules, webhook::SecurityEvent},
    store::{
        AuditEntry, AuditEvent, NewSession, SharedStore,
        security::{Message, SecurityWatch, Subscription},
        sql,
    },
};

use crate::fixture::{Fixture, NO_LIMIT, NOW, RULES, entry, new_session, seconds, user_id};

on_both_engines! {
    a_message_is_written_with_its_cause_for_those_who_want_it,
    what_is_rolled_back_is_not_told,
    a_message_is_claimed_by_one_at_a_time_and_due_again_afterwards,
    who_claimed_it_last_decides_when_it_is_tried_again,
    the_newest_stay_when_there_are_too_many,
    a_message_about_an_erased_person_goes_too,
    a_first_device_is_not_new_and_an_unknown_one_is,
}

type Heard = Arc<Mutex<Vec<SecurityEvent>>>;

async fn watched(on: &Fixture) -> (SharedStore, Heard) {
    let heard = Heard::default();
    let told = Arc::clone(&heard);
    let webhooks = [("all", SecurityEvent::ALL.to_vec()), ("reuse", vec![SecurityEvent::RefreshReuseDetected])];
    let watch = SecurityWatch {
        webhooks: webhooks.map(|(name, events)| Subscription { name: name.into(), events }).into(),
        told: Box::new(move |event| told.lock().unwrap().push(event)),
        entropy: Arc::new(SystemEntropy),
    };
    (sql::open_watched(&on.settings, Some(Arc::new(watch))).await.unwrap(), heard)
}

async fn claim(store: &SharedStore, webhook: &str, at: u64) -> Vec<Message> {
    let now = NOW.plus(seconds(at));
    store.claim_webhook_messages(webhook, now, now.plus(seconds(30)), 10).await.unwrap()
}

async fn denied(store: &SharedStore, count: u64) {
    for number in 0..count {
        let at = NOW.plus(std::time::Duration::from_millis(number));
        let told = AuditEntry { user: Some(user_id()), ..entry(AuditEvent::PermissionDenied, at) };
        store.append_audit(&told).await.unwrap();
    }
}

async fn a_message_is_written_with_its_cause_for_those_who_want_it(on: Fixture) {
    let (store, heard) = watched(&on).await;
    let (account, session) = on.registered("ann@example.com").await;
    let rules = RefreshRules { grace: seconds(0), ..RULES };
    for counter in [1, 2] {
        store.refresh(session, counter, &rules, &entry(AuditEvent::Refreshed, NOW)).await.unwrap();
    }
    assert_eq!(claim(&store, "all", 0).await, []);
    store.refresh(session, 1, &rules, &entry(AuditEvent::Refreshed, NOW.plus(seconds(1)))).await.unwrap();
    assert_eq!(*heard.lock().unwrap(), [SecurityEvent::RefreshReuseDetected]);
    let (all, reuse) = (claim(&store, "all", 2).await, claim(&store, "reuse", 2).await);
    assert_eq!((all.len(), &all), (1, &reuse));
    let body: serde_json::Value = serde_json::from_str(&all[0].body).unwrap();
    assert_eq!(body["id"], all[0].id.to_string());
    assert_eq!((&body["event"], &body["address"]), (&"refresh_reuse_detected".into(), &"192.0.2.7".into()));
    assert_eq!((&body["user"], &body["session"]), (&account.id.to_string().into(), &session.to_string().into()));
    denied(&store, 1).await;
    assert_eq!((claim(&store, "all", 2).await.len(), claim(&store, "reuse", 2).await.len()), (1, 0));
}

async fn what_is_rolled_back_is_not_told(on: Fixture) {
    let (store, heard) = watched(&on).await;
    let (account, _) = on.registered("ann@example.com").await;
    on.tamper("DROP TABLE user_roles").await;
    let session = NewSession { user_agent: Some("other".into()), ..new_session(account.id, NOW) };
    store.open_session(&session, &NO_LIMIT, &entry(AuditEvent::LoginSucceeded, NOW)).await.unwrap_err();
    assert!(heard.lock().unwrap().is_empty());
    assert_eq!(claim(&store, "all", 9).await, []);
}

async fn a_message_is_claimed_by_one_at_a_time_and_due_again_afterwards(on: Fixture) {
    let (store, _) = watched(&on).await;
    denied(&store, 20).await;
    let claims = (0..4).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { claim(&store, "all", 1).await })
    });
    let mut claimed = Vec::new();
    for one in claims.collect::<Vec<_>>() {
        claimed.extend(one.await.unwrap());
    }
    let count = claimed.len();
    claimed.sort_unstable_by_key(|message| message.id);
    claimed.dedup_by_key(|message| message.id);
    assert_eq!((count, claimed.len()), (20, 20));
    assert_eq!(claim(&store, "all", 30).await, []);
    let again = claim(&store, "all", 31).await;
    assert_eq!((again.len(), again[0].attempts), (10, 2));
    assert!(store.webhook_delivered("all", again[0].id).await.unwrap());
    assert!(!store.webhook_delivered("all", again[0].id).await.unwrap());
    assert!(claim(&store, "all", 999).await.iter().all(|message| message.id != again[0].id));
}

async fn who_claimed_it_last_decides_when_it_is_tried_again(on: Fixture) {
    let (store, _) = watched(&on).await;
    denied(&store, 1).await;
    let first = claim(&store, "all", 0).await.remove(0);
    let second = claim(&store, "all", 40).await.remove(0);
    store.retry_webhook("all", &second, NOW.plus(seconds(500))).await.unwrap();
    store.retry_webhook("all", &first, NOW.plus(seconds(41))).await.unwrap();
    assert_eq!(claim(&store, "all", 499).await, []);
    let third = claim(&store, "all", 500).await.remove(0);
    let given_up = entry(AuditEvent::WebhookGivenUp, NOW);
    store.webhook_given_up("all", third.id, &given_up).await.unwrap();
    store.webhook_given_up("all", third.id, &given_up).await.unwrap();
    let rows = on.store.audit_rows(&portcullis::store::audit::AuditQuery::default(), 10).await.unwrap();
    assert_eq!(rows.iter().filter(|row| row.event == "webhook_given_up").count(), 1);
}

async fn the_newest_stay_when_there_are_too_many(on: Fixture) {
    let (store, _) = watched(&on).await;
    denied(&store, 8).await;
    let before = NOW.minus(seconds(1));
    assert_eq!(store.trim_webhook_messages("all", 8, before).await.unwrap(), 0);
    assert_eq!(store.trim_webhook_messages("all", 3, before).await.unwrap(), 5);
    let left = claim(&store, "all", 9).await;
    let expected: Vec<_> = (5..8).map(|number| NOW.plus(std::time::Duration::from_millis(number))).collect();
    assert_eq!(left.iter().map(|message| message.created_at).collect::<Vec<_>>(), expected);
    assert_eq!(store.trim_webhook_messages("gone", 3, NOW.plus(seconds(1))).await.unwrap(), 3, "old ones of any");
}

async fn a_message_about_an_erased_person_goes_too(on: Fixture) {
    let (store, _) = watched(&on).await;
    let user = user_id();
    let told = AuditEntry { user: Some(user), ..entry(AuditEvent::PermissionDenied, NOW) };
    store.append_audit(&told).await.unwrap();
    denied(&store, 1).await;
    store.erase_audit_of(user, &entry(AuditEvent::AuditErased, NOW)).await.unwrap();
    let left = claim(&store, "all", 9).await;
    assert!(left.len() == 1 && !left[0].body.contains(&user.to_string()), "{left:?}");
}

async fn a_first_device_is_not_new_and_an_unknown_one_is(on: Fixture) {
    let (account, _) = on.registered("ann@example.com").await;
    for (agent, new) in
        [(Some("contract"), false), (None, true), (None, false), (Some("other"), true), (Some("other"), false)]
    {
        let session = NewSession { user_agent: agent.map(Into::into), ..new_session(account.id, NOW) };
        let told =
            AuditEntry { user: Some(account.id), session: Some(session.id), ..entry(AuditEvent::LoginSucceeded, NOW) };
        on.store.open_session(&session, &NO_LIMIT, &told).await.unwrap().unwrap();
        let rows = on.store.audit_of(account.id, 100).await.unwrap();
        let told = rows.iter().filter(|row| row.session == Some(session.id) && row.event == "new_device").count();
        assert_eq!(told, usize::from(new), "{agent:?}");
    }
}
