-- counter is the newest refresh token's; nothing else is kept of a token.
CREATE TABLE sessions (
    id              BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    user_id         BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    salt            BLOB NOT NULL CHECK (length(salt) = 32),
    delivery        TEXT NOT NULL CHECK (delivery IN ('body', 'cookie')),
    methods         TEXT NOT NULL,
    counter         INTEGER NOT NULL CHECK (counter >= 1),
    seen_generation INTEGER NOT NULL CHECK (seen_generation >= 0),
    user_agent      TEXT,
    address         TEXT NOT NULL,
    created_at      INTEGER NOT NULL,
    rotated_at      INTEGER NOT NULL,
    ended_at        INTEGER
) STRICT;
CREATE INDEX sessions_live_of_user ON sessions (user_id) WHERE ended_at IS NULL;
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;
