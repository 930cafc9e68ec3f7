"""A service that answers as a test says, for what asks one over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class AnsweringService:
    """An HTTP server on a thread that gives prepared answers and keeps the requests."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[tuple[int, bytes]]] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.connections = 0
        self.closes_after_answer = False
        self.unanswered = 0  # so many requests are taken, and the connection ends
        self.has_hung_up = threading.Event()
        self.judge: Callable[[dict[str, Any]], tuple[int, object]] | None = None
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                service.connections += 1

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self.handle_request()

            do_POST = do_PUT = do_GET

            def handle_request(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                parsed = json.loads(body) if body else {}
                service.requests.append((self.command, self.path, parsed))
                if service.unanswered:
                    service.unanswered -= 1
                    self.close_connection = True
                    return
                status, content = service.answer_to(self.command, self.path, parsed)
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                self.close_connection = service.closes_after_answer

        class Server(ThreadingHTTPServer):
            def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as the library has it
                super().shutdown_request(request)
                service.has_hung_up.set()

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = str(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def answer(self, method: str, path: str, *bodies: object, status: int = 200) -> None:
        """What to answer, one after the other; the last one stays."""
        self.answers[method, path] = [
            (status, body if isinstance(body, bytes) else json.dumps(body).encode()) for body in bodies
        ]

    def answer_to(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        if self.judge is not None:
            status, content = self.judge(body)
            return status, json.dumps(content).encode()
        prepared = self.answers[method, path.partition("?")[0]]
        return prepared.pop(0) if len(prepared) > 1 else prepared[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
