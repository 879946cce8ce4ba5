//! Accounts: made once, found by either name in any case, never half-written.

use portcullis::{
    clock::Timestamp,
    store::{AccountFault, AuditEvent, Login, NewAccount, ProfilePatch},
};
use secrecy::{ExposeSecret, SecretString};

use crate::fixture::{Fixture, NOW, entry, new_account, new_session, seconds, user_id};

on_both_engines! {
    register_gives_the_account_as_it_was_asked_for,
    register_opens_the_first_session_and_audits_both,
    an_email_is_unique_in_any_case_and_nothing_is_written_for_the_second,
    a_username_is_unique_in_any_case_and_may_be_absent_many_times,
    names_outside_ascii_are_caseless_too,
    login_finds_by_either_name_in_any_case,
    an_unknown_login_or_id_is_none,
    of_many_who_register_one_address_at_once_one_wins,
    roles_keep_their_order,
    moments_keep_every_microsecond,
    update_changes_only_what_the_patch_names,
    update_refuses_a_taken_username_and_writes_nothing,
    update_can_take_a_username_in_another_case_of_its_own,
    update_of_a_deleted_account_is_missing,
    a_password_hash_is_upgraded_only_where_it_is_still_the_old_one,
}

fn named(email: &str, username: &str) -> NewAccount {
    NewAccount { username: Some(username.into()), ..new_account(email) }
}

async fn register(on: &Fixture, account: &NewAccount) -> Result<portcullis::store::Account, AccountFault> {
    let session = new_session(account.id, account.created_at);
    on.store.register(account, &session, &entry(AuditEvent::Registered, account.created_at)).await
}

async fn register_gives_the_account_as_it_was_asked_for(on: Fixture) {
    let asked = NewAccount { full_name: Some("Ann Émile".into()), ..named("Ann@Example.com", "Ann") };
    let made = register(&on, &asked).await.unwrap();
    assert_eq!(made.id, asked.id);
    assert_eq!(made.email, "Ann@Example.com");
    assert_eq!(made.username.as_deref(), Some("Ann"));
    assert_eq!(made.full_name.as_deref(), Some("Ann Émile"));
    assert_eq!(made.roles, ["user"]);
    assert_eq!((made.org.as_deref(), made.active, made.email_verified), (None, true, false));
    assert_eq!(made.authorization_version, 1);
    assert_eq!((made.created_at, made.last_login_at), (NOW, Some(NOW)));
    assert_eq!(on.store.account(asked.id).await.unwrap(), Some(made));
}

async fn register_opens_the_first_session_and_audits_both(on: Fixture) {
    let (account, session) = on.registered("ann@example.com").await;
    assert_eq!(on.store.session(session).await.unwrap().unwrap().user, account.id);
    // The caller's entry named nobody: rows are of whom the caller says, so this one finds its rows by naming.
    let asked = new_account("eve@example.com");
    let told = portcullis::store::AuditEntry { user: Some(asked.id), ..entry(AuditEvent::Registered, NOW) };
    on.store.register(&asked, &new_session(asked.id, NOW), &told).await.unwrap();
    assert_eq!(on.events(asked.id).await, [AuditEvent::Registered, AuditEvent::LoginSucceeded]);
}

async fn an_email_is_unique_in_any_case_and_nothing_is_written_for_the_second(on: Fixture) {
    on.registered("ann@example.com").await;
    let second = new_account("ANN@Example.COM");
    let session = new_session(second.id, NOW);
    let told = portcullis::store::AuditEntry { user: Some(second.id), ..entry(AuditEvent::Registered, NOW) };
    let refused = on.store.register(&second, &session, &told).await;
    assert!(matches!(refused, Err(AccountFault::EmailTaken)), "{refused:?}");
    assert_eq!(on.store.account(second.id).await.unwrap(), None);
    assert_eq!(on.store.session(session.id).await.unwrap(), None);
    assert_eq!(on.events(second.id).await, []);
}

