//! Numbers as the file writes them: `30s`, `10MiB`, `20/s`, and plain numbers with a range.
//!
//! The range is part of the type, so the JSON schema, the check and the message cannot differ.

use std::{
    borrow::Cow,
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    errors::Fault,
    scalar::{Scalar, deserialize, scalar},
};

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Int<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<const MIN: u64, const MAX: u64> Int<MIN, MAX> {
    /// As the checked settings want it.
    pub(super) fn get<T: TryFrom<u64>>(self) -> Option<T> {
        T::try_from(self.0).ok()
    }
}

impl<const MIN: u64, const MAX: u64> Scalar for Int<MIN, MAX> {
    fn read(text: &str) -> Result<Self, Fault> {
        let number = digits(text).filter(|number| (MIN..=MAX).contains(number));
        number.map(Self).ok_or_else(|| Fault::expected(format_args!("a whole number from {MIN} to {MAX}")))
    }

    fn write(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [
            { "type": "integer", "minimum": MIN, "maximum": MAX },
            { "type": "string", "pattern": "\\$\\{" },
        ] })
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Int<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer)
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Int<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Int<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Int".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        Schema::try_from(<Self as Scalar>::schema()).unwrap_or_default()
    }
}

/// A number or the word `auto`, which leaves it to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Auto<const MIN: u64, const MAX: u64>(pub(super) Option<u64>);

impl<const MIN: u64, const MAX: u64> Scalar for Auto<MIN, MAX> {
    fn read(text: &str) -> Result<Self, Fault> {
        if text == "auto" {
            return Ok(Self(None));
        }
        match Int::<MIN, MAX>::read(text) {
            Ok(Int(number)) => Ok(Self(Some(number))),
            Err(_) => Err(Fault::expected(format_args!("auto or a whole number from {MIN} to {MAX}"))),
        }
    }

    fn write(&self) -> String {
        self.0.map_or_else(|| "auto".to_owned(), |number| number.to_string())
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [
            { "type": "integer", "minimum": MIN, "maximum": MAX },
            { "type": "string", "pattern": "^auto$|\\$\\{" },
        ] })
    }
}
scalar!(Auto<MIN, MAX>, const MIN: u64, const MAX: u64);

const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A length of time from `MIN` to `MAX` milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span<const MIN: u64, const MAX: u64>(pub(super) Duration);

impl<const MIN: u64, const MAX: u64> Span<MIN, MAX> {
    /// From milliseconds; for defaults.
    pub(super) const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// From seconds; for defaults.
    pub(super) const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl<const MIN: u64, const MAX: u64> Scalar for Span<MIN, MAX> {
    fn read(text: &str) -> Result<Self, Fault> {
        let millis = with_unit(text, &DURATION_UNITS).filter(|millis| (MIN..=MAX).contains(millis));
        millis.map(Self::millis).ok_or_else(|| {
            let range = (write_unit(MIN, &DURATION_UNITS), write_unit(MAX, &DURATION_UNITS));
            Fault::expected(format_args!("a duration from {} to {} (ms, s, m, h, d)", range.0, range.1))
        })
    }

    fn write(&self) -> String {
        write_unit(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), &DURATION_UNITS)
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$|\\$\\{" })
    }
}
scalar!(Span<MIN, MAX>, const MIN: u64, const MAX: u64);

/// A length of time from `MIN` to `MAX` milliseconds between two of something; `None`: `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Every<const MIN: u64, const MAX: u64>(pub(super) Option<Duration>);

impl<const MIN: u64, const MAX: u64> Scalar for Every<MIN, MAX> {
    fn read(text: &str) -> Result<Self, Fault> {
        if text == "never" {
            return Ok(Self(None));
        }
        match Span::<MIN, MAX>::read(text) {
            Ok(Span(every)) => Ok(Self(Some(every))),
            Err(fault) => {
                let span = fault.message.strip_prefix("expected ").unwrap_or(&fault.message);
                Err(Fault::expected(format_args!("{span}, or never")))
            }
        }
    }

