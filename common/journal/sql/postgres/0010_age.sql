-- Ages are measured by elapsed running time, not by the clock's: what is here when this step runs begins to age now.
CREATE TABLE age (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    age_us   bigint NOT NULL  -- microseconds for which nodes have run on this journal
) WITH (fillfactor = 50);

INSERT INTO age (age_us) VALUES (0);

-- Everything up to a position was stored when the age clock showed so much. The log is in the order of storing.
CREATE TABLE age_mark (
    age_us   bigint PRIMARY KEY,
    position bigint NOT NULL
);

INSERT INTO age_mark SELECT 0, position FROM head;

-- Answers to appends are forgotten by the place of their events.
DROP INDEX append_id_stored;
CREATE INDEX append_id_position ON append_id (first_position);
