//! A reader of JSON (RFC 8259) in pieces that keeps only what it looks for: figures, the model's name, the length of
//! text. It judges nothing: what is no JSON leads it astray and no further than to the end of the text or event.

use super::{
    MOST,
    spots::{Figure, Spot},
};

/// The longest path of [`Spot`]s.
const DEEP: usize = 8;

/// The longest name of a key or model that is kept.
const LONGEST: usize = 96;

/// A short text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word {
    bytes: [u8; LONGEST],
    /// More than [`LONGEST`]: it did not fit.
    length: usize,
}

impl Word {
    const EMPTY: Self = Self { bytes: [0; LONGEST], length: 0 };

    fn push(&mut self, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.length..).and_then(|room| room.get_mut(..bytes.len())) {
            room.copy_from_slice(bytes);
            self.length += bytes.len();
        } else {
            self.length = LONGEST + 1;
        }
    }

    fn bytes(&self) -> Option<&[u8]> {
        self.bytes.get(..self.length)
    }

    pub(super) fn text(&self) -> Option<&str> {
        self.bytes().and_then(|bytes| std::str::from_utf8(bytes).ok()).filter(|text| !text.is_empty())
    }
}

/// What was found so far.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) input: Option<u64>,
    pub(super) output: Option<u64>,
    pub(super) total: Option<u64>,
    /// What was said of usage was said of a whole response.
    pub(super) is_last: bool,
    pub(super) model: Word,
    /// Bytes of output, as UTF-8.
    pub(super) text: u64,
    /// It is of the format.
    pub(super) is_known: bool,
}

/// What a string is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Key,
    Text,
    Model,
    Other,
}

#[derive(Debug, Clone, Copy)]
enum Escape {
    None,
    /// After the backslash.
    Begun,
    /// So many digits are to come.
    Hex {
        left: u8,
        code: u16,
    },
}

#[derive(Debug, Clone, Copy)]
enum Lexeme {
    Plain,
    String(Role, Escape),
}

/// A number that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    None,
    Whole(u64),
    /// What follows the point is left off.
    Fraction(u64),
    /// None that is believed.
    Bad,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    spot: Spot,
    is_object: bool,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Scanner {
    levels: [Level; DEEP],
    depth: usize,
    /// Levels open below the last one that is looked into.
    passed_over: u64,
    /// Where the next value stands.
    next: Spot,
    key_is_next: bool,
    lexeme: Lexeme,
    word: Word,
    number: Number,
    pub(super) found: Found,
}

impl Default for Scanner {
    fn default() -> Self {
        let found = Found {
            input: None,
            output: None,
            total: None,
            is_last: false,
            model: Word::EMPTY,
            text: 0,
            is_known: false,
        };
        Self {
            levels: [Level { spot: Spot::Elsewhere, is_object: false }; DEEP],
            depth: 0,
            passed_over: 0,
            next: Spot::Root,
            key_is_next: false,
            lexeme: Lexeme::Plain,
            word: Word::EMPTY,
            number: Number::None,
            found,
        }
    }
}

impl Scanner {
    /// A new text begins, whatever became of the last one.
    pub(super) fn restart(&mut self) {
        (self.depth, self.passed_over, self.next, self.key_is_next) = (0, 0, Spot::Root, false);
        (self.lexeme, self.number) = (Lexeme::Plain, Number::None);
    }

