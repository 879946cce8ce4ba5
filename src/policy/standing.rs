//! May a stream that was opened with an access token go on past the token's end? As long as its session would get
//! another one: while somebody keeps refreshing it.

use std::time::Duration;

use crate::{clock::Timestamp, policy::refresh::SessionFacts};

/// What a session says of its open streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// They go on until then: the newest token that the session has been given ends about then.
    Until(Timestamp),
    /// Nobody has refreshed it since its last token ran out.
    Unrefreshed,
    /// It has ended.
    Ended,
}

/// How a session stands `now`. `life` is what a token lives and is forgiven, together: its own time, the leeway and the
/// grace for streams. An idle or absolute end needs no look of its own: past it there are no new tokens.
#[must_use]
pub fn standing(facts: Option<&SessionFacts>, life: Duration, now: Timestamp) -> Standing {
    let Some(facts) = facts.filter(|facts| !facts.ended) else { return Standing::Ended };
    // A lost answer that was given again came with a token that is younger than the rotation.
    let until = facts.rotated_at.max(facts.handed_out_at).plus(life);
    if until > now { Standing::Until(until) } else { Standing::Unrefreshed }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(990);

    fn facts(rotated: i64) -> SessionFacts {
        SessionFacts {
            counter: 2,
            seen_generation: 2,
            created_at: Timestamp::from_seconds(0),
            rotated_at: Timestamp::from_seconds(rotated),
            handed_out_at: Timestamp::from_seconds(rotated),
            ended: false,
            active: true,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn a_session_that_is_refreshed_keeps_its_streams() {
        assert_eq!(standing(Some(&facts(500)), LIFE, at(990)), Standing::Until(at(1_490)));
        assert_eq!(standing(Some(&facts(500)), LIFE, at(1_489)), Standing::Until(at(1_490)));
        assert_eq!(standing(Some(&facts(500)), LIFE, at(1_490)), Standing::Unrefreshed);
        assert_eq!(standing(Some(&facts(0)), LIFE, at(990)), Standing::Unrefreshed);
    }

    #[test]
    fn a_refresh_whose_answer_was_lost_and_given_again_counts_from_then() {
        let again = SessionFacts { handed_out_at: at(800), ..facts(500) };
        assert_eq!(standing(Some(&again), LIFE, at(1_490)), Standing::Until(at(1_790)));
        assert_eq!(standing(Some(&again), LIFE, at(1_790)), Standing::Unrefreshed);
    }

    #[test]
    fn one_that_has_ended_or_is_unknown_keeps_none() {
        let ended = SessionFacts { ended: true, ..facts(500) };
        assert_eq!(standing(Some(&ended), LIFE, at(501)), Standing::Ended);
        assert_eq!(standing(None, LIFE, at(501)), Standing::Ended);
    }
}
