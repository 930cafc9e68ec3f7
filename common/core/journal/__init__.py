"""A journal's decisions: admission of appends, history and generations, snapshots, retention, slice ranges."""
