//! Resets of many accounts, of one among many; and units on their way back when the store is lost.

use super::*;

on_both_engines! {
    all_accounts_are_reset_a_part_at_a_time,
    one_account_is_found_whatever_it_counts,
}

/// Accounts of a quota, each with one unit used.
async fn fill(on: &Fixture, many: u32) {
    let (window, sqlite) = (Period::Day.around(NOW), matches!(on.settings.engine, Engine::Sqlite { .. }));
    let moment =
        |at: Timestamp| if sqlite { at.micros().to_string() } else { format!("to_timestamp({})", at.seconds()) };
    let (start, end) = (moment(window.start), moment(window.end));
    let key = if sqlite { "CAST(printf('%016d', n) AS BLOB)" } else { "convert_to(lpad(n::text, 16, '0'), 'UTF8')" };
    let sql = format!(
        "INSERT INTO quota_usage (quota, kind, key, period_start, period_end, used, epoch) \
         WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {many}) \
         SELECT 'daily', 'requests/day', {key}, {start}, {end}, 1, 0 FROM numbers"
    );
    on.execute(&sql).await.unwrap();
}

async fn all_accounts_are_reset_a_part_at_a_time(on: Fixture) {
    fill(&on, 2_500).await;
    let tokens = Account { kind: "tokens/month", ..account(NOW) };
    on.store.take_quota(&QuotaAsk { account: tokens, ..ask(3, 0, 0) }).await.unwrap();
    let other = Account { quota: "other", ..account(NOW) };
    on.store.take_quota(&QuotaAsk { account: other, ..ask(7, 0, 0) }).await.unwrap();
    assert_eq!(reset(&on, "daily", None, NOW).await, 2_501);
    let left = on.store.quota_usage(None, None, NOW, 1).await.unwrap();
    assert_eq!((&*left[0].quota, left[0].used), ("other", 7));
    assert!(on.store.quota_usage(Some("daily"), None, NOW, 3_000).await.unwrap().iter().all(|one| one.used == 0));
    // Each part is told and audited by itself, so that one which was cut short can be done again.
    let told = News::Quota(QuotaReset { quota: "daily".to_owned(), key: None });
    assert_eq!(on.news().await, vec![told; 4]);
    assert_eq!(on.audited("quota_reset").await, 4);
    assert_eq!(reset(&on, "daily", None, NOW).await, 0);
    assert_eq!(on.audited("quota_reset").await, 4, "nothing has changed");
}

/// Whoever holds the last account keeps nobody from the first thousand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_that_was_cut_short_is_done_again() {
    let mut settings = postgres_settings(cluster().create_database().url);
    settings.timeout = Duration::from_millis(500);
    let on = Fixture::of(settings).await;
    fill(&on, 1_500).await;
    let mut rival = on.rival().await;
    let held = "BEGIN; UPDATE quota_usage SET used = 2 WHERE key = convert_to(lpad('1500', 16, '0'), 'UTF8')";
    sqlx::raw_sql(held).execute(&mut rival).await.unwrap();
    let what = QuotaReset { quota: "daily".to_owned(), key: None };
    on.store.reset_quota(&what, &entry(AuditEvent::QuotaReset, NOW)).await.unwrap_err();
    sqlx::raw_sql("COMMIT").execute(&mut rival).await.unwrap();
    assert_eq!(on.audited("quota_reset").await, 1);
    assert_eq!(reset(&on, "daily", None, NOW).await, 500, "a thousand are");
    assert_eq!(on.audited("quota_reset").await, 2);
}

async fn one_account_is_found_whatever_it_counts(on: Fixture) {
    let kinds: Vec<_> = [Unit::Requests, Unit::Tokens, Unit::Cost]
        .into_iter()
        .flat_map(|unit| [Period::Hour, Period::Day, Period::Month].map(|period| Quota { period, ..quota(unit, 100) }))
        .map(|quota| quota.kind())
        .collect();
    for kind in &kinds {
        for key in [hashed(&KEY), [9; 16]] {
            let account = Account { kind, key, ..account(NOW) };
            on.store.take_quota(&QuotaAsk { account, ..ask(5, 0, 0) }).await.unwrap();
        }
    }
    let query = QuotaQuery { quota: Some("daily".to_owned()), key: Some(hashed(&KEY)), after: None };
    let mut page = on.store.quota_page(&query, NOW, 5).await.unwrap();
    let mut all = page.accounts;
    page = on.store.quota_page(&QuotaQuery { after: page.next, ..query }, NOW, 5).await.unwrap();
    all.extend(page.accounts);
    assert_eq!((all.len(), page.next), (kinds.len(), None));
    assert!(all.iter().all(|one| one.key == hashed(&KEY)));
    assert_eq!(reset(&on, "daily", Some(hashed(&KEY)), NOW).await, 9);
    let left = on.store.quota_usage(Some("daily"), None, NOW, 100).await.unwrap();
    assert_eq!(left.iter().filter(|one| one.used > 0).count(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_nothing_back_is_lost() {
    let mut settings = postgres_settings(cluster().create_database().url);
    settings.timeout = Duration::from_millis(500);
    let on = Fixture::of(settings).await;
    let gateways = Gateways::of(&on, quota(Unit::Requests, 1_600), 1);
    let ledger = &gateways.ledgers[0];
    for number in 0..200 {
        assert!(request(ledger, &CounterKey::Subject(number)).await);
    }
    let mut rival = on.rival().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE quota_usage").execute(&mut rival).await.unwrap();
    gateways.clock.advance(Duration::from_secs(10));
    ledger.tend().await;
    assert_eq!(*gateways.lost.lock().unwrap(), [true], "nobody has asked it for units");
    sqlx::raw_sql("ROLLBACK").execute(&mut rival).await.unwrap();
}
