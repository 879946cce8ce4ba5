-- What every gateway must know of tokens that are out there, numbered in the order of the commits: whoever appends holds
-- the head's row until the end of the transaction. `link` chains each entry to all before it, so that a gateway notices
-- when the history it has read is no longer this one (a failover, a restore).
CREATE TABLE feed (
    seq        bigint PRIMARY KEY,
    link       bytea NOT NULL CHECK (length(link) = 32),
    at         timestamptz NOT NULL,
    until      timestamptz,
    kind       text NOT NULL,
    session_id uuid,
    detail     text
);
CREATE INDEX feed_at ON feed (at);
CREATE TABLE feed_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    seq      bigint NOT NULL,
    link     bytea NOT NULL CHECK (length(link) = 32)
);
-- What had ended before there was a feed: its tokens may still be unexpired.
INSERT INTO feed (seq, link, at, kind, session_id)
    SELECT row_number() OVER (ORDER BY ended_at, id), decode(repeat('00', 32), 'hex'), ended_at, 'session', id
    FROM sessions WHERE ended_at IS NOT NULL;
INSERT INTO feed_head (seq, link) SELECT count(*), decode(repeat('00', 32), 'hex') FROM feed;
DROP INDEX sessions_ended;
-- A gateway that does not know the feed would end sessions behind its back.
UPDATE schema_compat SET min_reader = 7;
