-- A keyed message brings its key along, so that adding it is one row in one statement: a trigger files the key.
ALTER TABLE messages ADD COLUMN digest BLOB;
