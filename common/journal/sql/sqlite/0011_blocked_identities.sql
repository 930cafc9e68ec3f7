-- Peers that an operator shut out, whatever their certificates say.
CREATE TABLE blocked_identity (
    id         TEXT PRIMARY KEY,
    reason     TEXT NOT NULL,
    blocked_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
