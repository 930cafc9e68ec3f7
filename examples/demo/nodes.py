"""The act of a cloud of several nodes: one is killed, the others take its ranges over; it comes back and gets its share again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from examples.demo.cast import Cast, Service
from examples.demo.failure import DemoFailure
from examples.demo.outcome import NodeMoves
from examples.demo.script import Tell
from examples.support.http_client import HttpClient, Unanswered

RANGES: Final = 8
"""Of each projection of a cloud of several nodes."""
NODES_MIN: Final = 3
_LOOK_S: Final = 0.1
_ANSWER_S: Final = 2.0
_PATIENCE_S: Final = 40.0

Owned = Mapping[str, int]


async def kill_a_node(nodes: Sequence[Service], cast: Cast, tell: Tell) -> NodeMoves:
    """SIGKILL of the last node, which is not asked for anything else, and its return. Raises DemoFailure when ranges rest."""
    first, victim = nodes[0], nodes[-1]
    others = [node.name for node in nodes[:-1]]
    client = HttpClient(lambda: first.http_port)
    # The same port when it is back: the balancer knows that one.
    victim.settings = {**victim.settings, "grpc_port": victim.grpc_port}
    try:
        before = await _until(
            client, lambda owned: len(owned) == len(nodes) and min(owned.values()) > 0, "all nodes have ranges"
        )
        total, had = sum(before.values()), before[victim.name]
        share = RANGES // len(nodes) * (total // RANGES)  # whole groups: the same slices of all projections
        tell(victim.name, f"SIGKILL: it runs {had} of {total} ranges of the projections ({_shown(before)})")
        await cast.kill(victim)
        killed_s = trio.current_time()
        taken = await _until(
            client, lambda owned: sum(owned.get(name, 0) for name in others) == total, "the others have all"
        )
        moved_s = trio.current_time() - killed_s
        tell("cloud", f"the others run all {total} ranges, {moved_s:.1f} s later ({_shown(taken)})")
        await cast.start(victim)
        started_s = trio.current_time()
        tell(victim.name, "is started again")
        back = await _until(client, lambda owned: owned.get(victim.name, 0) >= share, "it has its share")
        returned_s = trio.current_time() - started_s
        has = back[victim.name]
        tell("cloud", f"{victim.name} runs {has} of {total} ranges again, {returned_s:.1f} s later ({_shown(back)})")
    finally:
        client.close()
    return NodeMoves(victim.name, total, had, moved_s, has, returned_s)


async def _until(client: HttpClient, is_so: Callable[[Owned], bool], what: str) -> dict[str, int]:
    """Ranges of each live node, once it is so."""
    owned: dict[str, int] = {}
    with trio.move_on_after(_PATIENCE_S):
        while True:
            try:
                with trio.fail_after(_ANSWER_S):
                    rows = (await client.get("/v1/nodes")).body["nodes"]
                owned = {str(row["node"]): int(row["ranges"]) for row in rows if row["state"] == "live"}
            except (Unanswered, trio.TooSlowError, KeyError):
                owned = {}
            if owned and is_so(owned):
                return owned
            await trio.sleep(_LOOK_S)
    raise DemoFailure(f"for {_PATIENCE_S:.0f} s it was not so that {what}: {_shown(owned)}")


def _shown(owned: Owned) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(owned.items())) or "no node answers"
