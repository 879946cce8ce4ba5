//! Resets of one account among many.

use super::*;

on_both_engines! {
    one_account_is_found_whatever_it_counts,
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
