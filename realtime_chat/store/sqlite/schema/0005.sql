-- After which offset the epoch began in a room. What is kept from before has its offsets in the new epoch, too.
ALTER TABLE rooms ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;
