-- hash: HMAC over id and secret under a key of the master key's; nothing else is kept of a key. all_roles: whatever its
-- owner has; else those of roles that the owner has.
CREATE TABLE api_keys (
    id           BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    user_id      BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name         TEXT NOT NULL,
    hash         BLOB NOT NULL CHECK (length(hash) = 32),
    all_roles    INTEGER NOT NULL CHECK (all_roles IN (0, 1)),
    roles        TEXT NOT NULL,
    scopes       TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER
) STRICT;
CREATE INDEX api_keys_of_user ON api_keys (user_id);
