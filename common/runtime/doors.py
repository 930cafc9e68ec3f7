"""The local doors of a service: one HTTP port, or one for programs and one for operators; tokens where they are wanted.

A right that has a door of its own is not asked for at the HTTP port any more; probes and metrics are at every door.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from common.core.addresses import SocketPath
from common.core.errors import ConfigurationError
from common.core.policy.rights import Access, Right
from common.private_files import open_private
from common.runtime.environment import Environment
from common.runtime.http.app import HttpApp
from common.runtime.logs.setup import get_logger
from common.runtime.settings.doors import read_token, token_file_unusable
from common.runtime.settings.service import ServiceSettings

log = get_logger()


@asynccontextmanager
async def open_doors(
    environment: Environment, app: HttpApp, settings: ServiceSettings, host: str, port: int, tokens: Mapping[Right, str]
) -> AsyncIterator[int]:
    """Serve the application at every door while the block runs; yields the HTTP port."""
    doors = settings.doors
    async with AsyncExitStack() as stack:
        shared = Access(frozenset(Right) - doors.keys(), tokens)
        http_port = await stack.enter_async_context(
            environment.serve_http(app.behind(shared), host, port, connections_max=settings.connections_max)
        )
        for right, door in doors.items():
            behind = app.behind(Access(frozenset({Right.PROBES, right}), tokens))
            if isinstance(door, SocketPath):
                if environment.serve_socket is None:
                    raise ConfigurationError("http.no_sockets", "there are no Unix sockets here", "use host:port")
                await stack.enter_async_context(
                    environment.serve_socket(
                        behind,
                        Path(door.path),
                        mode=int(settings.socket_mode, 8),
                        uids=frozenset(map(int, settings.socket_uids)),
                        connections_max=settings.connections_max,
                    )
                )
            else:
                await stack.enter_async_context(
                    environment.serve_http(behind, door.host, door.port, connections_max=settings.connections_max)
                )
            log.info("http.door_open", right=right.value, address=str(door))
        yield http_port


def load_tokens(files: Mapping[Right, Path], new_id: Callable[[], str]) -> dict[Right, str]:
    """The token in each file; one that is missing is made. Raises ConfigurationError `auth.token_file_unusable`."""
    return {right: _read_or_make(path, new_id) for right, path in files.items()}


def _read_or_make(path: Path, new_id: Callable[[], str]) -> str:
    try:
        descriptor = open_private(path, is_new=True)
    except FileExistsError:
        return read_token(path)
    except OSError as error:
        raise token_file_unusable(path, f"cannot be made: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(f"{new_id()}{new_id()}\n".encode())
    log.info("http.token_made", path=str(path))
    return read_token(path)
