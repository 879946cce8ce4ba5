//! Accounts and tokens for a load test, of the gateway's own making: `bench_tokens CONFIG TOKENS BAD [--users N]`.
//!
//! A gateway that verifies only its own keys cannot be handed a load tool's tokens, and registering a thousand users
//! over HTTP would measure argon2. So this opens the store a configuration names, lets the gateway make its keys,
//! registers users with sessions (one password for all, hashed once), and mints their access tokens as a login would.
//!
//! Writes TOKENS (one valid token a line) and BAD (JSON: case → a token that must get 401). For throw-away stores: who
//! holds these files is every user.

use std::{collections::BTreeMap, error::Error, fs, path::PathBuf, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Parser;
use portcullis::{
    app::{self, Rim},
    clock::Timestamp,
    config::{self, ProcessEnvironment, settings::Settings},
    policy::{
        claims::Claims,
        ids::{SessionId, UserId},
        keys::SigningKey,
        mint::{self, IdentityClaims},
        refresh_token,
    },
    portal::hash_pool::HashPool,
    store::{AuditEntry, AuditEvent, NewAccount, NewSession, SharedStore, sql},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

type Fault = Box<dyn Error>;

/// Makes accounts and tokens for a load test.
#[derive(Parser)]
struct Arguments {
    /// The gateway's configuration.
    config: PathBuf,
    /// Where the valid tokens go, one a line.
    tokens: PathBuf,
    /// Where the bad ones go.
    bad: PathBuf,
    /// How many users: user-00000@bench.example and so on.
    #[arg(long, default_value_t = 1_000)]
    users: usize,
    /// The password of all of them.
    #[arg(long, default_value = "seven tame herons at dusk")]
    password: String,
}

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let arguments = Arguments::parse();
    let settings = config::load(&arguments.config, &ProcessEnvironment).map_err(|errors| errors.to_string())?;
    let rim = Rim::system();
    // Makes schema, master key and signing key, if they are not there.
    let key = app::keyring(&settings, &rim).await?.own();

    let kept = settings.store.as_ref().ok_or("store.url is none: there is nobody to make tokens for")?;
    let bench = Bench { store: sql::open(kept).await?, settings, rim };
    let hash = bench.hash(arguments.password).await?;
    let mut tokens = Vec::with_capacity(arguments.users);
    let mut first = None;
    for index in 0..arguments.users {
        let claims = bench.register(index, hash.clone()).await?;
        tokens.push(mint::access_token(&key, &claims)?.expose_secret().to_owned());
        first.get_or_insert(claims);
    }
    let claims = first.ok_or("at least one user is needed")?;
    fs::write(&arguments.bad, serde_json::to_string_pretty(&bad_tokens(&key, &claims)?)?)?;
    // Last: whoever waits for this file finds everything else done.
    fs::write(&arguments.tokens, tokens.join("\n") + "\n")?;
    Ok(())
}

struct Bench {
    settings: Settings,
    rim: Rim,
    store: SharedStore,
}

impl Bench {
    fn now(&self) -> Timestamp {
        self.rim.clock.now()
    }

    async fn hash(&self, password: String) -> Result<SecretString, Fault> {
        let pool = HashPool::new(&self.settings.passwords, Arc::clone(&self.rim.entropy), Arc::clone(&self.rim.clock))?;
        let judged = pool
            .hash(password.into(), Vec::new(), std::net::Ipv4Addr::LOCALHOST.into())
            .await
            .map_err(|refusal| format!("{refusal:?}"))?;
        Ok(judged?)
    }

    /// An account with one session, and what its access token says.
    async fn register(&self, index: usize, password_hash: SecretString) -> Result<Claims, Fault> {
        let now = self.now();
        let id = || self.rim.entropy.uuid_v7(now);
        let mut salt = [0; 32];
        self.rim.entropy.fill(&mut salt);
        let (user, session) = (UserId(id()), SessionId(id()));
        let account = NewAccount {
            id: user,
            email: format!("user-{index:05}@bench.example"),
            username: None,
            full_name: None,
            password_hash,
            roles: vec!["user".to_owned()],
            created_at: now,
        };
        let session = NewSession {
            id: session,
            user,
            salt,
            delivery: self.settings.tokens.delivery,
            methods: vec!["pwd".to_owned()],
            user_agent: None,
            address: "127.0.0.1".to_owned(),
            created_at: now,
        };
        let audit = AuditEntry {
            at: now,
            event: AuditEvent::Registered,
            user: Some(user),
            session: Some(session.id),
            address: "127.0.0.1".to_owned(),
            request_id: "bench".to_owned(),
            actor: portcullis::store::audit::Actor::User(user),
            detail: portcullis::store::audit::Detail::default(),
        };
        let account = self.store.register(&account, &session, &audit).await?;
        let tokens = &self.settings.tokens;
        Ok(Claims {
            issuer: Arc::clone(&tokens.issuer),
            subject: account.id.to_string().into(),
            audience: vec![Box::from(&*tokens.audience)],
            expires: now.plus(tokens.access_ttl).seconds(),
            not_before: Some(now.seconds()),
            issued: now.seconds(),
            token_id: id().to_string().into(),
            session: Some(session.id),
            client_id: Some("portal".into()),
            roles: account.roles.iter().map(|role| Arc::from(role.as_str())).collect(),
            scopes: Vec::new(),
            org: None,
            authorization_version: account.authorization_version,
            generation: 1,
            email: Some(account.email.into()),
            email_verified: account.email_verified,
            methods: vec!["pwd".into()],
            auth_time: Some(now.seconds()),
        })
    }
}

/// Tokens that look right and are not.
fn bad_tokens(key: &SigningKey, claims: &Claims) -> Result<BTreeMap<&'static str, String>, Fault> {
    let access = |claims: &Claims| mint::access_token(key, claims).map(|token| token.expose_secret().to_owned());
    let good = access(claims)?;
    let (head, rest) = good.split_once('.').ok_or("no token")?;
    let (payload, signature) = rest.split_once('.').ok_or("no token")?;
    let older =
        Claims { issued: claims.issued - 7_200, expires: claims.issued - 3_600, not_before: None, ..claims.clone() };
    let someone = access(&Claims { subject: "someone-else".into(), ..claims.clone() })?;
    let someone = someone.split('.').nth(1).unwrap_or_default();

    let header =
        |alg: &str| URL_SAFE_NO_PAD.encode(json!({"alg": alg, "typ": "at+jwt", "kid": &**key.kid()}).to_string());
    let other = SigningKey::from_pkcs8(key.algorithm(), SigningKey::generate_pkcs8(key.algorithm())?.expose_secret())?;
    let other_signature = URL_SAFE_NO_PAD.encode(other.sign(format!("{head}.{payload}").as_bytes())?);
    let public = key.verifying().jwk().to_string();
    let hmac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, public.as_bytes());
    let confused = format!("{}.{payload}", header("HS256"));
    let mac = URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&hmac, confused.as_bytes()));
    let identity = IdentityClaims {
        issuer: &claims.issuer,
        audience: claims.audience.first().map_or("", |audience| audience),
        issued: claims.issued,
        expires: claims.expires,
        request: None,
        claims: Some(claims),
        reference: None,
    };
    let refresh = refresh_token::issue(&[7; 32], claims.session.ok_or("no session")?, 1);

    Ok(BTreeMap::from([
        ("expired", access(&older)?),
        ("other-issuer", access(&Claims { issuer: "https://other.invalid".into(), ..claims.clone() })?),
        ("other-audience", access(&Claims { audience: vec!["other".into()], ..claims.clone() })?),
        ("bad-signature", format!("{head}.{someone}.{signature}")),
        ("other-key", format!("{head}.{payload}.{other_signature}")),
        ("alg-none", format!("{}.{payload}.", header("none"))),
        ("alg-confusion", format!("{confused}.{mac}")),
        ("truncated", format!("{head}.{payload}.")),
        ("garbage", "not.a.jwt".to_owned()),
        ("identity-token", mint::identity_token(key, &identity)?),
        ("refresh-token", refresh.expose_secret().to_owned()),
    ]))
}
