-- counter is the newest refresh token's; nothing else is kept of a token.
CREATE TABLE sessions (
    id              uuid PRIMARY KEY,
    user_id         uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    salt            bytea NOT NULL CHECK (length(salt) = 32),
    delivery        text NOT NULL CHECK (delivery IN ('body', 'cookie')),
    methods         jsonb NOT NULL,
    counter         bigint NOT NULL CHECK (counter >= 1),
    seen_generation bigint NOT NULL CHECK (seen_generation >= 0),
    user_agent      text,
    address         text NOT NULL,
    created_at      timestamptz NOT NULL,
    rotated_at      timestamptz NOT NULL,
    ended_at        timestamptz
);
CREATE INDEX sessions_live_of_user ON sessions (user_id) WHERE ended_at IS NULL;
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;