async fn a_username_is_unique_in_any_case_and_may_be_absent_many_times(on: Fixture) {
    register(&on, &named("a@example.com", "Ann")).await.unwrap();
    let refused = register(&on, &named("b@example.com", "aNN")).await;
    assert!(matches!(refused, Err(AccountFault::UsernameTaken)), "{refused:?}");
    on.registered("c@example.com").await;
    on.registered("d@example.com").await;
}

async fn names_outside_ascii_are_caseless_too(on: Fixture) {
    register(&on, &named("ärger@example.com", "ÉVA")).await.unwrap();
    let refused = register(&on, &new_account("ÄRGER@example.com")).await;
    assert!(matches!(refused, Err(AccountFault::EmailTaken)), "{refused:?}");
    register(&on, &new_account("σας@example.com")).await.unwrap();
    for twin in ["σασ@example.com", "ΣΑΣ@example.com"] {
        let refused = register(&on, &new_account(twin)).await;
        assert!(matches!(refused, Err(AccountFault::EmailTaken)), "{twin}: {refused:?}");
    }
    let found = on.store.find_login(&Login::Username("éva".into())).await.unwrap();
    assert_eq!(found.unwrap().0.username.as_deref(), Some("ÉVA"));
}

async fn login_finds_by_either_name_in_any_case(on: Fixture) {
    let asked = named("Ann@Example.com", "Ann");
    let made = register(&on, &asked).await.unwrap();
    for login in [Login::Email("aNN@example.COM".into()), Login::Username("ANN".into())] {
        let (account, hash) = on.store.find_login(&login).await.unwrap().unwrap();
        assert_eq!(account, made);
        assert_eq!(hash.expose_secret(), asked.password_hash.expose_secret());
    }
}

async fn an_unknown_login_or_id_is_none(on: Fixture) {
    register(&on, &named("ann@example.com", "ann")).await.unwrap();
    // Neither name answers for the other, and no wildcard does.
    for login in [Login::Email("ann".into()), Login::Username("ann@example.com".into()), Login::Email("%".into())] {
        assert!(on.store.find_login(&login).await.unwrap().is_none());
    }
    assert_eq!(on.store.account(user_id()).await.unwrap(), None);
}

async fn of_many_who_register_one_address_at_once_one_wins(on: Fixture) {
    let attempts = (0..12).map(|number| {
        let store = on.store.clone();
        let account = new_account(if number % 2 == 0 { "Ann@Example.com" } else { "ann@example.COM" });
        tokio::spawn(async move {
            let session = new_session(account.id, NOW);
            store.register(&account, &session, &entry(AuditEvent::Registered, NOW)).await
        })
    });
    let mut won = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(_) => won += 1,
            Err(AccountFault::EmailTaken) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(won, 1);
}

async fn roles_keep_their_order(on: Fixture) {
    let roles: Vec<String> = ["zebra", "admin", "user", "m"].map(String::from).to_vec();
    let made = register(&on, &NewAccount { roles: roles.clone(), ..new_account("ann@example.com") }).await.unwrap();
    assert_eq!(made.roles, roles);
}

async fn a_password_hash_is_upgraded_only_where_it_is_still_the_old_one(on: Fixture) {
    let ann = new_account("ann@example.com");
    let bea = new_account("bea@example.com");
    for account in [&ann, &bea] {
        register(&on, account).await.unwrap();
    }
    let hash_of = async |email: &str| {
        on.store.find_login(&Login::Email(email.into())).await.unwrap().unwrap().1.expose_secret().to_owned()
    };
    let (old, new, late) = (ann.password_hash.clone(), SecretString::from("new"), SecretString::from("late"));
    assert!(on.store.upgrade_password_hash(ann.id, &old, &new).await.unwrap());
    assert_eq!(hash_of("ann@example.com").await, "new");
    assert_eq!(hash_of("bea@example.com").await, old.expose_secret(), "the same hash, but another's");
    // As if the password had been changed while the late one was being made.
    assert!(!on.store.upgrade_password_hash(ann.id, &old, &late).await.unwrap());
    assert_eq!(hash_of("ann@example.com").await, "new");
    assert!(!on.store.upgrade_password_hash(user_id(), &old, &late).await.unwrap());
    assert_eq!(on.events(ann.id).await, []);
}

