//! Mints access tokens with a gateway's own keys, for load tests: good ones of many users, and bad ones of each kind.
//!
//! `cargo run --release --example mint_tokens -- CONFIG USERS TOKENS_FILE BAD_FILE`. Reads the gateway's configuration
//! and store (and makes the first signing key if the gateway has not started yet), so what it writes is as good as a
//! login: keep it where you would keep passwords.

use std::{collections::BTreeMap, error::Error, fs, path::Path};

use portcullis::{
    app::{self, Rim},
    config::{self, ProcessEnvironment, settings::Settings},
    policy::{
        claims::Claims,
        ids::SessionId,
        keys::{Algorithm, SigningKey},
        mint,
    },
};
use secrecy::ExposeSecret;

/// A day: longer than any load test.
const LIFE_SECONDS: i64 = 24 * 3600;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, users, tokens_file, bad_file] = arguments.as_slice() else {
        return Err("usage: mint_tokens CONFIG USERS TOKENS_FILE BAD_FILE".into());
    };
    let settings = config::load(Path::new(config), &ProcessEnvironment)?;
    let rim = Rim::system();
    let key = app::keyring(&settings, &rim).await?.current();

    let mut tokens = String::new();
    for nth in 0..users.parse::<u32>()? {
        tokens.push_str(&mint(&key, &claims(&settings, &rim, nth))?);
        tokens.push('\n');
    }
    fs::write(tokens_file, tokens)?;
    fs::write(bad_file, serde_json::to_string_pretty(&bad(&key, &settings, &rim)?)?)?;
    Ok(())
}

fn mint(key: &SigningKey, claims: &Claims) -> Result<String, Box<dyn Error>> {
    Ok(mint::access_token(key, claims)?.expose_secret().to_owned())
}

fn claims(settings: &Settings, rim: &Rim, nth: u32) -> Claims {
    let now = rim.clock.now();
    Claims {
        issuer: settings.tokens.issuer.clone(),
        subject: format!("user-{nth:05}").into(),
        audience: vec![(&*settings.tokens.audience).into()],
        expires: now.seconds() + LIFE_SECONDS,
        not_before: Some(now.seconds()),
        issued: now.seconds(),
        token_id: rim.entropy.uuid_v7(now).to_string().into(),
        session: Some(SessionId(rim.entropy.uuid_v7(now))),
        client_id: None,
        roles: vec!["user".into()],
        scopes: vec!["api:read".into(), "api:write".into()],
        org: None,
        authorization_version: 1,
        generation: 1,
        email: Some(format!("user-{nth:05}@example.com").into()),
        email_verified: true,
        methods: vec!["pwd".into()],
        auth_time: Some(now.seconds()),
    }
}

/// Tokens that every gateway must refuse with 401, by name.
fn bad(key: &SigningKey, settings: &Settings, rim: &Rim) -> Result<BTreeMap<&'static str, String>, Box<dyn Error>> {
    let good = mint(key, &claims(settings, rim, 0))?;
    let other = mint(key, &claims(settings, rim, 1))?;
    let mut expired = claims(settings, rim, 0);
    expired.expires -= 2 * LIFE_SECONDS;
    let mut elsewhere = claims(settings, rim, 0);
    elsewhere.audience = vec!["elsewhere".into()];
    let stranger = SigningKey::generate_pkcs8(Algorithm::Es256)?;
    let stranger = SigningKey::from_pkcs8(Algorithm::Es256, stranger.expose_secret())?;

    let part = |token: &str, nth: usize| token.split('.').nth(nth).unwrap_or_default().to_owned();
    let (head, body, signature) = (part(&good, 0), part(&good, 1), part(&good, 2));
    let none =
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, br#"{"alg":"none","typ":"at+jwt"}"#);
    Ok(BTreeMap::from([
        ("expired", mint(key, &expired)?),
        ("other-audience", mint(key, &elsewhere)?),
        ("other-key", mint(&stranger, &claims(settings, rim, 0))?),
        ("bad-signature", format!("{head}.{}.{signature}", part(&other, 1))),
        ("alg-none", format!("{none}.{body}.")),
        ("truncated", format!("{head}.{body}.")),
        ("garbage", "not.a.jwt".to_owned()),
    ]))
}
