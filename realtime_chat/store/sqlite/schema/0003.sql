-- A room that is not used any more is forgotten; all that is left is the highest top of all such rooms, after which rooms
-- that are made anew begin. "emptied" is when a room was found to have no messages, in milliseconds since 1970.
ALTER TABLE identity ADD COLUMN floor INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rooms ADD COLUMN emptied INTEGER;
