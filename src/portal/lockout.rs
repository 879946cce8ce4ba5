//! What is asked before a password is compared, and told after: whether failures have locked the account, the address
//! or both; and how often anybody may make calls that cost somebody else something.
//!
//! A login that a counter of its account refuses is answered as a wrong password is, after the same work: nobody learns
//! from it whether an account is there, or locked. What an address has done to many accounts says nothing of any of
//! them: that refusal is told, at once, and without a hash.

use std::time::Duration;

use http::HeaderValue;
use secrecy::ExposeSecret;
use tokio::time::{sleep, timeout};

use crate::{
    clock::Timestamp,
    gate::refusal::{Detail, Refusal},
    policy::{
        device_cookie::{self, Device},
        ids::UserId,
        lockout::{Counter, Pace, Verdict},
        reason::Reason,
        refresh::Delivery,
    },
    portal::{
        caller::Caller,
        cookie,
        lines::{Line, Place},
        state::{PortalState, Shared},
    },
    store::{
        AuditEntry, AuditEvent, StoreFault,
        lockouts::{Attempt, AttemptEnd, Attempted, Paced, Reserved, Ticket},
    },
    telemetry::metrics::{LimitResult, LockoutResult, PacedCall},
};

/// Purposes of derived keys; see [`crate::policy::master_key::MasterKey::derive`].
const NAME_KEY: &str = "lockout-name";
const DEVICE_KEY: &str = "device-cookie";

/// How long a login waits for others of its kind that are under way.
const PATIENCE: Duration = Duration::from_secs(30);
/// First and longest pause before the store is asked again: other gateways' logins are under way.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];
/// When to come again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is said of a login.
pub(crate) enum Asked {
    /// It may be tried.
    Admitted(UnderWay),
    /// Whatever its password, it fails.
    Locked(Counter),
}

/// A login that is under way. Dropped without an end, it was none.
pub(crate) struct UnderWay {
    state: Shared,
    /// `None`: nothing is counted, or its end was told.
    ticket: Option<Ticket>,
    /// Kept until its end is told.
    places: Vec<Place>,
}

impl UnderWay {
    /// The password is wrong, or the account may not log in. The failure is written down even if the client has gone.
    pub(crate) async fn failed(mut self, audit: AuditEntry) -> Result<(), Refusal> {
        let Some(ticket) = self.ticket.take() else { return Ok(self.state.store.append_audit(&audit).await?) };
        let telling = async move { self.state.tell_end(&ticket, AttemptEnd::Failed, &audit).await };
        Ok(PortalState::to_the_end(telling).await??)
    }

