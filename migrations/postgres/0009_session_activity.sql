-- last_seen_at: last use of an access token, as far as it was noted; NULL: since the last rotation none was.
-- repeated_at: when the newest refresh token was last given again because nobody had used it; NULL: never.
ALTER TABLE sessions ADD COLUMN last_seen_at timestamptz;
ALTER TABLE sessions ADD COLUMN repeated_at timestamptz;
