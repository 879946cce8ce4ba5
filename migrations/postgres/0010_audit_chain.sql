-- What of a row may name a person (user_id, session_id, actor, address, request_id, detail) can be erased, and salt
-- with it; what is left still fits the chain. position, salt, digest and head are set once, when the row is sealed.
-- outcome is not known of rows that an older gateway writes.
ALTER TABLE audit
    ALTER COLUMN address DROP NOT NULL,
    ALTER COLUMN request_id DROP NOT NULL,
    ADD COLUMN outcome text CHECK (outcome IN ('succeeded', 'refused', 'failed')),
    ADD COLUMN actor text,
    ADD COLUMN detail text,
    ADD COLUMN erased_at timestamptz,
    ADD COLUMN position bigint CONSTRAINT audit_position_unique UNIQUE CHECK (position >= 1),
    ADD COLUMN salt bytea,
    ADD COLUMN digest bytea,
    ADD COLUMN head bytea,
    ADD CHECK ((position IS NULL) = (digest IS NULL) AND (position IS NULL) = (head IS NULL));
CREATE INDEX audit_unsealed ON audit (seq) WHERE position IS NULL;
CREATE INDEX audit_of_request ON audit (request_id);
CREATE TABLE audit_seals (
    last_position  bigint PRIMARY KEY,
    first_position bigint NOT NULL CHECK (first_position >= 1 AND first_position <= last_position),
    at             timestamptz NOT NULL,
    head           bytea NOT NULL,
    kid            text NOT NULL,
    signature      bytea NOT NULL
);
-- Whether a device is new is asked at each login.
CREATE INDEX sessions_of_user_agent ON sessions (user_id, user_agent);
CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.seq, NEW.at, NEW.event, NEW.outcome) IS NOT DISTINCT FROM (OLD.seq, OLD.at, OLD.event, OLD.outcome) THEN
            -- Sealed, once.
            IF OLD.position IS NULL AND NEW.position IS NOT NULL
                AND (NEW.user_id, NEW.session_id, NEW.actor, NEW.address, NEW.request_id, NEW.detail, NEW.erased_at)
                    IS NOT DISTINCT FROM
                    (OLD.user_id, OLD.session_id, OLD.actor, OLD.address, OLD.request_id, OLD.detail, OLD.erased_at)
            THEN
                RETURN NEW;
            END IF;
            -- Erased, once.
            IF OLD.erased_at IS NULL AND NEW.erased_at IS NOT NULL
                AND (NEW.position, NEW.digest, NEW.head) IS NOT DISTINCT FROM (OLD.position, OLD.digest, OLD.head)
                AND num_nonnulls(NEW.user_id, NEW.session_id, NEW.actor, NEW.address, NEW.request_id, NEW.detail,
                    NEW.salt) = 0
            THEN
                RETURN NEW;
            END IF;
        END IF;
    END IF;
    RAISE EXCEPTION 'audit rows are only appended, sealed once and erased once';
END $$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_not_truncated BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();
CREATE FUNCTION audit_seals_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit seals are only appended';
END $$;
CREATE TRIGGER audit_seals_append_only BEFORE UPDATE OR DELETE ON audit_seals
    FOR EACH ROW EXECUTE FUNCTION audit_seals_append_only();
CREATE TRIGGER audit_seals_not_truncated BEFORE TRUNCATE ON audit_seals
    FOR EACH STATEMENT EXECUTE FUNCTION audit_seals_append_only();
