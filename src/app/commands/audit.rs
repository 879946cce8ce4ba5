//! `portcullis audit …`: verify, query, erase. Opens the store as a gateway does, beside gateways that run: a SQLite
//! file takes a second process, and the claim on it is a gateway's alone.

use std::{
    fmt::Write as _,
    io::{self, Write},
    time::Duration,
};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::{
    app::Rim,
    cli::{AuditCommand, AuditQueryArgs, OutcomeArg},
    clock::Timestamp,
    config::settings::{self, Engine, Settings},
    policy::{
        audit_chain::{Broken, SealingKey, Verifier, Why},
        ids::{SessionId, UserId},
        rfc3339::rfc3339,
    },
    store::{
        AuditEvent, SharedStore, Store, StoreFault,
        audit::{AuditQuery, AuditRow, Outcome},
        master_key::{MasterKeyFault, master_key},
        sql,
    },
};

/// Rows in memory at once.
const PAGE: u32 = 1_000;

/// Nobody waits for an answer: the store may take its time.
const PATIENCE: Duration = Duration::from_mins(5);

/// Why a command could not be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuditFault {
    /// `store.url: none`.
    #[error("store.url is none: nothing is audited")]
    NoStore,
    /// A path that was mistyped is not to become a new database.
    #[error("store.url: there is no {0}")]
    Missing(String),
    /// No such event.
    #[error("there is no event {0:?}; there are: {1}")]
    Event(String, String),
    /// The store cannot be opened.
    #[error("store: {0}")]
    Store(#[from] sql::OpenFault),
    /// The store does not answer.
    #[error("store: {0}")]
    Read(#[from] StoreFault),
    /// Without it there is no telling our seals from anybody's.
    #[error("store.master_key: {0}")]
    MasterKey(#[from] MasterKeyFault),
    /// No runtime, or nobody reads what is written.
    #[error("operating system: {0}")]
    Output(#[from] io::Error),
}

/// Does it; `false`: the audit is not as it was sealed.
pub(super) async fn run(
    settings: &Settings,
    command: &AuditCommand,
    rim: &Rim,
    out: &mut dyn Write,
) -> Result<bool, AuditFault> {
    let kept = settings.store.as_ref().ok_or(AuditFault::NoStore)?;
    let kept = &settings::Store { timeout: kept.timeout.max(PATIENCE), ..kept.clone() };
    if let Engine::Sqlite { path } = &kept.engine
        && !path.exists()
    {
        return Err(AuditFault::Missing(path.display().to_string()));
    }
    match command {
        AuditCommand::Verify { .. } => {
            let key = SealingKey::of(&master_key(kept, true, &*rim.entropy)?);
            verify(&*sql::open(kept).await?, &key, out).await
        }
        AuditCommand::Query(args) => {
            let wanted = wanted(args)?;
            query(&sql::open(kept).await?, wanted, args, out).await.map(|()| true)
        }
        AuditCommand::Erase { user, subject, .. } => {
            let entry = super::by_cli(AuditEvent::AuditErased, rim.clock.now());
            let store = sql::open(kept).await?;
            let erased = match (user, subject) {
                (Some(user), _) => store.erase_audit_of(UserId(*user), &entry).await?,
                (None, Some(subject)) => store.erase_audit_of_subject(subject, &entry).await?,
                (None, None) => 0,
            };
            writeln!(out, "erased rows: {erased}")?;
            Ok(true)
        }
    }
}

/// What was seen on the way.
#[derive(Debug, Clone, Default)]
struct Counts {
    seals: u64,
    unsealed: u64,
    erased: u64,
    /// What erasures say they erased.
    recorded: u64,
}

impl Counts {
    fn row(&mut self, event: &str, detail: Option<&str>, erased: bool) {
        self.erased += u64::from(erased);
        if event == AuditEvent::AuditErased.as_str() {
            let detail = detail.and_then(|detail| serde_json::from_str::<Value>(detail).ok());
            self.recorded += detail.and_then(|detail| detail.get("rows")?.as_u64()).unwrap_or(0);
        }
    }
}

async fn verify(store: &dyn Store, key: &SealingKey, out: &mut dyn Write) -> Result<bool, AuditFault> {
    let (mut verifier, mut counts) = (Verifier::new(key), Counts::default());
    let broken = walk(store, &mut verifier, &mut counts).await?;
    let (last, head) = (verifier.verified(), hex(verifier.head()));
    writeln!(out, "verified rows: {last} in {} seals, unsealed: {}", counts.seals, counts.unsealed)?;
    writeln!(out, "erased rows: {}, recorded by erasures: {}", counts.erased, counts.recorded)?;
    writeln!(out, "key: {}", key.kid())?;
    writeln!(out, "head: {last} {head}")?;
    if let Some(broken) = broken {
        writeln!(out, "BROKEN at {broken}")?;
        return Ok(false);
    }
    if counts.erased > counts.recorded {
        writeln!(out, "BROKEN: more rows are erased than erasures were recorded")?;
        return Ok(false);
    }
    writeln!(out, "whole")?;
    Ok(true)
}

/// The chain, then what is not sealed yet; again, while rows were sealed between the two, which neither would have shown.
async fn walk(
    store: &dyn Store,
    verifier: &mut Verifier<'_>,
    counts: &mut Counts,
) -> Result<Option<Broken>, StoreFault> {
    loop {
        if let Some(broken) = sealed(store, verifier, counts).await? {
            return Ok(Some(broken));
        }
        let with_unsealed = unsealed(store, counts).await?;
        if store.last_audit_seal().await?.map_or(0, |seal| seal.last) <= verifier.verified() {
            *counts = with_unsealed;
            return Ok(None);
        }
    }
}

/// Rows that are sealed meanwhile are not missed: a row is read before its seal, and the two were committed together.
async fn sealed(
    store: &dyn Store,
    verifier: &mut Verifier<'_>,
    counts: &mut Counts,
) -> Result<Option<Broken>, StoreFault> {
    let mut seals = Vec::new().into_iter();
    loop {
        let after = verifier.verified();
        let last = store.last_audit_seal().await?.map_or(0, |seal| seal.last);
        let rows = store.audit_chain(after, PAGE).await?;
        if rows.is_empty() && after >= last {
            break;
        }
        if rows.is_empty() {
            return Ok(Some(Broken { position: after + 1, seq: None, why: Why::Missing }));
        }
        for row in rows {
            if verifier.wants_seal() {
                if seals.len() == 0 {
                    seals = store.audit_seals(verifier.verified(), PAGE).await?.into_iter();
                }
                let Some(seal) = seals.next() else {
                    let (position, seq) = (row.position, Some(row.fixed.seq));
                    return Ok(Some(Broken { position, seq, why: Why::Unsealed }));
                };
                counts.seals += 1;
                if let Err(broken) = verifier.seal(seal) {
                    return Ok(Some(broken));
                }
            }
            if let Err(broken) = verifier.row(&row) {
                return Ok(Some(broken));
            }
            counts.row(&row.fixed.event, row.payload.detail.as_deref(), row.erased);
        }
    }
    Ok(verifier.finish().err())
}

/// What was counted, and what is not sealed.
async fn unsealed(store: &dyn Store, counts: &Counts) -> Result<Counts, StoreFault> {
    let (mut counts, mut after) = (counts.clone(), 0);
    loop {
        let rows = store.unsealed_audit(after, PAGE).await?;
        let Some(last) = rows.last() else { return Ok(counts) };
        after = last.seq;
        for row in &rows {
            counts.unsealed += 1;
            counts.row(&row.event, row.detail.as_deref(), row.erased);
        }
    }
}

fn wanted(args: &AuditQueryArgs) -> Result<AuditQuery, AuditFault> {
    if let Some(event) = &args.event
        && AuditEvent::named(event).is_none()
    {
        let all: Vec<_> = AuditEvent::ALL.iter().map(|event| event.as_str()).collect();
        return Err(AuditFault::Event(event.clone(), all.join(", ")));
    }
    let moment = |at: OffsetDateTime| {
        Timestamp::from_micros(i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(i64::MAX))
    };
    Ok(AuditQuery {
        user: args.user.map(UserId),
        session: args.session.map(SessionId),
        event: args.event.clone(),
        outcome: args.outcome.map(|outcome| match outcome {
            OutcomeArg::Succeeded => Outcome::Succeeded,
            OutcomeArg::Refused => Outcome::Refused,
            OutcomeArg::Failed => Outcome::Failed,
        }),
        request_id: args.request_id.clone(),
        since: args.since.map(moment),
        until: args.until.map(moment),
        before: None,
    })
}

async fn query(
    store: &SharedStore,
    mut wanted: AuditQuery,
    args: &AuditQueryArgs,
    out: &mut dyn Write,
) -> Result<(), AuditFault> {
    let mut left = args.limit;
    while left > 0 {
        let page = left.min(PAGE);
        let rows = store.audit_rows(&wanted, page).await?;
        for row in &rows {
            let line = if args.json { as_json(row).to_string() } else { as_text(row) };
            writeln!(out, "{line}")?;
        }
        let Some(last) = rows.last().filter(|_| rows.len() == page as usize) else { break };
        wanted.before = Some(last.seq);
        left -= page;
    }
    Ok(())
}

/// One line; whatever came from outside cannot end it or move the cursor.
fn as_text(row: &AuditRow) -> String {
    let mut line =
        format!("{} {} {}", rfc3339(row.at).unwrap_or_default(), row.event, row.outcome.as_deref().unwrap_or("-"));
    let (user, session) = (row.user.map(|user| user.to_string()), row.session.map(|session| session.to_string()));
    for (name, value) in [
        ("actor", row.actor.as_deref()),
        ("user", user.as_deref()),
        ("session", session.as_deref()),
        ("address", row.address.as_deref()),
        ("request", row.request_id.as_deref()),
        ("detail", row.detail.as_deref()),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let shown: String =
                value.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect();
            let _ = write!(line, " {name}={shown}");
        }
    }
    if row.erased {
        line.push_str(" erased");
    }
    line
}

fn as_json(row: &AuditRow) -> Value {
    let mut object = Map::new();
    let detail = row.detail.as_deref().and_then(|detail| serde_json::from_str::<Value>(detail).ok());
    for (name, value) in [
        ("seq", json!(row.seq)),
        ("position", json!(row.position)),
        ("at", json!(rfc3339(row.at).unwrap_or_default())),
        ("event", json!(row.event)),
        ("outcome", json!(row.outcome)),
        ("actor", json!(row.actor)),
        ("user", json!(row.user.map(|user| user.to_string()))),
        ("session", json!(row.session.map(|session| session.to_string()))),
        ("address", json!(row.address)),
        ("request_id", json!(row.request_id)),
        ("detail", json!(detail)),
        ("erased", json!(row.erased)),
    ] {
        object.insert(name.to_owned(), value);
    }
    Value::Object(object)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
