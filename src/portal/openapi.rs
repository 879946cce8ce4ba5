//! `GET <base>/openapi.json`: the portal described in OpenAPI 3.1, made of the tables that serve it.
//!
//! Paths, methods and who may call come from [`ENDPOINTS`], statuses from the gate's rescue table, shapes of answers
//! from the very types that are serialised. What handlers read by hand, the members of their bodies, is written down
//! once more here; a test asks every endpoint and holds all of it against what it answers.

mod admin;
mod api_keys;
mod refusals;

use axum::extract::State;
use http::StatusCode;
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    config::settings::{AdminApi, AuthMode, Compat, Portal},
    gate::{
        problem::{Document, OAuthError, is_oauth},
        refusal::Refusal,
        rescue::row_for,
    },
    policy::reason::Reason,
    portal::{
        admin::{audit::AuditPage, lockouts::LockoutsAnswer, quotas::QuotasAnswer},
        answers::{Answer, TokenAnswer, UserAnswer},
        api_keys::{ApiKeyAnswer, ApiKeysAnswer, NewApiKeyAnswer},
        endpoints::{Call, ENDPOINTS, Endpoint, EndpointPath, Served},
        form::IGNORED,
        me::VerifyAnswer,
        oauth::introspect::IntrospectAnswer,
        sessions::{SessionAnswer, SessionsAnswer},
        state::Shared,
        well_known::{Discovery, publish},
    },
};

/// 200 with the description.
pub(crate) async fn openapi(State(state): State<Shared>) -> Result<Answer, Refusal> {
    publish(&document(&state.portal, !state.oauth.is_empty()))
}

/// What an endpoint takes and gives.
struct Shape {
    summary: &'static str,
    /// Members of the request body; the required ones first.
    required: &'static [&'static str],
    optional: &'static [&'static str],
    success: StatusCode,
    /// Name of the answer's schema; `None`: no body.
    answer: Option<&'static str>,
    /// Why it may refuse, beyond what any call may meet.
    refusals: &'static [Reason],
}

impl Shape {
    const fn of(call: Call) -> Self {
        use Reason::{
            AccountExists, AddressLocked, CallsPaced, CrossSite, HashQueueFull, LoginFailed, LoginsRefused,
            LoginsUnderWay, RefreshInvalid, RegistrationClosed, StoreUnavailable,
        };

        let (summary, required, optional, success, answer, refusals): Parts = match call {
            Call::Register => (
                "Make an account and log in",
                &["email", "password"],
                &["username", "full_name", "delivery"],
                StatusCode::CREATED,
                Some("Tokens"),
                &[RegistrationClosed, AccountExists, CallsPaced, HashQueueFull, StoreUnavailable],
            ),
            Call::Login => (
                "Log in with an e-mail address or a username, in either member",
                &["password"],
                &["email", "username", "delivery"],
                StatusCode::OK,
                Some("Tokens"),
                &[LoginFailed, AddressLocked, LoginsRefused, LoginsUnderWay, HashQueueFull, StoreUnavailable],
            ),
            Call::Refresh => (
                "The next pair for a refresh token, in the body or as a cookie",
                &[],
                &["refresh_token"],
                StatusCode::OK,
                Some("Tokens"),
                &[RefreshInvalid, CrossSite, StoreUnavailable],
            ),
            Call::Logout => (
                "End the session, or every session of the caller's",
                &[],
                &["all", "refresh_token"],
                StatusCode::NO_CONTENT,
                None,
                &[Reason::CredentialsMissing, Reason::TokenMalformed, RefreshInvalid, CrossSite, StoreUnavailable],
            ),
            Call::Me => ("The caller's account", &[], &[], StatusCode::OK, Some("User"), &[StoreUnavailable]),
            Call::PatchMe => (
                "Change one's profile; null clears a member",
                &[],
                &["full_name", "username"],
                StatusCode::OK,
                Some("User"),
                &[AccountExists, StoreUnavailable],
            ),
            Call::Sessions | Call::EndOthers | Call::Session | Call::EndSession => of_sessions(call),
            Call::ApiKeys | Call::CreateApiKey | Call::RevokeApiKey => api_keys::shape(call),
            Call::Revoke | Call::Introspect => of_clients(call),
            Call::Verify => ("What the presented access token says", &[], &[], StatusCode::OK, Some("Claims"), &[]),
            Call::Jwks => ("The keys that verify our tokens (RFC 7517)", &[], &[], StatusCode::OK, Some("KeySet"), &[]),
            Call::Discovery => (
                "Issuer, keys and algorithms (OIDC Discovery, the subset that is honoured)",
                &[],
                &[],
                StatusCode::OK,
                Some("Discovery"),
                &[],
            ),
            Call::Claims => (
                "The claims that an identity refers to, for the service that got it",
                &[],
                &[],
                StatusCode::OK,
                Some("ReferredClaims"),
                &[Reason::CredentialsMissing, Reason::ReferenceUnknown],
            ),
            Call::AdminAudit
            | Call::AdminLockouts
            | Call::AdminLift
            | Call::AdminLiftOne
            | Call::AdminQuotas
            | Call::AdminQuotaReset => admin::shape(call),
            Call::OpenApi => ("This description", &[], &[], StatusCode::OK, Some("Description"), &[]),
        };
        Self { summary, required, optional, success, answer, refusals }
    }
}

