//! A reader of requests that admits nothing two servers could read differently (RFC 9112): for the bytes that reached a
//! service. What it accepts has one meaning, whoever reads it.

/// A request, as everybody reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plain {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Plain {
    /// Every value of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// Every request of a connection, whole, and nothing beside them.
pub(crate) fn requests(mut bytes: &[u8]) -> Result<Vec<Plain>, String> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (request, rest) = request(bytes).map_err(|why| format!("{why}: {}", bytes.escape_ascii()))?;
        all.push(request);
        bytes = rest;
    }
    Ok(all)
}

/// A line up to CRLF, with no other control character in it.
fn line(bytes: &[u8]) -> Result<(&str, &[u8]), String> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n").ok_or("a line without its end")?;
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| "a line that is no text")?;
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(format!("a control character in {text:?}"));
    }
    Ok((text, &bytes[end + 2..]))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn request(bytes: &[u8]) -> Result<(Plain, &[u8]), String> {
    let (start, mut rest) = line(bytes)?;
    let words: Vec<&str> = start.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else { return Err("a start line of three words".to_owned()) };
    if !is_token(method) || !target.starts_with('/') || target.contains(['\\', '#', '\t']) {
        return Err("a method and an origin form".to_owned());
    }
    let mut headers = Vec::new();
    loop {
        let (text, after) = line(rest)?;
        rest = after;
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':').ok_or("a header without a colon")?;
        if !is_token(name) || name.contains('_') {
            return Err(format!("the name {name:?}"));
        }
        headers.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    let plain = Plain { method: method.to_owned(), target: target.to_owned(), headers, body: Vec::new() };
    if plain.all("host").len() != 1 {
        return Err(format!("{} hosts", plain.all("host").len()));
    }
    if let Some(hop) =
        ["connection", "upgrade", "te", "trailer", "http2-settings"].iter().find(|name| !plain.all(name).is_empty())
    {
        return Err(format!("the header {hop}, which speaks to one hop only"));
    }
    let (body, rest) = match (&plain.all("content-length")[..], &plain.all("transfer-encoding")[..]) {
        ([], []) => (Vec::new(), rest),
        ([length], []) => sized(length, rest)?,
        ([], ["chunked"]) => chunks(rest)?,
        (lengths, codings) => return Err(format!("the framings {lengths:?} and {codings:?}")),
    };
    Ok((Plain { body, ..plain }, rest))
}

fn sized<'a>(length: &str, rest: &'a [u8]) -> Result<(Vec<u8>, &'a [u8]), String> {
    let number: usize = length.parse().map_err(|_| "a length that is no number")?;
    if number.to_string() != length {
        return Err(format!("the length {length:?}"));
    }
    let (body, rest) = rest.split_at_checked(number).ok_or("half a body")?;
    Ok((body.to_vec(), rest))
}

/// Plain hexadecimal sizes, no extensions, no trailers.
fn chunks(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    let mut body = Vec::new();
    loop {
        let (size, after) = line(rest)?;
        if !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("the chunk size {size:?}"));
        }
        let size = usize::from_str_radix(size, 16).map_err(|error| error.to_string())?;
        let (data, after) = after.split_at_checked(size).ok_or("half a chunk")?;
        body.extend_from_slice(data);
        rest = after.strip_prefix(b"\r\n").ok_or("a chunk longer than it says, or trailers")?;
        if size == 0 {
            return Ok((body, rest));
        }
    }
}

#[test]
fn the_strict_reader_admits_what_has_one_meaning_and_nothing_else() {
    let head = "POST /a HTTP/1.1\r\nHost: a\r\n";
    let good = format!(
        "{head}content-length: 2\r\n\r\nab{head}transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n{head}\r\n"
    );
    let read = requests(good.as_bytes()).unwrap();
    assert_eq!(read.iter().map(|one| one.body.as_slice()).collect::<Vec<_>>(), [&b"ab"[..], b"a", b""]);
    for bad in [
        "content-length: 2\r\ncontent-length: 2\r\n\r\nab",
        "content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "content-length: +2\r\n\r\nab",
        "transfer-encoding: Chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n\r\n",
        "host: b\r\n\r\n",
        "x: a\n\r\n\r\n",
        "x: a\rb\r\n\r\n",
        "x: a\r\n b\r\n\r\n",
        "x : a\r\n\r\n",
        "connection: close\r\n\r\n",
        "\r\nGET",
    ] {
        assert!(requests(format!("{head}{bad}").as_bytes()).is_err(), "{bad:?}");
    }
}
