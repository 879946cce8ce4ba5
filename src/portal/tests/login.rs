//! Login: one answer and one amount of work for every failure.

use secrecy::SecretString;

use super::*;
use crate::{
    policy::password::{self, HashCost},
    portal::hash_pool::tests::{HERE, held},
    store::{Login, Store},
};

fn login(body: &Value) -> Ask {
    Ask::post("/auth/login").json(body)
}

fn by_email(email: &str, password: &str) -> Ask {
    login(&json!({"email": email, "password": password}))
}

#[tokio::test]
async fn a_login_answers_200_with_tokens_and_a_new_session() {
    let harness = Harness::new().await;
    let first = harness.ann("body").await;
    harness.advance(Duration::from_mins(1));
    let reply = harness.ok(by_email("ann@example.org", PASSWORD)).await;
    assert_eq!((reply.status, reply.cache_control()), (StatusCode::OK, "no-store"));
    assert_eq!(reply.user_id(), first.user_id());
    assert_eq!(reply.json["user"]["last_login_at"], "2027-01-15T08:01:00Z");
    assert_eq!(reply.subject.as_deref(), Some(first.user_id()));
    let (one, two) = (harness.verified(first.access()), harness.verified(reply.access()));
    assert_ne!(one.session, two.session);
    assert_ne!(one.token_id, two.token_id);
    assert_eq!(two.auth_time, Some(START.seconds() + 60));
    assert_eq!(harness.audited(first.user_id()).await.last(), Some(&AuditEvent::LoginSucceeded));
}

#[tokio::test]
async fn e_mail_and_username_both_name_an_account_in_any_case() {
    let harness = Harness::new().await;
    harness.ann("body").await;
    for body in [
        json!({"email": "ANN@example.ORG", "password": PASSWORD}),
        json!({"username": "ann", "password": PASSWORD}),
        json!({"username": "Ann", "password": PASSWORD}),
        // As forms with one box for both send it.
        json!({"username": "Ann@Example.org", "password": PASSWORD}),
        json!({"email": "ann", "password": PASSWORD}),
    ] {
        assert_eq!(harness.ok(login(&body)).await.status, StatusCode::OK, "{body}");
    }
}

#[tokio::test]
async fn every_failure_is_one_answer_and_one_hash() {
    let harness = Harness::new().await;
    harness.ann("body").await;
    let attempts = [
        by_email("ann@example.org", "wrong password, long enough"),
        by_email("ann@example.org", ""),
        by_email("nobody@example.org", PASSWORD),
        by_email("no address at all\u{0}", PASSWORD),
        login(&json!({"username": "nobody", "password": PASSWORD})),
        login(&json!({"username": "ann", "password": "x".repeat(4_000)})),
    ];
    for attempt in attempts {
        let before = harness.hash_pool.stats().done;
        let refusal = harness.ask(attempt).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::LoginFailed);
        assert!(refusal.detail.is_none(), "nothing tells one cause from another");
        assert_eq!(harness.hash_pool.stats().done, before + 1);
    }
}

#[tokio::test]
async fn an_inactive_account_fails_as_a_wrong_password_does() {
    let harness = Harness::new().await;
    harness.ann("body").await;
    harness.store.deactivate_everyone();
    let before = harness.hash_pool.stats().done;
    let refusal = harness.ask(by_email("ann@example.org", PASSWORD)).await.unwrap_err();
    assert_eq!((refusal.reason, refusal.detail.is_none()), (Reason::LoginFailed, true));
    assert_eq!(harness.hash_pool.stats().done, before + 1);
}

#[tokio::test]
async fn a_failure_is_audited_with_the_account_it_aimed_at() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    harness.refused(by_email("ann@example.org", "wrong password, long enough")).await;
    assert_eq!(harness.audited(ann.user_id()).await.last(), Some(&AuditEvent::LoginFailed));
}