/// The list of sessions and what can be done from it.
const fn of_sessions(call: Call) -> Parts {
    match call {
        Call::Sessions => (
            "Where the caller is logged in, the newest login first",
            &[],
            &[],
            StatusCode::OK,
            Some("Sessions"),
            &[Reason::StoreUnavailable],
        ),
        Call::EndOthers => (
            "End every session of the caller's but this one",
            &[],
            &[],
            StatusCode::NO_CONTENT,
            None,
            &[Reason::StoreUnavailable],
        ),
        Call::Session => (
            "One of the caller's sessions",
            &[],
            &[],
            StatusCode::OK,
            Some("Session"),
            &[Reason::SessionUnknown, Reason::StoreUnavailable],
        ),
        _ => (
            "End one of the caller's sessions",
            &[],
            &[],
            StatusCode::NO_CONTENT,
            None,
            &[Reason::SessionUnknown, Reason::StoreUnavailable],
        ),
    }
}

/// What clients with a secret ask.
const fn of_clients(call: Call) -> Parts {
    match call {
        Call::Revoke => (
            "Revoke a token (RFC 7009); a refresh token takes its session with it",
            &["token"],
            OF_CLIENTS,
            StatusCode::OK,
            None,
            &[
                Reason::RequestInvalid,
                Reason::TokenTypeUnsupported,
                Reason::ClientInvalid,
                Reason::BodyTooLarge,
                Reason::StoreUnavailable,
            ],
        ),
        _ => (
            "What a token of this gateway is worth now (RFC 7662)",
            &["token"],
            OF_CLIENTS,
            StatusCode::OK,
            Some("Introspection"),
            &[Reason::RequestInvalid, Reason::ClientInvalid, Reason::BodyTooLarge, Reason::StoreUnavailable],
        ),
    }
}

type Parts = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    StatusCode,
    Option<&'static str>,
    &'static [Reason],
);

/// What a call to the OAuth endpoints may hold beside the token. Whatever else it holds is ignored.
const OF_CLIENTS: &[&str] = &["token_type_hint", "client_id", "client_secret"];

/// The whole description.
fn document(portal: &Portal, oauth: bool) -> Value {
    let mut paths = Map::new();
    let served = |endpoint: &&Endpoint| match endpoint.served {
        Served::WithOAuth => oauth,
        Served::ToAdmins => portal.admin_api != AdminApi::None,
        Served::WithPortal | Served::Always => true,
    };
    for endpoint in ENDPOINTS.iter().filter(served) {
        let (path, absolute) = match endpoint.path {
            EndpointPath::Base(path) => (path, false),
            EndpointPath::Absolute(path) => (path, true),
        };
        let item = paths.entry(path).or_insert_with(|| json!({}));
        if absolute {
            // Not below a base path.
            item["servers"] = json!([{"url": "/"}]);
            if endpoint.served == Served::ToAdmins && portal.admin_api == AdminApi::Admin {
                item["servers"][0]["description"] = json!("The admin listener, not this one.");
            }
        }
        if path.ends_with("/{id}") {
            let uuid = json!({"type": "string", "format": "uuid"});
            let schema = if absolute { json!({"type": "string"}) } else { uuid };
            item["parameters"] = json!([{"name": "id", "in": "path", "required": true, "schema": schema}]);
        }
        item[endpoint.method.as_str().to_ascii_lowercase()] = operation(endpoint, portal);
    }
    let servers: Vec<_> = portal.base_paths.iter().map(|base| json!({"url": &**base})).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Portcullis portal",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Accounts and sessions. Errors are problem documents (RFC 9457).",
        },
        "servers": servers,
        "paths": paths,
        "components": {"schemas": schemas(), "securitySchemes": schemes(portal)},
    })
}

