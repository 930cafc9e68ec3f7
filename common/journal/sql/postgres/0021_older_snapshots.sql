-- Snapshots of an entity before its latest, as many as are kept by setting; columns as in ``snapshot``.
CREATE TABLE older_snapshot (
    entity_no       bigint NOT NULL,
    persistence_id  text COLLATE "C" NOT NULL,
    seq_nr          bigint NOT NULL,
    position        bigint NOT NULL,
    timestamp_us    bigint NOT NULL,
    stored_us       bigint NOT NULL,
    event_time_us   bigint NOT NULL,
    event_type      text NOT NULL,
    codec           text NOT NULL,
    payload         bytea NOT NULL,
    tags            text NOT NULL,
    metadata        text NOT NULL,
    taken_position  bigint NOT NULL,
    says_last_event boolean NOT NULL,
    PRIMARY KEY (entity_no, seq_nr)
);

-- How often a latest snapshot was deleted: nodes then forget up to where snapshots covered the log.
ALTER TABLE journal ADD COLUMN snapshot_deletions bigint NOT NULL DEFAULT 0;
