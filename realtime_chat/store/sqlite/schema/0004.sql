-- What the wall clock has shown while daemons ran (store/retention_clock.py): after so many seconds of that it was ahead of them by so
-- many at least, until the next row. The last row is how far it has got.
CREATE TABLE spans (
    elapsed REAL PRIMARY KEY,
    ahead REAL NOT NULL
);
