-- Why a range does not move, '' while it does: written by its owner, emptied by the commit that moves the offset.
ALTER TABLE projection ADD COLUMN failing text NOT NULL DEFAULT '';
