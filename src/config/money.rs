//! Money as the file writes it: `12.50`, counted in whole millionths of whatever currency it is.
//!
//! The range is part of the type, as with numbers ([`super::units`]), so the JSON schema, the check and the message cannot
//! differ.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    errors::Fault,
    scalar::{Scalar, scalar},
};
use crate::policy::quota::MICROS;

/// An amount from `LEAST` to `MOST`, all in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Money<const LEAST: u64, const MOST: u64>(pub(super) u64);

impl<const LEAST: u64, const MOST: u64> Scalar for Money<LEAST, MOST> {
    fn read(text: &str) -> Result<Self, Fault> {
        let micros = micros(text).filter(|micros| (LEAST..=MOST).contains(micros));
        let range = || format!("at most six decimals, from {} to {}", written(LEAST), written(MOST));
        micros.map(Self).ok_or_else(|| Fault::expected(format_args!("money such as \"12.50\" ({})", range())))
    }

    fn write(&self) -> String {
        written(self.0)
    }

    fn schema() -> serde_json::Value {
        let number = |micros| written(micros).parse::<f64>().unwrap_or_default();
        serde_json::json!({ "anyOf": [
            { "type": "number", "minimum": number(LEAST), "maximum": number(MOST) },
            { "type": "string", "pattern": "^[0-9]{1,9}(\\.[0-9]{1,6})?$|\\$\\{" },
        ] })
    }
}
scalar!(Money<LEAST, MOST>, const LEAST: u64, const MOST: u64);

fn micros(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits =
        |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole, 9) || !is_digits(part, 6) {
        return None;
    }
    let number = |text: &str| text.parse::<u64>().ok();
    Some(number(whole)? * MICROS + number(&format!("{part:0<6}"))?)
}

fn written(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / MICROS, micros % MICROS);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: u64 = 999_999_999_999_999;

    #[test]
    fn money_is_exact() {
        for (text, micros, written) in [
            ("12.50", 12_500_000, "12.5"),
            ("0.000001", 1, "0.000001"),
            ("0", 0, "0"),
            ("100", 100_000_000, "100"),
            ("999999999.999999", ALL, "999999999.999999"),
        ] {
            let money = Money::<0, ALL>::read(text).unwrap();
            assert_eq!((money.0, &*money.write()), (micros, written), "{text}");
        }
        for text in ["", "-1", "1.", ".5", "1.0000001", "1e3", "1,50", "1000000000", "1.5 €", "+1", "1.2.3", " 1"] {
            assert!(Money::<0, ALL>::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_amount_out_of_its_range_is_told_the_range() {
        for text in ["0", "0.0", "0.000001", "2.000001"] {
            let fault = Money::<2, 2_000_000>::read(text).unwrap_err();
            assert_eq!(
                fault.message, "expected money such as \"12.50\" (at most six decimals, from 0.000002 to 2)",
                "{text}"
            );
        }
        assert!(Money::<2, 2_000_000>::read("2.0").is_ok());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(micros in 0..=ALL) {
            prop_assert_eq!(Money::<0, ALL>::read(&Money::<0, ALL>(micros).write()).unwrap(), Money(micros));
        }
    }
}
