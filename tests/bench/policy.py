"""A policy of 1,000 rules that name 10,000 ids, and 10,000 blocked ids, beside none of it, in turns.

Rights are worked out once a session, so no event may pay for the number of rules. Draining goes through `write`, fan-out
through `read`; both are compared by the cloud's processor time an event, which other programs disturb less than a rate.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import trio

from tests.bench.down.crowd import Meter, Source, crowd, publisher, source
from tests.bench.place import Place
from tests.bench.processes import rss_bytes
from tests.bench.table import Table, middle_ratio, spread
from tests.bench.up.drain import Drained, drain
from tests.bench.workload import fill

_RULES = 1_000
_IDENTITIES = 10_000
_BAR = 1.03
_SETTLE_S = 5.0
_BLOCK = f"INSERT INTO backhaul.blocked_identity SELECT 'blocked-' || n, 'stolen', n FROM generate_series(1, {_IDENTITIES}) AS n"


def _write_policy(path: Path) -> dict[str, object]:
    """Rules that name ids which nobody has, every second with a pattern too; the last one is for who is measured."""
    each = _IDENTITIES // _RULES
    rules = []
    for number in range(_RULES - 1):
        who = [f"gateway-{number}-{n}" for n in range(each)] + ([f"site-{number}-*"] if number % 2 else [])
        rules.append(
            f"[[rule]]\nwho = {who}\nwrite = ['*|{{id}}/*', 'Alarm|plant-{number}/*']\nread = ['stream-{number}']\n"
        )
    rules.append("[[rule]]\nwho = '*'\nwrite = ['*|{id}/*']\nread = '*'\n")
    path.write_text("\n".join(rules))
    return {"policy": path}


async def _block(place: Place, url: str) -> None:
    await trio.to_thread.run_sync(lambda: place.postgres.run(_BLOCK, database=url.rpartition("/")[2]))


async def _drained(place: Place, journals: dict[str, Path], total: int, policy: Mapping[str, object]) -> Drained:
    async def ready(url: str) -> None:
        if policy:
            await _block(place, url)
            await trio.sleep(_SETTLE_S / 2)  # it has been looked at

    return await drain(place, journals, total, "", settings=policy, ready=ready)


async def _opened(place: Place, node: Source, policy: Mapping[str, object]) -> None:
    if policy:
        await _block(place, node.url)
    await trio.sleep(_SETTLE_S / 2)


async def _fan_out(place: Place, policy: Mapping[str, object]) -> tuple[float, float]:
    """Deliveries a second, and the cloud's processor microseconds for each."""
    many, events = place.sized(200, 20), place.sized(20_000, 1_000)
    async with (
        source(place, policy) as node,
        publisher(node.http_port) as publishing,
        crowd(node.grpc_port, many) as consumers,
    ):
        await _opened(place, node, policy)
        await consumers.connect()
        await consumers.mark()
        meter = Meter(node)
        reached = await consumers.reach(await publishing.begin(events, batch=100))
        meter.stop()
        await publishing.end()
    return reached.events / meter.seconds, meter.cpu_s / reached.events * 1e6


async def _idle(place: Place, policy: Mapping[str, object]) -> tuple[float, float]:
    """Kilobytes a connection, and the share of a core that all of them cost."""
    many, warm, seconds = place.sized(1_000, 50), 50, place.sized(15, 5)
    async with (
        source(place, policy) as node,
        publisher(node.http_port, entities=20) as publishing,
        crowd(node.grpc_port, warm, loads=1) as early,
        crowd(node.grpc_port, many, first=warm) as consumers,
    ):
        await _opened(place, node, policy)
        await early.connect()
        await early.reach(await publishing.begin(20, batch=1))
        await trio.sleep(_SETTLE_S)
        before = rss_bytes(node.node)
        await consumers.connect()
        await consumers.reach(await publishing.begin(20, batch=1))
        await trio.sleep(_SETTLE_S)
        kilobytes = (rss_bytes(node.node) - before) / many / 1_000
        meter = Meter(node)
        await trio.sleep(seconds)
        meter.stop()
    return kilobytes, meter.cpu_s / meter.seconds


async def run(place: Place) -> list[Table]:
    """Without and with, turn by turn; figures are medians of ratios."""
    rounds, total = place.sized(3, 1), place.sized(150_000, 10_000)
    folder = place.fresh_folder("policy")
    with_policy, none = _write_policy(folder / "policy.toml"), dict[str, object]()
    journals = {"edge-1": folder / "edge-1.db"}
    await fill(journals["edge-1"], "edge-1", total)
    drained, fanned = [], []
    for _ in range(rounds):
        drained.append([await _drained(place, journals, total, policy) for policy in (none, with_policy)])
        fanned.append([await _fan_out(place, policy) for policy in (none, with_policy)])
    idle = [[await _idle(place, policy) for policy in (none, with_policy)] for _ in range(rounds)]
    shutil.rmtree(folder)
    table = Table(f"Policy: {_RULES:,} rules with {_IDENTITIES:,} ids, {_IDENTITIES:,} blocked ids, beside none")
    for at, name in enumerate(("without", "with")):
        table.add(f"drain, {name}", spread([pair[at].rate for pair in drained], "events/s"))
        table.add(f"fan-out, {name}", spread([pair[at][0] for pair in fanned], "deliveries/s"))
        kilobytes, share = (median([pair[at][part] for pair in idle]) for part in (0, 1))
        table.add(f"idle, {name}", f"{kilobytes:.1f} kB a connection, {share * 100:.1f} % of a core")
    _judge(table, "drain: the cloud's processor time an event", [(b.cloud_us, a.cloud_us) for a, b in drained])
    _judge(table, "fan-out: the cloud's processor time a delivery", [(b[1], a[1]) for a, b in fanned])
    _judge(table, "idle: memory a connection", [(b[0], a[0]) for a, b in idle])
    return [table]


def _judge(table: Table, what: str, pairs: list[tuple[float, float]]) -> None:
    ratio = middle_ratio(pairs)
    table.judge(f"{what}, with / without", f"{ratio:.3f}", f"<= {_BAR}", ratio <= _BAR)
