-- A message with a key has the digest of its content here. So one statement adds both: a trigger inserts the key.
ALTER TABLE messages ADD COLUMN digest BLOB;
