//! `POST /login`: a name and a password for a session, as JSON or, for front ends that send one, as a form.
//!
//! An unknown name, a wrong password, a locked and an inactive account are one answer and one class of time: each costs
//! a password hash and an audit row, and the reason is the same.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    gate::refusal::Refusal,
    policy::{ids::UserId, lockout::Counter, reason::Reason, refresh::Delivery, validate},
    portal::{
        answers::Answer,
        caller::Caller,
        fields::as_given,
        form::LoginBody,
        grant::opened,
        lockout::{self, Asked, UnderWay},
        state::{PortalState, Shared},
    },
    store::{Account, AuditEntry, AuditEvent, Login, NewSession, Opened, SessionLimit, audit::Particular},
};

/// What a login says.
struct Attempt {
    /// As it was typed.
    name: String,
    /// `None`: text that no account can be named by.
    login: Option<Login>,
    password: SecretString,
    delivery: Option<Delivery>,
}

/// 200 with tokens; 401 for every cause alike, but 429 for an address that has failed with too many accounts.
pub(crate) async fn login(State(state): State<Shared>, caller: Caller, body: LoginBody) -> Result<Answer, Refusal> {
    let attempt = read(body)?;
    state.refuse_stuffing(&caller)?;
    let (name, password) = (attempt.name.clone(), attempt.password.clone());
    let outcome = log_in(Arc::clone(&state), &caller, attempt).await;
    if let Err(refusal) = &outcome {
        state.note_stuffing(&caller, (&name, password.expose_secret()), refusal).await;
    }
    outcome
}

async fn log_in(state: Shared, caller: &Caller, attempt: Attempt) -> Result<Answer, Refusal> {
    let found = match &attempt.login {
        Some(login) => state.store.find_login(login).await?,
        None => None,
    };
    let (account, phc) = found.unzip();
    let user = account.map(|account| account.id);
    state.refuse_stuffing_as(caller, user)?;
    let asked = lockout::ask(&state, caller, &attempt.name, user).await?;
    // A locked account costs its hash too: it is told from none by nothing.
    let hashing = state.hash_pool.verify(attempt.password.clone(), phc.clone(), caller.ip());
    let matches = caller.working("password hash", hashing).await?;
    let under_way = match asked {
        Asked::Admitted(under_way) => under_way,
        Asked::Locked(counter) => return Err(locked(&state, caller, user, counter).await),
    };
    let (Some(user), Some(phc), true) = (user, phc, matches) else {
        return Err(fail(&state, caller, user, under_way).await);
    };
    // Whether it is active is asked in the transaction that opens the session.
    let answer = succeed(&state, caller, user, attempt.delivery, under_way).await?;
    if state.hash_pool.is_weak(&phc) {
        // Behind the answer, which is not held up for it.
        tokio::spawn(upgrade(state, user, attempt.password, phc));
    }
    Ok(answer)
}

/// Hashes a password, that was just proven to be the one behind `old`, at today's cost. What fails is left for the next
/// login.
async fn upgrade(state: Shared, user: UserId, password: SecretString, old: SecretString) {
    let upgraded = async {
        let new = state.hash_pool.rehash(password).await?;
        Ok::<_, Refusal>(state.store.upgrade_password_hash(user, &old, &new).await?)
    };
    match upgraded.await {
        Ok(true) => tracing::debug!(%user, "a weak password hash was made anew"),
        Ok(false) => tracing::debug!(%user, "a weak password hash was changed meanwhile"),
        Err(refusal) => {
            let reason = refusal.reason.as_str();
            tracing::warn!(%user, reason, "a weak password hash stays until the next login");
        }
    }
}

async fn succeed(
    state: &Shared,
    caller: &Caller,
    user: UserId,
    delivery: Option<Delivery>,
    under_way: UnderWay,
) -> Result<Answer, Refusal> {
    let now = state.clock.now();
    let session = state.new_session(user, delivery, caller, now);
    let audit = caller.audit(AuditEvent::LoginSucceeded, now, Some(user), Some(session.id));
    let opening = open(Arc::clone(state), session.clone(), audit, under_way);
    let account = match PortalState::to_the_end(opening).await?? {
        Ok(account) => account,
        // It is not active.
        Err(under_way) => return Err(fail(state, caller, Some(user), under_way).await),
    };
    caller.turned_out_to_be(user);
    let device = state.device_lines(user, caller, session.delivery, now)?;
    Ok(state.grant(StatusCode::OK, &opened(session), &account, now)?.with_cookies(device))
}

/// Opens the session. Those that had to end for it are refused here at once. The login, if it may not.
async fn open(
    state: Shared,
    session: NewSession,
    audit: AuditEntry,
    under_way: UnderWay,
) -> Result<Result<Account, UnderWay>, Refusal> {
    let limit = SessionLimit { most: state.tokens.max_sessions, rules: state.tokens.refresh };
    let Some(Opened { account, ended }) = state.store.open_session(&session, &limit, &audit).await? else {
        return Ok(Err(under_way));
    };
    for sid in ended {
        state.end_here(sid);
    }
    under_way.succeeded(&audit).await;
    Ok(Ok(account))
}

/// Why a login failed, as far as the client learns. The audit row knows the account, when there is one.
async fn fail(state: &PortalState, caller: &Caller, user: Option<UserId>, under_way: UnderWay) -> Refusal {
    let audit = caller.audit(AuditEvent::LoginFailed, state.clock.now(), user, None);
    under_way.failed(audit).await.err().unwrap_or_else(|| Reason::LoginFailed.into())
}

/// The same for one that was not tried: the row says which counter forbade it.
async fn locked(state: &PortalState, caller: &Caller, user: Option<UserId>, counter: Counter) -> Refusal {
    let audit = caller.audit(AuditEvent::LoginFailed, state.clock.now(), user, None);
    let detail = audit.detail.clone().text(Particular::Counter, Some(counter.as_str()));
    match state.store.append_audit(&AuditEntry { detail, ..audit }).await {
        Ok(()) => Reason::LoginFailed.into(),
        Err(fault) => fault.into(),
    }
}

fn read(LoginBody { mut fields, cookies }: LoginBody) -> Result<Attempt, Refusal> {
    let email = fields.optional("email", as_given::<String>);
    let username = fields.optional("username", as_given::<String>);
    let delivery = fields.optional("delivery", as_given::<Delivery>);
    let password = fields.required("password", as_given::<SecretString>);
    let login = match (email, username) {
        (Some(name), None) | (None, Some(name)) => Some((named(&name), name)),
        (Some(_), Some(_)) => {
            fields.fault("username", "must not come together with email");
            None
        }
        (None, None) => {
            fields.fault("email", "is required, or username");
            None
        }
    };
    let ((login, name), password) = fields.finish(login.zip(password))?;
    let delivery = match delivery {
        Some(Delivery::Cookie) if !cookies => return Err(Reason::CrossSite.into()),
        _ if !cookies => Some(Delivery::Body),
        as_asked => as_asked,
    };
    Ok(Attempt { name, login, password, delivery })
}

/// Whom a name means, in whichever of the two members it came: many forms have one box for both. An address has an `@`
/// and a username never does, so it means one account only. What could not have been registered is not looked up: it is
/// answered as an unknown name.
fn named(name: &str) -> Option<Login> {
    if name.contains('@') {
        validate::email(name).ok().map(Login::Email)
    } else {
        validate::username(name).ok().map(Login::Username)
    }
}
