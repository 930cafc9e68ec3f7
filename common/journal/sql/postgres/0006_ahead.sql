-- Ranges of a projection are split and merged: what some slices of a range are further than its position.
-- "first-last:position" and so on, parts separated by a space; '' when all are at one position.
ALTER TABLE projection ADD COLUMN ahead text NOT NULL DEFAULT '';
