"""The input: sensor series from a folder of `timestamp,value` files, and which edge writes which of them.

A reading is known by file, row and content. Nothing else could tell readings apart: timestamps repeat, values do too,
and two of the edges use the same local ids for different sensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from examples.demo.failure import DemoFailure

ENTITY_TYPE: Final = "Sensor"
EVENT_TYPE: Final = "Measured"
EXCERPT: Final = Path(__file__).resolve().parent.parent / "data"

# Fewer, and the faults would not fall into the replay.
_READINGS_MIN: Final = 50
_HEADER: Final = "timestamp,value"


class Reading(NamedTuple):
    """One line of a file; rows count from 1, behind the header."""

    file: str
    row: int
    content: str


@dataclass(frozen=True, slots=True)
class Series:
    """A sensor's readings in the order of its file, and the local id its edge knows the sensor by."""

    file: str
    local_id: str
    readings: tuple[Reading, ...]


def read_folder(folder: Path, edge_ids: Sequence[str]) -> dict[str, list[Series]]:
    """Edge id → its series, dealt out in turn. All edges but the last number their sensors, so their ids are equal.

    Raises DemoFailure naming what is wrong with the folder or a file.
    """
    paths = sorted(folder.glob("*.csv"))
    if len(paths) < len(edge_ids):
        raise DemoFailure(
            f"{folder} holds {len(paths)} CSV files; at least {len(edge_ids)} are needed, one for each edge"
        )
    dealt: dict[str, list[Series]] = {edge_id: [] for edge_id in edge_ids}
    for index, path in enumerate(paths):
        edge_id = edge_ids[index % len(edge_ids)]
        local_id = path.stem if edge_id == edge_ids[-1] else f"sensor-{len(dealt[edge_id]) + 1}"
        dealt[edge_id].append(Series(path.name, local_id, _read_file(path)))
    return dealt


def _read_file(path: Path) -> tuple[Reading, ...]:
    try:
        header, *lines = path.read_text().splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise DemoFailure(f"{path} cannot be read: {error}") from error
    if header != _HEADER:
        raise DemoFailure(f"{path} must begin with the line `{_HEADER}`")
    if len(lines) < _READINGS_MIN:
        raise DemoFailure(f"{path} has {len(lines)} readings; the faults need at least {_READINGS_MIN} to fall into")
    for row, line in enumerate(lines, 1):
        if line.count(",") != 1:
            raise DemoFailure(f"{path}, row {row}: not a timestamp and a value: {line[:60]!r}")
    return tuple(Reading(path.name, row, line) for row, line in enumerate(lines, 1))


def entity_of(edge_id: str, series: Series) -> str:
    """The persistence id the cloud knows the sensor by: the edge puts its own id before the local one."""
    return f"{ENTITY_TYPE}|{edge_id}/{series.local_id}"


def event_of(series: Series, reading: Reading) -> dict[str, object]:
    """A reading as `POST /v1/events` takes it."""
    timestamp, value = reading.content.split(",")
    return {
        "entity_type": ENTITY_TYPE,
        "entity_id": series.local_id,
        "event_type": EVENT_TYPE,
        "payload": {"file": reading.file, "row": reading.row, "timestamp": timestamp, "value": value},
    }


def reading_of(payload: Mapping[str, object]) -> Reading:
    """The reading an event's payload was made from. Raises KeyError, TypeError or ValueError for another payload."""
    return Reading(str(payload["file"]), int(str(payload["row"])), f"{payload['timestamp']},{payload['value']}")