    /// It went well. Should the store be lost by now, it counts as a failure: never the other way.
    pub(crate) async fn succeeded(mut self, audit: &AuditEntry) {
        let Some(ticket) = self.ticket.take() else { return };
        if let Err(error) = self.state.tell_end(&ticket, AttemptEnd::Succeeded, audit).await {
            tracing::warn!(%error, "a login that succeeded is counted as failed");
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (state, places) = (Shared::clone(&self.state), std::mem::take(&mut self.places));
        runtime.spawn(async move {
            let _places = places;
            let audit =
                AuditEntry::unasked(AuditEvent::LoginFailed, state.clock.now(), crate::store::audit::Actor::System);
            if let Err(error) = state.tell_end(&ticket, AttemptEnd::Released, &audit).await {
                tracing::debug!(%error, "a login that was given up is counted as failed");
            }
        });
    }
}

/// Asks for a login as `user`, or as nobody by this name.
pub(crate) async fn ask(state: &Shared, caller: &Caller, name: &str, user: Option<UserId>) -> Result<Asked, Refusal> {
    if !state.lockout.enabled {
        return Ok(Asked::Admitted(UnderWay { state: Shared::clone(state), ticket: None, places: Vec::new() }));
    }
    let device = user.zip(caller.device_cookie()).and_then(|(user, cookie)| state.device(user, cookie.expose_secret()));
    let account = user.map_or_else(|| Attempted::Unknown(state.digest(name)), Attempted::User);
    let attempt = Attempt { account, address: caller.prefix(), device };
    let busy = || Err(state.under_way(if device.is_some() { Counter::Device } else { Counter::Pair }));
    let Ok(Some(mut places)) = timeout(PATIENCE, places(state, &attempt)).await else { return busy() };
    let [mut pause, longest] = PAUSES;
    let mut waited = Duration::ZERO;
    loop {
        // To the end, and with its places: what the store has counted by the time a client hangs up is given back, and
        // whoever hangs up again and again has no more questions under way than places.
        let verdict = match PortalState::to_the_end(reserve(Shared::clone(state), attempt, places)).await?? {
            Ok(under_way) => return Ok(Asked::Admitted(under_way)),
            Err((verdict, kept)) => {
                places = kept;
                verdict
            }
        };
        match state.refused(verdict)? {
            Some(counter) => return Ok(Asked::Locked(counter)),
            None if waited >= PATIENCE => return busy(),
            None => {}
        }
        sleep(pause).await;
        waited += pause;
        pause = (pause * 2).min(longest);
    }
}

async fn reserve(
    state: Shared,
    attempt: Attempt,
    places: Vec<Place>,
) -> Result<Result<UnderWay, (Verdict, Vec<Place>)>, Refusal> {
    let now = state.clock.now();
    match state.store.reserve_attempt(&attempt, &state.lockout.rules, now).await? {
        Reserved::Admitted(ticket) => {
            state.count(if ticket.by_device { Counter::Device } else { Counter::Pair }, LockoutResult::Admitted);
            Ok(Ok(UnderWay { state, ticket: Some(ticket), places }))
        }
        Reserved::Refused(verdict) => Ok(Err((verdict, places))),
    }
}

/// The place of a login at the front of its lines, each as long as may wait for a hash; `None`: one is full. Always in
/// this order, so that nobody waits in a circle.
async fn places(state: &Shared, attempt: &Attempt) -> Option<Vec<Place>> {
    let (lines, rules, most) = (&state.lines, &state.lockout.rules, state.hash_pool.stats().capacity);
    if let Some(device) = attempt.device {
        return Some(vec![lines.enter(Line::Device(device.nonce), rules.device.failures.get(), most).await?]);
    }
    let mut places = Vec::with_capacity(2);
    let pair = Line::Pair(attempt.account, attempt.address);
    places.push(lines.enter(pair, rules.pair.free.get(), most).await?);
    if let Some(first) = rules.address.ladder.first() {
        places.push(lines.enter(Line::Address(attempt.address), first.accounts.get(), most).await?);
    }
    Some(places)
}

/// Refuses a call that this address makes too often, or that is made for `target` (an e-mail address) too often.
pub(crate) async fn pace(
    state: &Shared,
    caller: &Caller,
    call: PacedCall,
    (by_address, of_target): (Pace, Pace),
    target: &str,
) -> Result<(), Refusal> {
    if !state.lockout.enabled {
        return Ok(());
    }
    let address = format!("address:{}", caller.prefix());
    let target = [b"target:", state.digest(target).as_slice()].concat();
    charge(state, call, &[(address.as_bytes(), by_address), (&target, of_target)]).await
}

/// Refuses a call that this user makes too often, whether failed logins are counted or not.
pub(crate) async fn pace_user(state: &Shared, call: PacedCall, user: UserId, pace: Pace) -> Result<(), Refusal> {
    let user = [b"user:", user.0.as_bytes().as_slice()].concat();
    charge(state, call, &[(&user, pace)]).await
}

/// Counts one call for each subject, or for none; always the same kinds of subjects in the same order.
async fn charge(state: &Shared, call: PacedCall, subjects: &[(&[u8], Pace)]) -> Result<(), Refusal> {
    let purpose = match call {
        PacedCall::Register => "register",
        PacedCall::ApiKey => "api-key",
    };
    let calls: Vec<_> = subjects.iter().map(|(subject, pace)| Paced { purpose, subject, pace: *pace }).collect();
    let wait = state.store.pace(&calls, state.clock.now()).await?;
    let result = if wait.is_some() { LimitResult::Refused } else { LimitResult::Admitted };
    state.metrics.paced_calls.of(call).of(result).inc();
    match wait {
        None => Ok(()),
        Some(wait) => Err(Refusal::with(Reason::CallsPaced, Detail::RetryAfter(wait))),
    }
}

impl PortalState {
    /// The `Set-Cookie` lines of a login that succeeded: for browsers.
    pub(crate) fn device_lines(
        &self,
        user: UserId,
        caller: &Caller,
        delivery: Delivery,
        now: Timestamp,
    ) -> Result<Vec<HeaderValue>, Refusal> {
        if !self.lockout.enabled || !(delivery == Delivery::Cookie || caller.is_browser()) {
            return Ok(Vec::new());
        }
        let nonce = self.entropy.uuid_v7(now);
        let key = self.master.derive(DEVICE_KEY, &[], &[]);
        let cookie = device_cookie::issue(key.expose_secret(), user, nonce, now);
        cookie::set_device(&cookie, &self.lockout, &self.portal)
    }