fn operation(endpoint: &Endpoint, portal: &Portal) -> Value {
    let shape = Shape::of(endpoint.call);
    let mut operation = json!({
        "operationId": endpoint.name,
        "summary": shape.summary,
        "responses": responses(endpoint, &shape, portal.compat),
        "security": security(endpoint, portal),
    });
    if let Some(parameters) = admin::parameters(endpoint.call) {
        operation["parameters"] = parameters;
    }
    if endpoint.proves_client() {
        operation["requestBody"] = json!({
            "required": true,
            "content": {FORM: {"schema": of_client(&shape)}},
        });
    } else if takes_body(endpoint) {
        operation["requestBody"] = json!({
            "required": !shape.required.is_empty(),
            "content": {"application/json": {"schema": body(endpoint.call, &shape)}},
        });
        if takes_form(endpoint, portal.compat) {
            operation["requestBody"]["content"][FORM] = json!({"schema": form(&shape)});
        }
    }
    operation
}

const FORM: &str = "application/x-www-form-urlencoded";

/// A form of RFC 6749's kind: what it does not know is ignored, so others may be there.
fn of_client(shape: &Shape) -> Value {
    let known = [shape.required, shape.optional].concat();
    let members: Map<_, _> = known.into_iter().map(|name| (name.to_owned(), json!({"type": "string"}))).collect();
    json!({
        "type": "object",
        "required": shape.required,
        "properties": members,
        "description": "client_id and client_secret here, or both in a basic Authorization header; never both.",
    })
}

fn takes_body(endpoint: &Endpoint) -> bool {
    let shape = Shape::of(endpoint.call);
    !(shape.required.is_empty() && shape.optional.is_empty())
}

fn body(call: Call, shape: &Shape) -> Value {
    let nullable = matches!(call, Call::PatchMe);
    let members: Map<_, _> = shape
        .required
        .iter()
        .map(|name| ((*name).to_owned(), member(name, false)))
        .chain(shape.optional.iter().map(|name| ((*name).to_owned(), member(name, true))))
        .collect();
    let mut body = json!({"type": "object", "additionalProperties": false, "properties": members});
    if !shape.required.is_empty() {
        body["required"] = json!(shape.required);
    }
    if matches!(call, Call::Login) {
        body["oneOf"] = json!([{"required": ["email"]}, {"required": ["username"]}]);
    }
    if nullable {
        body["description"] = json!("A member that is absent stays as it is.");
    }
    body
}

/// See `form`.
fn takes_form(endpoint: &Endpoint, compat: Compat) -> bool {
    matches!(endpoint.call, Call::Login) && compat == Compat::FastApi
}

/// The same as a form, which knows no null: a member that is empty is missing.
fn form(shape: &Shape) -> Value {
    let known = [shape.required, shape.optional].concat();
    let mut members: Map<_, _> = known.into_iter().map(|name| (name.to_owned(), member(name, false))).collect();
    if let Some(delivery) = members.get_mut("delivery") {
        delivery["enum"] = json!(["body", "cookie", ""]);
    }
    members.insert("grant_type".to_owned(), json!({"type": "string", "enum": ["password", ""]}));
    let ignored = json!({"type": "string", "description": "Not looked at."});
    members.extend(IGNORED.map(|name| (name.to_owned(), ignored.clone())));
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": shape.required,
        "properties": members,
        "oneOf": [{"required": ["email"]}, {"required": ["username"]}],
        "description": "From the portal's own pages or listed ones. A client that does not say where its request comes \
                        from (Origin, Sec-Fetch-Site) gets its refresh token in the body.",
    })
}

/// A member that may be missing may also be null, which means the same (but for a change of profile).
fn member(name: &str, optional: bool) -> Value {
    let kind = if name == "all" { "boolean" } else { api_keys::kind_of(name).unwrap_or("string") };
    let mut schema = if optional { json!({"type": [kind, "null"]}) } else { json!({"type": kind}) };
    match name {
        "delivery" => {
            schema["enum"] = json!(["body", "cookie", null]);
            schema["description"] = json!("How the refresh token travels.");
        }
        "password" => schema["format"] = json!("password"),
        _ => {}
    }
    if let Some((what, value)) = api_keys::said_of(name) {
        schema[what] = value;
    }
    schema
}