async fn moments_keep_every_microsecond(on: Fixture) {
    for (number, micros) in
        [-1, 0, 1, 999_999, 1_000_001, -62_000_000_000_000_001, 253_402_300_799_999_999].into_iter().enumerate()
    {
        let created_at = Timestamp::from_micros(micros);
        let asked = NewAccount { created_at, ..new_account(&format!("{number}@example.com")) };
        assert_eq!(register(&on, &asked).await.unwrap().created_at, created_at);
    }
}

async fn update_changes_only_what_the_patch_names(on: Fixture) {
    let asked = NewAccount { full_name: Some("Ann".into()), ..named("ann@example.com", "ann") };
    let made = register(&on, &asked).await.unwrap();
    let told = portcullis::store::AuditEntry { user: Some(made.id), ..entry(AuditEvent::ProfileChanged, NOW) };
    for (patch, full_name, username) in [
        (ProfilePatch::default(), Some("Ann"), Some("ann")),
        (ProfilePatch { full_name: Some(Some("Bea".into())), username: None }, Some("Bea"), Some("ann")),
        (ProfilePatch { full_name: None, username: Some(Some("bea".into())) }, Some("Bea"), Some("bea")),
        (ProfilePatch { full_name: Some(None), username: Some(None) }, None, None),
    ] {
        let changed = on.store.update_profile(made.id, &patch, &told).await.unwrap();
        assert_eq!((changed.full_name.as_deref(), changed.username.as_deref()), (full_name, username));
        assert_eq!(changed.authorization_version, 1);
        assert_eq!(on.store.account(made.id).await.unwrap(), Some(changed));
    }
    assert_eq!(on.events(made.id).await, [AuditEvent::ProfileChanged; 4]);
    assert!(on.store.find_login(&Login::Username("bea".into())).await.unwrap().is_none());
}

async fn update_refuses_a_taken_username_and_writes_nothing(on: Fixture) {
    register(&on, &named("a@example.com", "ann")).await.unwrap();
    let other = register(&on, &named("b@example.com", "bea")).await.unwrap();
    let patch = ProfilePatch { full_name: Some(Some("Eve".into())), username: Some(Some("ANN".into())) };
    let told = portcullis::store::AuditEntry { user: Some(other.id), ..entry(AuditEvent::ProfileChanged, NOW) };
    let refused = on.store.update_profile(other.id, &patch, &told).await;
    assert!(matches!(refused, Err(AccountFault::UsernameTaken)), "{refused:?}");
    assert_eq!(on.store.account(other.id).await.unwrap(), Some(other.clone()));
    assert_eq!(on.events(other.id).await, []);
}

async fn update_can_take_a_username_in_another_case_of_its_own(on: Fixture) {
    let made = register(&on, &named("a@example.com", "ann")).await.unwrap();
    let patch = ProfilePatch { full_name: None, username: Some(Some("ANN".into())) };
    let at = NOW.plus(seconds(1));
    let changed = on.store.update_profile(made.id, &patch, &entry(AuditEvent::ProfileChanged, at)).await.unwrap();
    assert_eq!(changed.username.as_deref(), Some("ANN"));
}

async fn update_of_a_deleted_account_is_missing(on: Fixture) {
    let told = entry(AuditEvent::ProfileChanged, NOW);
    let refused = on.store.update_profile(user_id(), &ProfilePatch::default(), &told).await;
    assert!(matches!(refused, Err(AccountFault::Missing)), "{refused:?}");
}
