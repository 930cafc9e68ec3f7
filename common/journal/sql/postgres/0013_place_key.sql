-- The secret by which the digests of places are keyed (core.journal.place_digest): without it, who guesses an event's
-- identity could have the guess confirmed.
CREATE TABLE place_key (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    key text NOT NULL
);

-- Random bits of the server's strong source: 122 of each.
INSERT INTO place_key (key) VALUES (replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''));
