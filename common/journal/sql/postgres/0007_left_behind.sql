-- What forks of an origin's history turned away from: a log that holds any of it may not come back by itself.
ALTER TABLE origin ADD COLUMN left_behind text NOT NULL DEFAULT '[]';  -- JSON: [[generation id, first position], …]