#[tokio::test]
async fn a_refusal_shows_no_password() {
    let harness = Harness::new().await;
    harness.ann("body").await;
    for body in [
        json!({"email": "ann@example.org", "password": "hunter2hunter2hunter2"}),
        json!({"email": "ann@example.org", "password": ["hunter2hunter2hunter2"]}),
        json!({"email": "ann@example.org", "password": "hunter2hunter2hunter2", "delivery": "hunter2"}),
    ] {
        let refusal = harness.ask(login(&body)).await.unwrap_err();
        assert!(!format!("{refusal:?}").contains("hunter2"), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_login_names_exactly_one_account() {
    let harness = Harness::new().await;
    let both = json!({"email": "ann@example.org", "username": "ann", "password": PASSWORD});
    assert_eq!(fields_of(harness.ask(login(&both)).await.unwrap_err()), ["username"]);
    assert_eq!(fields_of(harness.ask(login(&json!({"password": PASSWORD}))).await.unwrap_err()), ["email"]);
    assert_eq!(fields_of(harness.ask(login(&json!({"email": "ann@example.org"}))).await.unwrap_err()), ["password"]);
}

#[tokio::test]
async fn unknown_fields_are_refused() {
    let harness = Harness::new().await;
    let body = json!({"email": "ann@example.org", "password": PASSWORD, "remember_me": true});
    assert_eq!(fields_of(harness.ask(login(&body)).await.unwrap_err()), ["remember_me"]);
}

#[tokio::test]
async fn delivery_is_chosen_at_login() {
    let harness = Harness::new().await;
    harness.ann("body").await;
    let body = json!({"email": "ann@example.org", "password": PASSWORD, "delivery": "cookie"});
    let reply = harness.ok(login(&body)).await;
    assert!(reply.json.get("refresh_token").is_none());
    assert!(reply.set_cookie().starts_with("__Secure-refresh="));
}

#[tokio::test]
async fn a_lost_store_is_503_and_never_a_wrong_password() {
    let harness = Harness::new().await;
    harness.ann("body").await;
    harness.store.cut();
    assert_eq!(harness.refused(by_email("ann@example.org", PASSWORD)).await, Reason::StoreUnavailable);
    assert_eq!(harness.refused(by_email("nobody\u{0}", PASSWORD)).await, Reason::StoreUnavailable);
}

async fn stored_hash(harness: &Harness) -> SecretString {
    harness.store.find_login(&Login::Email("ann@example.org".into())).await.unwrap().unwrap().1
}

/// Ann, with a hash of less than today's cost; gives the hash.
async fn weakened(harness: &Harness) -> SecretString {
    let user = harness.ann("body").await.user_id().parse().unwrap();
    let cheaper = HashCost { memory_kib: 8, iterations: 1, lanes: 1 };
    let weak = password::hash(PASSWORD, &[1; 16], cheaper).unwrap();
    let strong = stored_hash(harness).await;
    assert!(harness.store.upgrade_password_hash(user, &strong, &weak).await.unwrap());
    weak
}

#[tokio::test]
async fn a_good_login_upgrades_a_weak_hash_behind_its_answer() {
    let (pool, arrivals, release) = held();
    let harness = Harness::with_pool(portal(), tokens(), pool).await;
    release.send(()).unwrap();
    let weak = weakened(&harness).await;
    arrivals.recv().unwrap();

    // The thread that hashes it anew is held until there is an answer.
    assert_eq!(harness.ok(by_email("ann@example.org", PASSWORD)).await.status, StatusCode::OK);
    assert_eq!(stored_hash(&harness).await.expose_secret(), weak.expose_secret());
    release.send(()).unwrap();
    let upgraded = async {
        while stored_hash(&harness).await.expose_secret() == weak.expose_secret() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), upgraded).await.unwrap();
    assert!(!harness.hash_pool.is_weak(&stored_hash(&harness).await));
    let done = harness.hash_pool.stats().done;
    assert_eq!(harness.ok(by_email("ann@example.org", PASSWORD)).await.status, StatusCode::OK);
    assert_eq!(harness.hash_pool.stats().done, done + 1, "there is no more to upgrade");
}

#[tokio::test]
async fn a_failed_login_upgrades_nothing() {
    let harness = Harness::new().await;
    let weak = weakened(&harness).await;
    let done = harness.hash_pool.stats().done;
    harness.refused(by_email("ann@example.org", "wrong password, long enough")).await;
    harness.store.deactivate_everyone();
    harness.refused(by_email("ann@example.org", PASSWORD)).await;
    assert_eq!(harness.hash_pool.stats().done, done + 2, "one hash each");
    assert_eq!(stored_hash(&harness).await.expose_secret(), weak.expose_secret());
}

#[tokio::test]
async fn a_full_hash_queue_is_503_with_a_time_to_return() {
    let (pool, arrivals, release) = held();
    let harness = Harness::with_pool(portal(), tokens(), pool).await;
    let mut on_the_thread = Box::pin(harness.hash_pool.hash(PASSWORD.into(), Vec::new(), HERE));
    assert!(futures_util::poll!(&mut on_the_thread).is_pending());
    arrivals.recv().unwrap();
    let mut waiting = Box::pin(harness.hash_pool.hash(PASSWORD.into(), Vec::new(), HERE));
    assert!(futures_util::poll!(&mut waiting).is_pending());

    let register = json!({"email": "ann@example.org", "password": PASSWORD});
    for ask in [by_email("nobody@example.org", PASSWORD), Ask::post("/auth/register").json(&register)] {
        let refusal = harness.ask(ask).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::HashQueueFull);
        assert!(matches!(refusal.detail.as_deref(), Some(Detail::RetryAfter(_))));
    }
    // The pool waits for its thread when it is dropped.
    release.send(()).unwrap();
    release.send(()).unwrap();
}

#[tokio::test]
async fn a_login_beyond_the_limit_ends_the_oldest_here_at_once() {
    let harness = Harness::new().await;
    let first = harness.ann("body").await;
    let body = json!({"email": "ann@example.org", "password": PASSWORD});
    let login = || harness.ok(Ask::post("/auth/login").json(&body));
    for _ in 0..2 {
        harness.advance(Duration::from_secs(1));
        login().await;
    }
    let sid = harness.verified(first.access()).session.unwrap();
    assert!(!harness.is_ended(sid));
    harness.advance(Duration::from_secs(1));
    login().await;
    assert!(harness.is_ended(sid));
}

#[tokio::test]
async fn a_client_that_hangs_up_in_its_login_ends_the_oldest_here_all_the_same() {
    let harness = Harness::with(portal(), Tokens { max_sessions: NonZeroU32::new(1), ..tokens() }, passwords()).await;
    let sid = harness.verified(harness.ann("body").await.access()).session.unwrap();
    let body = json!({"email": "ann@example.org", "password": PASSWORD});
    let asking = harness.ask(Ask::post("/auth/login").json(&body));
    tokio::pin!(asking);
    // Until the old session is known to have ended; the answer is not waited for.
    let ended = harness.ends(sid);
    tokio::pin!(ended);
    futures_util::future::select(asking, ended).await;
    harness.ends(sid).await;
}
