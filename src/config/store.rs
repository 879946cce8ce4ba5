//! `store:` where the facts live, and the key that seals the secrets among them.

use base64::{Engine as _, engine::general_purpose};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    checks::{Checks, Noted},
    item::{At, Item},
    secret::{LiteralOrSecret, Secret},
    settings::{Engine, Store},
    units::{Int, Span},
    urls::is_loopback,
};

/// Where users, sessions, keys and audit live.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Store")]
pub(super) struct RawStore {
    /// `sqlite://path` for the embedded store (one gateway; a relative path starts at this file's folder),
    /// `postgres://user@host/database` for production, or none: nothing is kept, so there are no accounts (the portal must
    /// be off) and routes take tokens of other issuers only. A password belongs in the environment or a file, since whoever
    /// reads it owns every account: "${NAME}", {env: NAME} or {file: path}.
    url: Item<LiteralOrSecret>,
    /// The key that seals signing keys and other secrets at rest: 32 bytes as base64 or 64 hex digits, from the
    /// environment or a file only. Required for PostgreSQL, where every gateway needs the same; with SQLite it is made
    /// once beside the database. Losing it ends every session and makes the sealed secrets unreadable.
    master_key: Option<Item<Secret>>,
    /// Connections in the pool (PostgreSQL) or readers (SQLite). Each holds a server process on PostgreSQL.
    pool: Item<Int<1, 1_000>>,
    /// How long a request waits for a connection or an answer before the store counts as lost (503).
    timeout: Item<Span<100, 60_000>>,
}

/// The word for no store at all.
const NONE: &str = "none";

const DEFAULT_URL: &str = "sqlite://data/portcullis.db";

impl Default for RawStore {
    fn default() -> Self {
        Self {
            url: Item::of(LiteralOrSecret(DEFAULT_URL.into())),
            master_key: None,
            pool: Item::of(Int(10)),
            timeout: Item::of(Span::secs(3)),
        }
    }
}

/// `None`: there is none, and that is meant.
pub(super) fn check(item: Item<RawStore>, checks: &mut Checks) -> Result<Option<Store>, Noted> {
    let at = item.at.or(&At::root(), "store");
    let raw = item.value.ok_or(Noted)?;
    if let Some(url) = &raw.url.value {
        // The default too: writing it down is no change.
        checks.inputs.content("store.url", url.0.expose_secret().as_bytes());
    }
    if raw.url.value.as_ref().is_some_and(|url| url.0.expose_secret() == NONE) {
        check_none(&raw, checks);
        return Ok(None);
    }
    check_kept(&raw, &at, checks).map(Some).ok_or(Noted)
}

fn check_none(raw: &RawStore, checks: &mut Checks) {
    let written = [
        raw.master_key.as_ref().map(|item| &item.at),
        raw.pool.is_written().then_some(&raw.pool.at),
        raw.timeout.is_written().then_some(&raw.timeout.at),
    ];
    for at in written.into_iter().flatten() {
        checks.error(at, "contradicts store.url: none; there is nothing it could be for");
    }
}

fn check_kept(raw: &RawStore, at: &At, checks: &mut Checks) -> Option<Store> {
    let engine = raw
        .url
        .value
        .as_ref()
        .and_then(|url| engine(&url.0, checks).map_err(|message| checks.error(&raw.url.at, message)).ok());
    let master_key = match &raw.master_key {
        None => Some(None),
        Some(key) => key
            .value
            .as_ref()
            .and_then(|secret| master_key(&secret.0).map_err(|message| checks.error(&key.at, message)).ok().map(Some)),
    };
    if matches!(engine, Some(Engine::Postgres { .. })) && raw.master_key.is_none() {
        let message = "missing; PostgreSQL needs it from the environment or a file, the same for every gateway: \
                       openssl rand -base64 32";
        checks.error(&at.child("master_key"), message);
    }
    let (pool, timeout) = (raw.pool.value?.get()?, raw.timeout.value?.0);
    Some(Store { engine: engine?, master_key: master_key?, pool, timeout })
}

fn engine(url: &SecretString, checks: &Checks) -> Result<Engine, String> {
    let text = url.expose_secret();
    if let Some(path) = text.strip_prefix("sqlite://") {
        return sqlite(path, checks);
    }
    match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        Some(rest) => postgres(rest).map(|()| Engine::Postgres { url: url.clone() }),
        None => Err("expected sqlite://path, postgres://user@host/database or none".to_owned()),
    }
}

fn sqlite(path: &str, checks: &Checks) -> Result<Engine, String> {
    if path.contains('?') {
        return Err("parameters after ? are for PostgreSQL; sqlite:// takes a path only".to_owned());
    }
    if path.is_empty() || path.ends_with('/') || path.contains('\0') {
        return Err("expected the path of a file after sqlite://".to_owned());
    }
    if path == ":memory:" {
        return Err("a database in memory forgets every user at exit; name a file".to_owned());
    }
    Ok(Engine::Sqlite { path: checks.path(path) })
}