    fn write(&self) -> String {
        self.0.map_or_else(|| "never".to_owned(), |every| Span::<MIN, MAX>(every).write())
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$|^never$|\\$\\{" })
    }
}
scalar!(Every<MIN, MAX>, const MIN: u64, const MAX: u64);

const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A number of bytes from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<const MIN: u64, const MAX: u64> Scalar for Size<MIN, MAX> {
    fn read(text: &str) -> Result<Self, Fault> {
        let bytes = with_unit(text, &SIZE_UNITS).filter(|bytes| (MIN..=MAX).contains(bytes));
        bytes.map(Self).ok_or_else(|| {
            let range = (write_unit(MIN, &SIZE_UNITS), write_unit(MAX, &SIZE_UNITS));
            Fault::expected(format_args!("a size from {} to {} (B, KiB, MiB, GiB)", range.0, range.1))
        })
    }

    fn write(&self) -> String {
        write_unit(self.0, &SIZE_UNITS)
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$|\\$\\{" })
    }
}
scalar!(Size<MIN, MAX>, const MIN: u64, const MAX: u64);

/// A number that something may not exceed; `None`: `none`, no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AtMost<const MAX: u64>(pub(super) Option<NonZeroU32>);

impl<const MAX: u64> AtMost<MAX> {
    /// A default.
    pub(super) const fn of(number: u32) -> Self {
        Self(NonZeroU32::new(number))
    }
}

impl<const MAX: u64> Scalar for AtMost<MAX> {
    fn read(text: &str) -> Result<Self, Fault> {
        if text == "none" {
            return Ok(Self(None));
        }
        let number = Int::<1, MAX>::read(text).ok().and_then(|Int(number)| u32::try_from(number).ok());
        let number = number.and_then(NonZeroU32::new);
        let expected = || Fault::expected(format_args!("none or a whole number from 1 to {MAX}"));
        number.map(|number| Self(Some(number))).ok_or_else(expected)
    }

    fn write(&self) -> String {
        self.0.map_or_else(|| "none".to_owned(), |number| number.to_string())
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": MAX },
            { "type": "string", "pattern": "^none$|\\$\\{" },
        ] })
    }
}
scalar!(AtMost<MAX>, const MAX: u64);

/// Bytes a second; `None`: `none`, as slow as you like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByteRate(pub(super) Option<NonZeroU64>);

impl Scalar for ByteRate {
    fn read(text: &str) -> Result<Self, Fault> {
        if text == "none" {
            return Ok(Self(None));
        }
        let bytes = text.strip_suffix("/s").and_then(|bytes| Size::<1, { 1 << 30 }>::read(bytes).ok());
        let bytes = bytes.and_then(|Size(bytes)| NonZeroU64::new(bytes));
        bytes.map(|bytes| Self(Some(bytes))).ok_or_else(|| Fault::expected("bytes a second such as 256B/s, or none"))
    }

    fn write(&self) -> String {
        self.0.map_or_else(|| "none".to_owned(), |bytes| format!("{}/s", write_unit(bytes.get(), &SIZE_UNITS)))
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)/s$|^none$|\\$\\{" })
    }
}
scalar!(ByteRate);

/// A request body's largest size; `None`: `none`, no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BodyLimit(pub(super) Option<u64>);

impl Scalar for BodyLimit {
    fn read(text: &str) -> Result<Self, Fault> {
        if text == "none" {
            return Ok(Self(None));
        }
        match Size::<0, { 1 << 50 }>::read(text) {
            Ok(Size(bytes)) => Ok(Self(Some(bytes))),
            Err(_) => Err(Fault::expected("a size (B, KiB, MiB, GiB) or none")),
        }
    }

    fn write(&self) -> String {
        self.0.map_or_else(|| "none".to_owned(), |bytes| write_unit(bytes, &SIZE_UNITS))
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$|^none$|\\$\\{" })
    }
}
scalar!(BodyLimit);

/// A number of requests in a period: `20/s`, `100/1m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) requests: NonZeroU32,
    pub(super) period: Duration,
}

impl Scalar for Rate {
    fn read(text: &str) -> Result<Self, Fault> {
        let fault = || Fault::expected("a rate such as 20/s or 100/1m (requests, then a period of at most 1d)");
        let (requests, period) = text.split_once('/').ok_or_else(fault)?;
        let requests = digits(requests).and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?));
        let period = if period.starts_with(|first: char| first.is_ascii_digit()) {
            with_unit(period, &DURATION_UNITS)
        } else {
            with_unit(&format!("1{period}"), &DURATION_UNITS)
        };
        let period = period.filter(|millis| (1..=86_400_000).contains(millis)).map(Duration::from_millis);
        match (requests, period) {
            (Some(requests), Some(period)) => Ok(Self { requests, period }),
            _ => Err(fault()),
        }
    }

    fn write(&self) -> String {
        let period = write_unit(u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX), &DURATION_UNITS);
        format!("{}/{period}", self.requests)
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string", "pattern": "^[0-9]+/[0-9]*(ms|s|m|h|d)$|\\$\\{" })
    }
}
scalar!(Rate);

