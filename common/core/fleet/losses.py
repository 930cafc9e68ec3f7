"""Is anything lost? Where every event is that an edge has ever said to have: one answer with its parts.

| part | means |
| --- | --- |
| stored | in the cloud's journal, or removed there by its own retention |
| underway | on the edge's disk, as far as the cloud knows, and not stored yet |
| parked | kept aside in the cloud until an operator decides |
| withheld | left out on purpose: filters, transformations |
| replaced | not stored themselves: a snapshot stands for them |
| dropped | removed by the edge at its cap, as ``on_full`` allows |
| trimmed | removed before the cloud had it, for another reason |
| discarded | given up by an operator |
| gone | only on a disk, or in a journal, that another one has replaced |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from common.core.fleet.facts import EdgeFacts

PARTS: Final = ("stored", "underway", "parked", "withheld", "replaced", "dropped", "trimmed", "discarded", "gone")
LOST: Final = ("dropped", "trimmed", "gone")
_STATED: Final = ("withheld", "replaced", "dropped", "trimmed", "discarded")
_PART_OF_REASON: Final = {
    "withheld": "withheld",
    "mapped": "withheld",
    "snapshot": "replaced",
    "dropped": "dropped",
    "discarded": "discarded",
    # Decisions about numbers that are counted elsewhere, or never were events of this origin.
    "accepted": "",
    "transferred": "",
    "replaced": "",
}


def parts_of(stored: int, parked: int, stated: Mapping[str, int], facts: EdgeFacts, position: int) -> dict[str, int]:
    """The parts of one edge. ``position`` is how far its present journal is stored, as the origin's row says.

    What a filter withheld is stated with the entity's next event; until then it shows as positions that were passed
    over and are nothing else, and is counted as withheld.
    """
    parts = dict.fromkeys(PARTS, 0)
    parts["stored"], parts["parked"] = stored, parked
    parts["underway"] = max(0, facts.head - position)
    parts["gone"] = sum(last - first + 1 for _, first, last in facts.gone)
    for reason, numbers in stated.items():
        part = _PART_OF_REASON.get(reason, "trimmed")
        if part:
            parts[part] += numbers
    passed = position + facts.past
    settled = stored + parked + sum(parts[part] for part in _STATED)
    parts["withheld"] += max(0, passed - settled)
    return parts


def verdict(parts: Mapping[str, int]) -> str:
    """The answer in one word: ``nothing``, ``waits`` (nothing is lost, and an operator must decide), or ``lost``."""
    if any(parts[part] for part in LOST):
        return "lost"
    return "waits" if parts["parked"] else "nothing"
