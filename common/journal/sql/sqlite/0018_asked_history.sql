-- How much past is asked for with a filter: of an entity that comes in by it (common/core/filters/past.py).
ALTER TABLE asked_filter ADD COLUMN history TEXT NOT NULL DEFAULT 'snapshot';
