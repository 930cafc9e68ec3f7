-- What a source had deleted of an entity before it came here: the last stretch, for those who ask where an event is.
CREATE TABLE subscription_deleted (
    subscription_no bigint NOT NULL,
    persistence_id  text COLLATE "C" NOT NULL,
    from_seq_nr     bigint NOT NULL,
    to_seq_nr       bigint NOT NULL,
    reason          text NOT NULL,
    PRIMARY KEY (persistence_id, subscription_no)
);
