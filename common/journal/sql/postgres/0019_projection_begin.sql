-- Where a projection began that was to leave out what was before: one that is reset begins there again.
ALTER TABLE projection ADD COLUMN begin_position bigint NOT NULL DEFAULT 0;
