-- The nodes that have this journal open. A lease holds while the member row of its owner does; times are the database's.
CREATE TABLE member (
    instance    text COLLATE "C" PRIMARY KEY,  -- this start of the node: the owner in projection and lease
    node        text NOT NULL,
    started_us  bigint NOT NULL,
    weight      int NOT NULL,                  -- its share of the work, 0 = none
    runs        text[] NOT NULL,               -- projections that it has handlers for
    sessions    int NOT NULL,                  -- the most that it opens here
    edges       int NOT NULL,
    renewals    bigint NOT NULL,
    renewed_at  timestamptz NOT NULL,
    lease_until timestamptz NOT NULL,
    lock_pid    int NOT NULL                   -- the session that holds the lock of this member
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

-- Nodes, by name, that an operator gives no work.
CREATE TABLE drained_node (node text COLLATE "C" PRIMARY KEY);

-- After a new generation members are cleared, and nothing is assigned until all had time to come back.
CREATE TABLE membership (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    settles_at timestamptz NOT NULL
);
INSERT INTO membership (settles_at) VALUES ('epoch');

ALTER TABLE projection
    ADD COLUMN moved_at timestamptz NOT NULL DEFAULT 'epoch',  -- from one owner to another, for the last time
    ADD COLUMN directed boolean NOT NULL DEFAULT false;        -- the owner was named by the one before, and has not come yet

-- Prompts. These changes are rare, and commits of ranges are none of them.
CREATE FUNCTION prompt_members() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('backhaul_members', '');
    RETURN NULL;
END $$;
CREATE TRIGGER member_changed AFTER INSERT OR DELETE ON member FOR EACH ROW EXECUTE FUNCTION prompt_members();
CREATE TRIGGER member_reported AFTER UPDATE ON member FOR EACH ROW
    WHEN (old.weight <> new.weight OR old.runs <> new.runs OR new.lease_until < old.lease_until)
    EXECUTE FUNCTION prompt_members();
CREATE TRIGGER drained_changed AFTER INSERT OR DELETE ON drained_node FOR EACH ROW EXECUTE FUNCTION prompt_members();
CREATE TRIGGER range_changed AFTER INSERT OR DELETE ON projection FOR EACH ROW EXECUTE FUNCTION prompt_members();
CREATE TRIGGER range_moved AFTER UPDATE OF owner, paused ON projection FOR EACH ROW
    WHEN (old.owner <> new.owner OR old.paused <> new.paused OR old.epoch <> new.epoch OR old.directed <> new.directed)
    EXECUTE FUNCTION prompt_members();
