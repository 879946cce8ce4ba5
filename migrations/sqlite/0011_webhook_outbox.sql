-- Messages for webhooks, written with their cause. due_at: not before; whoever claims one moves it into the future.
CREATE TABLE webhook_outbox (
    webhook    TEXT NOT NULL,
    id         BLOB NOT NULL CHECK (length(id) = 16),
    user_id    BLOB,
    body       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    attempts   INTEGER NOT NULL CHECK (attempts >= 0),
    due_at     INTEGER NOT NULL,
    PRIMARY KEY (webhook, id)
) STRICT;
CREATE INDEX webhook_outbox_due ON webhook_outbox (webhook, due_at);
CREATE INDEX webhook_outbox_of_user ON webhook_outbox (user_id);
