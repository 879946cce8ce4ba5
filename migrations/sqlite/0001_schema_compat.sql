-- The oldest gateway, by the number of the newest migration it knows, that can still read this schema. A step that
-- contracts (drops what older gateways read) raises it; a step that only expands leaves it.
CREATE TABLE schema_compat (
    only_row   INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    min_reader INTEGER NOT NULL
) STRICT;
INSERT INTO schema_compat (min_reader) VALUES (1);
