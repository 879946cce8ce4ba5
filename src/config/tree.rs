//! YAML text into a tree that knows where everything stands.
//!
//! serde-saphyr's own deserializer stops at the first mistake; its event parser (granit) gives every node its place,
//! so the tree is built from events and read by [`super::reader`], which goes on after a mistake. Scalars stay text:
//! what they mean is decided by the field that takes them. Bounded: nesting, and what aliases expand to (a "billion
//! laughs"). No tags, one document.

use std::{collections::HashMap, rc::Rc};

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, ScanError, Span};

use super::errors::ConfigError;

/// Deepest nesting; the file's own shape needs seven.
const MAX_NESTING: usize = 32;
/// Nodes that aliases may stand for, all together.
const MAX_ALIASED_NODES: usize = 20_000;

/// Where a node or key begins, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Mark {
    pub(super) const START: Self = Self { line: 1, column: 1 };

    fn of(span: &Span) -> Self {
        let clamp = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self { line: clamp(span.start.line()), column: clamp(span.start.col() + 1) }
    }
}

/// A YAML node and its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) value: Value,
    /// Nodes in it, itself included, aliases expanded.
    weight: usize,
}

/// What a node is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Scalar {
        text: String,
        /// Not quoted: may be `null`.
        plain: bool,
    },
    List(Vec<Rc<Node>>),
    Mapping(Vec<Entry>),
}

/// One key and its value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) mark: Mark,
    pub(super) value: Rc<Node>,
}

impl Node {
    /// Nothing where something could be: `key:` with no value, or `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// Reads one YAML document. An empty text is an empty mapping.
pub(super) fn parse(text: &str) -> Result<Rc<Node>, ConfigError> {
    let mut options = granit_parser::options! {
        disallow_directives: true,
        flow_nesting_limit: MAX_NESTING,
        block_nesting_limit: MAX_NESTING,
    };
    options.set_emit_comments(false);
    let mut composer = Composer {
        events: Parser::new_from_str_with_options(text.trim_start_matches('\u{feff}'), options),
        anchors: HashMap::new(),
        aliased: 0,
    };
    composer.document()
}

struct Composer<'i> {
    events: Parser<'i, granit_parser::StrInput<'i>>,
    anchors: HashMap<usize, Rc<Node>>,
    aliased: usize,
}

impl<'i> Composer<'i> {
    fn next(&mut self) -> Result<(Event<'i>, Mark), ConfigError> {
        match self.events.next() {
            Some(Ok((event, span))) => {
                let mark = Mark::of(&span);
                Ok((event, mark))
            }
            Some(Err(error)) => Err(syntax(&error)),
            None => Ok((Event::StreamEnd, Mark::START)),
        }
    }

    fn document(&mut self) -> Result<Rc<Node>, ConfigError> {
        let mut root = None;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => break,
                (Event::DocumentStart(..), mark) if root.is_some() => {
                    return Err(at(mark, "a second YAML document; the configuration is one"));
                }
                (Event::DocumentStart(..), _) => {
                    let (event, mark) = self.next()?;
                    root = Some(self.node(event, mark)?);
                }
                _ => {}
            }
        }
        Ok(root.unwrap_or_else(|| Rc::new(Node { mark: Mark::START, value: Value::Mapping(Vec::new()), weight: 1 })))
    }

    /// The node that begins with `event`. Recursion is bounded by the parser's nesting limits.
    fn node(&mut self, event: Event<'i>, mark: Mark) -> Result<Rc<Node>, ConfigError> {
        let (node, anchor) = match event {
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, _, Some(_))
            | Event::MappingStart(_, _, Some(_)) => {
                return Err(at(mark, "YAML tags have no meaning here"));
            }
            Event::Scalar(text, style, anchor, None) => {
                let value = Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                (Node { mark, value, weight: 1 }, anchor)
            }
            Event::SequenceStart(_, anchor, None) => (self.list(mark)?, anchor),
            Event::MappingStart(_, anchor, None) => (self.mapping(mark)?, anchor),
            Event::Alias(id) => return self.alias(id, mark),
            _ => return Err(at(mark, "expected a value")),
        };
        let node = Rc::new(node);
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(node)
    }

    fn list(&mut self, mark: Mark) -> Result<Node, ConfigError> {
        let mut items = Vec::new();
        let mut weight = 1_usize;
        loop {
            let (event, mark_of_item) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Node { mark, value: Value::List(items), weight });
            }
            let item = self.node(event, mark_of_item)?;
            weight = weight.saturating_add(item.weight);
            items.push(item);
        }
    }

    fn mapping(&mut self, mark: Mark) -> Result<Node, ConfigError> {
        let mut entries = Vec::new();
        let mut weight = 1_usize;
        loop {
            let (event, mark_of_key) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Node { mark, value: Value::Mapping(entries), weight });
            }
            let Event::Scalar(key, _, _, None) = event else {
                return Err(at(mark_of_key, "a key must be a plain word"));
            };
            let (event, mark_of_value) = self.next()?;
            let value = self.node(event, mark_of_value)?;
            weight = weight.saturating_add(value.weight);
            entries.push(Entry { key: key.into_owned(), mark: mark_of_key, value });
        }
    }

    fn alias(&mut self, id: usize, mark: Mark) -> Result<Rc<Node>, ConfigError> {
        let target = self.anchors.get(&id).ok_or_else(|| at(mark, "an alias inside its own anchor"))?;
        self.aliased = self.aliased.saturating_add(target.weight);
        if self.aliased > MAX_ALIASED_NODES {
            return Err(at(mark, "aliases expand to too much"));
        }
        Ok(Rc::clone(target))
    }
}

