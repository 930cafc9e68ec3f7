"""Two primaries at once: a standby was promoted, and the former primary goes on for a node that reaches nothing else.

With an asynchronous standby it takes what it is sent. Once the node has found the new primary, edges push again what the former
one took, and it takes effect once. That a synchronous one acknowledges nothing is held in ``test_moved_address``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from common import border
from examples.support.postgres import PostgresServer, PostgresUnavailable
from examples.support.processes import Program
from tests.bench.processes import cloud, edge
from tests.support.replication import Address, away, replicated_pair

STUCK_S = 60.0
_STORED = "SELECT count(*) || ' of ' || count(DISTINCT payload) FROM backhaul.event"
_TALLY = "SELECT coalesce(sum(events), 0) || ' ' || coalesce(sum(out_of_order), 0) FROM backhaul.tally"


async def append(service: Program, first: int, count: int) -> None:
    """Events ``first`` and on, by HTTP."""
    port = (await service.event("service.ready"))["http_port"]
    for number in range(first, first + count):
        event = {"entity_type": "Sensor", "entity_id": "temp1", "event_type": "Measured", "payload": {"number": number}}
        body = json.dumps({"events": [event]}).encode()
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            head = f"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            await stream.send_all(f"{head}\r\nconnection: close\r\n\r\n".encode() + body)
            answer = b"".join([part async for part in stream])
        assert answer.split(maxsplit=2)[1] in (b"200", b"201"), answer


async def until_stored(server: PostgresServer, database: str, sql: str, wanted: str) -> None:
    found: Any = ""
    with trio.move_on_after(STUCK_S):
        while True:
            try:
                found = await trio.to_thread.run_sync(lambda: server.superuser.run(sql, database=database))
            except Exception as error:  # noqa: BLE001  the tables may not be there yet
                found = error
            if found == wanted:
                return
            await trio.sleep(0.1)
    pytest.fail(f"{sql}: {found}, not {wanted}")


async def test_edges_push_again_what_a_former_primary_took_and_it_takes_effect_once(tmp_path: Path) -> None:
    try:
        pair_of_servers = replicated_pair()
        with pair_of_servers as pair:
            url = pair.primary.create()
            database = url.rpartition("/")[2]
            address = Address(pair.primary)
            async with border.open_loop(), trio.open_nursery() as nursery:
                await nursery.start(address.run)
                async with (
                    cloud(address.url(url)) as node,
                    edge("e1", tmp_path / "e1.db", await port_of(node)) as gateway,
                ):
                    await append(gateway, 0, 20)
                    await until_stored(pair.primary, database, _STORED, "20 of 20")
                    await pair.caught_up()
                    former = pair.primary
                    await away(pair.promote)
                    # Nobody has fenced it, and the node reaches nothing else.
                    await append(gateway, 20, 20)
                    await until_stored(former, database, _STORED, "40 of 40")
                    await until_stored(pair.primary, database, _STORED, "20 of 20")

                    address.lead_to(pair.primary)
                    # The edge has nothing to push, and no reason of its own to connect again.
                    await until_stored(pair.primary, database, _STORED, "40 of 40")
                    await append(gateway, 40, 1)
                    await until_stored(pair.primary, database, _STORED, "41 of 41")
                    await until_stored(pair.primary, database, _TALLY, "41 0")
                    assert node.said("journal.server_changed")
                nursery.cancel_scope.cancel()
    except PostgresUnavailable as reason:
        pytest.fail(f"no pair of PostgreSQL servers: {reason}", pytrace=False)


async def port_of(node: Program) -> int:
    port: int = (await node.event("service.ready"))["grpc_port"]
    return port
