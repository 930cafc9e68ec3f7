-- Filters on the way up: what is asked of origins, and where the two lanes of each are.

-- What this service asks of origins that push to it, for an origin or a pattern of origins.
CREATE TABLE asked_filter (
    version  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- never used twice: edges answer with it
    pattern  text COLLATE "C" NOT NULL UNIQUE,
    criteria text NOT NULL,                                    -- canonical JSON, common/core/filters/criteria.py
    set_us   bigint NOT NULL
);

-- Where an origin's lanes are (common/core/push/filter_transition.py); no row: nothing was ever filtered. Moves with its events, under
-- the lock of the origin's row.
CREATE TABLE push_place (
    origin_id         text COLLATE "C" PRIMARY KEY,
    old_version       bigint NOT NULL,
    old_criteria      text NOT NULL,
    old_producer      text NOT NULL,
    new_version       bigint NOT NULL,
    new_criteria      text NOT NULL,
    new_producer      text NOT NULL,
    change_position   bigint NOT NULL,
    backfill_position bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
