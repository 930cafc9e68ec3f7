"""Which events of a log an index can find: of some types, and with one of some tags or ids.

A selection is coarse: a journal that reads by it may let more events through, never fewer; whoever asked judges each.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Selection:
    """Events of ``entity_types`` (none named: of all) that have, or whose predecessor had, one of what is named below.

    Tags, tag prefixes and persistence ids are alternatives; when none is named there is no condition beside the types.
    """

    entity_types: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    tag_prefixes: frozenset[str] = frozenset()
    persistence_ids: frozenset[str] = frozenset()

    @property
    def is_all(self) -> bool:
        """Whether every event of the log is selected."""
        return not (self.entity_types or self.tags or self.tag_prefixes or self.persistence_ids)


EVERYTHING = Selection()
