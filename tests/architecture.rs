//! The walls between the rooms, held by a scan of the sources, since one crate has no compiler walls.
//!
//! A light scan, not a parser: comments and literals are blanked, `#[cfg(test)]` modules are left out, and every path
//! (`a::b`, groups opened) is looked at wherever it stands. The scan comes first, then the rules (who may name whom is
//! a table, [`ROOMS`]), then the tests of both.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

// --- the scan -------------------------------------------------------------------------------------------------------

/// One source file as the rules see it.
struct Source {
    /// Below the repository's folder, with `/`.
    name: String,
    /// As it lies there.
    text: String,
    /// Without comments, literals and test modules.
    code: String,
}

impl Source {
    fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap();
        let name = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_str().unwrap().to_owned();
        let code = if is_test(&name) { String::new() } else { without_test_modules(&blank(&text)) };
        Self { name, text, code }
    }

    /// The folder or file right below `src/`: `gate`, `clock`, `main`.
    fn room(&self) -> &str {
        let rest = self.name.strip_prefix("src/").unwrap_or("");
        rest.split('/').next().unwrap_or("").trim_end_matches(".rs")
    }

    /// Every path it names, groups opened: `use a::{b, c::d};` names `a::b` and `a::c::d`.
    fn paths(&self) -> BTreeSet<String> {
        paths(&self.code)
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        self.paths().into_iter().filter(|path| begins_with(path, prefix)).collect()
    }
}

/// Whole segments, but for a prefix that ends in `_` (a family of crates).
fn begins_with(path: &str, prefix: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || rest.starts_with("::") || prefix.ends_with('_'),
        None => false,
    }
}

/// `tests.rs` and whatever lies in a folder `tests`: named only behind `#[cfg(test)]`.
fn is_test(name: &str) -> bool {
    name.split('/').any(|part| part == "tests" || part == "tests.rs")
}

/// Rust files below `folder`, sorted; none when there is no such folder.
fn sources(folder: &str) -> Vec<Source> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files);
    files.sort();
    files.iter().map(|file| Source::read(file)).collect()
}

/// Comments and the insides of literals become blanks; lines stay.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, keep) = match first {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            '/' if rest.starts_with("/*") => (block_comment(rest), false),
            '"' => (string(rest), false),
            'r' | 'b' | 'c' if raw_string(rest).is_some() => (raw_string(rest).unwrap(), false),
            '\'' => (character(rest).unwrap_or(1), false),
            _ if first.is_alphanumeric() || first == '_' => {
                (rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()), true)
            }
            _ => (first.len_utf8(), true),
        };
        let (piece, after) = rest.split_at(length);
        if keep {
            out.push_str(piece);
        } else {
            out.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = after;
    }
    out
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a string literal that begins here.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"…"`, `r#"…"#` and their `b` and `c` kin, if one begins here.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.trim_start_matches(['b', 'c']).strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let inside = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text.len() - inside.len() + inside.find(&end)? + end.len())
}

/// The length of a character literal that begins here; `None` for a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        let (escape, _) = chars.next()?;
        return text[escape + 1..].find('\'').map(|end| escape + 1 + end + 1);
    }
    chars.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1)
}

/// Without `#[cfg(test)] mod name { … }`.
fn without_test_modules(code: &str) -> String {
    let mut out = code.to_owned();
    let mut from = 0;
    while let Some(found) = out[from..].find("#[cfg(test)]") {
        let start = from + found;
        from = start + 1;
        let after = &out[start + "#[cfg(test)]".len()..];
        let Some(open) = after.find('{') else { continue };
        let head: Vec<&str> = after[..open].split_whitespace().collect();
        if !matches!(head[..], ["mod", _]) {
            continue;
        }
        let open = start + "#[cfg(test)]".len() + open;
        let end = open + block(&out[open..]);
        out.replace_range(start..end, "");
    }
    out
}

