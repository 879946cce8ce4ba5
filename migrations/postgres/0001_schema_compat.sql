-- The oldest gateway, by the number of the newest migration it knows, that can still read this schema. A step that
-- contracts (drops what older gateways read) raises it; a step that only expands leaves it.
CREATE TABLE schema_compat (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    min_reader bigint NOT NULL
);
INSERT INTO schema_compat (min_reader) VALUES (1);
