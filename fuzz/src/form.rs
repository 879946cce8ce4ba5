//! `portal::form` and `portal::fields`: a body has one reading, whether it is a form or JSON, and one that could have
//! two is refused.

use std::collections::BTreeSet;

use portcullis::portal::{read_form, read_json};
use serde_json::Value;

/// Members that a body may have.
const MOST: usize = 32;

type Members = Vec<(String, String)>;

/// The bytes as a form and as JSON. Accepted: as either, with something in it.
pub fn check(data: &[u8]) -> bool {
    let (form, json) = (read_form(data), read_json(data));
    assert_eq!(form, plainly(data), "a form is read as its bytes say");
    if let Some(members) = &form {
        assert_eq!(read_json(object(members).as_bytes()).as_ref(), Some(members), "JSON that says the same");
    }
    check_json(data, json.as_ref());
    [form, json].into_iter().flatten().any(|members| !members.is_empty())
}

/// The same members as one JSON object.
fn object(members: &[(String, String)]) -> String {
    let pairs: Vec<_> = members.iter().map(|(name, value)| format!("{}:{value}", Value::from(&**name))).collect();
    format!("{{{}}}", pairs.join(","))
}

/// A form, byte by byte (the URL standard, §5.1): what is not UTF-8, comes twice or is too much is none.
fn plainly(data: &[u8]) -> Option<Members> {
    let (mut members, mut names) = (Members::new(), BTreeSet::new());
    for pair in data.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let mut halves = pair.splitn(2, |byte| *byte == b'=').map(unescaped);
        let name = halves.next()??;
        let value = halves.next().unwrap_or_else(|| Some(String::new()))?;
        if !names.insert(name.clone()) || names.len() > MOST {
            return None;
        }
        members.push((name, Value::from(value).to_string()));
    }
    members.retain(|(_, value)| value != "\"\"");
    Some(members)
}

fn unescaped(text: &[u8]) -> Option<String> {
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let digit = |at: usize| text.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let (byte, length) = match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => (u8::try_from(16 * high + low).expect("two digits"), 3),
            (b'+', ..) => (b' ', 1),
            (byte, ..) => (byte, 1),
        };
        bytes.push(byte);
        at += length;
    }
    String::from_utf8(bytes).ok()
}

fn check_json(data: &[u8], members: Option<&Members>) {
    let read = serde_json::from_slice::<Value>(data);
    let Some(members) = members else {
        // An object is refused for what comes twice or for being too large. This reading keeps one of each.
        if let Ok(Value::Object(once)) = read {
            assert!(once.len() > MOST || read_json(Value::from(once).to_string().as_bytes()).is_some());
        }
        return;
    };
    let names: BTreeSet<_> = members.iter().map(|(name, _)| name).collect();
    assert!(names.len() == members.len() && members.len() <= MOST);
    match read {
        Ok(Value::Object(once)) => {
            assert_eq!(once.len(), members.len());
            for (name, value) in members {
                assert_eq!(once.get(name), serde_json::from_str(value).ok().as_ref(), "{name}");
            }
        }
        Ok(other) => panic!("no object: {other}"),
        // No bytes are no members. A number or a depth that no reader holds is a fault of the member when it is taken.
        Err(_) => assert_eq!(data.is_empty(), members.is_empty()),
    }
    let again = object(members);
    assert_eq!(read_json(again.as_bytes()).as_ref(), Some(members));
    if let Some((name, value)) = members.first() {
        let twice = format!("{},{}:{value}}}", &again[..again.len() - 1], Value::from(&**name));
        assert_eq!(read_json(twice.as_bytes()), None, "{name} comes twice");
    }
}