fn at(mark: Mark, message: &str) -> ConfigError {
    ConfigError {
        line: mark.line,
        column: mark.column,
        key_path: String::new(),
        message: message.to_owned(),
        suggestion: None,
    }
}

fn syntax(error: &ScanError) -> ConfigError {
    let marker = error.marker();
    let mark = Mark::of(&Span::empty(*marker));
    at(mark, &format!("not YAML: {}", error.info()))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    fn entries(node: &Node) -> &[Entry] {
        match &node.value {
            Value::Mapping(entries) => entries,
            other => panic!("not a mapping: {other:?}"),
        }
    }

    #[test]
    fn keys_and_items_know_their_places() {
        let root = parse("a:\n  b: 1\n  c:\n    - x\n    - k: y\n").unwrap();
        let a = &entries(&root)[0];
        assert_eq!((a.key.as_str(), a.mark), ("a", Mark { line: 1, column: 1 }));
        let inner = entries(&a.value);
        assert_eq!(inner[0].mark, Mark { line: 2, column: 3 });
        let Value::List(items) = &inner[1].value.value else { panic!("a list") };
        assert_eq!(items[0].mark, Mark { line: 4, column: 7 });
        assert_eq!(items[1].mark, Mark { line: 5, column: 7 });
    }

    #[test]
    fn nothing_is_an_empty_mapping() {
        for text in ["", "\n", "# only a comment\n", "---\n", "\u{feff}"] {
            let root = parse(text).unwrap();
            assert!(root.is_null() || entries(&root).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn an_alias_stands_for_its_anchor() {
        let root = parse("a: &x {k: v}\nb: *x\n").unwrap();
        assert_eq!(entries(&root)[0].value, entries(&root)[1].value);
    }

    #[test]
    fn a_billion_laughs_are_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..20 {
            let below = format!("*a{}", level - 1);
            writeln!(text, "a{level}: &a{level} [{}]", [below.as_str(); 10].join(", ")).unwrap();
        }
        assert_eq!(parse(&text).unwrap_err().message, "aliases expand to too much");
    }

    #[test]
    fn deep_nesting_tags_and_second_documents_are_refused() {
        assert!(parse(&"[".repeat(10_000)).is_err());
        let staircase: Vec<_> = (0..200).map(|depth| " ".repeat(depth) + "k:").collect();
        assert!(parse(&staircase.join("\n")).is_err());
        assert!(parse("a: !!str x\n").is_err());
        assert!(parse("a: !include other.yaml\n").is_err());
        assert!(parse("a: 1\n---\nb: 2\n").is_err());
        assert!(parse("%YAML 1.1\n---\na: 1\n").is_err());
        assert!(parse("a: &x [*x]\n").is_err());
        assert!(parse("? [a, b]\n: 1\n").is_err());
    }

    #[test]
    fn a_syntax_error_has_its_place() {
        let error = parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.line >= 2, "{error:?}");
        assert!(error.message.starts_with("not YAML: "), "{error:?}");
    }
}
