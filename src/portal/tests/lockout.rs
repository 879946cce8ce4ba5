//! Lockout at the portal: one answer, one amount of work, and the owner gets in.

use super::*;
use crate::{
    policy::lockout::Counter,
    portal::hash_pool::tests::held,
    store::{
        Store,
        audit::AuditQuery,
        lockout_lists::{LockoutLists, LockoutQuery},
    },
};

const WRONG: &str = "wrong password, long enough";

fn login(email: &str, password: &str) -> Ask {
    Ask::post("/auth/login").json(&json!({"email": email, "password": password}))
}

/// So many failures with ann's account from here.
async fn fails(harness: &Harness, times: usize) {
    for _ in 0..times {
        assert_eq!(harness.refused(login("ann@example.org", WRONG)).await, Reason::LoginFailed);
    }
}

/// The device cookie of an answer.
fn device_of(reply: &Reply) -> Option<String> {
    let lines = reply.headers.get_all(header::SET_COOKIE).iter();
    let mut texts = lines.map(|line| line.to_str().unwrap());
    let line = texts.find(|line| line.starts_with("__Secure-device="))?;
    Some(line.split(';').next().unwrap().to_owned())
}

async fn counted(harness: &Harness, counter: Counter) -> usize {
    let now = harness.clock.now();
    let query = LockoutQuery { counter: Some(counter), ..LockoutQuery::default() };
    harness.store.lockout_page(&query, &lockout().rules, now, 100).await.unwrap().lockouts.len()
}

#[tokio::test]
async fn after_five_failures_the_right_password_fails_too_with_the_same_answer_and_the_same_work() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    fails(&harness, 5).await;
    let before = harness.hash_pool.stats().done;
    let refusal = harness.ask(login("ann@example.org", PASSWORD)).await.unwrap_err();
    assert_eq!((refusal.reason, refusal.detail.is_none()), (Reason::LoginFailed, true));
    assert_eq!(harness.hash_pool.stats().done, before + 1, "a locked account costs its hash");
    let events = harness.audited(ann.user_id()).await;
    assert_eq!(events.iter().filter(|event| **event == AuditEvent::LoginFailed).count(), 6);
    harness.advance(Duration::from_mins(1));
    assert_eq!(harness.ok(login("ann@example.org", PASSWORD)).await.status, StatusCode::OK);
    assert_eq!(counted(&harness, Counter::Pair).await, 0);
    fails(&harness, 4).await;
    harness.ok(login("ann@example.org", PASSWORD)).await;
}

#[tokio::test]
async fn a_name_that_no_account_has_is_locked_in_any_spelling_and_answers_the_same() {
    let harness = Harness::new().await;
    for name in
        ["nobody@example.org", "NOBODY@example.org", "Nobody@Example.org", "nobody@example.org", "noBody@example.org"]
    {
        assert_eq!(harness.refused(login(name, WRONG)).await, Reason::LoginFailed);
    }
    assert_eq!(counted(&harness, Counter::Pair).await, 1);
    let before = harness.hash_pool.stats().done;
    let refusal = harness.ask(login("nobody@example.org", WRONG)).await.unwrap_err();
    assert_eq!((refusal.reason, refusal.detail.is_none()), (Reason::LoginFailed, true));
    assert_eq!(harness.hash_pool.stats().done, before + 1);
}

#[tokio::test]
async fn both_names_of_an_account_are_counted_as_one() {
    let harness = Harness::new().await;
    harness.ann("body").await;
    fails(&harness, 4).await;
    let by_username = Ask::post("/auth/login").json(&json!({"username": "ann", "password": WRONG}));
    harness.refused(by_username).await;
    assert_eq!(harness.refused(login("ann@example.org", PASSWORD)).await, Reason::LoginFailed);
}

