-- Events are found by tag and by type: whoever follows a part of the log reads about that part of it.

-- Tags of the entity's previous event where they differ from its own, U+001F when it had none; else ''.
ALTER TABLE event ADD COLUMN prev_tags TEXT NOT NULL DEFAULT '';

-- Tags of the entity's last event: it may be deleted before the next one comes.
ALTER TABLE entity_head ADD COLUMN tags TEXT NOT NULL DEFAULT '';

-- The index of tags: one row for each tag of an event and of its predecessor. An event without tags has none.
CREATE TABLE event_tag (
    tag      TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (tag, position)
) STRICT, WITHOUT ROWID;

-- The index of types: block b is the positions 64 b to 64 b + 63, and a row says that events of the type may be there.
CREATE TABLE type_block (
    entity_type TEXT NOT NULL,
    block       INTEGER NOT NULL,
    PRIMARY KEY (entity_type, block)
) STRICT, WITHOUT ROWID;

-- What is stored already. Tags in another order count as different here, which finds nothing wrong and misses nothing.
UPDATE entity_head
SET tags = coalesce((SELECT tags FROM event WHERE event.entity_no = entity_head.entity_no ORDER BY seq_nr DESC LIMIT 1), '')
WHERE EXISTS (SELECT 1 FROM event WHERE tags <> '');

UPDATE event
SET prev_tags = CASE before.tags WHEN '' THEN char(31) ELSE before.tags END
FROM event AS before
WHERE EXISTS (SELECT 1 FROM event WHERE tags <> '')
  AND before.entity_no = event.entity_no AND before.seq_nr = event.seq_nr - 1 AND before.tags <> event.tags;

WITH RECURSIVE part (position, tag, rest) AS (
    SELECT position, '', tags || char(31) || prev_tags || char(31) FROM event WHERE tags <> '' OR prev_tags <> ''
    UNION ALL
    SELECT position, substr(rest, 1, instr(rest, char(31)) - 1), substr(rest, instr(rest, char(31)) + 1)
    FROM part WHERE rest <> ''
)
INSERT OR IGNORE INTO event_tag SELECT tag, position FROM part WHERE tag <> '';

INSERT INTO type_block
SELECT DISTINCT substr(persistence_id, 1, instr(persistence_id, '|') - 1), position >> 6
FROM event JOIN entity USING (entity_no);
