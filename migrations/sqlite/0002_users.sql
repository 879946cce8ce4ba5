-- email_key and username_key are the caseless forms, made by the program: the database's idea of lower case depends
-- on its locale, and SQLite's knows ASCII only.
CREATE TABLE users (
    id                    BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    email                 TEXT NOT NULL,
    email_key             TEXT NOT NULL UNIQUE,
    email_verified        INTEGER NOT NULL CHECK (email_verified IN (0, 1)),
    username              TEXT,
    username_key          TEXT UNIQUE,
    full_name             TEXT,
    password_hash         TEXT NOT NULL,
    org                   TEXT,
    active                INTEGER NOT NULL CHECK (active IN (0, 1)),
    authorization_version INTEGER NOT NULL CHECK (authorization_version >= 1),
    created_at            INTEGER NOT NULL,
    last_login_at         INTEGER,
    CHECK ((username IS NULL) = (username_key IS NULL))
) STRICT;
-- position 0 is the highest role.
CREATE TABLE user_roles (
    user_id  BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    position INTEGER NOT NULL CHECK (position >= 0),
    role     TEXT NOT NULL,
    PRIMARY KEY (user_id, position),
    UNIQUE (user_id, role)
) STRICT;
