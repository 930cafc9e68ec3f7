-- Events are found by tag and by type: whoever follows a part of the log reads about that part of it.

-- Tags of the entity's previous event where they differ from its own, U+001F when it had none; else ''.
ALTER TABLE event ADD COLUMN prev_tags text NOT NULL DEFAULT '';

-- Tags of the entity's last event: it may be deleted before the next one comes.
ALTER TABLE entity ADD COLUMN tags text NOT NULL DEFAULT '';

-- Whether any event ever had tags: until then an append need not look at those of its entities.
ALTER TABLE head ADD COLUMN is_tagged boolean NOT NULL DEFAULT false;

-- A type that the head's block is known to have: small groups of one type need not ask each time.
ALTER TABLE head ADD COLUMN block_type text NOT NULL DEFAULT '';

-- The index of tags: one row for each tag of an event and of its predecessor. An event without tags has none.
CREATE TABLE event_tag (
    tag      text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (tag, position)
);

-- The index of types: block b is the positions 64 b to 64 b + 63, and a row says that events of the type may be there.
CREATE TABLE type_block (
    entity_type text COLLATE "C" NOT NULL,
    block       bigint NOT NULL,
    PRIMARY KEY (entity_type, block)
);

-- The entry in prev_tags of an event with the tags own whose predecessor had the tags before (NULL = there is none).
CREATE FUNCTION tags_before(before text, own text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN before IS NULL OR before = own THEN ''
        WHEN string_to_array(before, E'\x1f') @> string_to_array(own, E'\x1f')
            AND string_to_array(before, E'\x1f') <@ string_to_array(own, E'\x1f') THEN ''
        WHEN before = '' THEN E'\x1f'
        ELSE before
    END
$$;

-- prev_tags of each event of a group: those it stores (stored_seq > 0; all when that is empty) follow each other within
-- their entity, the first of each follows what the entity's head says. Names as in append_batch.
CREATE FUNCTION link_tags(e_ent int[], e_tags text[], o_tags text, stored_seq bigint[], n_tags text[]) RETURNS text[]
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_variable
BEGIN
    RETURN (
        SELECT array_agg(CASE WHEN f.is_stored THEN tags_before(f.before, f.own) ELSE '' END ORDER BY f.i)
        FROM (
            SELECT e.i, e.own, e.is_stored,
                   CASE WHEN row_number() OVER of_entity = 1 THEN n_tags[e.ent] ELSE lag(e.own) OVER of_entity END
                       AS before
            FROM (
                SELECT u.i, u.ent, coalesce(u.own, o_tags) AS own, coalesce(u.seq, 1) > 0 AS is_stored
                FROM (
                    SELECT generate_series(1, cardinality(e_ent)) AS i, unnest(e_ent) AS ent, unnest(e_tags) AS own,
                           unnest(stored_seq) AS seq
                ) AS u
            ) AS e
            WINDOW of_entity AS (PARTITION BY e.ent, e.is_stored ORDER BY e.i)
        ) AS f
    );
END $$;

-- Make the events at these positions findable by their tags.
CREATE FUNCTION index_tags(first_position bigint, last_position bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event_tag (tag, position)
    SELECT DISTINCT t.tag, e.position
    FROM event AS e, unnest(string_to_array(e.tags || E'\x1f' || e.prev_tags, E'\x1f')) AS t (tag)
    WHERE e.position BETWEEN first_position AND last_position AND (e.tags <> '' OR e.prev_tags <> '') AND t.tag <> '';
END $$;

-- The number of an entity's first event above a position, and one more than its last when there is none: numbers and
-- positions of an entity rise together, so a few steps along the index find it.
CREATE FUNCTION seq_above(of_entity bigint, below bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    low    bigint;
    high   bigint;
    middle bigint;
    found  record;
BEGIN
    SELECT seq_nr INTO low FROM event WHERE entity_no = of_entity ORDER BY seq_nr LIMIT 1;
    SELECT seq_nr + 1 INTO high FROM event WHERE entity_no = of_entity ORDER BY seq_nr DESC LIMIT 1;
    IF low IS NULL OR high IS NULL THEN
        RETURN 1;
    END IF;
    WHILE low < high LOOP
        middle := (low + high) / 2;
        SELECT seq_nr, position INTO found FROM event
        WHERE entity_no = of_entity AND seq_nr >= middle ORDER BY seq_nr LIMIT 1;
        IF found.position IS NULL OR found.position > below THEN
            high := middle;
        ELSE
            low := found.seq_nr + 1;
        END IF;
    END LOOP;
    RETURN low;
END $$;

-- What is stored already. Tags in another order count as different here, which finds nothing wrong and misses nothing.
UPDATE head SET is_tagged = EXISTS (SELECT FROM event WHERE tags <> '');

UPDATE entity SET tags = last.tags
FROM (SELECT DISTINCT ON (entity_no) entity_no, tags FROM event ORDER BY entity_no, seq_nr DESC) AS last
WHERE (SELECT is_tagged FROM head) AND entity.entity_no = last.entity_no AND last.tags <> '';

UPDATE event SET prev_tags = CASE before.tags WHEN '' THEN E'\x1f' ELSE before.tags END
FROM event AS before
WHERE (SELECT is_tagged FROM head) AND before.entity_no = event.entity_no AND before.seq_nr = event.seq_nr - 1
  AND before.tags <> event.tags;

SELECT index_tags(1, position) FROM head WHERE is_tagged;

INSERT INTO type_block (entity_type, block)
SELECT DISTINCT split_part(persistence_id, '|', 1), position >> 6 FROM event JOIN entity USING (entity_no);
