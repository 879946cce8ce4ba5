//! Fetches one small document from an issuer, wherever that may not lead: https only (but for a loopback address), to
//! the public internet only (unless told otherwise), no redirect to another host, 512 KiB at most.
//!
//! A connection for each document: they are fetched minutes apart. The name is resolved here and the very address that
//! was looked at is connected to, so that no second answer of a name server can lead elsewhere.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, Response, StatusCode, Uri,
    header::{ACCEPT, CACHE_CONTROL, CONNECTION, HOST, LOCATION, USER_AGENT},
};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;

use crate::{
    config::settings::KeySource, policy::addresses, telemetry::metrics::FetchResult, upstream::connect::Stream,
};

/// Largest document, bytes.
pub const MAX_BODY: usize = 512 * 1024;

/// Redirects followed.
const MAX_REDIRECTS: usize = 3;

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// A document.
#[derive(Debug)]
pub struct Document {
    /// Its bytes.
    pub body: Bytes,
    /// `max-age` of its `Cache-Control`, if it says so.
    pub max_age: Option<Duration>,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum FetchFault {
    /// No address, or no connection to any.
    #[error("no connection: {0}")]
    Connect(String),
    /// Not within the time there is.
    #[error("no answer in time")]
    Timeout,
    /// Broke off.
    #[error("the answer broke off: {0}")]
    Broken(String),
    /// Another status than 200.
    #[error("answered {0}")]
    Status(StatusCode),
    /// Neither https nor a loopback address.
    #[error("{0} is not https")]
    Insecure(Uri),
    /// Neither the host it was asked from nor one that is listed.
    #[error("{0} is on another host")]
    OtherHost(String),
    /// No address of it is on the public internet.
    #[error("{0} is not on the public internet, and allow_private is off")]
    Private(String),
    /// More than [`MAX_REDIRECTS`].
    #[error("too many redirects")]
    Redirects,
    /// More than [`MAX_BODY`].
    #[error("larger than {MAX_BODY} bytes")]
    TooLarge,
    /// Not what was expected there.
    #[error("{0}")]
    Document(String),
}

impl FetchFault {
    /// The label in metrics.
    #[must_use]
    pub const fn result(&self) -> FetchResult {
        match self {
            Self::Connect(_) => FetchResult::Connect,
            Self::Timeout => FetchResult::Timeout,
            Self::Broken(_) | Self::Status(_) => FetchResult::Answer,
            Self::Insecure(_) | Self::OtherHost(_) | Self::Private(_) | Self::Redirects => FetchResult::Elsewhere,
            Self::TooLarge | Self::Document(_) => FetchResult::Document,
        }
    }
}

/// Fetches `url`, following redirects on its own host. Sets no time limit: the caller does.
pub async fn fetch(url: &Uri, source: &KeySource) -> Result<Document, FetchFault> {
    let mut url = url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let target = Target::of(&url)?;
        let (answer, _connection) = ask(&url, &target, source).await?;
        match answer.status() {
            StatusCode::OK => return read(answer).await,
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => url = redirected(&url, &answer)?,
            status => return Err(FetchFault::Status(status)),
        }
    }
    Err(FetchFault::Redirects)
}

/// Whether a key set may be fetched from `url` when the discovery document lies at `source.document`.
pub fn same_or_listed(url: &Uri, source: &KeySource) -> Result<(), FetchFault> {
    let host = url.host().unwrap_or_default().to_ascii_lowercase();
    let same = source.document.host().is_some_and(|own| own.eq_ignore_ascii_case(&host));
    if same || source.hosts.iter().any(|listed| **listed == *host) { Ok(()) } else { Err(FetchFault::OtherHost(host)) }
}

/// Where a URL leads, as far as it may lead there.
pub(super) struct Target {
    https: bool,
    host: String,
    port: u16,
    /// The URL says a loopback address itself: whoever wrote it meant this machine.
    loopback: bool,
}

impl Target {
    /// Only https, or a loopback address.
    pub(super) fn of(url: &Uri) -> Result<Self, FetchFault> {
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let https = url.scheme_str() == Some("https");
        let loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let plain_ok = url.scheme_str() == Some("http") && loopback;
        let no_user = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        if host.is_empty() || !no_user || !(https || plain_ok) {
            return Err(FetchFault::Insecure(url.clone()));
        }
        Ok(Self { https, host, port: url.port_u16().unwrap_or(if https { 443 } else { 80 }), loopback })
    }

