//! Configuration: YAML in, [`settings::Settings`] out, or every mistake at once with line, column and key path.
//!
//! The only reader of the environment and of the files it names. The way of a file: [`tree`] (YAML with places) →
//! [`reader`] (serde, but it goes on after a mistake) → one file per section, each with its raw type (documented: the
//! JSON schema is made of it) and its check → [`settings`], by which the rest of the program works: checked and
//! resolved. Two strings are left to interpret, the URLs of PostgreSQL and Redis: what is dangerous in them is refused
//! here, the drivers read the rest at start. Beside the settings `app` uses [`watched`] (has a file changed?) and
//! [`written`] (in which keys? [`living`]: may it without a restart?) to reload.

mod api_keys;
mod checks;
mod clusters;
mod credential_stuffing;
mod errors;
mod expand;
mod floods;
mod forward_auth;
mod identity;
mod issuers;
mod item;
mod limits;
mod listeners;
pub mod living;
mod lockout;
mod money;
mod oauth;
mod overload;
mod passwords;
mod paths;
mod portal;
mod quotas;
mod raw;
mod reader;
mod routes;
mod routing;
mod runtime;
mod scalar;
mod secret;
mod security_events;
pub mod settings;
mod shared_state;
mod signing_keys;
mod store;
mod telemetry;
mod tls;
mod tokens;
mod tree;
mod units;
mod urls;
pub mod watched;
mod words;
pub mod written;

use std::{cell::RefCell, collections::HashMap, fs::File, io::Read, path::Path, sync::Arc};

use schemars::{Schema, generate::SchemaSettings, transform::RecursiveTransform};
use serde::Deserialize;

pub use self::errors::{ConfigError, ConfigErrors};
use self::{
    checks::Checks,
    raw::RawSettings,
    reader::{NodeReader, Reader},
    routes::Around,
    settings::{Limiting, Settings},
    written::{Inputs, Written},
};

/// Largest configuration file, bytes; ten thousand routes need about three million.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// A configuration text and where it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// What messages call it, e.g. the path as the operator typed it.
    pub name: &'a str,
    /// The YAML.
    pub text: &'a str,
    /// Where relative paths in it start: the file's folder.
    pub base_dir: &'a Path,
}

/// Where `${NAME}` looks.
pub trait Environment {
    /// The value of a variable; `None` when it is not set or not UTF-8.
    fn var(&self, name: &str) -> Option<String>;
}

/// The environment of the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    #[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// For tests: the variables are what the map says.
impl<S: std::hash::BuildHasher> Environment for HashMap<String, String, S> {
    fn var(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }
}

/// Reads and checks a configuration file.
///
/// # Errors
/// Everything that is wrong with it; one error without a place when it cannot be read.
pub fn load(path: &Path, environment: &dyn Environment) -> Result<Settings, ConfigErrors> {
    let name = path.display().to_string();
    let mut inputs = Inputs::default();
    inputs.file(path);
    let unreadable = |message| ConfigErrors::unreadable(&name, message).reading(&inputs);
    let text = read(path).map_err(unreadable)?;
    let base_dir = path.parent().unwrap_or_else(|| Path::new(""));
    settings(&Source { name: &name, text: &text, base_dir }, environment, inputs)
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(format!("cannot be read: {error}")),
        Ok(length) if length as u64 > MAX_FILE => Err("larger than 16 MiB".to_owned()),
        Ok(_) => Ok(text),
    }
}

/// Checks a configuration text.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(source: &Source<'_>, environment: &dyn Environment) -> Result<Settings, ConfigErrors> {
    settings(source, environment, Inputs::default())
}

fn settings(source: &Source<'_>, environment: &dyn Environment, inputs: Inputs) -> Result<Settings, ConfigErrors> {
    let root = match tree::parse(source.text) {
        Ok(root) => root,
        Err(error) => return Err(ConfigErrors::new(source.name, vec![error]).reading(&inputs)),
    };
    let (errors, inputs) = (RefCell::default(), RefCell::new(inputs));
    let reader = Reader { environment, base_dir: source.base_dir, errors, inputs };
    let raw = item::Item::<RawSettings>::deserialize(NodeReader::root(&reader, &root));
    let mut checks = Checks::new(source.base_dir, reader.errors.into_inner());
    checks.inputs = reader.inputs.into_inner();
    // Plain data of ours: it has no way to fail.
    let values = raw.as_ref().ok().and_then(|raw| serde_json::to_value(raw).ok()).unwrap_or_default();
    let settings = raw.ok().and_then(|raw| check(raw.value?, &mut checks));
    match settings {
        Some(settings) if checks.errors.is_empty() => {
            Ok(Settings { written: Arc::new(Written::new(source.text, values, checks.inputs)), ..settings })
        }
        _ => Err(ConfigErrors::new(source.name, checks.errors).reading(&checks.inputs)),
    }
}

