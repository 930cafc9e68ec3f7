-- The journal of one service: one log, and the state that moves with it. Own schema, first on the search path.
--
-- Lock order of every transaction: rows of applications -> projection -> origin (sorted) -> head -> entity.
-- Whoever holds the head row is the only writer of event, entity, append_id and parked; so those are read and
-- written without row locks of their own. Names are compared by byte, COLLATE "C", as in every other storage.

CREATE TABLE journal (
    one               boolean PRIMARY KEY DEFAULT true CHECK (one),
    journal_id        text NOT NULL,
    generations       text NOT NULL,  -- JSON: [[id, first position], …], oldest first
    system_identifier bigint NOT NULL,
    timeline          bigint NOT NULL,
    database_oid      bigint NOT NULL,
    deleted_through   bigint NOT NULL DEFAULT 0
);

-- The counter and the lock in one: positions appear in order because whoever raises it commits before the next does.
-- A page of its own and room for many versions: every commit writes a new one.
CREATE TABLE head (
    one          boolean PRIMARY KEY DEFAULT true CHECK (one),
    position     bigint NOT NULL,
    timestamp_us bigint NOT NULL,
    entities     bigint NOT NULL  -- highest entity_no
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

INSERT INTO head (position, timestamp_us, entities) VALUES (0, 0, 0);

-- fillfactor: a new version of a row stays on its page (HOT), so no index is touched when an entity goes on.
CREATE TABLE entity (
    entity_no      bigint PRIMARY KEY,
    seq_nr         bigint NOT NULL,
    origin_seq_nr  bigint NOT NULL,
    branch         bigint NOT NULL,
    parked         bigint NOT NULL,
    owner          text COLLATE "C" NOT NULL,
    persistence_id text COLLATE "C" NOT NULL UNIQUE
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- What retention removed; apart from entity, so that retention and appends never wait for each other.
CREATE TABLE entity_deleted (
    entity_no        bigint PRIMARY KEY,
    deleted_to       bigint NOT NULL,
    deleted_position bigint NOT NULL,
    reason           text NOT NULL
);
CREATE INDEX entity_deleted_position ON entity_deleted (deleted_position);

-- An event names its entity by number: an index on the text costs more than all the rest of an append.
CREATE TABLE event (
    position      bigint PRIMARY KEY,
    timestamp_us  bigint NOT NULL,
    stored_us     bigint NOT NULL,
    event_time_us bigint NOT NULL,
    entity_no     bigint NOT NULL,
    seq_nr        bigint NOT NULL,
    origin_seq_nr bigint NOT NULL,
    slice         smallint NOT NULL,
    event_type    text NOT NULL,
    codec         text NOT NULL,
    tags          text NOT NULL,
    metadata      text NOT NULL,
    payload       bytea NOT NULL,
    UNIQUE (entity_no, seq_nr)
);

CREATE TABLE append_id (
    append_id      text COLLATE "C" PRIMARY KEY,
    digest         bytea NOT NULL,
    first_position bigint NOT NULL,
    seq_nr         bigint[] NOT NULL,
    stored_us      bigint NOT NULL
);
CREATE INDEX append_id_stored ON append_id (stored_us);

CREATE TABLE origin (
    origin_id       text COLLATE "C" PRIMARY KEY,
    session         bigint NOT NULL,
    instance        text NOT NULL,
    branch          bigint NOT NULL,
    journal_id      text NOT NULL,
    generation_id   text NOT NULL,
    position        bigint NOT NULL,
    timestamp_us    bigint NOT NULL,
    persistence_id  text NOT NULL,
    seq_nr          bigint NOT NULL,
    generations     text NOT NULL,  -- JSON as in journal
    superseded      text NOT NULL,  -- JSON: [journal id, …]
    last_seen_us    bigint NOT NULL,
    fenced_instance text NOT NULL,
    parked          bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

CREATE TABLE parked (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    origin_id      text COLLATE "C" NOT NULL,
    branch         bigint NOT NULL,
    code           text NOT NULL,
    parked_us      bigint NOT NULL,
    position       bigint NOT NULL,
    timestamp_us   bigint NOT NULL,
    stored_us      bigint NOT NULL,
    event_time_us  bigint NOT NULL,
    persistence_id text COLLATE "C" NOT NULL,
    seq_nr         bigint NOT NULL,
    prev_seq_nr    bigint NOT NULL,
    origin_seq_nr  bigint NOT NULL,
    event_type     text NOT NULL,
    codec          text NOT NULL,
    payload        bytea NOT NULL,
    tags           text NOT NULL,
    metadata       text NOT NULL
);
CREATE INDEX parked_entity ON parked (persistence_id, id);
CREATE INDEX parked_origin ON parked (origin_id, id);

CREATE TABLE stated_range (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    origin_id      text COLLATE "C" NOT NULL,
    branch         bigint NOT NULL,
    persistence_id text COLLATE "C" NOT NULL,
    from_seq_nr    bigint NOT NULL,
    to_seq_nr      bigint NOT NULL,
    reason         text NOT NULL,
    received_us    bigint NOT NULL
);
CREATE INDEX stated_range_entity ON stated_range (persistence_id, id);

CREATE TABLE cursor_in_log (
    name           text COLLATE "C" PRIMARY KEY,
    journal_id     text NOT NULL,
    generation_id  text NOT NULL,
    position       bigint NOT NULL,
    timestamp_us   bigint NOT NULL,
    persistence_id text NOT NULL,
    seq_nr         bigint NOT NULL
);

CREATE TABLE projection (
    name        text COLLATE "C" NOT NULL,
    first_slice int NOT NULL,
    last_slice  int NOT NULL,
    position    bigint NOT NULL,
    epoch       bigint NOT NULL,
    owner       text NOT NULL,
    lease_until timestamptz NOT NULL,
    paused      boolean NOT NULL,
    updated_us  bigint NOT NULL,
    PRIMARY KEY (name, first_slice, last_slice)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE application_schema (
    name  text COLLATE "C" PRIMARY KEY,
    steps int NOT NULL
);

-- For people: the log with names. Programs read event and know the names of entities already.
CREATE VIEW log AS
    SELECT position, timestamp_us, stored_us, event_time_us, persistence_id, event.seq_nr, event.origin_seq_nr,
           slice, event_type, codec, tags, metadata, payload
    FROM event JOIN entity USING (entity_no);
