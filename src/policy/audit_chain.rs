//! The audit chain: what makes a changed, removed, inserted or moved audit row show.
//!
//! A row's payload (who, from where, what exactly: what may name a person) is not chained itself, but a digest of it
//! with a random salt. Whoever erases payload and salt leaves a row whose digest still fits the chain and from which
//! nothing can be guessed. What stays of a row (when, what, how it ended) is chained as it is: each row's head is the
//! SHA-256 of the head before it and of the row. Batches of rows are sealed by an Ed25519 signature (RFC 8032) over
//! the head of their last row.
//!
//! The key is derived from the master key and from nothing else. It is no row that could be lost or deleted, and keys
//! that sign tokens may come and go without it: a seal of long ago is verified by the same key as today's.

use std::fmt;

use aws_lc_rs::{
    digest::{Context, SHA256},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::ExposeSecret;

use crate::{clock::Timestamp, policy::master_key::MasterKey};

/// A SHA-256.
pub type Hash = [u8; 32];

/// The head before the first row.
pub const GENESIS: Hash = [0; 32];

/// Bytes of a row's salt.
pub const SALT_LEN: usize = 32;

/// Purpose of the derived key.
const KEY: &str = "audit-seal";
const PAYLOAD: &[u8] = b"portcullis/audit/payload/v1";
const ROW: &[u8] = b"portcullis/audit/row/v1";
const SEAL: &[u8] = b"portcullis/audit/seal/v1";

/// What of a row may name a person: gone when it is erased.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    /// Whom it concerns: 16 bytes.
    pub user: Option<Vec<u8>>,
    /// Which session: 16 bytes.
    pub session: Option<Vec<u8>>,
    /// Who did it.
    pub actor: Option<String>,
    /// From where.
    pub address: Option<String>,
    /// In which request.
    pub request_id: Option<String>,
    /// JSON, as it is kept.
    pub detail: Option<String>,
}

impl Payload {
    /// Its digest with this salt. Each member is told apart from an empty one and from its neighbours.
    #[must_use]
    pub fn digest(&self, salt: &[u8]) -> Hash {
        let mut hasher = Hasher::new(PAYLOAD);
        hasher.text(salt);
        hasher.maybe(self.user.as_deref());
        hasher.maybe(self.session.as_deref());
        for text in [&self.actor, &self.address, &self.request_id, &self.detail] {
            hasher.maybe(text.as_deref().map(str::as_bytes));
        }
        hasher.finish()
    }
}

/// What stays of a row for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// Its number in the order in which rows were written.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub event: String,
    /// How it ended.
    pub outcome: Option<String>,
}

/// The head after a row.
#[must_use]
pub fn head(before: &Hash, position: u64, row: &Fixed, digest: &[u8]) -> Hash {
    let mut hasher = Hasher::new(ROW);
    hasher.0.update(before);
    hasher.0.update(&position.to_be_bytes());
    hasher.0.update(&row.seq.to_be_bytes());
    hasher.0.update(&row.at.micros().to_be_bytes());
    hasher.text(row.event.as_bytes());
    hasher.maybe(row.outcome.as_deref().map(str::as_bytes));
    hasher.text(digest);
    hasher.finish()
}

struct Hasher(Context);

impl Hasher {
    fn new(domain: &[u8]) -> Self {
        let mut hasher = Self(Context::new(&SHA256));
        hasher.text(domain);
        hasher
    }

    fn text(&mut self, bytes: &[u8]) {
        self.0.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.0.update(bytes);
    }

    fn maybe(&mut self, bytes: Option<&[u8]>) {
        self.0.update(&[u8::from(bytes.is_some())]);
        if let Some(bytes) = bytes {
            self.text(bytes);
        }
    }

    fn finish(self) -> Hash {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

/// A sealed batch of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Position of its first row.
    pub first: u64,
    /// Position of its last row.
    pub last: u64,
    /// When it was sealed.
    pub at: Timestamp,
    /// The head after its last row.
    pub head: Vec<u8>,
    /// Whose signature it is: the public key in base64url.
    pub kid: String,
    /// Ed25519 over all of it but the `kid`.
    pub signature: Vec<u8>,
}

impl Seal {
    fn statement(&self) -> Hash {
        let mut hasher = Hasher::new(SEAL);
        hasher.0.update(&self.first.to_be_bytes());
        hasher.0.update(&self.last.to_be_bytes());
        hasher.0.update(&self.at.micros().to_be_bytes());
        hasher.text(&self.head);
        hasher.finish()
    }
}

/// The key that seals.
pub struct SealingKey(Ed25519KeyPair);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealingKey").field(&self.kid()).finish()
    }
}

impl SealingKey {
    /// The one of this master key.
    #[must_use]
    #[expect(clippy::expect_used, clippy::missing_panics_doc, reason = "any 32 bytes are an Ed25519 seed")]
    pub fn of(master: &MasterKey) -> Self {
        let seed = master.derive(KEY, &[], &[]);
        Self(Ed25519KeyPair::from_seed_unchecked(seed.expose_secret()).expect("32 bytes are a seed"))
    }

