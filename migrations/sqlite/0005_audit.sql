-- No foreign keys: what happened stays written when the account it happened to is gone.
CREATE TABLE audit (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    event      TEXT NOT NULL,
    user_id    BLOB,
    session_id BLOB,
    address    TEXT NOT NULL,
    request_id TEXT NOT NULL
) STRICT;
CREATE INDEX audit_of_user ON audit (user_id, at, seq);
