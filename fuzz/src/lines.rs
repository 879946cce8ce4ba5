//! Bytes as header lines: `name: value`, one a line. What the HTTP library would not have let through is left out.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

/// Every line that is a header.
pub fn headers(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// Every line as a value of this header.
pub fn values(data: &[u8], name: &HeaderName) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(100) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    headers
}

/// JSON as any reader has it; it must be JSON. `None` with an escaped half of a surrogate pair in it, which the grammar
/// allows and readers may refuse (RFC 8259 §8.2): where nobody looks at it, ours does not.
pub fn json(data: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(data).expect("JSON is text");
    let read = serde_json::from_str(text);
    assert!(read.is_ok() || text.to_ascii_lowercase().contains("\\ud"), "accepted, and no JSON: {read:?}");
    read.ok()
}

/// A name as CGI-like servers read it.
pub fn plain(name: &HeaderName) -> String {
    name.as_str().to_ascii_lowercase().replace('_', "-")
}
