-- What every gateway must know of tokens that are out there, numbered in the order of the commits: whoever appends holds
-- the database until the end of the transaction. `link` chains each entry to all before it, so that a gateway notices
-- when the history it has read is no longer this one (a restored file).
CREATE TABLE feed (
    seq        INTEGER PRIMARY KEY,
    link       BLOB NOT NULL CHECK (length(link) = 32),
    at         INTEGER NOT NULL,
    until      INTEGER,
    kind       TEXT NOT NULL,
    session_id BLOB CHECK (length(session_id) = 16),
    detail     TEXT
) STRICT;
CREATE INDEX feed_at ON feed (at);
CREATE TABLE feed_head (
    only_row INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    seq      INTEGER NOT NULL,
    link     BLOB NOT NULL CHECK (length(link) = 32)
) STRICT;
-- What had ended before there was a feed: its tokens may still be unexpired.
INSERT INTO feed (seq, link, at, kind, session_id)
    SELECT row_number() OVER (ORDER BY ended_at, id), zeroblob(32), ended_at, 'session', id
    FROM sessions WHERE ended_at IS NOT NULL;
INSERT INTO feed_head (seq, link) SELECT count(*), zeroblob(32) FROM feed;
DROP INDEX sessions_ended;
-- A gateway that does not know the feed would end sessions behind its back.
UPDATE schema_compat SET min_reader = 7;