    /// Its name: the public half in base64url, so that a seal can be verified by whoever knows that half.
    #[must_use]
    pub fn kid(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref())
    }

    /// Seals the rows from `first` to `last`, whose head is `head`.
    #[must_use]
    pub fn seal(&self, first: u64, last: u64, at: Timestamp, head: &Hash) -> Seal {
        let mut seal = Seal { first, last, at, head: head.to_vec(), kid: self.kid(), signature: Vec::new() };
        seal.signature = self.0.sign(&seal.statement()).as_ref().to_vec();
        seal
    }

    fn sealed(&self, seal: &Seal) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, self.0.public_key().as_ref());
        key.verify(&seal.statement(), &seal.signature).is_ok()
    }
}

/// A sealed row as it lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainRow {
    /// Its place in the chain.
    pub position: u64,
    /// What stays of it.
    pub fixed: Fixed,
    /// What may be erased.
    pub payload: Payload,
    /// Gone with the payload.
    pub salt: Option<Vec<u8>>,
    /// Digest of payload and salt.
    pub digest: Vec<u8>,
    /// The head after it.
    pub head: Vec<u8>,
    /// Its payload was erased.
    pub erased: bool,
}

/// The first row that is not as it was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Its place in the chain.
    pub position: u64,
    /// Its number, when it is there.
    pub seq: Option<u64>,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// There is none.
    #[error("the row is missing")]
    Missing,
    /// Another one is there too.
    #[error("the position is taken twice")]
    Twice,
    /// The payload is not the one that was digested.
    #[error("who, from where or what exactly was changed after it was sealed")]
    Payload,
    /// Nothing was erased by us, and something is gone.
    #[error("the payload or its salt is gone without an erasure")]
    Gone,
    /// It was changed, or one before it was.
    #[error("when, what or its outcome was changed, or it is not the row that was sealed here")]
    Chain,
    /// Rows were changed and all their heads with them.
    #[error("the signature over the rows up to position {0} does not fit: one of them was changed and chained anew")]
    Signature(u64),
    /// Sealed under another key.
    #[error("the rows up to position {last} were sealed by the key {kid}, which is not the one of this master key")]
    Key {
        /// Up to where.
        last: u64,
        /// Which.
        kid: String,
    },
    /// Seals do not follow each other.
    #[error("no seal covers the row")]
    Unsealed,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "position {}", self.position)?;
        if let Some(seq) = self.seq {
            write!(f, " (seq {seq})")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// Walks the chain, a seal and its rows at a time, in constant memory.
#[derive(Debug)]
pub struct Verifier<'a> {
    key: &'a SealingKey,
    head: Hash,
    next: u64,
    seal: Option<Seal>,
}

impl<'a> Verifier<'a> {
    /// At the beginning.
    #[must_use]
    pub const fn new(key: &'a SealingKey) -> Self {
        Self { key, head: GENESIS, next: 1, seal: None }
    }

    /// The head of what was verified.
    #[must_use]
    pub const fn head(&self) -> &Hash {
        &self.head
    }

    /// Position of the last row that was verified; 0: none.
    #[must_use]
    pub const fn verified(&self) -> u64 {
        self.next - 1
    }

    /// Whether the next thing to show is a seal, not a row.
    #[must_use]
    pub const fn wants_seal(&self) -> bool {
        self.seal.is_none()
    }

    fn broken(&self, seq: Option<u64>, why: Why) -> Broken {
        Broken { position: self.next, seq, why }
    }

    /// The next seal.
    ///
    /// # Errors
    /// When it does not follow the one before it, or is not the key's.
    pub fn seal(&mut self, seal: Seal) -> Result<(), Broken> {
        if seal.first != self.next || seal.last < seal.first {
            return Err(self.broken(None, Why::Unsealed));
        }
        if seal.kid != self.key.kid() {
            return Err(self.broken(None, Why::Key { last: seal.last, kid: seal.kid }));
        }
        self.seal = Some(seal);
        Ok(())
    }

    /// The next row.
    ///
    /// # Errors
    /// When it is not as it was sealed.
    pub fn row(&mut self, row: &ChainRow) -> Result<(), Broken> {
        let seq = Some(row.fixed.seq);
        if row.position != self.next {
            let twice = row.position < self.next;
            return Err(if twice {
                Broken { position: row.position, seq, why: Why::Twice }
            } else {
                self.broken(None, Why::Missing)
            });
        }
        let Some(seal) = &self.seal else { return Err(self.broken(seq, Why::Unsealed)) };
        match &row.salt {
            Some(salt) if row.payload.digest(salt)[..] != row.digest[..] => {
                return Err(self.broken(seq, Why::Payload));
            }
            None if !row.erased || row.payload != Payload::default() => return Err(self.broken(seq, Why::Gone)),
            _ => {}
        }
        let head = head(&self.head, row.position, &row.fixed, &row.digest);
        if head[..] != row.head[..] {
            return Err(self.broken(seq, Why::Chain));
        }
        if row.position == seal.last {
            if head[..] != seal.head[..] || !self.key.sealed(seal) {
                let (first, why) = (seal.first, Why::Signature(seal.last));
                return Err(Broken { position: first, seq: None, why });
            }
            self.seal = None;
        }
        self.head = head;
        self.next += 1;
        Ok(())
    }

    /// No more rows.
    ///
    /// # Errors
    /// When a seal says that there must be more.
    pub fn finish(&self) -> Result<(), Broken> {
        if self.seal.is_some() { Err(self.broken(None, Why::Missing)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
