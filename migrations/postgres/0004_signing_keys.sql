CREATE TABLE signing_keys (
    kid          text PRIMARY KEY,
    algorithm    text NOT NULL CHECK (algorithm IN ('ES256', 'EdDSA')),
    state        text NOT NULL CHECK (state IN ('next', 'current', 'previous')),
    sealed_pkcs8 bytea NOT NULL,
    created_at   timestamptz NOT NULL
);
