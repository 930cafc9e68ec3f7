-- Distinct tag sets of an entity's events, kept when those are deleted (core.journal.tag_sets): a snapshot passes a wall only
-- if every event that it folds does. U+001F: not all are known. No row: it never had a tag.
CREATE TABLE entity_tags (
    entity_no bigint NOT NULL,
    tags      text COLLATE "C" NOT NULL,
    PRIMARY KEY (entity_no, tags)
);

INSERT INTO entity_tags SELECT entity_no, E'\x1f' FROM entity_deleted WHERE deleted_to > 0;
INSERT INTO entity_tags SELECT DISTINCT entity_no, tags FROM event WHERE (SELECT is_tagged FROM head) ON CONFLICT DO NOTHING;

-- Make the events at these positions findable by their tags, and note the sets that begin with them; an entity that has
-- more than are looked at gets no more.
CREATE OR REPLACE FUNCTION index_tags(first_position bigint, last_position bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event_tag (tag, position)
    SELECT DISTINCT t.tag, e.position
    FROM event AS e, unnest(string_to_array(e.tags || E'\x1f' || e.prev_tags, E'\x1f')) AS t (tag)
    WHERE e.position BETWEEN first_position AND last_position AND (e.tags <> '' OR e.prev_tags <> '') AND t.tag <> '';
    INSERT INTO entity_tags (entity_no, tags)
    SELECT DISTINCT e.entity_no, CASE WHEN w.is_before THEN CASE e.prev_tags WHEN E'\x1f' THEN '' ELSE e.prev_tags END
                                      ELSE e.tags END
    FROM event AS e, (VALUES (false), (true)) AS w (is_before)
    WHERE e.position BETWEEN first_position AND last_position
      AND CASE WHEN w.is_before THEN e.prev_tags <> '' ELSE e.prev_tags <> '' OR (e.seq_nr = 1 AND e.tags <> '') END
      AND (SELECT count(*) FROM entity_tags AS known WHERE known.entity_no = e.entity_no) <= 32
    ON CONFLICT DO NOTHING;
END $$;
