-- Failures to log in, and attempts under way (pending), which have failed unless they end before pending_until.
-- account: a user's id (16 bytes); or, of a name that no account has, its digest under a key (32 bytes).
CREATE TABLE login_accounts (
    account       BLOB PRIMARY KEY NOT NULL CHECK (length(account) IN (16, 32)),
    failures      INTEGER NOT NULL CHECK (failures >= 0),
    last_at       INTEGER NOT NULL,
    pending       INTEGER NOT NULL CHECK (pending >= 0),
    pending_until INTEGER NOT NULL
) STRICT;
CREATE INDEX login_accounts_by_age ON login_accounts (last_at);

-- With one account from one address. Which accounts an address has failed with is told by these.
CREATE TABLE login_pairs (
    address       TEXT NOT NULL,
    account       BLOB NOT NULL CHECK (length(account) IN (16, 32)),
    failures      INTEGER NOT NULL CHECK (failures >= 0),
    last_at       INTEGER NOT NULL,
    pending       INTEGER NOT NULL CHECK (pending >= 0),
    pending_until INTEGER NOT NULL,
    PRIMARY KEY (address, account)
) STRICT;
CREATE INDEX login_pairs_of_account ON login_pairs (account);
CREATE INDEX login_pairs_by_age ON login_pairs (last_at);

-- address: as text; of an IPv6 address the /64. counted_from: pairs of before do not count against it any more.
CREATE TABLE login_addresses (
    address       TEXT PRIMARY KEY NOT NULL,
    waits_until   INTEGER NOT NULL,
    counted_from  INTEGER NOT NULL,
    last_at       INTEGER NOT NULL,
    pending       INTEGER NOT NULL CHECK (pending >= 0),
    pending_until INTEGER NOT NULL
) STRICT;
CREATE INDEX login_addresses_by_age ON login_addresses (last_at);
CREATE INDEX login_addresses_by_wait ON login_addresses (waits_until);

-- With a device cookie, known by its nonce. A cookie that never failed has no row.
CREATE TABLE login_devices (
    nonce         BLOB PRIMARY KEY NOT NULL CHECK (length(nonce) = 16),
    user_id       BLOB NOT NULL,
    expires_at    INTEGER NOT NULL,
    failures      INTEGER NOT NULL CHECK (failures >= 0),
    last_at       INTEGER NOT NULL,
    pending       INTEGER NOT NULL CHECK (pending >= 0),
    pending_until INTEGER NOT NULL
) STRICT;
CREATE INDEX login_devices_by_end ON login_devices (expires_at);
CREATE INDEX login_devices_of_user ON login_devices (user_id);

-- Calls that may be made only so often, for a subject (an address, or the digest of one that mail would go to).
-- due_at: when the next would come at an even pace (GCRA's theoretical arrival time).
CREATE TABLE paced_calls (
    purpose       TEXT NOT NULL,
    subject       BLOB NOT NULL,
    due_at        INTEGER NOT NULL,
    PRIMARY KEY (purpose, subject)
) STRICT;
CREATE INDEX paced_calls_by_age ON paced_calls (due_at);
