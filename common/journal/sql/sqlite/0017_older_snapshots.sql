-- Snapshots of an entity before its latest, as many as are kept by setting; columns as in ``snapshot``.
CREATE TABLE older_snapshot (
    entity_no       INTEGER NOT NULL,
    persistence_id  TEXT NOT NULL,
    seq_nr          INTEGER NOT NULL,
    position        INTEGER NOT NULL,
    timestamp_us    INTEGER NOT NULL,
    stored_us       INTEGER NOT NULL,
    event_time_us   INTEGER NOT NULL,
    event_type      TEXT NOT NULL,
    codec           TEXT NOT NULL,
    payload         BLOB NOT NULL,
    tags            TEXT NOT NULL,
    metadata        TEXT NOT NULL,
    taken_position  INTEGER NOT NULL,
    says_last_event INTEGER NOT NULL,
    PRIMARY KEY (entity_no, seq_nr)
) STRICT;
