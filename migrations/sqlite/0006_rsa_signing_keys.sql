-- RSA keys may sign too. SQLite changes no CHECK in place.
CREATE TABLE signing_keys_wider (
    kid          TEXT PRIMARY KEY NOT NULL,
    algorithm    TEXT NOT NULL CHECK (algorithm IN ('ES256', 'EdDSA', 'RS256')),
    state        TEXT NOT NULL CHECK (state IN ('next', 'current', 'previous')),
    sealed_pkcs8 BLOB NOT NULL,
    created_at   INTEGER NOT NULL
) STRICT;
INSERT INTO signing_keys_wider (kid, algorithm, state, sealed_pkcs8, created_at)
    SELECT kid, algorithm, state, sealed_pkcs8, created_at FROM signing_keys;
DROP TABLE signing_keys;
ALTER TABLE signing_keys_wider RENAME TO signing_keys;
