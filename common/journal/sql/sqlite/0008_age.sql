-- Ages are measured by elapsed running time, not by the clock's: what is here when this step runs begins to age now.
CREATE TABLE age (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    age_us   INTEGER NOT NULL  -- microseconds for which a service has run on this journal
) STRICT;

INSERT INTO age VALUES (1, 0);

-- Everything up to a position was stored when the age clock showed so much. The log is in the order of storing.
CREATE TABLE age_mark (
    age_us   INTEGER PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT;

INSERT INTO age_mark SELECT 0, head_position FROM journal;

-- Answers to appends are forgotten by the place of their events.
DROP INDEX append_id_by_age;
CREATE INDEX append_id_by_position ON append_id (first_position);
