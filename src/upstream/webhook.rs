//! Delivers one message to a webhook: a POST, signed after Standard Webhooks, to where the configuration says and
//! nowhere else. No redirect is followed, no private address is reached unless the webhook says so, and ten seconds are
//! enough.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    Request, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT},
};
use http_body_util::Full;
use tokio::time::timeout;

use crate::{
    config::settings::Webhook,
    policy::webhook::signature,
    upstream::fetch::{FetchFault, Target},
};

/// For a whole delivery.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a message was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryFault {
    /// Not reached.
    #[error(transparent)]
    Connect(#[from] FetchFault),
    /// Reached, and it broke off.
    #[error("the answer broke off: {0}")]
    Broken(#[from] hyper::Error),
    /// It does not take it, or sends us elsewhere.
    #[error("answered {0}")]
    Status(StatusCode),
    /// Too slow.
    #[error("no answer within {PATIENCE:?}")]
    Timeout,
    /// Our fault.
    #[error("the request could not be made")]
    Request(#[from] http::Error),
}

/// Delivers a message; `now` in seconds since 1970.
///
/// # Errors
/// Whenever it was not answered 2xx in time.
pub async fn deliver(webhook: &Webhook, id: &str, now: i64, body: &str) -> Result<(), DeliveryFault> {
    timeout(PATIENCE, send(webhook, id, now, body)).await.unwrap_or(Err(DeliveryFault::Timeout))
}

async fn send(webhook: &Webhook, id: &str, now: i64, body: &str) -> Result<(), DeliveryFault> {
    let target = Target::of(&webhook.url)?;
    let request = Request::post(webhook.url.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, webhook.url.authority().map(ToString::to_string).unwrap_or_default())
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, "portcullis")
        .header(CONNECTION, "close")
        .header("webhook-id", id)
        .header("webhook-timestamp", now)
        .header("webhook-signature", signature(&webhook.secret, id, now, body))
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
    let stream = target.connect(webhook.allow_private, Arc::clone(&webhook.tls)).await?;
    // What it answers besides is nothing to us.
    let (answer, _connection) = stream.ask(request).await?;
    if answer.status().is_success() { Ok(()) } else { Err(DeliveryFault::Status(answer.status())) }
}

#[cfg(test)]
mod tests {
    use http::Uri;
    use secrecy::SecretSlice;

    use super::*;

    fn webhook(url: &'static str, allow_private: bool) -> Webhook {
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        Webhook {
            name: "a".into(),
            url: Uri::from_static(url),
            secret: SecretSlice::from(vec![7; 32]),
            events: Vec::new(),
            allow_private,
            tls: Arc::new(tls),
        }
    }

    #[tokio::test]
    async fn a_webhook_reaches_no_private_address_unless_it_may() {
        // A name that leads to this machine: nothing listens there, and it is not even tried.
        let refused = deliver(&webhook("https://localhost:9/x", false), "id", 1, "{}").await.unwrap_err();
        assert!(matches!(refused, DeliveryFault::Connect(FetchFault::Private(_))), "{refused}");
        let tried = deliver(&webhook("https://localhost:9/x", true), "id", 1, "{}").await.unwrap_err();
        assert!(matches!(tried, DeliveryFault::Connect(FetchFault::Connect(_))), "{tried}");
        let plain = deliver(&webhook("http://hooks.example/x", true), "id", 1, "{}").await.unwrap_err();
        assert!(matches!(plain, DeliveryFault::Connect(FetchFault::Insecure(_))), "{plain}");
    }
}
