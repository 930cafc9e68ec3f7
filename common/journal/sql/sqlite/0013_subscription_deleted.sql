-- What a source had deleted of an entity before it came here: the last stretch, for those who ask where an event is.
CREATE TABLE subscription_deleted (
    subscription_no INTEGER NOT NULL,
    persistence_id  TEXT NOT NULL,
    from_seq_nr     INTEGER NOT NULL,
    to_seq_nr       INTEGER NOT NULL,
    reason          TEXT NOT NULL,
    PRIMARY KEY (persistence_id, subscription_no)
) STRICT, WITHOUT ROWID;
