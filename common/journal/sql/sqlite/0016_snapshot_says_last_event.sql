-- A snapshot that says no more than the event with its number: it passes a wall if that event does (core.journal.snapshot).
ALTER TABLE snapshot ADD COLUMN says_last_event INTEGER NOT NULL DEFAULT 0;
