//! What people may type into an account: e-mail address, username, full name. Checked and brought to one form.
//!
//! These become headers, log fields and mail: control characters never pass. Uniqueness goes by [`lookup_key`], so
//! that `Ann@x.org` cannot register beside `ann@x.org`.

use std::borrow::Cow;

use email_address::EmailAddress;
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use unicode_normalization::{UnicodeNormalization, char::is_combining_mark, is_nfkc};

/// Why a field is refused; a sentence for the person who typed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub &'static str);

/// Longest e-mail address, bytes (RFC 5321 §4.5.3.1.3 less its angle brackets).
pub const MAX_EMAIL_LEN: usize = 254;

/// An e-mail address: trimmed, NFC, otherwise as typed.
///
/// A plain `local@domain.tld`, international ones too (RFC 6531). Display names, address literals and quoted local
/// parts are legal in mail headers and useful only to confuse; a domain without a dot reaches nobody.
pub fn email(typed: &str) -> Result<String, Invalid> {
    let fault = Invalid("This is not a valid e-mail address.");
    let email = tidy(typed, MAX_EMAIL_LEN).ok_or(fault)?;
    if email.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '(' | ')' | '<' | '>' | ',')) {
        return Err(fault);
    }
    let (local, domain) = email.rsplit_once('@').ok_or(fault)?;
    if !EmailAddress::is_valid_local_part(local) {
        return Err(fault);
    }
    if !is_mail_domain(domain) {
        return Err(Invalid("The part after the @ is not a domain that mail can be sent to."));
    }
    Ok(email)
}

