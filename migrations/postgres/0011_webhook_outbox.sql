-- Messages for webhooks, written with their cause. due_at: not before; whoever claims one moves it into the future.
CREATE TABLE webhook_outbox (
    webhook    text NOT NULL,
    id         uuid NOT NULL,
    user_id    uuid,
    body       text NOT NULL,
    created_at timestamptz NOT NULL,
    attempts   bigint NOT NULL CHECK (attempts >= 0),
    due_at     timestamptz NOT NULL,
    PRIMARY KEY (webhook, id)
);
CREATE INDEX webhook_outbox_due ON webhook_outbox (webhook, due_at);
CREATE INDEX webhook_outbox_of_user ON webhook_outbox (user_id);
