-- How much past is asked for with a filter: of an entity that comes in by it (common/core/filters/past.py).
-- append_batch knows the past lane.
ALTER TABLE asked_filter ADD COLUMN history text NOT NULL DEFAULT 'snapshot';