/// Whether this is the domain of a host on the Internet: two labels or more of letters, digits and hyphens (RFC 1123
/// §2.1), of any script when they make an internationalised name (UTS #46), the last one not a number, which would make
/// it an address (RFC 3696 §2).
fn is_mail_domain(domain: &str) -> bool {
    // UTS #46 ignores and maps much of what people may type; what is kept as typed has to look like what it names.
    let plain = |c: char| c.is_alphanumeric() || is_combining_mark(c) || matches!(c, '-' | '.');
    if !domain.chars().all(plain) || !is_nfkc(domain) {
        return false;
    }
    let Some(ascii) = ascii_domain(domain) else { return false };
    ascii.rsplit_once('.').is_some_and(|(_, last)| !last.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The one form of a domain that resolvers ask for: lower case, labels of 1 to 63 octets, 253 in all, other scripts as
/// A-labels. `None` when it has none.
fn ascii_domain(domain: &str) -> Option<Cow<'_, str>> {
    Uts46::new().to_ascii(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify).ok()
}

/// A username: 3 to 64 ASCII letters, digits, `.`, `_`, `-`, a letter or digit first.
///
/// ASCII only, since names that look alike in other scripts are for impersonation; the full name takes any script. No
/// `@`, so that a username is never somebody's e-mail address at login.
pub fn username(typed: &str) -> Result<String, Invalid> {
    let name = typed.trim();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let starts_well = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if (3..=64).contains(&name.len()) && starts_well && name.bytes().all(allowed) {
        return Ok(name.into());
    }
    Err(Invalid(
        "A username has 3 to 64 letters, digits, dots, dashes or underscores and starts with a letter or digit.",
    ))
}

/// A full name: trimmed, NFC, 1 to 200 characters of any script.
pub fn full_name(typed: &str) -> Result<String, Invalid> {
    let fault = Invalid("A name has 1 to 200 characters and no control characters.");
    // Four bytes are the most a character takes.
    let name = tidy(typed, 4 * 200).ok_or(fault)?;
    // Line and paragraph separators break lines, bidirectional controls reorder what stands beside the name.
    let confusing = |c: char| {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if name.chars().count() > 200 || name.contains(confusing) {
        return Err(fault);
    }
    Ok(name)
}

/// Trimmed and NFC; `None` when empty or over so many bytes, typed or composed.
fn tidy(typed: &str, max_len: usize) -> Option<String> {
    let typed = typed.trim();
    // NFC can compose, so a little more may be typed than is kept.
    if typed.is_empty() || typed.len() > 4 * max_len {
        return None;
    }
    let normal: String = typed.nfc().collect();
    (normal.len() <= max_len).then_some(normal)
}

/// The form e-mail addresses and usernames are unique and looked up by, on every store: trimmed, NFC, Unicode's lower
/// case; the domain of an address as it is asked for. Made here and not by the database: SQLite's `lower` knows ASCII
/// only and PostgreSQL's depends on the cluster's locale.
#[must_use]
pub fn lookup_key(typed: &str) -> String {
    let typed = typed.trim();
    match typed.rsplit_once('@').and_then(|(local, domain)| Some((local, ascii_domain(domain)?))) {
        Some((local, domain)) => format!("{}@{domain}", caseless(local)),
        None => caseless(typed),
    }
}

fn caseless(text: &str) -> String {
    // Normalised before and after, since composing and lowering do not commute. A sigma is one letter wherever it
    // stands, but its lower case at the end of a word is a character of its own.
    text.nfc().collect::<String>().to_lowercase().replace('ς', "σ").nfc().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_trimmed_and_otherwise_kept() {
        assert_eq!(email("  Ann.Lee+rag@Example.org\n").unwrap(), "Ann.Lee+rag@Example.org");
        assert_eq!(email("jose\u{301}@example.org").unwrap(), "jos\u{e9}@example.org");
        assert!(email("a@b.co").is_ok() && email("用户@例え.jp").is_ok());
    }

    #[test]
    fn a_domain_is_of_letters_digits_and_hyphens_of_any_script() {
        let longest = format!("{}.org", "b".repeat(63));
        for good in [
            "x.org",
            "X.ORG",
            "1und1.de",
            "3.14.co",
            "a-b.c-d.example",
            "r3---x.example.org",
            "münchen.de",
            "MÜNCHEN.de",
            "xn--mnchen-3ya.de",
            "почта.рф",
            "उदाहरण.परीक्षा",
            "இணையம்.தமிழ்",
            "مثال.إختبار",
            "한국.kr",
            longest.as_str(),
        ] {
            assert_eq!(email(&format!("ann@{good}")), Ok(format!("ann@{good}")));
        }
    }

    #[test]
    fn what_no_name_server_knows_is_no_domain() {
        let too_long = format!("{}.org", "b".repeat(64));
        let too_long_as_a_label = format!("{}.org", "ü".repeat(60));
        for odd in [
            "x.org%00",
            "x%2eorg.net",
            "x.org#",
            "x!y.org",
            "x_y.org",
            "x.org/y",
            "x.org:25",
            "x.org;y",
            "x&y.org",
            "x.org'--",
            "$x.org",
            "{x}.org",
            "-x.org",
            "x-.org",
            "x.-org",
            "x..org",
            ".x.org",
            "x.org.",
            "x",
            "x.1",
            "10.0.0.1",
            "x.123",
            "xn--.org",
            "xn--a.org",
            "xn--999999999.org",
            "x\u{ad}y.org",
            "x\u{200b}y.org",
            "x\u{200d}y.org",
            "x\u{202e}y.org",
            "x。org",
            "ｘ.org",
            "x\u{2215}y.org",
            "\u{301}x.org",
            "☃.org",
            too_long.as_str(),
            too_long_as_a_label.as_str(),
        ] {
            assert!(email(&format!("ann@{odd}")).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn what_is_no_plain_address_is_refused() {
        for odd in [
            "",
            " ",
            "ann",
            "ann@",
            "@example.org",
            "ann@localhost",
            "ann@@example.org",
            "ann@example..org",
            "ann@.example.org",
            "ann@[10.0.0.1]",
            "Ann <ann@example.org>",
            "\"a b\"@example.org",
            "a b@example.org",
            "ann@example.org,bob@example.org",
            "ann(comment)@example.org",
            "ann@exa mple.org",
            ".ann@example.org",
            "ann.@example.org",
            "ann@example.org\r\nBcc: x@y.zz",
            "ann@example.org\0",
        ] {
            assert!(email(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn an_address_has_at_most_254_bytes() {
        let local = "a".repeat(64);
        let domain = |len: usize| format!("{}.org", ["b".repeat(61), "c".repeat(61), "d".repeat(len)].join("."));
        assert_eq!(email(&format!("{local}@{}", domain(61))).unwrap().len(), 254);
        assert!(email(&format!("{local}@{}", domain(62))).is_err());
        assert!(email(&"a".repeat(1 << 20)).is_err());
    }

    #[test]
    fn a_username_is_never_an_address_and_never_confusing() {
        for good in ["ann", "ann.lee", "Ann_Lee-2", "007", "a-b"] {
            assert_eq!(username(good).unwrap(), good);
        }
        for odd in
            ["", "an", "ann lee", "ann@example.org", "аnn", "-ann", ".ann", "ann\u{0}", "ann\u{200b}", "ann/..", "anné"]
        {
            assert!(username(odd).is_err(), "{odd:?}");
        }
        assert!(username(&"a".repeat(64)).is_ok() && username(&"a".repeat(65)).is_err());
    }

    #[test]
    fn a_name_may_be_of_any_script() {
        for good in ["Ann Lee", "李雷", "Ó Súilleabháin, Seán", "X Æ A-12", "مريم"] {
            assert_eq!(full_name(good).unwrap(), good);
        }
    }

    #[test]
    fn a_name_cannot_break_lines_or_reorder_text() {
        for odd in ["", "   ", "a\nb", "a\u{0}b", "a\u{202e}b", "a\u{2066}b", "a\u{2028}b", "a\u{7f}b", "a\u{85}b"] {
            assert!(full_name(odd).is_err(), "{odd:?}");
        }
        assert!(full_name(&"語".repeat(200)).is_ok() && full_name(&"語".repeat(201)).is_err());
    }

    #[test]
    fn case_and_normal_form_do_not_make_a_second_account() {
        assert_eq!(lookup_key(" ANN@Example.ORG "), "ann@example.org");
        assert_eq!(lookup_key("JOSE\u{301}@x.org"), lookup_key("jos\u{e9}@x.org"));
        assert_eq!(lookup_key("I\u{307}x"), lookup_key("\u{130}X"));
        for (one, other) in [("ÄRGER", "ärger"), ("ΣΑΣ", "σας"), ("ΣΑΣ", "σασ"), ("σας@x.org", "σασ@x.org")]
        {
            assert_eq!(lookup_key(one), lookup_key(other));
        }
    }

    #[test]
    fn one_domain_has_one_key_however_it_is_written() {
        for domain in ["münchen.de", "MÜNCHEN.de", "mu\u{308}nchen.de", "xn--mnchen-3ya.de", "XN--MNCHEN-3YA.DE"] {
            assert_eq!(lookup_key(&format!("Ann@{domain}")), "ann@xn--mnchen-3ya.de", "{domain}");
        }
        // In a domain the final sigma is a letter of its own (RFC 5892): another domain, maybe somebody else's.
        assert_ne!(lookup_key("ann@σας.gr"), lookup_key("ann@σασ.gr"));
    }

    #[test]
    fn different_names_stay_different() {
        assert_ne!(lookup_key("ann"), lookup_key("an"));
        assert_ne!(lookup_key("a.nn"), lookup_key("ann"));
        // Compatibility forms are not folded: NFC, not NFKC.
        assert_ne!(lookup_key("ｅve"), lookup_key("eve"));
    }

    proptest! {
        #[test]
        fn what_passes_holds_no_control_character_and_passes_again(typed in "\\PC{0,20}@?\\PC{0,12}(\\.org)?") {
            for checked in [email(&typed), username(&typed), full_name(&typed)].into_iter().flatten() {
                prop_assert!(!checked.contains(char::is_control));
                prop_assert_eq!(checked.trim(), &checked);
            }
            if let Ok(once) = email(&typed) { prop_assert_eq!(email(&once), Ok(once.clone())); }
            if let Ok(once) = full_name(&typed) { prop_assert_eq!(full_name(&once), Ok(once.clone())); }
        }

        #[test]
        fn the_lookup_key_is_stable(typed in "\\PC{0,12}(@[\\PC.]{0,12})?") {
            let once = lookup_key(&typed);
            prop_assert_eq!(lookup_key(&once), once);
        }
    }
}
