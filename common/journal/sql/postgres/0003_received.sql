-- The latest snapshot of each entity. Beside the log: it outlives the events it replaces, and no append waits for it.
CREATE TABLE snapshot (
    entity_no      bigint PRIMARY KEY,
    persistence_id text COLLATE "C" NOT NULL UNIQUE,  -- once more: they are paged in its order
    seq_nr         bigint NOT NULL,                   -- stands in the place of 1 … this
    position       bigint NOT NULL,                   -- this and the times are those of that event; 0 = it was gone
    timestamp_us   bigint NOT NULL,
    stored_us      bigint NOT NULL,
    event_time_us  bigint NOT NULL,
    event_type     text NOT NULL,
    codec          text NOT NULL,
    payload        bytea NOT NULL,
    tags           text NOT NULL,
    metadata       text NOT NULL,
    taken_position bigint NOT NULL                    -- the log's head when it was stored
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

-- This service's places in the logs it subscribes to, each with everything that moves with it.
-- Lock order: … -> projection (the lease) -> subscription -> origin -> …
CREATE TABLE subscription (
    subscription_no  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name             text COLLATE "C" NOT NULL UNIQUE,
    place            text NOT NULL,    -- JSON, core/subscription.py
    desired_version  bigint NOT NULL,
    desired_criteria text NOT NULL,
    revision         bigint NOT NULL,  -- counts commits and guards the next one
    received         bigint NOT NULL,
    updated_us       bigint NOT NULL,
    inbox_last_id    bigint NOT NULL,
    inbox_acked_id   bigint NOT NULL,  -- rows up to here are gone
    inbox_bytes      bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

-- The last number known of each entity that a subscription brings: the check of its continuity.
CREATE TABLE subscription_known (
    subscription_no bigint NOT NULL,
    persistence_id  text COLLATE "C" NOT NULL,
    known           bigint NOT NULL,
    awaiting        boolean NOT NULL,  -- a number was missed, a replay was asked for
    PRIMARY KEY (subscription_no, persistence_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX subscription_awaiting ON subscription_known (subscription_no, persistence_id) WHERE awaiting;

-- What local programs have not acknowledged yet; id is 1, 2, 3 … within the inbox.
CREATE TABLE inbox (
    subscription_no bigint NOT NULL,
    id              bigint NOT NULL,
    leaving         boolean NOT NULL,
    replaces        boolean NOT NULL,
    position        bigint NOT NULL,  -- from here on the event as its source numbered it
    timestamp_us    bigint NOT NULL,
    stored_us       bigint NOT NULL,
    event_time_us   bigint NOT NULL,
    persistence_id  text COLLATE "C" NOT NULL,
    seq_nr          bigint NOT NULL,
    prev_seq_nr     bigint NOT NULL,
    origin_seq_nr   bigint NOT NULL,
    event_type      text NOT NULL,
    codec           text NOT NULL,
    payload         bytea NOT NULL,
    tags            text NOT NULL,
    metadata        text NOT NULL,
    PRIMARY KEY (subscription_no, id)
);
