//! Opening: migrations run once, older gateways stay out, files outlive the process, errors keep the password.

use std::{os::unix::fs::PermissionsExt, path::Path};

use portcullis::{
    config::settings,
    store::{Login, SharedStore, sql, sql::OpenFault},
};
use tempfile::TempDir;

use crate::{
    fixture::{Fixture, postgres_settings, sqlite_settings},
    support::postgres::cluster,
};

on_both_engines! {
    a_store_opens_again_and_has_kept_everything,
    a_gateway_older_than_the_schema_allows_refuses_to_start,
    a_newer_schema_that_still_allows_us_is_read,
    a_step_that_was_changed_after_it_ran_is_noticed,
}

async fn a_store_opens_again_and_has_kept_everything(on: Fixture) {
    let (account, session) = on.registered("ann@example.com").await;
    let kept = on.store.session(session).await.unwrap();
    let reopened = sql::open(&on.settings).await.unwrap();
    drop(on.store);
    reopened.ping().await.unwrap();
    assert_eq!(reopened.session(session).await.unwrap(), kept);
    assert_eq!(reopened.find_login(&Login::Email(account.email.clone())).await.unwrap().unwrap().0, account);
}

async fn a_gateway_older_than_the_schema_allows_refuses_to_start(on: Fixture) {
    on.tamper("UPDATE schema_compat SET min_reader = 999").await;
    let fault = sql::open(&on.settings).await.err().unwrap();
    assert!(matches!(fault, OpenFault::TooNew { min_reader: 999, .. }), "{fault}");
    assert!(fault.to_string().contains("newer portcullis"), "{fault}");
}

async fn a_newer_schema_that_still_allows_us_is_read(on: Fixture) {
    on.tamper(
        "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time) \
         SELECT 999, 'from the future', installed_on, success, checksum, 0 FROM _sqlx_migrations WHERE version = 1",
    )
    .await;
    sql::open(&on.settings).await.unwrap().ping().await.unwrap();
}

async fn a_step_that_was_changed_after_it_ran_is_noticed(on: Fixture) {
    on.tamper("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 2").await;
    let fault = sql::open(&on.settings).await.err().unwrap();
    assert!(matches!(&fault, OpenFault::Migration { cause, .. } if cause.contains('2')), "{fault}");
}

async fn opened_by_eight(settings: settings::Store) -> Vec<SharedStore> {
    let openers: Vec<_> = (0..8)
        .map(|_| {
            let settings = settings.clone();
            tokio::spawn(async move { sql::open(&settings).await })
        })
        .collect();
    let mut stores = Vec::new();
    for opener in openers {
        stores.push(opener.await.unwrap().unwrap());
    }
    stores
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_gateways_starting_at_once_migrate_postgres_once() {
    let settings = postgres_settings(cluster().create_database().url);
    for store in opened_by_eight(settings).await {
        store.ping().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_gateways_starting_at_once_migrate_sqlite_once() {
    let folder = TempDir::new().unwrap();
    for store in opened_by_eight(sqlite_settings(folder.path().join("portcullis.db"))).await {
        store.ping().await.unwrap();
    }
}

#[tokio::test]
async fn an_unreachable_server_is_told_by_its_place_without_the_password() {
    for url in
        ["postgres://ann:planted-4f1c@localhost/db?host=/nowhere/at/all", "postgres://ann:planted-4f1c@localhost:1/db"]
    {
        let fault = sql::open(&postgres_settings(url.into())).await.err().unwrap();
        assert!(matches!(fault, OpenFault::Unreachable { .. }), "{fault}");
        assert!(fault.to_string().contains("postgres://ann@"), "{fault}");
        assert!(!format!("{fault} {fault:?}").contains("planted-4f1c"), "{fault:?}");
    }
}

#[tokio::test]
async fn a_url_that_does_not_parse_is_not_repeated() {
    let fault = sql::open(&postgres_settings("postgres://ann:planted-4f1c@[broken/db".into())).await.err().unwrap();
    assert!(matches!(fault, OpenFault::Url), "{fault}");
    assert!(!format!("{fault} {fault:?}").contains("planted-4f1c"));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("portcullis.db");
    let text = "this is not a database, it is a letter. ".repeat(100);
    std::fs::write(&path, &text).unwrap();
    assert!(sql::open(&sqlite_settings(path.clone())).await.is_err());
    assert_eq!(std::fs::read_to_string(path).unwrap(), text);
}

#[tokio::test]
async fn the_sqlite_folder_and_its_files_are_for_their_owner_only() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let store = sql::open(&sqlite_settings(data.join("portcullis.db"))).await.unwrap();
    store.ping().await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for entry in std::fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}