/// Success, then the refusals by status; whatever else may happen is a problem document too.
fn responses(endpoint: &Endpoint, shape: &Shape, compat: Compat) -> Value {
    let mut responses = Map::new();
    let mut success = json!({"description": shape.summary});
    if let Some(schema) = shape.answer {
        let media = if matches!(endpoint.call, Call::Claims) { "application/jwt" } else { "application/json" };
        success["content"] = json!({(media): {"schema": reference(schema)}});
    }
    responses.insert(shape.success.as_str().to_owned(), success);
    let before = refusals::before(endpoint, takes_body(endpoint), takes_form(endpoint, compat));
    for reason in shape.refusals.iter().chain(&before) {
        let row = row_for(compat, *reason);
        let said = format!("`{}`: {}", row.code, row.title);
        if let Some(known) = responses.get_mut(row.status.as_str()) {
            let told = known["description"].as_str().unwrap_or_default();
            if !told.split("; ").any(|one| one == said) {
                known["description"] = json!(format!("{told}; {said}"));
            }
        } else {
            let described = if is_oauth(*reason) { oauth_error(&said) } else { problem(&said) };
            responses.insert(row.status.as_str().to_owned(), described);
        }
    }
    responses.insert("default".to_owned(), problem("Any other refusal"));
    Value::Object(responses)
}

fn problem(said: &str) -> Value {
    json!({"description": said, "content": {"application/problem+json": {"schema": reference("Problem")}}})
}

fn oauth_error(said: &str) -> Value {
    json!({"description": said, "content": {"application/json": {"schema": reference("OAuthError")}}})
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// Each element is a way in; an empty one: none is needed.
fn security(endpoint: &Endpoint, portal: &Portal) -> Value {
    if endpoint.proves_client() {
        // Or by the form.
        return json!([{"client": []}, {}]);
    }
    let mut ways = Vec::new();
    if matches!(endpoint.auth, AuthMode::Required | AuthMode::Lenient) {
        ways.push(json!({"bearer": []}));
        if portal.sets_access_cookie {
            ways.push(json!({"accessCookie": []}));
        }
    }
    if matches!(endpoint.call, Call::Claims) {
        return json!([{"claimsReference": []}]);
    }
    if matches!(endpoint.call, Call::Refresh | Call::Logout) {
        ways.push(json!({"refreshCookie": []}));
    }
    if endpoint.auth != AuthMode::Required {
        ways.push(json!({}));
    }
    Value::Array(ways)
}

fn schemes(portal: &Portal) -> Value {
    let cookie = |name: &str| json!({"type": "apiKey", "in": "cookie", "name": name});
    let mut schemes = json!({
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "client": {"type": "http", "scheme": "basic", "description": "client_secret_basic (RFC 6749 §2.3.1)"},
        "refreshCookie": cookie(&portal.cookie_name),
        "claimsReference": {"type": "http", "scheme": "bearer", "description": "access_token of the identity's _claim_sources"},
    });
    if portal.sets_access_cookie {
        schemes["accessCookie"] = cookie(&portal.access_cookie_name);
    }
    schemes
}

/// Puts a type's schema among the definitions.
fn define<T: JsonSchema>(generator: &mut SchemaGenerator) {
    let _ = generator.subschema_for::<T>();
}

fn schemas() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    define::<TokenAnswer<'static>>(&mut generator);
    define::<UserAnswer<'static>>(&mut generator);
    define::<VerifyAnswer<'static>>(&mut generator);
    define::<Discovery<'static>>(&mut generator);
    define::<SessionsAnswer<'static>>(&mut generator);
    define::<SessionAnswer<'static>>(&mut generator);
    define::<ApiKeyAnswer<'static>>(&mut generator);
    define::<ApiKeysAnswer<'static>>(&mut generator);
    define::<NewApiKeyAnswer<'static>>(&mut generator);
    define::<IntrospectAnswer>(&mut generator);
    define::<AuditPage>(&mut generator);
    define::<LockoutsAnswer>(&mut generator);
    define::<QuotasAnswer>(&mut generator);
    define::<OAuthError<'static>>(&mut generator);
    define::<Document<'static>>(&mut generator);
    let mut schemas = generator.take_definitions(true);
    schemas.insert(
        "KeySet".to_owned(),
        json!({
            "type": "object",
            "required": ["keys"],
            "properties": {"keys": {"type": "array", "items": {"type": "object"}}},
        }),
    );
    schemas.insert("ReferredClaims".to_owned(), json!({"type": "string", "description": "A JWT, typ gw-claims+jwt"}));
    schemas.insert("Description".to_owned(), json!({"type": "object", "required": ["openapi", "info", "paths"]}));
    Value::Object(schemas)
}
