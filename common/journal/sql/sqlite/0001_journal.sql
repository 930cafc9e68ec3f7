-- The journal of one service in one SQLite file. Times are UTC microseconds. STRICT everywhere: a value of a wrong
-- type is a bug of ours and must not be stored.

-- Marks the file as ours ("BKHL"), so that another program's database is refused and not written.
PRAGMA application_id = 1112229964;

-- Which numbered schema steps have run.
CREATE TABLE schema_version (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    applied_us INTEGER NOT NULL
) STRICT;

-- The log's head, one row. Kept, never derived: the highest event may have been deleted.
CREATE TABLE journal (
    only_row          INTEGER PRIMARY KEY CHECK (only_row = 1),
    journal_id        TEXT NOT NULL,
    head_position     INTEGER NOT NULL,
    head_timestamp_us INTEGER NOT NULL,
    deleted_through   INTEGER NOT NULL  -- highest position retention ever removed
) STRICT;

-- Which incarnation wrote from which position on: how a peer finds where two copies of this file part.
CREATE TABLE generation (
    first_position INTEGER PRIMARY KEY,
    generation_id  TEXT NOT NULL
) STRICT;

-- Entities by number: events name them by it, because an index on the text costs more than all the rest of an append.
CREATE TABLE entity (
    entity_no        INTEGER PRIMARY KEY,
    persistence_id   TEXT NOT NULL UNIQUE,  -- EntityType|entityId
    owner            TEXT NOT NULL,         -- origin id, '' = this service
    deleted_to       INTEGER NOT NULL,      -- last seq_nr that retention removed, 0 = none
    deleted_position INTEGER NOT NULL,      -- where it stood
    deleted_reason   TEXT NOT NULL
) STRICT;

-- Where each entity is. Kept, never derived from events: numbers go on after every event of an entity was deleted.
-- Apart from `entity` because every append writes it: small rows, many to a page.
CREATE TABLE entity_head (
    entity_no     INTEGER PRIMARY KEY,
    seq_nr        INTEGER NOT NULL,
    origin_seq_nr INTEGER NOT NULL,  -- last number known in the owner's numbering …
    branch        INTEGER NOT NULL,  -- … on this fork of its history
    parked        INTEGER NOT NULL   -- its parked events: while there are any, later ones queue behind
) STRICT;

-- The log. prev_seq_nr is not stored: in this journal's own numbering it is seq_nr - 1.
CREATE TABLE event (
    position      INTEGER PRIMARY KEY,  -- 1, 2, 3 … in commit order
    timestamp_us  INTEGER NOT NULL,     -- unique and increasing: an order with a time's looks
    stored_us     INTEGER NOT NULL,     -- the clock when it was stored: age, for retention
    event_time_us INTEGER NOT NULL,     -- the source's own time, 0 when it gave none
    entity_no     INTEGER NOT NULL,
    slice         INTEGER NOT NULL,     -- computed from persistence_id; projections read by ranges of it
    seq_nr        INTEGER NOT NULL,
    origin_seq_nr INTEGER NOT NULL,     -- the number at the origin that pushed it, 0 when written here
    event_type    TEXT NOT NULL,
    codec         TEXT NOT NULL,
    payload       BLOB NOT NULL,
    tags          TEXT NOT NULL,        -- parts joined by U+001F
    metadata      TEXT NOT NULL         -- key, value, key, value … joined by U+001F
) STRICT;

-- One entity's events; unique as the last line of defence of "nothing twice".
CREATE UNIQUE INDEX event_by_entity ON event (entity_no, seq_nr);

-- What was deleted in a stretch of the log, for whoever reads over it.
CREATE INDEX entity_by_deleted_position ON entity (deleted_position) WHERE deleted_position > 0;

-- Other journals received here: their position moves in the transaction that stores their events.
CREATE TABLE origin (
    origin_id       TEXT PRIMARY KEY,
    session         INTEGER NOT NULL,  -- the newest connection; older ones are fenced
    instance        TEXT NOT NULL,
    branch          INTEGER NOT NULL,
    journal_id      TEXT NOT NULL,     -- this and the next five: offset of the last event stored or parked
    generation_id   TEXT NOT NULL,
    position        INTEGER NOT NULL,
    timestamp_us    INTEGER NOT NULL,
    persistence_id  TEXT NOT NULL,
    seq_nr          INTEGER NOT NULL,
    generations     TEXT NOT NULL,     -- JSON [[id, first position], …] as its last Hello told
    superseded      TEXT NOT NULL,     -- JSON [journal id, …] that may not come back
    last_seen_us    INTEGER NOT NULL,
    fenced_instance TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The answers given to appends with an id, stored with their events: a repeat gets the same answer.
CREATE TABLE append_id (
    append_id      TEXT PRIMARY KEY,
    digest         BLOB NOT NULL,
    first_position INTEGER NOT NULL,
    seq_nrs        TEXT NOT NULL,  -- JSON [seq_nr, …]; not in `event`, from where retention may have removed them
    stored_us      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Forgetting the oldest.
CREATE INDEX append_id_by_age ON append_id (stored_us);

-- Events of origins that could not be stored, as they came, with the reason. Columns as in `event`.
CREATE TABLE parked (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: an operator names rows by it
    origin_id      TEXT NOT NULL,
    branch         INTEGER NOT NULL,
    code           TEXT NOT NULL,
    parked_us      INTEGER NOT NULL,
    position       INTEGER NOT NULL,
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

-- An origin's quota.
CREATE INDEX parked_by_origin ON parked (origin_id);
-- An entity's queue.
CREATE INDEX parked_by_entity ON parked (persistence_id);

-- Numbers an origin said will never come, and those an operator gave up: silence is never a gap.
CREATE TABLE stated_range (
    id             INTEGER PRIMARY KEY,
    persistence_id TEXT NOT NULL,
    origin_id      TEXT NOT NULL,
    from_seq_nr    INTEGER NOT NULL,
    to_seq_nr      INTEGER NOT NULL,
    branch         INTEGER NOT NULL,   -- the fork of the origin's history it was stated on
    reason         TEXT NOT NULL,
    received_us    INTEGER NOT NULL
) STRICT;

CREATE INDEX stated_range_by_entity ON stated_range (persistence_id);

-- This service's own places in other logs.
CREATE TABLE cursor (
    name           TEXT PRIMARY KEY,
    journal_id     TEXT NOT NULL,
    generation_id  TEXT NOT NULL,
    position       INTEGER NOT NULL,
    timestamp_us   INTEGER NOT NULL,
    persistence_id TEXT NOT NULL,
    seq_nr         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Projections: place, right to commit and who holds it, a row for each range of slices.
CREATE TABLE projection (
    name           TEXT NOT NULL,
    first_slice    INTEGER NOT NULL,
    last_slice     INTEGER NOT NULL,
    position       INTEGER NOT NULL,
    epoch          INTEGER NOT NULL,  -- guards every commit; an owner that lost the lease cannot write
    owner          TEXT NOT NULL,     -- '' = nobody
    lease_until_us INTEGER NOT NULL,
    paused         INTEGER NOT NULL,
    updated_us     INTEGER NOT NULL,
    PRIMARY KEY (name, first_slice, last_slice)
) STRICT, WITHOUT ROWID;

-- Schema steps of the applications' own tables.
CREATE TABLE projection_schema (
    name  TEXT PRIMARY KEY,
    steps INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
