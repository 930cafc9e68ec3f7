"""Did it hold? A comparison of what was put in with what the stores hold, by (file, row, content). Pure.

Nothing here was counted on the way: the input comes from the files, what an edge answered for from the programs that
asked it, everything else was read from the journals after the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final, NamedTuple

from examples.demo.series import Reading

_NAMED_MAX: Final = 5


class Stored(NamedTuple):
    """An event as a journal holds it: the entity's persistence id, what it says, and when it was stored (UTC µs)."""

    entity: str
    reading: Reading
    stored_us: int


@dataclass(frozen=True, slots=True)
class EdgeAccount:
    """All that is known of one edge in the end; both journals in log order.

    ``given`` maps each reading of its input to the entity it belongs to, in the order of the files. ``on_lost_disk`` is
    what the edge had answered for when it lost its disk, ``unacked_at_loss`` the part the cloud had not acked by then.
    """

    edge_id: str
    given: Mapping[Reading, str]
    answered: Collection[Reading]
    in_file: Sequence[Stored]
    in_cloud: Sequence[Stored]
    on_lost_disk: Set[Reading] = frozenset()
    unacked_at_loss: Set[Reading] = frozenset()


@dataclass(frozen=True, slots=True)
class EdgeFinding:
    """What the comparison says of one edge. It holds when ``problems`` is empty.

    ``missing`` was answered for and is not in the cloud; ``lost_with_disk`` is the part of it that may be.
    """

    edge_id: str
    given: int
    appended: int
    in_file: int
    in_cloud: int
    missing: tuple[Reading, ...]
    lost_with_disk: tuple[Reading, ...]
    unacked_at_loss: int
    duplicates: int
    out_of_order: int
    strangers: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A journal's events of one edge against what should be there: first occurrences only count as being there."""

    missing: tuple[Reading, ...]
    duplicates: tuple[Reading, ...]
    out_of_order: tuple[Reading, ...]
    strangers: tuple[Stored, ...]


def compare(stored: Sequence[Stored], wanted: Collection[Reading], given: Mapping[Reading, str]) -> Comparison:
    """``stored`` in log order against ``wanted``; what is not in ``given`` under its entity is a stranger.

    Out of order is a reading that comes after a later row of its entity. A repeated one is a duplicate, nothing else.
    """
    seen: set[Reading] = set()
    last_row: dict[str, int] = {}
    duplicates, out_of_order, strangers = [], [], []
    for event in stored:
        if given.get(event.reading) != event.entity:
            strangers.append(event)
        elif event.reading in seen:
            duplicates.append(event.reading)
        else:
            seen.add(event.reading)
            if event.reading.row < last_row.get(event.entity, 0):
                out_of_order.append(event.reading)
            last_row[event.entity] = max(event.reading.row, last_row.get(event.entity, 0))
    missing = tuple(sorted(set(wanted) - seen))
    return Comparison(missing, tuple(duplicates), tuple(out_of_order), tuple(strangers))


def examine(account: EdgeAccount) -> EdgeFinding:
    """Compare one edge's input, its file and the cloud."""
    problems: list[str] = []
    unanswered = sorted(account.given.keys() - set(account.answered))
    if unanswered:
        problems.append(f"{len(unanswered)} readings were never answered for: {named(unanswered)}")
    repeats = len(account.answered) - len(set(account.answered))
    if repeats:
        problems.append(f"{repeats} readings were answered for twice")

    here = compare(account.in_file, set(account.answered) - account.on_lost_disk, account.given)
    problems += _problems("in its own file", here, here.missing)

    there = compare(account.in_cloud, account.answered, account.given)
    lost = tuple(reading for reading in there.missing if reading in account.unacked_at_loss)
    inexcusable = [reading for reading in there.missing if reading not in account.unacked_at_loss]
    problems += _problems("in the cloud", there, inexcusable)
    return EdgeFinding(
        edge_id=account.edge_id,
        given=len(account.given),
        appended=len(account.answered),
        in_file=len(account.in_file),
        in_cloud=len(account.in_cloud),
        missing=there.missing,
        lost_with_disk=lost,
        unacked_at_loss=len(account.unacked_at_loss),
        duplicates=len(there.duplicates),
        out_of_order=len(there.out_of_order),
        strangers=len(there.strangers),
        problems=tuple(f"{account.edge_id}: {problem}" for problem in problems),
    )


def _problems(where: str, found: Comparison, missing: Sequence[Reading]) -> list[str]:
    answer = []
    if missing:
        answer.append(f"{len(missing)} answered readings are not {where}: {named(missing)}")
    if found.duplicates:
        answer.append(f"{len(found.duplicates)} readings are more than once {where}: {named(found.duplicates)}")
    if found.out_of_order:
        answer.append(f"{len(found.out_of_order)} readings are out of order {where}: {named(found.out_of_order)}")
    if found.strangers:
        first = found.strangers[0]
        answer.append(
            f"{len(found.strangers)} events {where} are none of the input, or another sensor's: "
            f"{first.entity} holds {first.reading}"
        )
    return answer


def named(readings: Collection[Reading], most: int = _NAMED_MAX) -> str:
    """Readings as `file rows 3-7, 9`, at most so many files and stretches; for a message or a table."""
    stretches: list[tuple[str, int, int]] = []
    for file, row, _ in sorted(readings):
        if stretches and stretches[-1][0] == file and stretches[-1][2] == row - 1:
            stretches[-1] = (file, stretches[-1][1], row)
        else:
            stretches.append((file, row, row))
    answer: dict[str, list[str]] = {}
    for file, first, last in stretches[:most]:
        answer.setdefault(file, []).append(str(first) if first == last else f"{first}-{last}")
    more = len(stretches) - most
    return ", ".join(f"{file} rows {' and '.join(rows)}" for file, rows in answer.items()) + (
        f" and {more} more stretches" if more > 0 else ""
    )


def tally_problems(folded: Mapping[str, object], table: Mapping[str, object], entities: Collection[str]) -> list[str]:
    """What is wrong with the cloud's `tally` table, compared with a fold of its journal; entity by entity."""
    problems = [
        f"tally of {entity}: the table says {table.get(entity)}, the journal {folded.get(entity)}"
        for entity in sorted(folded.keys() | table.keys())
        if folded.get(entity) != table.get(entity)
    ]
    unexpected = Counter(folded.keys()) - Counter(entities)
    if unexpected:
        problems.append(f"the cloud holds entities that nobody wrote: {', '.join(sorted(unexpected))}")
    return problems
