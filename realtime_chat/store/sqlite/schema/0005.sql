-- The offset after which the epoch started in a room. Messages from before keep their offsets.
ALTER TABLE rooms ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;
