//! Who is served while there is too much to do: each class up to its own share, the least proven first to be sent away.
//!
//! Two things run out: places for requests whose answer has not begun, and memory. Both are told in shares of what
//! there is, so what happens at which load can be read off the tables below. A place is free again when an answer
//! begins, so places need no memory of what was; memory goes back in its own time, so a class that was sent away for it
//! is let in again only some way below the share it was sent away at.

/// How far a caller has proven that they belong here; the first are sent away first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nobody in particular: public routes, and whoever logs in or registers.
    Anonymous,
    /// Says that they have a session or a client's secret, which is not looked at yet: refresh, logout, the OAuth
    /// endpoints.
    Returning,
    /// With a verified token.
    Authenticated,
}

impl Class {
    /// Every one.
    pub const ALL: &'static [Self] = &[Self::Anonymous, Self::Returning, Self::Authenticated];

    /// Of all places, the per cent that must not be taken when one of these comes.
    const PLACES: [u64; 3] = [80, 90, 100];

    /// Of all memory, the per cent at which these are sent away.
    const MEMORY: [u64; 3] = [85, 90, 95];

    /// The place in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Stable label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Returning => "returning",
            Self::Authenticated => "authenticated",
        }
    }

    /// How many of `all` places may be taken up to and with one of these. At least one.
    #[must_use]
    pub const fn places(self, all: u64) -> u64 {
        let places = all / 100 * Self::PLACES[self.index()] + all % 100 * Self::PLACES[self.index()] / 100;
        if places == 0 { 1 } else { places }
    }
}

/// How a route counts whoever calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// By what they have proven.
    ByCaller,
    /// Without a token as [`Class::Returning`].
    Returning,
    /// They are always served: keys and claims, which services need for requests that are under way. It costs no more
    /// than sending them away.
    Vital,
}

impl Calls {
    /// The class of a call; `None`: it is always served.
    #[must_use]
    pub const fn class(self, authenticated: bool) -> Option<Class> {
        match self {
            Self::Vital => None,
            _ if authenticated => Some(Class::Authenticated),
            Self::Returning => Some(Class::Returning),
            Self::ByCaller => Some(Class::Anonymous),
        }
    }
}

/// Per cent of all memory that must come back before a class is let in again.
const RELIEF: u64 = 5;

/// Who is sent away for want of memory: so many classes, the first first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Pressure(u8);

impl Pressure {
    /// What `used` of `limit` bytes means after `before`; no limit, no pressure.
    #[must_use]
    pub fn of(used: u64, limit: Option<u64>, before: Self) -> Self {
        let Some(limit) = limit else { return Self(0) };
        let (used, limit) = (u128::from(used), u128::from(limit));
        let above = |lower: u64| {
            let reached = |share: &&u64| used * 100 >= limit * u128::from(**share - lower);
            u8::try_from(Class::MEMORY.iter().filter(reached).count()).unwrap_or(u8::MAX)
        };
        Self(above(0).max(above(RELIEF).min(before.0)))
    }

    /// From [`Self::level`].
    #[must_use]
    pub const fn from_level(level: u8) -> Self {
        Self(level)
    }

    /// 0: nobody, 1: the anonymous, 2: the returning too, 3: everybody.
    #[must_use]
    pub const fn level(self) -> u8 {
        self.0
    }

    /// Whether these are sent away.
    #[must_use]
    pub const fn sheds(self, class: Class) -> bool {
        class.index() < self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(used: u64, before: u8) -> u8 {
        Pressure::of(used, Some(1_000), Pressure(before)).level()
    }

    #[test]
    fn the_least_proven_are_sent_away_first() {
        assert_eq!(Class::ALL.iter().map(|class| class.places(1_000)).collect::<Vec<_>>(), [800, 900, 1_000]);
        assert_eq!(Class::ALL.iter().map(|class| class.places(7)).collect::<Vec<_>>(), [5, 6, 7]);
        assert!(Class::ALL.iter().all(|class| class.places(1) == 1));
        assert_eq!(Class::Authenticated.places(u64::MAX), u64::MAX);
        for (used, shed) in [(0, 0), (849, 0), (850, 1), (899, 1), (900, 2), (949, 2), (950, 3), (5_000, 3)] {
            assert_eq!(level(used, 0), shed, "{used}");
        }
        let shed = |level| Class::ALL.iter().map(|class| Pressure(level).sheds(*class)).collect::<Vec<_>>();
        assert_eq!(shed(0), [false, false, false]);
        assert_eq!(shed(1), [true, false, false]);
        assert_eq!(shed(2), [true, true, false]);
        assert_eq!(shed(3), [true, true, true]);
    }

    #[test]
    fn whoever_was_sent_away_is_let_in_again_only_some_way_below() {
        for (used, before, after) in [
            (849, 1, 1),
            (800, 1, 1),
            (799, 1, 0),
            (850, 2, 2),
            (849, 2, 1),
            (799, 2, 0),
            (900, 3, 3),
            (899, 3, 2),
            (800, 3, 1),
            (0, 3, 0),
            // Nobody is sent away for what is above the lower share only.
            (840, 0, 0),
            (890, 1, 1),
        ] {
            assert_eq!(level(used, before), after, "{used} after {before}");
        }
    }

    #[test]
    fn without_a_limit_there_is_no_pressure() {
        assert_eq!(Pressure::of(u64::MAX, None, Pressure(3)), Pressure(0));
        assert_eq!(Pressure::of(u64::MAX, Some(u64::MAX), Pressure(0)), Pressure(3));
    }

    #[test]
    fn a_call_is_of_the_class_that_its_caller_has_proven() {
        assert_eq!(Calls::ByCaller.class(false), Some(Class::Anonymous));
        assert_eq!(Calls::Returning.class(false), Some(Class::Returning));
        assert_eq!(Calls::ByCaller.class(true), Some(Class::Authenticated));
        assert_eq!(Calls::Returning.class(true), Some(Class::Authenticated));
        assert_eq!((Calls::Vital.class(false), Calls::Vital.class(true)), (None, None));
    }
}
