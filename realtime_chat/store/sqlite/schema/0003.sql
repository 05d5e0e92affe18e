-- Unused rooms are forgotten. "floor" is the highest top of all of them; new rooms begin after it. "emptied" is when a room
-- was found to be empty, in milliseconds since 1970.
ALTER TABLE identity ADD COLUMN floor INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rooms ADD COLUMN emptied INTEGER;
