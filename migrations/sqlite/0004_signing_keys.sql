CREATE TABLE signing_keys (
    kid          TEXT PRIMARY KEY NOT NULL,
    algorithm    TEXT NOT NULL CHECK (algorithm IN ('ES256', 'EdDSA')),
    state        TEXT NOT NULL CHECK (state IN ('next', 'current', 'previous')),
    sealed_pkcs8 BLOB NOT NULL,
    created_at   INTEGER NOT NULL
) STRICT;
