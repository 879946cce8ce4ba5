-- The life of a signing key. It is published since created_at; keys from before sign since then.
ALTER TABLE signing_keys ADD COLUMN activated_at timestamptz;
ALTER TABLE signing_keys ADD COLUMN verifies_until timestamptz;
UPDATE signing_keys SET activated_at = created_at WHERE state = 'current';
-- Whatever goes wrong: one key of an algorithm signs, and one follows it.
CREATE UNIQUE INDEX signing_keys_one_current ON signing_keys (algorithm) WHERE state = 'current';
CREATE UNIQUE INDEX signing_keys_one_next ON signing_keys (algorithm) WHERE state = 'next';
