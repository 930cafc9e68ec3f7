"""Many edges with little to say: 1,000 connections, one event a second on each, into one PostgreSQL.

The edges are played by one process that speaks the push protocol with the product's own codec and streams. Memory per
connection is what the cloud's resident size grows by from 1,000 live push streams, after it has served some.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import trio
import trustme

from tests.bench.place import Place
from tests.bench.processes import cloud, measured_meanwhile, metric, rss_bytes
from tests.bench.table import Table, milliseconds

_PLAIN_MAX_KB = 75
_TLS_MAX_KB = 130
_SETTLE_S = 2.0


async def _run(
    place: Place, edges: int, seconds: int, certificates: Path | None
) -> tuple[float, dict[str, object], float]:
    """Kilobytes a connection, the load's result, and commits a second."""
    tls = {}
    if certificates:
        tls = {
            "tls_ca": certificates / "ca.pem",
            "tls_cert": certificates / "cloud.pem",
            "tls_key": certificates / "cloud.key",
        }
    with place.postgres.fresh() as url:
        async with cloud(url, tls) as node:
            ready = await node.event("service.ready")
            async with measured_meanwhile(
                "tests.bench.up.many_edges",
                port=ready["grpc_port"],
                edges=edges,
                seconds=seconds,
                certificates=str(certificates or ""),
            ) as load:
                await load.event("load.warm")
                await trio.sleep(_SETTLE_S)
                before = rss_bytes(node)
                await load.tell("connect")
                await load.event("load.connected")
                await trio.sleep(_SETTLE_S)
                kilobytes = (rss_bytes(node) - before) / edges / 1_000
                commits = await metric(ready["http_port"], "backhaul_cloud_journal_commits_total")
                await load.tell("push")
                result = dict(await load.event("result"))
                commits = await metric(ready["http_port"], "backhaul_cloud_journal_commits_total") - commits
    return kilobytes, result, commits / float(result["seconds"])


def _issue(folder: Path, edges: int) -> Path:
    """Certificates of a cloud on loopback and of every edge, as its id."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, identity in [("cloud", "127.0.0.1"), *((f"edge-{n}", f"edge-{n}") for n in range(edges))]:
        issued = authority.issue_cert(identity, key_type=trustme.KeyType.ECDSA)
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    return folder


async def run(place: Place) -> list[Table]:
    """Plaintext, then mutual TLS."""
    edges, seconds = place.sized(1_000, 50), place.sized(20, 3)
    folder = place.fresh_folder("certificates")
    certificates = await trio.to_thread.run_sync(_issue, folder, edges + edges // 10)
    table = Table(f"Edges: {edges:,} connected, one event a second each, one cloud node, projections on")
    for what, found, most_kb in (("plain", None, _PLAIN_MAX_KB), ("TLS", certificates, _TLS_MAX_KB)):
        kilobytes, result, commits_per_s = await _run(place, edges, seconds, found)
        acks = result["ack_s"]
        assert isinstance(acks, list)
        table.judge(f"{what}: memory a connection", f"{kilobytes:.0f} kB", f"< {most_kb} kB", kilobytes < most_kb)
        table.add(f"{what}: event sent to ack received", milliseconds(acks))
        table.add(f"{what}: events acknowledged", f"{len(acks) / float(str(result['seconds'])):,.0f} a second")
        table.add(f"{what}: commits", f"{commits_per_s:,.0f} a second")
        table.add(
            f"{what}: furthest behind its schedule", f"{float(str(result['late_s'])) * 1e3:.1f} ms (the load itself)"
        )
    shutil.rmtree(folder)
    return [table]
