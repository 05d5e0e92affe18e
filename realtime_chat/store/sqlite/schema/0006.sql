-- What is kept of Socket.IO sockets, for clients that come back. "ended" is when the socket was disconnected, in
-- milliseconds since 1970; it is NULL while the socket is connected.
CREATE TABLE sessions (
    key TEXT PRIMARY KEY,
    ended INTEGER,
    record BLOB NOT NULL
) WITHOUT ROWID;

CREATE INDEX sessions_by_end ON sessions (ended) WHERE ended IS NOT NULL;