    /// Whether the caller brings a device cookie of this very account.
    pub(crate) fn is_device_of(&self, caller: &Caller, user: Option<UserId>) -> bool {
        let device =
            user.zip(caller.device_cookie()).and_then(|(user, cookie)| self.device(user, cookie.expose_secret()));
        device.is_some()
    }

    /// Whether the caller brings a device cookie of any account of ours; asks nobody.
    pub(crate) fn is_device(&self, caller: &Caller) -> bool {
        let Some(cookie) = caller.device_cookie() else { return false };
        let (key, life) = (self.master.derive(DEVICE_KEY, &[], &[]), self.lockout.device_life);
        device_cookie::authentic(key.expose_secret(), cookie.expose_secret(), life, self.clock.now()).is_some()
    }

    fn device(&self, user: UserId, cookie: &str) -> Option<Device> {
        let key = self.master.derive(DEVICE_KEY, &[], &[]);
        device_cookie::read(key.expose_secret(), cookie, user, self.lockout.device_life, self.clock.now())
    }

    /// What stands for a name or an address in the store: it cannot be read back without the master key.
    fn digest(&self, name: &str) -> [u8; 32] {
        *self.master.derive(NAME_KEY, crate::policy::validate::lookup_key(name).as_bytes(), &[]).expose_secret()
    }

    /// The counter by which it fails whatever its password; `None`: it may come again soon.
    fn refused(&self, verdict: Verdict) -> Result<Option<Counter>, Refusal> {
        match verdict {
            Verdict::Busy(_) => Ok(None),
            Verdict::Wait(Counter::Address, until) => {
                self.count(Counter::Address, LockoutResult::Waits);
                let wait = until.since(self.clock.now());
                Err(Refusal::with(Reason::AddressLocked, Detail::RetryAfter(wait)))
            }
            Verdict::Wait(counter, _) => {
                self.count(counter, LockoutResult::Waits);
                Ok(Some(counter))
            }
            Verdict::Stopped => {
                self.count(Counter::Account, LockoutResult::Stopped);
                Ok(Some(Counter::Account))
            }
            Verdict::Admit => Err(Refusal::internal("an attempt was refused for no reason")),
        }
    }

    async fn tell_end(&self, ticket: &Ticket, end: AttemptEnd, audit: &AuditEntry) -> Result<(), StoreFault> {
        for counter in self.store.end_attempt(ticket, end, &self.lockout.rules, audit).await? {
            self.count(counter, LockoutResult::Locked);
        }
        Ok(())
    }

    fn count(&self, counter: Counter, result: LockoutResult) {
        self.metrics.lockout_decisions.of(counter).of(result).inc();
    }

    fn under_way(&self, counter: Counter) -> Refusal {
        self.count(counter, LockoutResult::Busy);
        Refusal::with(Reason::LoginsUnderWay, Detail::RetryAfter(AGAIN))
    }
}
