-- What the wall clock has shown while daemons ran (store/retention.py). From "elapsed" seconds on, until the next row,
-- the wall clock was "ahead" of the elapsed seconds by that many or more. The last row says how many seconds have elapsed.
CREATE TABLE spans (
    elapsed REAL PRIMARY KEY,
    ahead REAL NOT NULL
);
