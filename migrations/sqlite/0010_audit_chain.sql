-- What of a row may name a person (user_id, session_id, actor, address, request_id, detail) can be erased, and salt
-- with it; what is left still fits the chain. position, salt, digest and head are set once, when the row is sealed.
-- outcome is not known of rows that an older gateway wrote. SQLite takes no NOT NULL away in place.
CREATE TABLE audit_chained (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    event      TEXT NOT NULL,
    outcome    TEXT CHECK (outcome IN ('succeeded', 'refused', 'failed')),
    user_id    BLOB,
    session_id BLOB,
    actor      TEXT,
    address    TEXT,
    request_id TEXT,
    detail     TEXT,
    erased_at  INTEGER,
    position   INTEGER UNIQUE CHECK (position >= 1),
    salt       BLOB,
    digest     BLOB,
    head       BLOB,
    CHECK ((position IS NULL) = (digest IS NULL) AND (position IS NULL) = (head IS NULL))
) STRICT;
INSERT INTO audit_chained (seq, at, event, user_id, session_id, address, request_id)
    SELECT seq, at, event, user_id, session_id, address, request_id FROM audit ORDER BY seq;
DROP TABLE audit;
ALTER TABLE audit_chained RENAME TO audit;
CREATE INDEX audit_of_user ON audit (user_id, at, seq);
CREATE INDEX audit_unsealed ON audit (seq) WHERE position IS NULL;
CREATE INDEX audit_of_request ON audit (request_id);
CREATE TABLE audit_seals (
    last_position  INTEGER PRIMARY KEY NOT NULL,
    first_position INTEGER NOT NULL CHECK (first_position >= 1 AND first_position <= last_position),
    at             INTEGER NOT NULL,
    head           BLOB NOT NULL,
    kid            TEXT NOT NULL,
    signature      BLOB NOT NULL
) STRICT;
-- Whether a device is new is asked at each login.
CREATE INDEX sessions_of_user_agent ON sessions (user_id, user_agent);
CREATE TRIGGER audit_append_only BEFORE UPDATE ON audit WHEN NOT (
    NEW.seq IS OLD.seq AND NEW.at IS OLD.at AND NEW.event IS OLD.event AND NEW.outcome IS OLD.outcome AND (
        (OLD.position IS NULL AND NEW.position IS NOT NULL
            AND NEW.user_id IS OLD.user_id AND NEW.session_id IS OLD.session_id AND NEW.actor IS OLD.actor
            AND NEW.address IS OLD.address AND NEW.request_id IS OLD.request_id AND NEW.detail IS OLD.detail
            AND NEW.erased_at IS OLD.erased_at)
        OR (OLD.erased_at IS NULL AND NEW.erased_at IS NOT NULL
            AND NEW.position IS OLD.position AND NEW.digest IS OLD.digest AND NEW.head IS OLD.head
            AND coalesce(NEW.user_id, NEW.session_id, NEW.actor, NEW.address, NEW.request_id, NEW.detail, NEW.salt)
                IS NULL)
    )
) BEGIN
    SELECT RAISE(ABORT, 'audit rows are only appended, sealed once and erased once');
END;
CREATE TRIGGER audit_not_deleted BEFORE DELETE ON audit BEGIN
    SELECT RAISE(ABORT, 'audit rows are only appended, sealed once and erased once');
END;
CREATE TRIGGER audit_seals_append_only BEFORE UPDATE ON audit_seals BEGIN
    SELECT RAISE(ABORT, 'audit seals are only appended');
END;
CREATE TRIGGER audit_seals_not_deleted BEFORE DELETE ON audit_seals BEGIN
    SELECT RAISE(ABORT, 'audit seals are only appended');
END;
