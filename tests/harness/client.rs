//! A client of the gateway: reqwest, with [`Invariants`] checked on every answer, and the words of the portal.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{Method, RequestBuilder, redirect::Policy};
use serde_json::{Value, json};

use crate::harness::{
    invariants::{Invariants, Seen},
    soon,
    upstream::MARK,
};

/// A good password: long, and on no list.
pub(crate) const PASSWORD: &str = "seven-Tangled-kites-over-oslo-41";

/// Speaks to one gateway, or to several in turn.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    bases: Arc<[String]>,
    /// Whose turn it is.
    turn: Arc<AtomicUsize>,
    invariants: Arc<Invariants>,
}

/// What a login or refresh gave.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) access: String,
    /// Empty when it came as a cookie.
    pub(crate) refresh: String,
    pub(crate) user: Value,
}

impl Client {
    /// Over plaintext HTTP/1.1.
    pub(crate) fn new(base: &str, invariants: &Arc<Invariants>) -> Self {
        Self::build(base, invariants, Self::builder().http1_only())
    }

    /// The same to several: each request to the next.
    pub(crate) fn in_turn(bases: &[String], invariants: &Arc<Invariants>) -> Self {
        Self { bases: bases.into(), ..Self::new("", invariants) }
    }

    /// From another loopback address than the rest: another client, as far as limits are concerned.
    pub(crate) fn from(base: &str, invariants: &Arc<Invariants>, address: IpAddr) -> Self {
        Self::build(base, invariants, Self::builder().http1_only().local_address(address))
    }

    /// To several in turn, from this loopback address.
    pub(crate) fn in_turn_from(bases: &[String], invariants: &Arc<Invariants>, address: IpAddr) -> Self {
        Self { bases: bases.into(), ..Self::from("", invariants, address) }
    }

    /// Over TLS, trusting `ca` alone; the protocol is ALPN's to settle.
    pub(crate) fn tls(base: &str, invariants: &Arc<Invariants>, ca: &str) -> Self {
        let root = reqwest::Certificate::from_pem(ca.as_bytes()).unwrap();
        Self::build(base, invariants, Self::builder().tls_certs_only([root]))
    }

    fn builder() -> reqwest::ClientBuilder {
        // Whatever the machine says about proxies is not meant for a gateway on loopback.
        reqwest::Client::builder().no_proxy().redirect(Policy::none()).pool_idle_timeout(Duration::from_mins(10))
    }

    fn build(base: &str, invariants: &Arc<Invariants>, builder: reqwest::ClientBuilder) -> Self {
        let (bases, turn) = (Arc::from([base.to_owned()]), Arc::default());
        Self { http: builder.build().unwrap(), bases, turn, invariants: Arc::clone(invariants) }
    }

    /// Any request.
    pub(crate) fn call(&self, method: &str, path: &str) -> Call {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let base = &self.bases[self.turn.fetch_add(1, Ordering::Relaxed) % self.bases.len()];
        let request = self.http.request(method.clone(), format!("{base}{path}"));
        Call { request, method, invariants: Arc::clone(&self.invariants) }
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call("GET", path)
    }

    pub(crate) fn post(&self, path: &str) -> Call {
        self.call("POST", path)
    }

    /// From now on `secret` may appear in no refusal.
    pub(crate) fn plant(&self, secret: &str) {
        self.invariants.plant(secret);
    }

    /// `POST /auth/register`, expecting 201.
    pub(crate) async fn register(&self, email: &str) -> Tokens {
        self.plant(PASSWORD);
        let answer = self.post("/auth/register").json(&json!({"email": email, "password": PASSWORD})).send().await;
        self.tokens(&answer.expect(201))
    }

    /// `POST /auth/login`, expecting 200.
    pub(crate) async fn login(&self, email: &str) -> Tokens {
        self.plant(PASSWORD);
        let answer = self.post("/auth/login").json(&json!({"email": email, "password": PASSWORD})).send().await;
        self.tokens(&answer.expect(200))
    }

