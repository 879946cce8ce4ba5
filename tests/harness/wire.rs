//! HTTP/1.1 as bytes: a reader that takes messages apart without mending them, shared by the scripted upstream and
//! the raw client. Deliberately not hyper: a test must see what was really sent.

use std::{
    fmt, io,
    sync::{Arc, Mutex},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Any byte stream.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Bytes of a body that are kept; what is beyond is only counted.
const KEPT: usize = 1 << 20;

/// Start line and headers of a message, in order, doubled ones twice, names as they were sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) start: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// The nth word of the start line.
    pub(crate) fn word(&self, nth: usize) -> &str {
        self.start.split(' ').nth(nth).unwrap_or_default()
    }

    /// Every value of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = |(header, _): &&(String, String)| header.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|(_, value)| value.as_str()).collect()
    }

    /// The one value of a header; `None` when it did not come.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} came more than once: {all:?}");
        all.first().copied()
    }

    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let header = |line: &str| match line.split_once(':') {
            Some((name, value)) => (name.to_owned(), value.trim().to_owned()),
            None => (line.to_owned(), String::new()),
        };
        Self { start, headers: lines.filter(|line| !line.is_empty()).map(header).collect() }
    }
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// What was read of a body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Body {
    /// The first MiB.
    pub(crate) bytes: Vec<u8>,
    /// All of it.
    pub(crate) len: u64,
    /// Its end was seen as its framing says.
    pub(crate) whole: bool,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Body {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        let room = KEPT.saturating_sub(self.bytes.len()).min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..room]);
    }
}

/// The first MiB that came over a connection, byte for byte.
pub(crate) type Bytes = Arc<Mutex<Vec<u8>>>;

/// One connection, read message by message.
pub(crate) struct Conn {
    io: Box<dyn Io>,
    unread: Vec<u8>,
    left_of_chunk: Option<u64>,
    record: Option<Bytes>,
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("unread", &self.unread.len()).finish_non_exhaustive()
    }
}

impl Conn {
    pub(crate) fn new(io: impl Io + 'static) -> Self {
        Self { io: Box::new(io), unread: Vec::new(), left_of_chunk: None, record: None }
    }

    /// The same, and what is read is written down.
    pub(crate) fn recorded(io: impl Io + 'static, record: Bytes) -> Self {
        Self { record: Some(record), ..Self::new(io) }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// More bytes; false at the other side's end.
    async fn fill(&mut self) -> bool {
        let mut more = vec![0; 64 * 1024];
        match self.io.read(&mut more).await {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                if let Some(record) = &self.record {
                    let mut record = record.lock().unwrap();
                    let room = KEPT.saturating_sub(record.len()).min(n);
                    record.extend_from_slice(&more[..room]);
                }
                self.unread.extend_from_slice(&more[..n]);
                true
            }
        }
    }

    async fn until(&mut self, mark: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.unread.windows(mark.len()).position(|window| window == mark) {
                let taken: Vec<u8> = self.unread.drain(..at + mark.len()).collect();
                return Some(String::from_utf8_lossy(&taken[..at]).into_owned());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// The next head; `None` when the other side closed first.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        self.left_of_chunk = None;
        self.until(b"\r\n\r\n").await.map(|text| Head::parse(&text))
    }

    /// The next piece of a body; `None` at its end, `Err` when the other side broke off. `framing` keeps the count.
    pub(crate) async fn piece(&mut self, framing: &mut Framing, trailers: &mut Vec<(String, String)>) -> Piece {
        match framing {
            Framing::Length(0) => Piece::End,
            Framing::Length(left) => match self.take(*left).await {
                Some(bytes) => {
                    *left -= bytes.len() as u64;
                    Piece::Data(bytes)
                }
                None => Piece::BrokenOff,
            },
            Framing::UntilClose => self.take(u64::MAX).await.map_or(Piece::End, Piece::Data),
            Framing::Chunked => self.chunk(trailers).await,
        }
    }

    async fn chunk(&mut self, trailers: &mut Vec<(String, String)>) -> Piece {
        let left = if let Some(left) = self.left_of_chunk {
            left
        } else {
            let Some(line) = self.until(b"\r\n").await else { return Piece::BrokenOff };
            let size = line.split(';').next().unwrap_or_default();
            let Ok(size) = u64::from_str_radix(size, 16) else { panic!("not a chunk size: {line:?}") };
            if size == 0 {
                return self.end_of_chunks(trailers).await;
            }
            size
        };
        let Some(bytes) = self.take(left).await else { return Piece::BrokenOff };
        let left = left - bytes.len() as u64;
        self.left_of_chunk = Some(left);
        if left == 0 {
            self.left_of_chunk = None;
            if self.until(b"\r\n").await.is_none() {
                return Piece::BrokenOff;
            }
        }
        Piece::Data(bytes)
    }

    async fn end_of_chunks(&mut self, trailers: &mut Vec<(String, String)>) -> Piece {
        loop {
            match self.until(b"\r\n").await.as_deref() {
                None => return Piece::BrokenOff,
                Some("") => return Piece::End,
                Some(line) => trailers.extend(Head::parse(&format!("\r\n{line}")).headers),
            }
        }
    }

    /// At least one byte and at most `most`.
    async fn take(&mut self, most: u64) -> Option<Vec<u8>> {
        if self.unread.is_empty() && !self.fill().await {
            return None;
        }
        let n = usize::try_from(most).unwrap_or(usize::MAX).min(self.unread.len());
        Some(self.unread.drain(..n).collect())
    }

    /// So many bytes, whatever they are; fewer when the other side closes first.
    pub(crate) async fn exactly(&mut self, many: usize) -> Vec<u8> {
        while self.unread.len() < many && self.fill().await {}
        let there = many.min(self.unread.len());
        self.unread.drain(..there).collect()
    }

    /// A whole body.
    pub(crate) async fn body(&mut self, mut framing: Framing) -> Body {
        let mut body = Body::default();
        loop {
            match self.piece(&mut framing, &mut body.trailers).await {
                Piece::Data(bytes) => body.push(&bytes),
                Piece::End => {
                    body.whole = true;
                    return body;
                }
                Piece::BrokenOff => return body,
            }
        }
    }

    /// Waits until the other side closes; gives what it still sent.
    pub(crate) async fn closed(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.unread)
    }
}

/// A step through a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Vec<u8>),
    End,
    BrokenOff,
}
