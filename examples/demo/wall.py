"""The act of a wall: an edge's own push filter keeps an event back, whatever came before it, and the cloud learns the number.

The proof reads both journals: the edge has all events, the cloud those that may leave and a mark without content.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import trio

from examples.demo.cast import Service
from examples.demo.failure import DemoFailure
from examples.demo.script import Edge, Tell
from examples.support.http_client import HttpClient, Unanswered

WALLED_TYPE: Final = "Shift"
WALLED_TAG: Final = "personal"
SECRET: Final = "Ada fell ill at 03:10"
PUSH_FILTER: Final = json.dumps([{"exclude_tags": [WALLED_TAG]}])
_STEPS: Final = (("opened", ""), (SECRET, WALLED_TAG), ("closed", ""))
_TIMEOUT_S: Final = 20.0
_LOOK_S: Final = 0.05


class WalledEvent(NamedTuple):
    """An event of the shift in a journal; a leaving mark has neither payload nor tags."""

    seq_nr: int
    payload: bytes
    is_mark: bool


@dataclass(frozen=True, slots=True)
class WallFinding:
    """How many events the edge has, how many of them the cloud has, and for how many a mark. It holds without ``problems``."""

    edge_id: str
    at_edge: int
    in_cloud: int
    marks: int
    problems: tuple[str, ...]


async def write_behind_the_wall(edge: Edge, cloud: Service, tell: Tell) -> None:
    """A program at the edge writes three events of one entity, of which the second must not leave. Raises DemoFailure."""
    events = [
        {
            "entity_type": WALLED_TYPE,
            "entity_id": "night",
            "event_type": "Noted",
            "tags": [tag] if tag else [],
            "payload": {"note": note},
        }
        for note, tag in _STEPS
    ]
    here, there = HttpClient(edge.http_port), HttpClient(lambda: cloud.http_port)
    try:
        answer = await here.post("/v1/events", {"events": events}, key="shift-night")
        if answer.status != 201:
            raise DemoFailure(f"{edge.id} refused the shift with status {answer.status}: {answer.body}")
        tell(
            edge.id, f"a wall: its own filter keeps back what is tagged {WALLED_TAG}; of 3 events of a shift the 2nd is"
        )
        with trio.move_on_after(_TIMEOUT_S):
            while True:
                found = (await there.get(f"/v1/events?entity={WALLED_TYPE}%7C{edge.id}/night")).body["events"]
                if found and found[-1]["seq_nr"] >= len(_STEPS):
                    break
                await trio.sleep(_LOOK_S)
        tell("cloud", "has the 1st and the 3rd, and in the place of the 2nd a mark: its entity left, and nothing else")
    except Unanswered as error:
        raise DemoFailure(f"nobody answers about the shift: {error!r}") from error
    finally:
        here.close()
        there.close()


def examine_wall(edge_id: str, at_edge: Sequence[WalledEvent], in_cloud: Sequence[WalledEvent]) -> WallFinding:
    """Compare what the two journals have of the shift."""
    problems = []
    if [event.seq_nr for event in at_edge] != [1, 2, 3] or SECRET.encode() not in at_edge[1].payload:
        problems.append(f"{edge_id} does not have the three events of its shift: {at_edge}")
    wanted = [WalledEvent(2, b"", True) if event.seq_nr == 2 else event for event in at_edge]
    if any(SECRET.encode() in event.payload for event in in_cloud):
        problems.append(f"what must not leave {edge_id} is in the cloud")
    if list(in_cloud) != wanted:
        problems.append(f"the cloud has of the shift {[(event.seq_nr, event.is_mark) for event in in_cloud]}")
    marks = sum(event.is_mark for event in in_cloud)
    return WallFinding(edge_id, len(at_edge), len(in_cloud) - marks, marks, tuple(problems))
