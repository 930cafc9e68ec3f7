-- What nodes know of the edges that are connected to them, written in batches; nothing depends on it.
CREATE TABLE fleet_edge (
    origin_id text COLLATE "C" PRIMARY KEY,
    session   bigint NOT NULL,  -- a node that has an older session of an edge does not overwrite it
    node      text NOT NULL,
    at_us     bigint NOT NULL,
    facts     text NOT NULL     -- JSON, core/fleet/facts.py
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- Changes of state and summaries of each edge, bounded.
CREATE TABLE fleet_note (
    origin_id text COLLATE "C" NOT NULL,
    at_us     bigint NOT NULL,
    kind      text NOT NULL,    -- 'connected', 'disconnected', 'hour', 'day'
    facts     text NOT NULL,
    PRIMARY KEY (origin_id, at_us, kind)
);

-- When each node wrote last: an edge is connected only as long as its node lives.
CREATE TABLE fleet_node (
    node  text COLLATE "C" PRIMARY KEY,
    at_us bigint NOT NULL
) WITH (fillfactor = 50);