/// The length of the `{ … }` that begins here.
fn block(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

fn paths(code: &str) -> BTreeSet<String> {
    let tokens = tokens(code);
    let mut found = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        at = if is_word(tokens[at]) { path(&tokens, at, "", &mut found) } else { at + 1 };
    }
    found
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::`, and single signs.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("::") {
            2
        } else if first.is_alphanumeric() || first == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// Reads one path from its first word and opens its groups; gives where reading goes on.
fn path(tokens: &[&str], mut at: usize, before: &str, found: &mut BTreeSet<String>) -> usize {
    let mut path = format!("{before}{}", tokens[at]);
    at += 1;
    while tokens.get(at) == Some(&"::") {
        match tokens.get(at + 1) {
            Some(&"{") => {
                at += 2;
                while at < tokens.len() && tokens[at] != "}" {
                    let group = format!("{path}::");
                    at = if is_word(tokens[at]) { self::path(tokens, at, &group, found) } else { at + 1 };
                    // `x as y` in a group: y is a name of ours, not a path of theirs.
                    if tokens.get(at) == Some(&"as") {
                        at += 2;
                    }
                }
                return at + 1;
            }
            Some(word) if is_word(word) => {
                path = format!("{path}::{word}");
                at += 2;
            }
            _ => break,
        }
    }
    found.insert(path);
    at
}

// --- the rules ------------------------------------------------------------------------------------------------------

/// Who may name whom. A room may always name itself; `app` wires and names everybody; `main` and `lib` hold no logic.
const ROOMS: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("policy", &["clock"]),
    ("config", &["policy"]),
    ("store", &["clock", "config", "policy"]),
    ("telemetry", &["clock", "config", "edge", "gate", "policy"]),
    ("edge", &["clock", "config", "gate", "telemetry"]),
    ("upstream", &["clock", "config", "gate", "policy", "telemetry"]),
    ("gate", &["clock", "config", "edge", "policy", "store", "telemetry", "upstream"]),
    ("portal", &["clock", "config", "gate", "policy", "store", "telemetry"]),
    ("cli", &[]),
];

/// Names that stand for a whole family: only these rooms may use them.
const WALLED: &[(&str, &[&str])] = &[
    ("hyper::server", &["edge"]),
    ("hyper_util::server", &["edge"]),
    ("hyper::client", &["upstream"]),
    ("hyper_util::client", &["upstream"]),
    ("pingora_", &["upstream", "store/memory"]),
    ("sqlx", &["store"]),
    ("redis", &["store"]),
    ("std::env", &["config"]),
];

/// Exceptions, each with its reason; one that is no longer needed fails.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("src/policy/keys.rs", "aws_lc_rs::rand", "aws-lc makes keys and ECDSA nonces with its own generator"),
    ("src/telemetry/metrics/cells.rs", "std::env::consts", "what the build was for; nothing is read"),
];

fn excepted(file: &str, path: &str) -> bool {
    EXCEPTIONS.iter().any(|(where_, what, _)| *where_ == file && begins_with(path, what))
}

/// What a pure rule has no use for.
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "hyper_util",
    "axum",
    "tower",
    "sqlx",
    "redis",
    "reqwest",
    "tracing",
    "std::fs",
    "std::env",
    "std::io",
    "std::process",
    "std::thread",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::time::Instant",
    "std::time::SystemTime",
    "aws_lc_rs::rand",
    "async",
    "await",
];

fn report(broken: &[String]) {
    assert!(broken.is_empty(), "{} broken:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn every_room_names_only_the_rooms_it_may() {
    let rooms: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).chain(["app"]).collect();
    let mut broken = Vec::new();
    for source in sources("src") {
        let room = source.room().to_owned();
        if matches!(&*room, "app" | "main" | "lib") {
            continue;
        }
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            broken.push(format!("{}: the room {room:?} is not in the table", source.name));
            continue;
        };
        for path in source.names("crate") {
            let other = path.split("::").nth(1).unwrap_or("");
            if other != room && rooms.contains(other) && !allowed.contains(&other) {
                broken.push(format!("{}: {path}", source.name));
            }
        }
    }
    report(&broken);
}

#[test]
fn every_library_stays_in_its_rooms() {
    let mut broken = Vec::new();
    for source in sources("src") {
        for (prefix, rooms) in WALLED {
            let inside = rooms.iter().any(|room| {
                source.name.starts_with(&format!("src/{room}/")) || source.name == format!("src/{room}.rs")
            });
            if !inside {
                // A word alone may be a name of ours (a key, a variable), unless it is imported.
                let imported = source.code.contains(&format!("use {prefix}"));
                let named = source.names(prefix).into_iter().filter(|path| path != prefix || imported);
                let paths = named.filter(|path| !excepted(&source.name, path));
                broken.extend(paths.map(|path| format!("{}: {path}", source.name)));
            }
        }
    }
    report(&broken);
}

#[test]
fn policy_is_pure() {
    let mut broken = Vec::new();
    for source in sources("src").iter().filter(|source| source.room() == "policy") {
        for path in source.paths() {
            let impure = IMPURE.iter().any(|prefix| begins_with(&path, prefix));
            // The clock's plain types are values; its traits are I/O.
            let reads_time = begins_with(&path, "crate::clock")
                && !["crate::clock::Timestamp", "crate::clock::Tick"].iter().any(|plain| begins_with(&path, plain));
            if (impure || reads_time) && !excepted(&source.name, &path) {
                broken.push(format!("{}: {path}", source.name));
            }
        }
    }
    report(&broken);
}

#[test]
fn every_exception_is_still_needed() {
    let sources = sources("src");
    let needed =
        |file: &str, what: &str| sources.iter().any(|source| source.name == file && !source.names(what).is_empty());
    let idle = EXCEPTIONS.iter().filter(|(file, what, _)| !needed(file, what));
    report(&idle.map(|(file, what, _)| format!("{file}: {what}")).collect::<Vec<_>>());
}

#[test]
fn nothing_is_stubbed_or_silenced() {
    let mut broken = Vec::new();
    for source in ["src", "tests", "benches", "examples", "fuzz/src", "fuzz/fuzz_targets"].into_iter().flat_map(sources)
    {
        let code = blank(&source.text);
        for word in ["#[allow(", "#![allow(", "todo!", "unimplemented!", "#[ignore"] {
            if code.contains(word) {
                broken.push(format!("{}: {word}", source.name));
            }
        }
    }
    report(&broken);
}

#[test]
fn every_file_says_what_it_is_and_is_short() {
    let mut broken = Vec::new();
    for source in ["src", "tests", "benches", "examples", "fuzz/src", "fuzz/fuzz_targets"].into_iter().flat_map(sources)
    {
        let lines = source.text.lines().count();
        if !source.text.starts_with("//!") {
            broken.push(format!("{}: does not begin with //!", source.name));
        }
        if lines > 500 {
            broken.push(format!("{}: {lines} lines, more than 500", source.name));
        }
        if source.name == "src/main.rs" && lines >= 80 {
            broken.push(format!("{}: {lines} lines; it only starts what app has wired, in less than 80", source.name));
        }
    }
    report(&broken);
}

// --- the scan is tried itself -----------------------------------------------------------------------------------------

fn found(code: &str) -> Vec<String> {
    paths(&without_test_modules(&blank(code))).into_iter().filter(|path| path.contains("::")).collect()
}

#[test]
fn the_scan_opens_groups_and_sees_paths_anywhere() {
    assert_eq!(found("use a::{b, c::{d, e as f}, self};"), ["a::b", "a::c::d", "a::c::e", "a::self"]);
    assert_eq!(found("fn f() -> x::Y<z::W> { m!(p::q()) }"), ["p::q", "x::Y", "z::W"]);
    assert_eq!(found("let v = a::b::<c::D>();"), ["a::b", "c::D"]);
}

#[test]
fn the_scan_is_not_taken_in_by_comments_and_literals() {
    assert_eq!(
        found("// a::b\n/* c::d /* e::f */ */ \"g::h \\\" i::j\" r#\"k::l \" m::n\"# 'x' '\\'' '\"' o::p"),
        ["o::p"]
    );
    assert_eq!(found("fn f<'a>(x: &'a str) { q::r }"), ["q::r"]);
    assert_eq!(found("br\"a::b\" b\"c::d\" b'e' s::t"), ["s::t"]);
}

#[test]
fn the_scan_leaves_out_test_modules_and_nothing_else() {
    let code = "a::b; #[cfg(test)] mod tests { c::d; { e::f } } g::h; #[cfg(test)] mod more; i::j";
    assert_eq!(found(code), ["a::b", "g::h", "i::j"]);
}

#[test]
fn the_scan_finds_the_sources() {
    assert!(sources("src").iter().any(|source| source.name == "src/clock.rs" && source.code.contains("trait Clock")));
}
