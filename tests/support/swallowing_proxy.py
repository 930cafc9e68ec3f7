"""A proxy before PostgreSQL that takes a request through and keeps the answer: an unknown outcome, at will."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

import trio


class SwallowingProxy:
    """Relays until ``swallow_next`` is set: the server's next answer ends its connection instead of coming through."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self.url = ""
        self.swallow_next = False
        self.swallowed = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; ``url`` is set once started."""
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        account, _, _ = self._server.netloc.rpartition("@")
        self.url = urlunsplit(self._server._replace(netloc=f"{account}@127.0.0.1:{port}"))
        task_status.started()
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, client: trio.SocketStream) -> None:
        assert self._server.hostname
        assert self._server.port
        server = await trio.open_tcp_stream(self._server.hostname, self._server.port)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._requests, client, server, nursery.cancel_scope)
            nursery.start_soon(self._answers, server, client, nursery.cancel_scope)

    async def _requests(self, client: trio.SocketStream, server: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            async for chunk in client:
                await server.send_all(chunk)
        except trio.BrokenResourceError:
            pass  # one side is gone, so is the other
        scope.cancel()

    async def _answers(self, server: trio.SocketStream, client: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            async for chunk in server:
                if self.swallow_next:
                    self.swallow_next = False
                    self.swallowed += 1
                    break
                await client.send_all(chunk)
        except trio.BrokenResourceError:
            pass
        scope.cancel()
