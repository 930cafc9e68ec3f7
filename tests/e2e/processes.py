"""Edges and cloud nodes as real processes for tests: heard line by line, asked over HTTP, stopped by their id.

Everything is synchronous: a thread hears each process, so a test waits for a log line instead of sleeping. Times are
small by settings. When a stage closes, it looks at everything that was said: a line that is no JSON, a traceback or a
flood fails the test, unless the test expects it.
"""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from examples.support.processes import ROOT, environment, log_fields, service_variables

# Waiting longer than this is a failure; generous, because machines are shared and it is only spent on failures.
PATIENCE_S: Final = 45.0
# More lines than this from one process in one test is a flood.
LINES_MAX: Final = 400

Line = dict[str, Any]
Answer = tuple[int, dict[str, Any]]

_QUICK: Final = {
    "http_port": 0,
    "grpc_port": 0,
    "heartbeat_s": 0.2,
    "progress_timeout_s": 1.5,
    "poll_interval_s": 0.05,
}
_QUICK_EDGE: Final = {"connect_timeout_s": 1.5, "backoff_min_s": 0.05, "backoff_max_s": 0.3}
_QUICK_CLOUD: Final = {"hello_timeout_s": 1.0, "lease_s": 2.0}


class Service:
    """One process and what it has said so far."""

    def __init__(self, kind: str, name: str, folder: Path, settings: Mapping[str, object]) -> None:
        self.kind = kind
        self.name = name
        self.folder = folder
        self.settings = dict(settings)
        self.lines: list[Line] = []
        self.noise: list[str] = []
        self.http_port = 0
        self.grpc_port = 0
        self._said = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._ear: threading.Thread | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process of the present life."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    @property
    def address(self) -> str:
        """Where its gRPC port listens."""
        return f"127.0.0.1:{self.grpc_port}"

    def launch(self, *, prologue: str = "", **settings: object) -> None:
        """Begin a life without waiting; ``prologue`` is Python that runs before the service is imported."""
        self.settings |= settings
        # `rich` is the demo's; without it, as in the images, a service starts faster.
        program = "\n".join(
            (
                "import sys; sys.modules['rich'] = None",
                prologue,
                f"from {self.kind}_service.__main__ import main",
                "raise SystemExit(main())",
            )
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, "run"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment({"PYTHONPATH": ROOT, **service_variables(f"{self.kind}_service", self.settings)}),
            cwd=self.folder,
            start_new_session=True,  # Ctrl-C is for pytest, which ends them
        )
        self._ear = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._ear.start()

    def until_ready(self) -> Service:
        """Wait until the present life serves, and take note where."""
        ready = self.wait_for("service.ready", process=self.process.pid)
        self.http_port, self.grpc_port = ready["http_port"], ready["grpc_port"]
        return self

    def start(self, **settings: object) -> Service:
        """Begin a life and wait until it serves."""
        self.settings |= settings
        self.launch()
        return self.until_ready()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for raw in output:
                text = raw.decode(errors="replace").rstrip()
                line = log_fields(text)
                with self._said:
                    if line:
                        self.lines.append({**line, "process": process.pid, "heard_s": time.monotonic()})
                    else:
                        self.noise.append(text)
                    self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def mark(self) -> int:
        """A place in what it says, for `wait_for(…, after=)`."""
        return len(self.lines)

    def said(self, event: str, *, after: int = 0, **fields: object) -> list[Line]:
        """The lines of this event whose fields have these values."""
        return [line for line in list(self.lines)[after:] if line["event"] == event and fields.items() <= line.items()]

    def wait_for(self, event: str, *, after: int = 0, timeout_s: float = PATIENCE_S, **fields: object) -> Line:
        """The first such line, once it is said. Fails with the last lines when it is not, or cannot be any more."""
        deadline = time.monotonic() + timeout_s
        with self._said:
            while True:
                found = self.said(event, after=after, **fields)
                if found:
                    return found[0]
                is_over = self._ear is None or not self._ear.is_alive()
                if is_over or time.monotonic() >= deadline:
                    raise AssertionError(
                        f"{self.name} did not say {event} {fields or ''}; it said:\n{self.last_words()}"
                    )
                self._said.wait(0.1)

    def last_words(self) -> str:
        """The end of what it said, for the message of a failing test."""
        return "\n".join([*self.noise[-15:], *(str(line) for line in self.lines[-15:])])

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._ear is not None
            self._ear.join(PATIENCE_S)

    def stop(self) -> float:
        """SIGTERM; asserts exit status 0, returns how long that took, in seconds."""
        began_s = time.monotonic()
        self.send(signal.SIGTERM)
        status = self.exit_status()
        assert status == 0, f"{self.name} ended with {status}:\n{self.last_words()}"
        return time.monotonic() - began_s

    def exit_status(self) -> int:
        """Wait for its end."""
        status = self.process.wait(PATIENCE_S)
        assert self._ear is not None
        self._ear.join(PATIENCE_S)
        return status

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = PATIENCE_S,
    ) -> Answer:
        """Status and JSON of an answer; a body of bytes is sent as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout_s)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            kind = {"content-type": "application/json"} if data else {}
            connection.request(method, path, data, headers=kind | dict(headers or {}))
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"{}")
        finally:
            connection.close()

    def get(self, path: str) -> dict[str, Any]:
        """The JSON that is answered with status 200."""
        status, body = self.ask("GET", path)
        assert status == 200, (path, status, body)
        return body

    def text(self, path: str) -> str:
        """A page that is no JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=PATIENCE_S) as answer:
            found: str = answer.read().decode()
            return found

    def append(self, count: int, *, entity: str = "temp1", size: int = 20, entity_type: str = "Sensor") -> None:
        """Append events of one entity at an edge, in one request; asserts that they were taken."""
        status, body = self.try_append(count, entity=entity, size=size, entity_type=entity_type)
        assert status == 201, (status, body)

    def try_append(self, count: int, *, entity: str = "temp1", size: int = 20, entity_type: str = "Sensor") -> Answer:
        """As `append`, whatever is answered."""
        event = {"entity_type": entity_type, "entity_id": entity, "event_type": "Read", "payload": "x" * size}
        return self.ask("POST", "/v1/events", {"events": [event] * count})

    def delivered(self, count: int) -> list[dict[str, Any]]:
        """Wait until this cloud's log has so many events; asserts: no more, and each entity's numbers dense from 1."""
        found: list[dict[str, Any]] = []
        through, deadline = 0, time.monotonic() + PATIENCE_S
        while len(found) < count and time.monotonic() < deadline:
            page = self.get(f"/v1/events?after={through}&max=1000&wait_s=1")
            found += page["events"]
            through = page["through"]
        last: dict[tuple[str, str], int] = {}
        for event in found:
            entity = event["entity_type"], event["entity_id"]
            assert event["seq_nr"] == last.get(entity, 0) + 1, (entity, event["seq_nr"], last.get(entity))
            last[entity] = event["seq_nr"]
        assert len(found) == count, f"{len(found)} of {count} events arrived\n{self.last_words()}"
        return found

    def until(self, path: str, holds: Callable[[dict[str, Any]], bool], *, timeout_s: float = PATIENCE_S) -> Line:
        """Ask until the answer holds; returns it. For what no log line and no long poll tells."""
        deadline = time.monotonic() + timeout_s
        while True:
            status, body = self.ask("GET", path)
            if status == 200 and holds(body):
                return body
            assert time.monotonic() < deadline, (self.name, path, status, body, self.last_words())
            time.sleep(0.02)


