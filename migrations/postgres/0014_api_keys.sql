-- hash: HMAC over id and secret under a key of the master key's; nothing else is kept of a key. all_roles: whatever its
-- owner has; else those of roles that the owner has.
CREATE TABLE api_keys (
    id           uuid PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name         text NOT NULL,
    hash         bytea NOT NULL CHECK (length(hash) = 32),
    all_roles    boolean NOT NULL,
    roles        jsonb NOT NULL,
    scopes       jsonb NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    last_used_at timestamptz
);
CREATE INDEX api_keys_of_user ON api_keys (user_id);
