//! The life of a signing key: next → current → previous → gone. What is to be done with the keys that are there.
//!
//! A key is published from the moment it is made and signs only later, so that whoever verifies has it before it is
//! used; it is published on as long as a token it signed may live. [`plan`] decides; it changes nothing. The store
//! decides by it again under its lock and takes the steps whole, so that any number of gateways and commands do each
//! thing once.

use std::{fmt, time::Duration};

use super::{keys::Algorithm, mint::IDENTITY_LIFE};
use crate::clock::Timestamp;

/// How long anyone may keep the published keys (their `Cache-Control`): no key may sign before this is over.
pub const PUBLISHED_CACHEABLE: Duration = Duration::from_mins(5);

/// Every running gateway has read of a change after this, unless its store is lost: they look each second.
pub const LEARNED: Duration = Duration::from_secs(5);

/// Kept longer than its tokens need: for clocks that differ, and for a gateway that signs on with what it holds.
const MARGIN: Duration = Duration::from_mins(5);

/// Keys of one algorithm there may be at once: readers of a key set bound it too.
pub const MOST: usize = 32;

/// Where a signing key stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// Published, not signing yet.
    Next,
    /// Signing.
    Current,
    /// Verifying only.
    Previous,
}

impl KeyState {
    /// Every one, in the order of life.
    pub const ALL: &'static [Self] = &[Self::Next, Self::Current, Self::Previous];

    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Current => "current",
            Self::Previous => "previous",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A key and its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyLife {
    /// `kid`.
    pub kid: String,
    /// Its one algorithm.
    pub algorithm: Algorithm,
    /// Where it stands.
    pub state: KeyState,
    /// Since when it is there for everybody to verify with.
    pub published_at: Timestamp,
    /// Since when it signs, or when it began to.
    pub activated_at: Option<Timestamp>,
    /// A previous key: until when it verifies.
    pub verifies_until: Option<Timestamp>,
}

impl KeyLife {
    /// Since when it signs; keys from before there was a rotation sign since they were made.
    #[must_use]
    pub fn signs_since(&self) -> Timestamp {
        self.activated_at.unwrap_or(self.published_at)
    }
}

/// When keys are to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRules {
    /// How long a key signs; `None`: until somebody asks for another.
    pub every: Option<Duration>,
    /// How long it is published before that.
    pub publish_ahead: Duration,
    /// How long it verifies after it.
    pub verify_for: Duration,
}

impl KeyRules {
    /// For access tokens of this life, and this tolerance.
    #[must_use]
    pub fn new(every: Option<Duration>, publish_ahead: Duration, access_ttl: Duration, leeway: Duration) -> Self {
        let longest = access_ttl.max(IDENTITY_LIFE).saturating_add(leeway);
        Self { every, publish_ahead, verify_for: longest.saturating_add(MARGIN) }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order<'a> {
    /// Whatever is due.
    Due,
    /// A next key of each algorithm that has none; it signs when it is due.
    Publish,
    /// The next keys sign from now, if they have been published for so long.
    Promote(Duration),
    /// This key is gone at once.
    Retire(&'a str),
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes a next key.
    Publish(Algorithm),
    /// Makes a key that signs at once, since there is none at all.
    Begin(Algorithm),
    /// The current key signs no longer, and verifies until then.
    Demote(String, Timestamp),
    /// The next key signs.
    Activate(String),
    /// The key is gone.
    Remove(String),
}

impl Step {
    /// The algorithm that a new key is needed of.
    #[must_use]
    pub const fn makes(&self) -> Option<Algorithm> {
        match self {
            Self::Publish(algorithm) | Self::Begin(algorithm) => Some(*algorithm),
            Self::Demote(..) | Self::Activate(_) | Self::Remove(_) => None,
        }
    }
}

/// The steps that an order comes to now, in the order in which they are to be taken. `needed`: what something is signed
/// with; keys of other algorithms are left as they are, but for a next key that is due and a previous one that is over.
#[must_use]
pub fn plan(keys: &[KeyLife], needed: &[Algorithm], rules: &KeyRules, order: Order<'_>, now: Timestamp) -> Vec<Step> {
    let mut algorithms = needed.to_vec();
    algorithms.extend(keys.iter().map(|key| key.algorithm));
    let mut steps = Vec::new();
    for (place, algorithm) in algorithms.iter().enumerate() {
        if !algorithms[..place].contains(algorithm) {
            let of: Vec<_> = keys.iter().filter(|key| key.algorithm == *algorithm).collect();
            let kin = Kin { algorithm: *algorithm, keys: of, needed: needed.contains(algorithm), rules, now };
            kin.plan(order, &mut steps);
        }
    }
    steps
}

/// The keys of one algorithm.
struct Kin<'a> {
    algorithm: Algorithm,
    keys: Vec<&'a KeyLife>,
    needed: bool,
    rules: &'a KeyRules,
    now: Timestamp,
}

impl<'a> Kin<'a> {
    fn of(&self, state: KeyState) -> Option<&'a KeyLife> {
        self.keys.iter().copied().filter(|key| key.state == state).max_by_key(|key| key.published_at)
    }

    fn plan(&self, order: Order<'_>, steps: &mut Vec<Step>) {
        match order {
            Order::Due => self.due(steps),
            Order::Publish => self.publish(steps),
            Order::Promote(published_for) if self.needed => self.promote(published_for, steps),
            Order::Promote(_) => {}
            Order::Retire(kid) => {
                if let Some(key) = self.keys.iter().find(|key| key.kid == kid) {
                    steps.push(Step::Remove(key.kid.clone()));
                    if key.state == KeyState::Current {
                        self.begin(steps);
                    }
                }
            }
        }
    }

    fn due(&self, steps: &mut Vec<Step>) {
        let over =
            |key: &&&KeyLife| key.state == KeyState::Previous && key.verifies_until.is_some_and(|end| end <= self.now);
        steps.extend(self.keys.iter().filter(over).map(|key| Step::Remove(key.kid.clone())));
        let Some(current) = self.of(KeyState::Current) else { return self.begin(steps) };
        let ends = self.rules.every.map(|every| current.signs_since().plus(every));
        if self.of(KeyState::Next).is_some() {
            self.promote(self.rules.publish_ahead, steps);
        } else if ends.is_some_and(|end| end.minus(self.rules.publish_ahead) <= self.now) {
            self.publish(steps);
        }
    }

    /// Nothing signs: the next key does from now, published long enough or not, else a new one.
    fn begin(&self, steps: &mut Vec<Step>) {
        match self.of(KeyState::Next) {
            Some(next) => steps.push(Step::Activate(next.kid.clone())),
            None if self.needed => steps.push(Step::Begin(self.algorithm)),
            None => {}
        }
    }

    fn publish(&self, steps: &mut Vec<Step>) {
        let has = |state| self.of(state).is_some();
        if self.needed && has(KeyState::Current) && !has(KeyState::Next) && self.keys.len() < MOST {
            steps.push(Step::Publish(self.algorithm));
        }
    }

    fn promote(&self, published_for: Duration, steps: &mut Vec<Step>) {
        let Some(next) = self.of(KeyState::Next).filter(|next| next.published_at.plus(published_for) <= self.now)
        else {
            return;
        };
        if let Some(current) = self.of(KeyState::Current) {
            // By whichever clock is ahead: tokens may have been issued by it.
            let until = self.now.max(current.signs_since()).plus(self.rules.verify_for);
            steps.push(Step::Demote(current.kid.clone(), until));
        }
        steps.push(Step::Activate(next.kid.clone()));
    }
}

#[cfg(test)]
mod tests;
