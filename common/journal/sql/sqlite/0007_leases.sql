-- Leases that belong to no projection have a table of their own; they were rows of projection with a colon in the name.
CREATE TABLE lease (
    name     TEXT PRIMARY KEY,  -- what is done by one owner at a time: 'retention', 'subscription:<name>'
    owner    TEXT NOT NULL,     -- '' = nobody
    epoch    INTEGER NOT NULL,  -- guards every commit; an owner that lost the lease cannot write
    until_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO lease SELECT replace(name, 'lease:', ''), owner, epoch, lease_until_us FROM projection WHERE instr(name, ':');
DELETE FROM projection WHERE instr(name, ':');
