-- The latest snapshot of each entity. Beside the log: it outlives the events it replaces.
CREATE TABLE snapshot (
    entity_no      INTEGER PRIMARY KEY,
    persistence_id TEXT NOT NULL UNIQUE,  -- once more: they are paged in its order
    seq_nr         INTEGER NOT NULL,      -- stands in the place of 1 … this
    position       INTEGER NOT NULL,      -- this and the times are those of that event; 0 = it was gone already
    timestamp_us   INTEGER NOT NULL,
    stored_us      INTEGER NOT NULL,
    event_time_us  INTEGER NOT NULL,
    event_type     TEXT NOT NULL,
    codec          TEXT NOT NULL,
    payload        BLOB NOT NULL,
    tags           TEXT NOT NULL,
    metadata       TEXT NOT NULL,
    taken_position INTEGER NOT NULL       -- the log's head when it was stored
) STRICT;

-- This service's places in the logs it subscribes to, each with everything that moves with it.
CREATE TABLE subscription (
    subscription_no  INTEGER PRIMARY KEY,
    name             TEXT NOT NULL UNIQUE,
    place            TEXT NOT NULL,     -- JSON, core/subscription.py
    desired_version  INTEGER NOT NULL,
    desired_criteria TEXT NOT NULL,
    revision         INTEGER NOT NULL,  -- counts commits and guards the next one
    received         INTEGER NOT NULL,
    updated_us       INTEGER NOT NULL,
    inbox_last_id    INTEGER NOT NULL,
    inbox_acked_id   INTEGER NOT NULL,  -- rows up to here are gone
    inbox_bytes      INTEGER NOT NULL
) STRICT;

-- The last number known of each entity that a subscription brings: the check of its continuity.
CREATE TABLE subscription_known (
    subscription_no INTEGER NOT NULL,
    persistence_id  TEXT NOT NULL,
    known           INTEGER NOT NULL,
    awaiting        INTEGER NOT NULL,  -- 1 = a number was missed, a replay was asked for
    PRIMARY KEY (subscription_no, persistence_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX subscription_awaiting ON subscription_known (subscription_no, persistence_id) WHERE awaiting = 1;

-- What local programs have not acknowledged yet. One number names subscription and row, so that rows stand in their
-- order without an index: subscription_no * 2^40 + id, and id is 1, 2, 3 … within the inbox.
CREATE TABLE inbox (
    row_no         INTEGER PRIMARY KEY,
    leaving        INTEGER NOT NULL,
    replaces       INTEGER NOT NULL,
    position       INTEGER NOT NULL,  -- from here on the event as its source numbered it
    timestamp_us   INTEGER NOT NULL,
    stored_us      INTEGER NOT NULL,
    event_time_us  INTEGER NOT NULL,
    persistence_id TEXT NOT NULL,
    seq_nr         INTEGER NOT NULL,
    prev_seq_nr    INTEGER NOT NULL,
    origin_seq_nr  INTEGER NOT NULL,
    event_type     TEXT NOT NULL,
    codec          TEXT NOT NULL,
    payload        BLOB NOT NULL,
    tags           TEXT NOT NULL,
    metadata       TEXT NOT NULL
) STRICT;
