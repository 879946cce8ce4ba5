//! TEMP ended sessions.
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::{clock::Timestamp, policy::ids::SessionId};

/// Ended sessions.
#[derive(Default)]
pub struct EndedSessions(Mutex<HashMap<SessionId, Timestamp>>);

impl EndedSessions {
    /// Remembers.
    pub fn insert(&self, sid: SessionId, until: Timestamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(sid, until);
    }
    /// Knows.
    pub fn contains(&self, sid: SessionId, now: Timestamp) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&sid).is_some_and(|until| *until > now)
    }
}
