//! What a hashing thread is asked, and whom it answers.

use secrecy::SecretString;
use tokio::sync::oneshot;

use crate::{
    clock::Tick,
    policy::password::{HashFault, PasswordFault},
};

/// A question, and since when it waits.
pub(super) struct Job {
    pub(super) queued_at: Tick,
    pub(super) task: Task,
}

/// A new password's hash, or why it is no good as a password, or why hashing failed.
pub(super) type Hashed = Result<Result<SecretString, PasswordFault>, HashFault>;

pub(super) enum Task {
    /// `about` is `None` for a password that is in use already: it is not judged again.
    Hash {
        password: SecretString,
        about: Option<Vec<String>>,
        answer: oneshot::Sender<Hashed>,
    },
    Verify {
        password: SecretString,
        phc: Option<SecretString>,
        answer: oneshot::Sender<bool>,
    },
}

impl Task {
    /// Nobody waits for its answer any more.
    pub(super) fn abandoned(&self) -> bool {
        match self {
            Self::Hash { answer, .. } => answer.is_closed(),
            Self::Verify { answer, .. } => answer.is_closed(),
        }
    }
}

pub(super) enum Answer {
    Hash(oneshot::Sender<Hashed>, Hashed),
    Verify(oneshot::Sender<bool>, bool),
}

impl Answer {
    pub(super) fn send(self) {
        // A requester that left meanwhile wants no answer.
        match self {
            Self::Hash(to, hashed) => drop(to.send(hashed)),
            Self::Verify(to, matches) => drop(to.send(matches)),
        }
    }
}
