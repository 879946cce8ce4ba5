-- What is used of quotas: units that gateways have spent or hold, of a key in a period. key: the first half of a SHA-256.
-- epoch: grows when an operator sets it to zero, so that units of before are not given back afterwards.
CREATE TABLE quota_usage (
    quota        TEXT NOT NULL,
    kind         TEXT NOT NULL,
    key          BLOB NOT NULL CHECK (length(key) = 16),
    period_start INTEGER NOT NULL,
    period_end   INTEGER NOT NULL,
    used         INTEGER NOT NULL CHECK (used >= 0),
    epoch        INTEGER NOT NULL,
    PRIMARY KEY (quota, kind, key, period_start)
) STRICT;
CREATE INDEX quota_usage_over ON quota_usage (period_end);
