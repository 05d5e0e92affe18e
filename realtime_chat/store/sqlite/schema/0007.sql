-- The log of a room's properties has a row in "rooms", with /properties after the room's name. "removed" is the offset of the
-- last removal there. Of each property the last value is kept.
ALTER TABLE rooms ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;

CREATE TABLE properties (
    room INTEGER NOT NULL REFERENCES rooms (id),
    name TEXT NOT NULL,
    offset INTEGER NOT NULL,
    at INTEGER NOT NULL,
    sender_id TEXT NOT NULL,
    sender_name TEXT NOT NULL,
    key TEXT,
    data BLOB NOT NULL,
    PRIMARY KEY (room, name)
) WITHOUT ROWID;