/// Decimal digits and nothing else: no sign, no separators, no exponent.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// `30s` in the smallest unit of `units`.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let split = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    digits(number)?.checked_mul(*factor)
}

/// In the largest unit that divides it.
fn write_unit(number: u64, units: &[(&str, u64)]) -> String {
    let unit = units.iter().find(|(_, factor)| number.is_multiple_of(*factor) && number >= *factor);
    let (name, factor) = unit.or(units.last()).copied().unwrap_or(("", 1));
    format!("{}{name}", number / factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type AnySpan = Span<0, { u64::MAX }>;
    type AnySize = Size<0, { u64::MAX }>;

    #[test]
    fn durations_have_a_unit() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("12h", 43_200_000), ("7d", 604_800_000)]
        {
            assert_eq!(AnySpan::read(text).unwrap(), Span::millis(millis), "{text}");
        }
        for text in
            ["", "30", "s", "-1s", "+1s", "1.5s", "1 s", "1S", "1w", "1h30m", "99999999999999999999s", "300000000d"]
        {
            assert!(Span::<0, 1_000_000_000_000>::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_is_held_and_named() {
        assert!(Span::<1_000, 2_000>::read("2s").is_ok());
        let fault = Span::<1_000, 2_000>::read("3s").unwrap_err();
        assert_eq!(fault.message, "expected a duration from 1s to 2s (ms, s, m, h, d)");
        assert!(Int::<1, 5>::read("5").is_ok());
        assert_eq!(Int::<1, 5>::read("6").unwrap_err().message, "expected a whole number from 1 to 5");
        assert!(Size::<1, 1024>::read("1KiB").is_ok());
        assert!(Size::<1, 1024>::read("2KiB").is_err());
    }

    #[test]
    fn sizes_are_binary_and_named_so() {
        assert_eq!(AnySize::read("10MiB").unwrap(), Size(10 << 20));
        for text in ["10MB", "10M", "10", "10mib", "1e3B"] {
            assert!(AnySize::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_requests_in_a_period() {
        let rate = |text| Rate::read(text).map(|rate| (rate.requests.get(), rate.period.as_millis()));
        assert_eq!(rate("20/s").unwrap(), (20, 1_000));
        assert_eq!(rate("100/1m").unwrap(), (100, 60_000));
        assert_eq!(rate("5/15m").unwrap(), (5, 900_000));
        for text in ["0/s", "20", "20/", "/s", "20/0s", "20/2d", "-1/s", "20/s/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn words_stand_beside_numbers() {
        assert_eq!(Auto::<1, 8>::read("auto").unwrap(), Auto(None));
        assert_eq!(Auto::<1, 8>::read("8").unwrap(), Auto(Some(8)));
        assert!(Auto::<1, 8>::read("9").is_err());
        assert_eq!(Every::<1, 86_400_000>::read("never").unwrap(), Every(None));
        assert_eq!(Every::<1, 86_400_000>::read("1d").unwrap().write(), "1d");
        assert!(Every::<1, 86_400_000>::read("2d").unwrap_err().message.ends_with("or never"));
        assert_eq!(BodyLimit::read("none").unwrap(), BodyLimit(None));
        assert_eq!(BodyLimit::read("1KiB").unwrap(), BodyLimit(Some(1024)));
        assert!(BodyLimit::read("unlimited").is_err());
        assert_eq!(AtMost::<8>::read("none").unwrap(), AtMost(None));
        assert_eq!(AtMost::<8>::read("8").unwrap().write(), "8");
        assert!(AtMost::<8>::read("0").is_err() && AtMost::<8>::read("9").is_err());
        assert_eq!(ByteRate::read("none").unwrap(), ByteRate(None));
        assert_eq!(ByteRate::read("1KiB/s").unwrap(), ByteRate(NonZeroU64::new(1024)));
        assert_eq!(ByteRate(NonZeroU64::new(1024)).write(), "1KiB/s");
        for text in ["0B/s", "1KiB", "1KiB/m", "1/s", "/s"] {
            assert!(ByteRate::read(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(number in 0_u64..1 << 40) {
            prop_assert_eq!(AnySpan::read(&AnySpan::millis(number).write()).unwrap(), Span::millis(number));
            prop_assert_eq!(AnySize::read(&Size::<0, 0>(number).write()).unwrap(), Size(number));
        }

        #[test]
        fn never_panics(text in "\\PC{0,24}") {
            let _ = (AnySpan::read(&text), AnySize::read(&text), Rate::read(&text), BodyLimit::read(&text));
        }
    }
}
