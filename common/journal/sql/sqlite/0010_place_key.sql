-- The secret by which the digests of places are keyed (core.journal.place_digest): without it, who guesses an event's
-- identity could have the guess confirmed.
CREATE TABLE place_key (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    key      TEXT NOT NULL
) STRICT;

INSERT INTO place_key VALUES (1, lower(hex(randomblob(32))));