    /// `POST /auth/refresh`.
    pub(crate) async fn refresh(&self, token: &str) -> Answer {
        self.post("/auth/refresh").json(&json!({"refresh_token": token})).send().await
    }

    /// The same, expecting the next pair.
    pub(crate) async fn refreshed(&self, token: &str) -> Tokens {
        let answer = self.refresh(token).await;
        self.tokens(&answer.expect(200))
    }

    /// The tokens of an answer; planted, so that no later refusal may repeat them.
    pub(crate) fn tokens(&self, answer: &Answer) -> Tokens {
        let body = answer.json();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let tokens =
            Tokens { access: text("access_token"), refresh: text("refresh_token"), user: body["user"].clone() };
        assert!(!tokens.access.is_empty(), "no access token: {body}");
        for token in [&tokens.access, &tokens.refresh] {
            if !token.is_empty() {
                self.plant(token);
            }
        }
        tokens
    }

    /// The status `GET path` gives to this access token.
    pub(crate) async fn status(&self, path: &str, access: &str) -> u16 {
        self.get(path).bearer(access).send().await.status
    }
}

/// A request being put together.
pub(crate) struct Call {
    request: RequestBuilder,
    method: Method,
    invariants: Arc<Invariants>,
}

impl Call {
    pub(crate) fn bearer(mut self, token: &str) -> Self {
        self.request = self.request.bearer_auth(token);
        self
    }

    /// Beside one of that name, if there is one.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// The same; the value need not be text.
    pub(crate) fn header_bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn json(mut self, body: &Value) -> Self {
        self.request = self.request.json(body);
        self
    }

    pub(crate) fn body(mut self, body: impl Into<reqwest::Body>) -> Self {
        self.request = self.request.body(body);
        self
    }

    /// The whole answer.
    pub(crate) async fn send(self) -> Answer {
        let streamed = self.open().await;
        soon("the end of an answer", streamed.whole()).await
    }

    /// The answer's head; its body as it comes.
    pub(crate) async fn open(self) -> Streamed {
        let response = soon("an answer", self.request.send()).await.unwrap();
        let streamed = Streamed { response, head_only: self.method == Method::HEAD, invariants: self.invariants };
        if streamed.is_from_upstream() {
            streamed.invariants.check(&Seen {
                status: streamed.status(),
                headers: pairs(streamed.response.headers()),
                body: None,
                head_only: streamed.head_only,
            });
        }
        streamed
    }
}

fn pairs(headers: &http::HeaderMap) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
}

/// An answer whose body has not been read.
pub(crate) struct Streamed {
    response: reqwest::Response,
    head_only: bool,
    invariants: Arc<Invariants>,
}

impl Streamed {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header, if it is there and text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    fn is_from_upstream(&self) -> bool {
        self.response.headers().contains_key(MARK)
    }

    /// The next piece of the body as it comes; `None` at its end, `Err` when it was cut.
    pub(crate) async fn chunk(&mut self) -> Result<Option<String>, String> {
        let chunk = soon("a piece of the answer", self.response.chunk()).await.map_err(|error| error.to_string())?;
        Ok(chunk.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    async fn whole(self) -> Answer {
        let Self { response, head_only, invariants } = self;
        let (status, version) = (response.status().as_u16(), response.version());
        let headers = response.headers().clone();
        let body = response.bytes().await.expect("the answer's body broke off").to_vec();
        if !headers.contains_key(MARK) {
            invariants.check(&Seen { status, headers: pairs(&headers), body: Some(&body), head_only });
        }
        Answer { status, version, headers, body }
    }
}

/// A whole answer, invariants checked.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) version: http::Version,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Fails unless the status is this one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Fails unless it is a refusal of this status and code.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code()), (status, code.to_owned()), "{}", self.text());
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// `code` of a problem document.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The one value of a header.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let all: Vec<_> = self.headers.get_all(name).iter().collect();
        assert!(all.len() <= 1, "{name} came more than once: {all:?}");
        all.first().map(|value| value.to_str().unwrap())
    }

    /// Every value of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }
}