    /// Reads on.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            let read = match self.lexeme {
                Lexeme::Plain => {
                    self.plain(*first);
                    1
                }
                Lexeme::String(role, Escape::None) => self.string(role, bytes),
                Lexeme::String(role, escape) => {
                    self.escaped(role, escape, *first);
                    1
                }
            };
            bytes = bytes.get(read..).unwrap_or_default();
        }
    }

    fn level(&self) -> Option<Level> {
        self.depth.checked_sub(1).and_then(|top| self.levels.get(top)).copied()
    }

    fn plain(&mut self, byte: u8) {
        match byte {
            b'"' => self.begin_string(),
            b'{' | b'[' => self.open(byte == b'{'),
            b'}' | b']' => self.close(),
            b',' => self.comma(),
            _ if self.passed_over > 0 => {}
            b' ' | b'\t' | b'\r' | b'\n' => self.end_number(),
            b':' => {}
            _ => self.number(byte),
        }
    }

    fn begin_string(&mut self) {
        let role = match self.next {
            _ if self.passed_over > 0 => Role::Other,
            _ if self.key_is_next => Role::Key,
            Spot::Model => Role::Model,
            spot if spot.is_text() => Role::Text,
            _ => Role::Other,
        };
        if matches!(role, Role::Key | Role::Model) {
            self.word.length = 0;
        }
        self.found.is_known |= role == Role::Text;
        self.lexeme = Lexeme::String(role, Escape::None);
    }

    /// Reads to the end of the string or the next escape; gives how far.
    fn string(&mut self, role: Role, bytes: &[u8]) -> usize {
        let end = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\'));
        let (run, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        self.take(role, run);
        match rest.first() {
            Some(b'"') => self.end_string(role),
            Some(_) => self.lexeme = Lexeme::String(role, Escape::Begun),
            None => return run.len(),
        }
        run.len() + 1
    }

    fn take(&mut self, role: Role, bytes: &[u8]) {
        match role {
            Role::Text => self.found.text = self.found.text.saturating_add(bytes.len() as u64),
            Role::Key | Role::Model => self.word.push(bytes),
            Role::Other => {}
        }
    }

    fn escaped(&mut self, role: Role, escape: Escape, byte: u8) {
        let escape = match escape {
            Escape::Begun if byte == b'u' => Escape::Hex { left: 4, code: 0 },
            Escape::Hex { left, code } => {
                // What is no digit is taken for one: the string ends where it ends.
                let digit = char::from(byte).to_digit(16).and_then(|digit| u16::try_from(digit).ok()).unwrap_or(0);
                let code = code << 4 | digit;
                if left == 1 {
                    self.unit(role, code);
                    Escape::None
                } else {
                    Escape::Hex { left: left - 1, code }
                }
            }
            Escape::Begun | Escape::None => {
                self.take(role, &[byte]);
                Escape::None
            }
        };
        self.lexeme = Lexeme::String(role, escape);
    }

    /// A UTF-16 code unit. Of a pair each half counts for two bytes; in a word it stands as a `?`.
    fn unit(&mut self, role: Role, code: u16) {
        let mut utf8 = [0; 4];
        match char::from_u32(u32::from(code)) {
            Some(character) => self.take(role, character.encode_utf8(&mut utf8).as_bytes()),
            None => self.take(role, b"??"),
        }
    }

    fn end_string(&mut self, role: Role) {
        self.lexeme = Lexeme::Plain;
        match role {
            Role::Key => {
                self.key_is_next = false;
                let level = self.level().map_or(Spot::Elsewhere, |level| level.spot);
                self.next = self.word.bytes().map_or(Spot::Elsewhere, |key| level.member(key));
                self.found.is_known |= self.next.tells_format();
                return;
            }
            Role::Model => self.found.model = self.word,
            Role::Text | Role::Other => {}
        }
        if self.passed_over == 0 {
            self.value_is_over();
        }
    }

    fn value_is_over(&mut self) {
        self.number = Number::None;
        self.next = if self.depth == 0 { Spot::Root } else { Spot::Elsewhere };
    }

    fn open(&mut self, is_object: bool) {
        if self.passed_over > 0 || self.key_is_next || !self.next.leads_on() {
            self.passed_over = self.passed_over.saturating_add(1);
            return;
        }
        let Some(level) = self.levels.get_mut(self.depth) else {
            self.passed_over = 1;
            return;
        };
        *level = Level { spot: self.next, is_object };
        self.depth += 1;
        self.found.is_known |= is_object && self.next.tells_format_by_object();
        self.key_is_next = is_object;
        self.next = if is_object { Spot::Elsewhere } else { self.next.element() };
        self.number = Number::None;
    }

    fn close(&mut self) {
        if self.passed_over > 0 {
            self.passed_over -= 1;
            if self.passed_over > 0 {
                return;
            }
        } else {
            self.end_number();
            self.depth = self.depth.saturating_sub(1);
        }
        self.key_is_next = false;
        self.value_is_over();
    }

    fn comma(&mut self) {
        if self.passed_over > 0 {
            return;
        }
        self.end_number();
        match self.level() {
            Some(Level { is_object: true, .. }) => (self.key_is_next, self.next) = (true, Spot::Elsewhere),
            Some(Level { spot, .. }) => self.next = spot.element(),
            None => self.next = Spot::Root,
        }
    }

    fn number(&mut self, byte: u8) {
        if !matches!(self.next, Spot::Figure(_)) {
            return;
        }
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
        self.number = match (self.number, digit) {
            (Number::None, Some(digit)) => Number::Whole(digit),
            (Number::Whole(so_far), Some(digit)) => match so_far * 10 + digit {
                more @ ..=MOST => Number::Whole(more),
                _ => Number::Bad,
            },
            (Number::Whole(whole), None) if byte == b'.' => Number::Fraction(whole),
            (Number::Fraction(whole), Some(_)) => Number::Fraction(whole),
            _ => Number::Bad,
        };
    }

    fn end_number(&mut self) {
        let (Spot::Figure(figure), Number::Whole(number) | Number::Fraction(number)) = (self.next, self.number) else {
            if self.number == Number::Bad {
                self.value_is_over();
            }
            return;
        };
        let figure = match figure {
            Figure::Input => &mut self.found.input,
            Figure::Output => &mut self.found.output,
            Figure::Total => &mut self.found.total,
        };
        *figure = Some(number);
        self.found.is_last |= self.levels.iter().take(self.depth).any(|level| level.spot == Spot::Response);
        self.value_is_over();
    }
}
