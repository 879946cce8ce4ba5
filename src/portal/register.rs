//! `POST /register` and its alias `/signup`: makes an account and logs it in.

use axum::extract::State;
use http::StatusCode;
use secrecy::SecretString;

use crate::{
    config::settings::{Compat, Registration},
    gate::refusal::Refusal,
    policy::{ids::UserId, reason::Reason, refresh::Delivery, validate},
    portal::{
        answers::Answer,
        caller::Caller,
        fields::{Fields, as_given, one_fault},
        grant::opened,
        lockout,
        state::{PortalState, Shared},
    },
    store::{AccountFault, AuditEvent, NewAccount},
    telemetry::metrics::PacedCall,
};

/// What a registration says; everything but the password checked.
struct Registrant {
    email: String,
    password: SecretString,
    username: Option<String>,
    full_name: Option<String>,
    delivery: Option<Delivery>,
}

/// 201 with tokens; 403 closed, 409 taken, 429 too often, 422 for what does not fit, `role` among it: nobody chooses their own.
pub(crate) async fn register(State(state): State<Shared>, caller: Caller, fields: Fields) -> Result<Answer, Refusal> {
    if state.portal.registration == Registration::Closed {
        return Err(Reason::RegistrationClosed.into());
    }
    let registrant = read(fields)?;
    let paces = (state.lockout.registrations_by_address, state.lockout.registrations_of_target);
    lockout::pace(&state, &caller, PacedCall::Register, paces, &registrant.email).await?;
    // Hashed before the store is asked, so that a taken address answers no sooner than a free one.
    let password_hash = caller.working("password hash", hash(&state, &registrant)).await?;
    let now = state.clock.now();
    let account = NewAccount {
        id: UserId(state.entropy.uuid_v7(now)),
        email: registrant.email,
        username: registrant.username,
        full_name: registrant.full_name,
        password_hash,
        roles: vec![state.portal.default_role.as_ref().to_owned()],
        created_at: now,
    };
    let session = state.new_session(account.id, registrant.delivery, &caller, now);
    let audit = caller.audit(AuditEvent::Registered, now, Some(account.id), Some(session.id));
    let account =
        state.store.register(&account, &session, &audit).await.map_err(|fault| taken(fault, state.portal.compat))?;
    caller.turned_out_to_be(account.id);
    let device = state.device_lines(account.id, &caller, session.delivery, now)?;
    Ok(state.grant(StatusCode::CREATED, &opened(session), &account, now)?.with_cookies(device))
}

fn read(mut fields: Fields) -> Result<Registrant, Refusal> {
    let email = fields.required("email", |text: String| validate::email(&text));
    let password = fields.required("password", as_given::<SecretString>);
    let username = fields.optional("username", |text: String| validate::username(&text));
    let full_name = fields.optional("full_name", |text: String| validate::full_name(&text));
    let delivery = fields.optional("delivery", as_given::<Delivery>);
    let (email, password) = fields.finish(email.zip(password))?;
    Ok(Registrant { email, password, username, full_name, delivery })
}

/// The hash of a password that keeps the rules; judging one takes long enough to belong where hashing is done.
async fn hash(state: &PortalState, registrant: &Registrant) -> Result<SecretString, Refusal> {
    let about = [Some(&registrant.email), registrant.username.as_ref(), registrant.full_name.as_ref()];
    let about = about.into_iter().flatten().cloned().collect();
    let hashed = state.hash_pool.hash(registrant.password.clone(), about).await?;
    hashed.map_err(|fault| one_fault("password", &fault))
}

/// Why an account could not be made or changed, as an answer.
pub(crate) fn taken(fault: AccountFault, compat: Compat) -> Refusal {
    match (&fault, compat) {
        (AccountFault::EmailTaken, Compat::FastApi) => {
            return Refusal::because(Reason::AccountExists, "Email already registered");
        }
        (AccountFault::UsernameTaken, Compat::FastApi) => {
            return Refusal::because(Reason::AccountExists, "Username already registered");
        }
        _ => {}
    }
    match fault {
        AccountFault::EmailTaken | AccountFault::UsernameTaken => {
            Refusal::because(Reason::AccountExists, fault.to_string())
        }
        // The caller's own account is gone, and every token of it with it.
        AccountFault::Missing => Reason::SessionEnded.into(),
        AccountFault::Store(fault) => fault.into(),
    }
}