#[tokio::test]
async fn an_address_that_failed_with_seven_accounts_is_told_to_wait_and_costs_no_hash() {
    let harness = Harness::new().await;
    harness.ann("body").await;
    for number in 0..7 {
        harness.refused(login(&format!("u{number}@example.org"), WRONG)).await;
    }
    let before = harness.hash_pool.stats().done;
    let refusal = harness.ask(login("ann@example.org", PASSWORD)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::AddressLocked);
    let Some(Detail::RetryAfter(after)) = refusal.detail.map(|detail| *detail) else { panic!("no Retry-After") };
    assert_eq!(after, Duration::from_mins(1));
    assert_eq!(harness.hash_pool.stats().done, before);
    let wanted = AuditQuery { event: Some("address_locked".into()), ..AuditQuery::default() };
    let rows = harness.store.audit_rows(&wanted, 10).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].detail.as_deref(), Some(r#"{"failures":7,"prefix":"192.0.2.7","wait":60}"#));
    harness.advance(Duration::from_mins(1));
    harness.ok(login("ann@example.org", PASSWORD)).await;
}

#[tokio::test]
async fn an_owner_with_a_device_cookie_gets_in_where_everybody_else_is_locked_out() {
    let harness = Harness::new().await;
    let device = device_of(&harness.ann("cookie").await).expect("a login by cookie gives one");
    fails(&harness, 5).await;
    for number in 0..7 {
        let _ = harness.ask(login(&format!("u{number}@example.org"), WRONG)).await;
    }
    assert_eq!(harness.refused(login("ann@example.org", PASSWORD)).await, Reason::AddressLocked);
    let reply = harness.ok(login("ann@example.org", PASSWORD).header("cookie", &device)).await;
    assert_eq!(reply.status, StatusCode::OK);
    // Another account's is worth nothing, nor is one that was tampered with, nor two.
    let eve = json!({"email": "eve@example.org", "password": "another orbit walrus", "delivery": "cookie"});
    let eves = device_of(&harness.ok(Ask::post("/auth/register").json(&eve)).await).unwrap();
    let mut tampered = device.clone();
    tampered.replace_range(30..31, if &device[30..31] == "A" { "B" } else { "A" });
    for cookie in [eves.clone(), tampered, format!("{device}; {eves}")] {
        let refused = harness.refused(login("ann@example.org", PASSWORD).header("cookie", &cookie)).await;
        assert_eq!(refused, Reason::AddressLocked);
    }
}

#[tokio::test]
async fn ten_failures_void_a_device_cookie() {
    let harness = Harness::new().await;
    let device = device_of(&harness.ann("cookie").await).unwrap();
    for _ in 0..10 {
        harness.refused(login("ann@example.org", WRONG).header("cookie", &device)).await;
    }
    assert_eq!(counted(&harness, Counter::Device).await, 1);
    assert_eq!(counted(&harness, Counter::Pair).await, 0, "nothing else has counted them");
    fails(&harness, 5).await;
    assert_eq!(
        harness.refused(login("ann@example.org", PASSWORD).header("cookie", &device)).await,
        Reason::LoginFailed
    );
}

#[tokio::test]
async fn browsers_get_a_device_cookie_and_api_clients_do_not() {
    let harness = Harness::new().await;
    assert!(device_of(&harness.ann("body").await).is_none());
    assert!(device_of(&harness.ok(login("ann@example.org", PASSWORD)).await).is_none());
    let page = login("ann@example.org", PASSWORD).header("sec-fetch-site", "same-origin");
    let reply = harness.ok(page).await;
    let line = reply.set_cookie();
    assert!(
        line.starts_with("__Secure-device=")
            && line.contains("; Max-Age=15552000; Path=/auth; HttpOnly; Secure; SameSite=Strict"),
        "{line}"
    );
}

#[tokio::test]
async fn a_store_that_is_lost_lets_nobody_in_uncounted() {
    let harness = Harness::new().await;
    harness.ann("body").await;
    let before = harness.hash_pool.stats().done;
    harness.store.cut();
    assert_eq!(harness.refused(login("ann@example.org", PASSWORD)).await, Reason::StoreUnavailable);
    assert_eq!(harness.hash_pool.stats().done, before);
}

