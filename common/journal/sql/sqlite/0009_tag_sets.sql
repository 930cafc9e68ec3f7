-- Distinct tag sets of an entity's events, kept when those are deleted (core.journal.tag_sets): a snapshot passes a wall only
-- if every event that it folds does. U+001F: not all are known. No row: it never had a tag.
CREATE TABLE entity_tags (
    entity_no INTEGER NOT NULL,
    tags      TEXT NOT NULL,
    PRIMARY KEY (entity_no, tags)
) STRICT, WITHOUT ROWID;

INSERT INTO entity_tags SELECT entity_no, char(31) FROM entity WHERE deleted_to > 0;
INSERT OR IGNORE INTO entity_tags
SELECT entity_no, tags FROM event
WHERE EXISTS (SELECT 1 FROM event AS any_event WHERE any_event.tags <> '');
