-- What nodes know of the edges that are connected to them, written in batches; nothing depends on it.
CREATE TABLE fleet_edge (
    origin_id TEXT PRIMARY KEY,
    session   INTEGER NOT NULL,  -- a node that has an older session of an edge does not overwrite it
    node      TEXT NOT NULL,
    at_us     INTEGER NOT NULL,
    facts     TEXT NOT NULL      -- JSON, core/fleet/facts.py
) STRICT, WITHOUT ROWID;

-- Changes of state and summaries of each edge, bounded.
CREATE TABLE fleet_note (
    origin_id TEXT NOT NULL,
    at_us     INTEGER NOT NULL,
    kind      TEXT NOT NULL,     -- 'connected', 'disconnected', 'hour', 'day'
    facts     TEXT NOT NULL,
    PRIMARY KEY (origin_id, at_us, kind)
) STRICT, WITHOUT ROWID;

-- When each node wrote last: an edge is connected only as long as its node lives.
CREATE TABLE fleet_node (
    node  TEXT PRIMARY KEY,
    at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
