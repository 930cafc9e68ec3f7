-- Leases that belong to no projection have a table of their own; they were rows of projection with a colon in the name.
-- Lock order: rows of applications -> projection or lease -> subscription -> origin (sorted) -> head -> entity.
CREATE TABLE lease (
    name  text COLLATE "C" PRIMARY KEY,  -- what is done by one owner at a time: 'retention', 'subscription:<name>'
    owner text NOT NULL,                 -- '' = nobody
    epoch bigint NOT NULL,               -- guards every commit; an owner that lost the lease cannot write
    until timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

INSERT INTO lease SELECT replace(name, 'lease:', ''), owner, epoch, lease_until FROM projection WHERE strpos(name, ':') > 0;
DELETE FROM projection WHERE strpos(name, ':') > 0;
-- A node of an earlier version that still runs would hold its leases here, beside their new holder.
ALTER TABLE projection ADD CONSTRAINT projection_is_no_lease CHECK (strpos(name, ':') = 0);
