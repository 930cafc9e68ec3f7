"""Idle consumers: what thousands of subscribed connections cost a node that has nothing to say but heartbeats.

Memory is what the cloud's resident size grows by after some connections were served already; processor time is taken
while nothing is published, with the default intervals on both ends.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import trio
import trustme

from tests.bench.down.crowd import crowd, publisher, source
from tests.bench.place import Place
from tests.bench.processes import cpu_s, rss_bytes
from tests.bench.table import Table

_PLAIN_MAX_KB = 75
_TLS_MAX_KB = 130
_CPU_SHARE_MAX = 0.10
_SETTLE_S = 3.0
_WARM = 100
_ENTITIES = 20


def _issue(folder: Path, count: int) -> dict[str, object]:
    """Certificates of a cloud on loopback and of every consumer, as its id; answers the cloud's settings."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, identity in [("cloud", "127.0.0.1"), *((f"edge-{n}", f"edge-{n}") for n in range(count))]:
        issued = authority.issue_cert(identity, key_type=trustme.KeyType.ECDSA)
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    return {"tls_ca": folder / "ca.pem", "tls_cert": folder / "cloud.pem", "tls_key": folder / "cloud.key"}


async def _measure(place: Place, count: int, seconds: int, certificates: Path | None) -> tuple[float, float]:
    """Kilobytes a connection, and the share of a core."""
    warm = min(_WARM, count // 5)
    result = await trio.to_thread.run_sync(_issue, certificates, count + warm) if certificates else {}
    folder = str(certificates or "")
    async with (
        source(place, {"streams": "* readers=*", **result}) as node,
        publisher(node.http_port, entities=_ENTITIES) as publishing,
        crowd(node.grpc_port, warm, certificates=folder, loads=1) as early,
        crowd(node.grpc_port, count, certificates=folder, first=warm) as consumers,
    ):
        await early.connect()
        await early.reach(await publishing.begin(_ENTITIES, batch=1))
        await trio.sleep(_SETTLE_S)
        before = rss_bytes(node.node)
        await consumers.connect()
        # Everybody has had something, so that nothing is made for the first time later.
        await consumers.reach(await publishing.begin(_ENTITIES, batch=1))
        await trio.sleep(_SETTLE_S)
        kilobytes = (rss_bytes(node.node) - before) / count / 1_000
        used_s, began_s = cpu_s(node.node), trio.current_time()
        await trio.sleep(seconds)
        share = (cpu_s(node.node) - used_s) / (trio.current_time() - began_s)
    return kilobytes, share


async def run(place: Place) -> list[Table]:
    """Plain, then with mutual TLS."""
    count, seconds = place.sized(5_000, 200), place.sized(60, 12)
    table = Table(f"Idle: {count:,} consumers subscribed, default heartbeats, {seconds} s")
    folder = place.fresh_folder("certificates")
    for what, found, most_kb in (("plain", None, _PLAIN_MAX_KB), ("TLS", folder, _TLS_MAX_KB)):
        kilobytes, share = await _measure(place, count, seconds, found)
        table.judge(f"{what}: memory a connection", f"{kilobytes:.0f} kB", f"< {most_kb} kB", kilobytes < most_kb)
        table.judge(
            f"{what}: processor time, all connections",
            f"{share * 100:.1f} % of a core",
            "< 10 %",
            share < _CPU_SHARE_MAX,
        )
    shutil.rmtree(folder)
    return [table]
