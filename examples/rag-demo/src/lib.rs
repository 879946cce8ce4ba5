//! A small RAG service as it would stand behind the gateway.
//!
//! The life of a question: [`service`] takes it over HTTP; [`identity`] says who asks, by verifying the signed
//! `X-Gateway-Identity` against the keys in [`jwks`] and by nothing else; [`documents`] says what that caller may
//! read; [`search`] ranks those documents (BM25) and composes an answer of their own sentences, which streams back
//! as server-sent events while it is being composed.
//!
//! It stands alone on purpose: nothing of the gateway is imported, since a real upstream has only its headers.

pub mod documents;
pub mod identity;
pub mod jwks;
pub mod search;
pub mod service;
