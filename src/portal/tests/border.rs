//! The border: no answer of axum's own making leaves it, and bodies keep their faults.

use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;

use super::*;
use crate::{
    gate::body::BodyFault,
    portal::endpoints::{BODY_LIMIT, ENDPOINTS},
};

fn with_body(body: GateBody) -> Request<GateBody> {
    let mut request = Request::post("/auth/login").header("content-type", "application/json").body(body).unwrap();
    request.extensions_mut().insert(Exchange::for_test("r-1", CLIENT, None));
    request
}

async fn reason_of(harness: &Harness, request: Request<GateBody>) -> Reason {
    harness.service.clone().oneshot(request).await.unwrap_err().reason
}

#[tokio::test]
async fn every_endpoint_of_the_table_is_served() {
    let harness = Harness::new().await;
    for endpoint in ENDPOINTS {
        let ask = Ask::new(endpoint.method.as_str().to_owned().leak(), &endpoint.full_paths(&["/auth".into()])[0]);
        if let Err(refusal) = harness.ask(ask).await {
            let reason = refusal.reason;
            assert!(!matches!(reason, Reason::NoRoute | Reason::MethodNotAllowed), "{}: {reason:?}", endpoint.name);
        }
    }
}

#[tokio::test]
async fn an_unknown_path_is_a_refusal() {
    let harness = Harness::new().await;
    for path in ["/", "/auth", "/auth/", "/auth/login/", "/auth/admin", "/register"] {
        assert_eq!(harness.refused(Ask::post(path)).await, Reason::NoRoute, "{path}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_a_refusal_that_names_the_right_ones() {
    let harness = Harness::new().await;
    for (method, path, expected) in [("GET", "/auth/login", "POST"), ("DELETE", "/auth/me", "GET,HEAD,PATCH")] {
        let refusal = harness.ask(Ask::new(method, path)).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::MethodNotAllowed);
        let Some(Detail::Allow(allow)) = refusal.detail.map(|detail| *detail) else { panic!("no Allow") };
        assert_eq!(allow, expected);
    }
}

#[tokio::test]
async fn a_form_that_is_no_json_is_of_the_wrong_media_type() {
    let harness = Harness::new().await;
    let body = json!({"email": "ann@example.org", "password": PASSWORD}).to_string();
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let ask = Ask::post("/auth/login").raw(media_type, &body);
        assert_eq!(harness.refused(ask).await, Reason::MediaType, "{media_type}");
    }
    let mut untyped = Ask::post("/auth/login").json(&json!({}));
    untyped.headers.clear();
    assert_eq!(harness.refused(untyped).await, Reason::MediaType);
}

#[tokio::test]
async fn a_body_past_the_limit_is_too_large_and_one_that_does_not_parse_is_broken() {
    let harness = Harness::new().await;
    let large = format!(r#"{{"email":"{}"}}"#, "x".repeat(BODY_LIMIT));
    let refused = harness.refused(Ask::post("/auth/login").raw("application/json", &large)).await;
    assert_eq!(refused, Reason::BodyTooLarge);
    let refused = harness.refused(Ask::post("/auth/login").raw("application/json", "{")).await;
    assert_eq!(refused, Reason::BodyBroken);
}

#[tokio::test]
async fn a_body_that_a_layer_cut_keeps_the_layer_s_reason() {
    let harness = Harness::new().await;
    for reason in [Reason::BodyTimeout, Reason::BodyTooLarge] {
        let frames = stream::iter([Ok(Frame::data("{".into())), Err(BodyFault::Cut(reason))]);
        assert_eq!(reason_of(&harness, with_body(GateBody::boxed(StreamBody::new(frames)))).await, reason);
    }
}

#[tokio::test]
async fn outside_the_pipeline_nothing_is_answered() {
    let harness = Harness::new().await;
    let mut request = with_body(GateBody::full("{}"));
    request.extensions_mut().clear();
    assert_eq!(reason_of(&harness, request).await, Reason::Internal);
}
