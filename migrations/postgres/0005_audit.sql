-- No foreign keys: what happened stays written when the account it happened to is gone.
CREATE TABLE audit (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL,
    event      text NOT NULL,
    user_id    uuid,
    session_id uuid,
    address    text NOT NULL,
    request_id text NOT NULL
);
CREATE INDEX audit_of_user ON audit (user_id, at, seq);