class Stage:
    """The services of one test. Made by `open_stage`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services: list[Service] = []
        self.expects_exceptions = False

    def cloud(self, name: str = "cloud", **settings: object) -> Service:
        """A cloud node, not started; its journal is a file of its own unless the settings say otherwise."""
        return self._add("cloud", name, {"node": name, **_QUICK, **_QUICK_CLOUD, **settings})

    def edge(self, name: str = "e1", *, cloud: Service | str, **settings: object) -> Service:
        """An edge, not started, that dials the cloud, which is running, or an address."""
        address = cloud if isinstance(cloud, str) else cloud.address
        return self._add("edge", name, {"id": name, "cloud": address, **_QUICK, **_QUICK_EDGE, **settings})

    def pair(self, **settings: object) -> tuple[Service, Service]:
        """A cloud and an edge that is connected to it; settings of one side begin with `cloud_` or `edge_`."""
        of_cloud, of_edge = _without(settings, "edge_", "cloud_"), _without(settings, "cloud_", "edge_")
        cloud = self.cloud(**of_cloud).start()
        edge = self.edge(cloud=cloud, **of_edge).start()
        edge.wait_for("push.started")
        return cloud, edge

    def _add(self, kind: str, name: str, settings: Mapping[str, object]) -> Service:
        folder = self.folder / f"{len(self.services)}-{name}"
        folder.mkdir()
        service = Service(kind, name, folder, settings)
        self.services.append(service)
        return service

    def end(self) -> None:
        """SIGKILL whoever is left."""
        for service in self.services:
            service.kill()

    def check_manners(self) -> None:
        """What no test expects: lines that are not logs, tracebacks, floods."""
        for service in self.services:
            assert not service.noise, (service.name, service.noise[:20])
            raised = [line for line in service.lines if "exceptions" in line]
            assert self.expects_exceptions or not raised, (service.name, raised[:3])
            # Summaries come by time, and a slow machine has more of that.
            lines = sum(not line["event"].endswith(".summary") for line in service.lines)
            assert lines <= LINES_MAX, (service.name, lines, service.last_words())


@contextmanager
def open_stage(folder: Path) -> Iterator[Stage]:
    """Run services while the block runs; none outlives it."""
    stage = Stage(folder)
    try:
        yield stage
    finally:
        stage.end()
    stage.check_manners()


def _without(settings: Mapping[str, object], foreign: str, own: str) -> dict[str, Any]:
    """The settings that are for everybody or begin with ``own``, which is removed."""
    return {key.removeprefix(own): value for key, value in settings.items() if not key.startswith(foreign)}
