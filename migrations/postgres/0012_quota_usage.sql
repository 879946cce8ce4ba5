-- What is used of quotas: units that gateways have spent or hold, of a key in a period. key: the first half of a SHA-256.
-- epoch: grows when an operator sets it to zero, so that units of before are not given back afterwards.
CREATE TABLE quota_usage (
    quota        text NOT NULL,
    kind         text NOT NULL,
    key          bytea NOT NULL CHECK (octet_length(key) = 16),
    period_start timestamptz NOT NULL,
    period_end   timestamptz NOT NULL,
    used         bigint NOT NULL CHECK (used >= 0),
    epoch        bigint NOT NULL,
    PRIMARY KEY (quota, kind, key, period_start)
);
CREATE INDEX quota_usage_over ON quota_usage (period_end);