/// What is checked here is what we refuse; the driver reads the rest.
fn postgres(rest: &str) -> Result<(), String> {
    let (address, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = address.split_once('/').unwrap_or((address, ""));
    if database.is_empty() || database.contains('/') {
        return Err("names no database: postgres://user@host/database".to_owned());
    }
    let (user_info, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => host,
    };
    let socket = host.is_empty() || parameters.contains("host=/") || parameters.contains("host=%2F");
    if !socket && !is_loopback(host) && is_weak(user, password) {
        return Err("the password is one that attackers try first; make one: openssl rand -base64 24".to_owned());
    }
    Ok(())
}

fn is_weak(user: &str, password: &str) -> bool {
    const TRIED_FIRST: [&str; 16] = [
        "postgres",
        "password",
        "passwd",
        "changeme",
        "change-me",
        "change_me",
        "secret",
        "admin",
        "root",
        "portcullis",
        "example",
        "test",
        "dev",
        "123456",
        "12345678",
        "mysecretpassword",
    ];
    let lower = password.to_ascii_lowercase();
    !password.is_empty() && (lower == user.to_ascii_lowercase() || TRIED_FIRST.contains(&lower.as_str()))
}

fn master_key(secret: &SecretString) -> Result<SecretSlice<u8>, String> {
    let text = secret.expose_secret().trim();
    let key = decode_hex(text).or_else(|| decode_base64(text)).filter(|key| key.len() == 32);
    let key = key.ok_or("expected 32 bytes as base64 or 64 hex digits: openssl rand -base64 32")?;
    // 32 random bytes hold about 30 different values, and practically never fewer than 16 or none above 127.
    let different = key.iter().collect::<std::collections::HashSet<_>>().len();
    if different < 16 || key.is_ascii() {
        return Err("the key is not random; make one: openssl rand -base64 32".to_owned());
    }
    Ok(key.into())
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    (0..32).map(|index| u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()).collect()
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let bare = text.trim_end_matches('=');
    general_purpose::STANDARD_NO_PAD.decode(bare).or_else(|_| general_purpose::URL_SAFE_NO_PAD.decode(bare)).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn engine_of(url: &str) -> Result<Engine, String> {
        engine(&url.into(), &Checks::new(Path::new("/etc/portcullis"), Vec::new()))
    }

    #[test]
    fn a_relative_database_lies_beside_the_configuration() {
        let path = |url| match engine_of(url) {
            Ok(Engine::Sqlite { path }) => path,
            other => panic!("{other:?}"),
        };
        assert_eq!(path("sqlite://data/p.db"), Path::new("/etc/portcullis/data/p.db"));
        assert_eq!(path("sqlite:///var/lib/p.db"), Path::new("/var/lib/p.db"));
    }

    #[test]
    fn urls_that_name_no_store_are_refused() {
        for url in [
            "",
            "mysql://x/y",
            "sqlite://",
            "sqlite://dir/",
            "sqlite://:memory:",
            "sqlite://a?mode=ro",
            "postgres://host",
            "postgres://host/",
            "data.db",
        ] {
            assert!(engine_of(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_default_password_is_refused_unless_the_database_is_on_this_machine() {
        for url in [
            "postgres://postgres:postgres@db/x",
            "postgres://app:app@db:5432/x",
            "postgresql://app:ChangeMe@db.example/x?sslmode=require",
        ] {
            let refused = engine_of(url).unwrap_err();
            assert!(refused.contains("attackers try first"), "{url}");
            assert!(!refused.contains("app") && !refused.contains("postgres"), "{refused}");
        }
        for url in [
            "postgres://postgres:postgres@127.0.0.1:5432/x",
            "postgres://postgres:postgres@localhost/x",
            "postgres://app:kX9_2mvQ8rT@db/x",
            "postgres:///x?host=/run/postgresql",
            "postgres://app@db/x",
        ] {
            assert!(engine_of(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn a_master_key_is_32_random_bytes() {
        let hex = "8f1d2c3b4a59687786a5b4c3d2e1f00f9e8d7c6b5a4938271605f4e3d2c1b0a9".to_owned();
        let bytes = decode_hex(&hex).unwrap();
        assert_eq!((bytes.len(), bytes[0], bytes[31]), (32, 0x8f, 0xa9));
        let url_safe = general_purpose::URL_SAFE.encode(&bytes);
        for text in [hex.clone(), hex.to_uppercase(), general_purpose::STANDARD.encode(&bytes), url_safe] {
            assert_eq!(master_key(&text.clone().into()).unwrap().expose_secret(), bytes, "{text}");
        }
        for text in
            ["", "short", &"0".repeat(64), &"ab".repeat(32), &hex[..62], &general_purpose::STANDARD.encode([7; 32])]
        {
            assert!(master_key(&text.to_owned().into()).is_err(), "{text}");
        }
        let words = general_purpose::STANDARD.encode(b"correct horse battery staple 123");
        assert!(master_key(&words.into()).unwrap_err().contains("not random"));
    }
}