#[tokio::test]
async fn a_full_hash_queue_is_nobody_s_failure() {
    let (pool, arrivals, release) = held();
    let harness = Harness::with_pool(portal(), tokens(), pool).await;
    release.send(()).unwrap();
    harness.ann("body").await;
    arrivals.recv().unwrap();
    let mut on_the_thread = Box::pin(harness.hash_pool.hash(PASSWORD.into(), Vec::new(), Ipv4Addr::LOCALHOST.into()));
    assert!(futures_util::poll!(&mut on_the_thread).is_pending());
    arrivals.recv().unwrap();
    let mut waiting = Box::pin(harness.hash_pool.hash(PASSWORD.into(), Vec::new(), Ipv4Addr::LOCALHOST.into()));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    for _ in 0..8 {
        assert_eq!(harness.refused(login("ann@example.org", WRONG)).await, Reason::HashQueueFull);
    }
    for _ in 0..2 {
        release.send(()).unwrap();
    }
    drop((on_the_thread, waiting));
    harness.ok(login("ann@example.org", PASSWORD)).await;
}

#[tokio::test]
async fn a_crowd_with_the_right_password_gets_in_whole() {
    let harness = Harness::new().await;
    harness.ann("body").await;
    let crowd = (0..20).map(|_| harness.ok(login("ann@example.org", PASSWORD)));
    let replies = futures_util::future::join_all(crowd).await;
    assert!(replies.iter().all(|reply| reply.status == StatusCode::OK));
    assert_eq!(counted(&harness, Counter::Pair).await, 0);
}

#[tokio::test]
async fn guesses_side_by_side_come_no_further_than_one_after_the_other() {
    let harness = Harness::new().await;
    let ann = harness.ann("body").await;
    let guesses = (0..20).map(|_| harness.refused(login("ann@example.org", WRONG)));
    futures_util::future::join_all(guesses).await;
    let wanted = AuditQuery { event: Some("login_failed".into()), ..AuditQuery::default() };
    let rows = harness.store.audit_rows(&wanted, 100).await.unwrap();
    let compared = rows.iter().filter(|row| row.detail.is_none()).count();
    assert_eq!((rows.len(), compared), (20, 5), "the others were not compared");
    assert_eq!(harness.audited(ann.user_id()).await.len(), 22);
}

#[tokio::test]
async fn a_login_that_is_given_up_is_no_failure() {
    let harness = Harness::new().await;
    harness.ann("body").await;
    for _ in 0..10 {
        harness.hung_up(login("ann@example.org", PASSWORD)).await;
    }
    harness.ok(login("ann@example.org", PASSWORD)).await;
}

#[tokio::test]
async fn registrations_from_an_address_and_of_an_e_mail_address_are_paced() {
    let mut rules = lockout();
    rules.registrations_by_address = Pace { calls: NonZeroU32::new(4).unwrap(), period: Duration::from_mins(4) };
    rules.registrations_of_target = Pace { calls: NonZeroU32::new(2).unwrap(), period: Duration::from_mins(10) };
    let pool = HashPool::new(&passwords(), Arc::new(SystemEntropy), Arc::new(SystemClock::new())).unwrap();
    let harness = Harness::with_lockout(portal(), tokens(), pool, rules).await;
    let register = |email: &str| Ask::post("/auth/register").json(&json!({"email": email, "password": PASSWORD}));
    harness.ok(register("ann@example.org")).await;
    assert_eq!(harness.refused(register("Ann@example.org")).await, Reason::AccountExists);
    let refusal = harness.ask(register("ann@example.org")).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::CallsPaced);
    let Some(Detail::RetryAfter(after)) = refusal.detail.map(|detail| *detail) else { panic!("no Retry-After") };
    assert_eq!(after, Duration::from_mins(5));
    harness.ok(register("ben@example.org")).await;
    harness.ok(register("cyn@example.org")).await;
    assert_eq!(harness.refused(register("dan@example.org")).await, Reason::CallsPaced);
    harness.advance(Duration::from_mins(1));
    harness.ok(register("dan@example.org")).await;
}

#[tokio::test]
async fn switched_off_nothing_is_counted() {
    let off = settings::Lockout { enabled: false, ..lockout() };
    let pool = HashPool::new(&passwords(), Arc::new(SystemEntropy), Arc::new(SystemClock::new())).unwrap();
    let harness = Harness::with_lockout(portal(), tokens(), pool, off).await;
    harness.ann("cookie").await;
    fails(&harness, 30).await;
    assert!(device_of(&harness.ok(login("ann@example.org", PASSWORD)).await).is_none());
}
