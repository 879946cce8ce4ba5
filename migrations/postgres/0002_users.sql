-- email_key and username_key are the caseless forms, made by the program: the database's idea of lower case depends
-- on its locale, and SQLite's knows ASCII only.
CREATE TABLE users (
    id                    uuid PRIMARY KEY,
    email                 text NOT NULL,
    email_key             text NOT NULL CONSTRAINT users_email_unique UNIQUE,
    email_verified        boolean NOT NULL,
    username              text,
    username_key          text CONSTRAINT users_username_unique UNIQUE,
    full_name             text,
    password_hash         text NOT NULL,
    org                   text,
    active                boolean NOT NULL,
    authorization_version bigint NOT NULL CHECK (authorization_version >= 1),
    created_at            timestamptz NOT NULL,
    last_login_at         timestamptz,
    CHECK ((username IS NULL) = (username_key IS NULL))
);
-- position 0 is the highest role.
CREATE TABLE user_roles (
    user_id  uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    position bigint NOT NULL CHECK (position >= 0),
    role     text NOT NULL,
    PRIMARY KEY (user_id, position),
    UNIQUE (user_id, role)
);
