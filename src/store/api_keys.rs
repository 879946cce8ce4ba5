//! API keys as they are kept: made, listed and revoked by their owners, looked up by the gate. What a key is, and when
//! it is good, is [`crate::policy::api_key`]'s to say.

use async_trait::async_trait;

use super::{Account, AuditEntry, StoreFault};
use crate::{
    clock::Timestamp,
    policy::ids::{ApiKeyId, UserId},
};

/// A key, but for its secret, which is nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Which.
    pub id: ApiKeyId,
    /// Whose.
    pub owner: UserId,
    /// What its owner calls it.
    pub name: String,
    /// Roles that it is limited to; `None`: whatever its owner has.
    pub roles: Option<Vec<String>>,
    /// Scopes.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends; `None`: never by itself.
    pub expires_at: Option<Timestamp>,
    /// Last use, to [`super::NOTED_EVERY`]; `None`: none was noted.
    pub last_used_at: Option<Timestamp>,
}

/// A new key. `last_used_at` is not looked at.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// Everything but the secret.
    pub key: ApiKey,
    /// What is kept of that.
    pub hash: [u8; 32],
}

/// A key and whose it is, as both are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownApiKey {
    /// The key.
    pub key: ApiKey,
    /// What was kept of its secret.
    pub hash: [u8; 32],
    /// Its owner.
    pub owner: Account,
}

/// What came of making a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKeyMade {
    /// It is there.
    Made,
    /// Its owner has as many as may be. Nothing was written.
    TooMany,
    /// There is no such account, or it is not active. Nothing was written.
    NoOwner,
}

/// The keys there are.
#[async_trait]
pub trait ApiKeys: Send + Sync + 'static {
    /// Keeps a new key and writes the audit row, in one transaction, for an owner whose account is active and who has
    /// fewer than `most` keys at this moment, those that have run out included. However many are made at once, there are
    /// never more.
    async fn create_api_key(&self, new: &NewApiKey, most: u32, audit: &AuditEntry) -> Result<ApiKeyMade, StoreFault>;

    /// A user's keys, the newest first, at most `most`; those that have run out, too.
    async fn api_keys_of(&self, owner: UserId, most: u32) -> Result<Vec<ApiKey>, StoreFault>;

    /// Removes a key of this user's, tells every gateway, and writes the audit row, in one transaction. Gives whether
    /// there was one; else nothing is written.
    async fn revoke_api_key(&self, owner: UserId, id: ApiKeyId, audit: &AuditEntry) -> Result<bool, StoreFault>;

    /// A key and its owner.
    async fn api_key(&self, id: ApiKeyId) -> Result<Option<KnownApiKey>, StoreFault>;

    /// Notes when keys were last used, in one transaction. A last use never goes back and is not moved for less than
    /// [`super::NOTED_EVERY`].
    async fn note_api_key_uses(&self, uses: &[(ApiKeyId, Timestamp)]) -> Result<(), StoreFault>;
}