/// Every section is checked, whatever is wrong with another; only then is the whole put together.
fn check(raw: RawSettings, checks: &mut Checks) -> Option<Settings> {
    let listeners = listeners::check(raw.listeners, checks);
    let workers = runtime::check(raw.runtime);
    let overload = overload::check(raw.overload, listeners.as_ref());
    let store = store::check(raw.store, checks);
    let shared_state = shared_state::check(raw.shared_state, checks);
    let compat = portal::compat(&raw.portal);
    let no_store = matches!(store, Ok(None));
    let tokens = tokens::check(raw.tokens, compat, no_store, checks);
    let own_issuer = tokens.as_ref().map(|tokens| &*tokens.issuer);
    let issuers = issuers::check(raw.issuers, own_issuer, checks);
    let passwords = passwords::check(raw.passwords, compat, checks);
    let limits = limits::check(raw.limits, shared_state.as_ref(), no_store, checks);
    let quotas = quotas::check(raw.quotas, no_store, checks);
    let (cluster_names, clusters) = clusters::check(raw.clusters, checks);
    let portal = portal::check(raw.portal, no_store, &limits, checks);
    let lockout = lockout::check(raw.lockout, portal.as_ref(), checks);
    let oauth = oauth::check(raw.oauth, portal.as_ref().map(|portal| portal.enabled), checks);
    issuers.check_subjects(portal.as_ref(), checks);
    let forward_auth = forward_auth::check(raw.forward_auth, listeners.as_ref(), checks);
    let webhooks = security_events::check(raw.security_events, no_store, checks);
    let stuffing = credential_stuffing::check(raw.credential_stuffing);
    let telemetry = telemetry::check(raw.telemetry, clusters.as_deref(), checks);
    let routes_at = raw.routes.at.or(&item::At::root(), "routes");
    let presets: Vec<_> = clusters.iter().flatten().filter_map(|cluster| cluster.identity.preset).collect();
    let around = Around {
        presets: &presets,
        clusters: &cluster_names,
        limits: &limits,
        quotas: &quotas,
        issuers: &issuers,
        portal: portal.as_ref(),
        no_store,
    };
    let routes = routes::check(raw.routes, &around, checks);
    if let (Some(portal), Some([])) = (&portal, routes.as_deref())
        && !portal.enabled
    {
        checks.error(&routes_at, "empty, and the portal is off: there is nothing to serve");
    }
    let Limiting { rates, caps } = limits.all()?;
    let (mut portal, routes) = (portal?, routes?);
    portal.sets_access_cookie = routes.iter().any(|route| route.credentials.cookie);
    let settings = Settings {
        listeners: listeners?,
        store: store.ok()?,
        shared_state: shared_state?,
        workers: workers.ok()?,
        overload: overload?,
        tokens: tokens?,
        issuers: issuers.all()?,
        passwords: passwords?,
        lockout: lockout?,
        limits: rates,
        caps,
        quotas: quotas.all()?,
        clusters: clusters?,
        routes,
        portal,
        oauth: oauth?,
        forward_auth: forward_auth?,
        stuffing: stuffing?,
        webhooks: webhooks?,
        telemetry: telemetry?,
        written: Arc::default(),
    };
    signing_keys::check_complete(&settings, checks);
    identity::check_apart(&settings, checks);
    Some(settings)
}

/// The JSON schema (2020-12) of the file.
#[must_use]
pub fn schema() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(may_be_left_empty));
    settings.into_generator().into_root_schema_for::<RawSettings>().to_value()
}

/// The reader takes `section:` with nothing behind it, all its keys being off, as an empty one; so does an editor.
fn may_be_left_empty(schema: &mut Schema) {
    let kind = schema.get("type").and_then(serde_json::Value::as_str);
    if let Some(kind @ ("object" | "array")) = kind
        && schema.get("required").is_none()
    {
        let kinds = [kind, "null"].map(serde_json::Value::from).to_vec();
        schema.insert("type".to_owned(), kinds.into());
    }
}
