-- The identity of the log: one row.
CREATE TABLE identity (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch TEXT NOT NULL,
    secret BLOB NOT NULL,
    checks INTEGER NOT NULL DEFAULT 0
);

-- A room stays when its messages are deleted, so that no offset is given twice.
CREATE TABLE rooms (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    top INTEGER NOT NULL
);

-- Times are milliseconds since 1970. The data are JSON in UTF-8; they come last, as they may be long.
CREATE TABLE messages (
    room INTEGER NOT NULL REFERENCES rooms (id),
    offset INTEGER NOT NULL,
    at INTEGER NOT NULL,
    event TEXT NOT NULL,
    sender_id TEXT NOT NULL,
    sender_name TEXT NOT NULL,
    key TEXT,
    data BLOB NOT NULL,
    PRIMARY KEY (room, offset)
) WITHOUT ROWID;

-- The idempotency keys. A key may outlive its message.
CREATE TABLE keys (
    room INTEGER NOT NULL REFERENCES rooms (id),
    sender_id TEXT NOT NULL,
    key TEXT NOT NULL,
    offset INTEGER NOT NULL,
    at INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (room, sender_id, key)
) WITHOUT ROWID;

CREATE INDEX keys_by_offset ON keys (room, offset, at);
