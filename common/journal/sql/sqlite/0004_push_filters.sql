-- What this service asks of origins that push to it: filters, for an origin or a pattern of origins.
CREATE TABLE asked_filter (
    version  INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: edges answer with it
    pattern  TEXT NOT NULL UNIQUE,
    criteria TEXT NOT NULL,                      -- canonical JSON, common/core/filters/criteria.py
    set_us   INTEGER NOT NULL
) STRICT;

-- Where an origin's two lanes are (common/core/push/filter_transition.py); no row: nothing was ever filtered. Moves with its events.
CREATE TABLE push_place (
    origin_id         TEXT PRIMARY KEY,
    old_version       INTEGER NOT NULL,
    old_criteria      TEXT NOT NULL,
    old_producer      TEXT NOT NULL,
    new_version       INTEGER NOT NULL,
    new_criteria      TEXT NOT NULL,
    new_producer      TEXT NOT NULL,
    change_position   INTEGER NOT NULL,
    backfill_position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
