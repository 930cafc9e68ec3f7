-- What forks of an origin's history turned away from: a log that holds any of it may not come back by itself.
-- JSON [[generation id, first position], …]
ALTER TABLE origin ADD COLUMN left_behind TEXT NOT NULL DEFAULT '[]';