    /// The very address that was looked at is connected to.
    pub(super) async fn connect(&self, allow_private: bool, tls: Arc<ClientConfig>) -> Result<Stream, FetchFault> {
        let failed = |error: io::Error| FetchFault::Connect(error.to_string());
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await.map_err(failed)?;
        let permitted = |address: &SocketAddr| {
            allow_private || addresses::is_public(address.ip()) || (self.loopback && address.ip().is_loopback())
        };
        let permitted: Vec<SocketAddr> = found.filter(permitted).take(MAX_ADDRESSES).collect();
        if permitted.is_empty() {
            return Err(FetchFault::Private(self.host.clone()));
        }
        let tcp = TcpStream::connect(permitted.as_slice()).await.map_err(failed)?;
        if !self.https {
            return Ok(Stream::plain(tcp));
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|error| FetchFault::Connect(error.to_string()))?;
        Stream::tls(&TlsConnector::from(tls), name, tcp).await.map_err(failed)
    }
}

/// The answer's head; its connection lives as long as the set that is given beside it.
async fn ask(url: &Uri, target: &Target, source: &KeySource) -> Result<(Response<Incoming>, JoinSet<()>), FetchFault> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let host = url.authority().map(ToString::to_string).unwrap_or_default();
    let request = Request::get(path)
        .header(HOST, host)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "portcullis")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchFault::Document(error.to_string()))?;
    let stream = target.connect(source.allow_private, Arc::clone(&source.tls)).await?;
    stream.ask(request).await.map_err(|error| FetchFault::Broken(error.to_string()))
}

async fn read(answer: Response<Incoming>) -> Result<Document, FetchFault> {
    let cache_control = answer.headers().get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let max_age = cache_control.flat_map(|value| value.split(',')).find_map(max_age);
    match Limited::new(answer.into_body(), MAX_BODY).collect().await {
        Ok(body) => Ok(Document { body: body.to_bytes(), max_age }),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchFault::TooLarge),
        Err(error) => Err(FetchFault::Broken(error.to_string())),
    }
}

/// RFC 9111 §5.2.2: `max-age`, or that it may not be kept at all, which is an age of none.
fn max_age(directive: &str) -> Option<Duration> {
    let directive = directive.trim();
    if directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache") {
        return Some(Duration::ZERO);
    }
    let (name, value) = directive.split_once('=')?;
    let seconds = value.trim_matches('"').parse().ok()?;
    name.eq_ignore_ascii_case("max-age").then(|| Duration::from_secs(seconds))
}

/// Where a redirect leads: an absolute URL or an absolute path, on the same host.
fn redirected(from: &Uri, answer: &Response<Incoming>) -> Result<Uri, FetchFault> {
    let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok()).unwrap_or_default();
    let absolute = if location.starts_with('/') && !location.starts_with("//") {
        let scheme = from.scheme_str().unwrap_or_default();
        let authority = from.authority().map(ToString::to_string).unwrap_or_default();
        format!("{scheme}://{authority}{location}")
    } else {
        location.to_owned()
    };
    let elsewhere = || FetchFault::OtherHost(location.chars().take(256).collect());
    let next = Uri::from_str(&absolute).map_err(|_| elsewhere())?;
    let same = next.host().zip(from.host()).is_some_and(|(next, from)| next.eq_ignore_ascii_case(from));
    // Nor from https to a plain loopback address.
    let safer = next.scheme() == from.scheme() || next.scheme_str() == Some("https");
    if same && safer { Ok(next) } else { Err(elsewhere()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_control_is_read_leniently() {
        for (value, seconds) in [
            ("max-age=600", Some(600)),
            (" Max-Age=\"60\"", Some(60)),
            ("no-store", Some(0)),
            ("public", None),
            ("max-age=soon", None),
            ("s-maxage=9", None),
        ] {
            assert_eq!(max_age(value), seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn only_https_and_loopback_addresses_are_fetched_from() {
        for url in ["https://a.example/x", "http://127.0.0.1:1/x", "http://[::1]/x"] {
            assert!(Target::of(&Uri::from_static(url)).is_ok(), "{url}");
        }
        for url in ["http://a.example/x", "http://localhost/x", "http://10.0.0.1/", "https://u@a.example/", "/x"] {
            assert!(Target::of(&Uri::from_static(url)).is_err(), "{url}");
        }
    }
}
