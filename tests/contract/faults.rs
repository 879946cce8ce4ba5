//! Rows that make no sense, and what errors may not say.

use portcullis::store::{AccountFault, AuditEvent, NewAccount, StoreFault};

use crate::fixture::{Fixture, NOW, entry, new_account, new_session};

const PLANTED: &str = "planted-4f1c";

on_both_engines! {
    an_account_without_a_role_is_inconsistent_not_powerless,
    a_refused_row_is_inconsistent_rolled_back_and_its_values_are_not_told,
    an_account_asked_for_without_a_role_is_not_made,
    a_failed_call_leaves_its_connection_usable,
}

async fn an_account_without_a_role_is_inconsistent_not_powerless(on: Fixture) {
    let (account, session) = on.registered("ann@example.com").await;
    on.tamper("DELETE FROM user_roles").await;
    let fault = on.store.account(account.id).await.unwrap_err();
    assert!(matches!(fault, StoreFault::Inconsistent(_)), "{fault}");
    let told = entry(AuditEvent::Refreshed, NOW);
    let fault = on.store.refresh(session, 1, &crate::fixture::RULES, &told).await.unwrap_err();
    assert!(matches!(fault, StoreFault::Inconsistent(_)), "{fault}");
    assert_eq!(on.store.session(session).await.unwrap().unwrap().counter, 1);
}

async fn a_refused_row_is_inconsistent_rolled_back_and_its_values_are_not_told(on: Fixture) {
    // The same role twice breaks a constraint that is nobody's name.
    let asked = NewAccount { roles: vec![PLANTED.into(), PLANTED.into()], ..new_account("planted-4f1c@example.com") };
    let session = new_session(asked.id, NOW);
    let fault = on.store.register(&asked, &session, &entry(AuditEvent::Registered, NOW)).await.unwrap_err();
    assert!(matches!(fault, AccountFault::Store(StoreFault::Inconsistent(_))), "{fault}");
    assert!(!format!("{fault} {fault:?}").contains(PLANTED), "{fault:?}");
    assert_eq!(on.store.account(asked.id).await.unwrap(), None);
}

async fn an_account_asked_for_without_a_role_is_not_made(on: Fixture) {
    let asked = NewAccount { roles: Vec::new(), ..new_account("ann@example.com") };
    let session = new_session(asked.id, NOW);
    let fault = on.store.register(&asked, &session, &entry(AuditEvent::Registered, NOW)).await.unwrap_err();
    assert!(matches!(fault, AccountFault::Store(StoreFault::Inconsistent(_))), "{fault}");
    assert_eq!(on.store.session(session.id).await.unwrap(), None);
    // The address is still free.
    on.registered("ann@example.com").await;
}

async fn a_failed_call_leaves_its_connection_usable(on: Fixture) {
    on.registered("ann@example.com").await;
    // More failures than the pool has connections.
    for _ in 0..20 {
        let again = new_account("ann@example.com");
        let session = new_session(again.id, NOW);
        let refused = on.store.register(&again, &session, &entry(AuditEvent::Registered, NOW)).await;
        assert!(matches!(refused, Err(AccountFault::EmailTaken)));
    }
    on.registered("eve@example.com").await;
}
