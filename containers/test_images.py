"""Runs the images with podman and checks, from outside the containers, what an operator relies on.

Called by test.sh inside a network namespace that the containers join, so ports are loopback's of that namespace only.
One cloud node and two edges, read-only, without capabilities; then stops, kills, a full healthcheck and a wrong setting.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any

NETWORK = f"ns:{os.environ['NETNS']}"
CLOUD_HTTP = 7480
EDGE_HTTP = {"edge-1": 7581, "edge-2": 7582}
EDGE_GRPC = {"edge-1": 7541, "edge-2": 7542}
WAIT_S = 60.0
NAMES = ["cloud", *EDGE_HTTP]
# Modules of a service that each of its processes would compile.
UNCOMPILED = """
import os, sys
import common.runtime.cli.run, {kind}_service.service
files = [getattr(module, "__cached__", None) for module in list(sys.modules.values())]
print([file for file in files if file and not os.path.exists(file)])
"""

passed: list[str] = []


def podman(*words: str, check: bool = True) -> str:
    """Output of a podman command."""
    done = subprocess.run(["podman", *words], check=False, capture_output=True, text=True)
    if check and done.returncode:
        raise SystemExit(f"podman {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return (done.stdout + done.stderr).strip()


def run(name: str, image: str, environment: dict[str, str], volume: str, *words: str) -> None:
    """Start a container as on a gateway: no privileges, nothing writable but its volume and /tmp."""
    settings = [part for item in environment.items() for part in ("--env", "=".join(item))]
    podman(
        *("run", "--detach", "--name", name, "--pull=never", "--network", NETWORK, "--health-interval=disable"),
        *("--read-only", "--tmpfs", "/tmp:rw,size=16m,mode=1777", "--cap-drop=all"),
        *("--security-opt", "no-new-privileges", "--memory", "256m", "--pids-limit", "64"),
        *("--volume", f"{volume}:/var/lib/backhaul", *settings, image, *words),
    )


def run_edge(name: str) -> None:
    environment = {
        "EDGE_ID": name,
        "EDGE_CLOUD": "127.0.0.1:7443",
        "EDGE_HTTP_PORT": str(EDGE_HTTP[name]),
        "EDGE_GRPC_PORT": str(EDGE_GRPC[name]),
        "EDGE_BACKOFF_MAX_S": "1",
        "EDGE_SUBSCRIPTIONS": "WorkOrder",
        "EDGE_SUBSCRIPTION_FILTERS": f'WorkOrder=[{{"exclude_all": true}}, {{"include_topics": ["site/{name}"]}}]',
    }
    run(name, "localhost/backhaul-edge", environment, f"{name}-data")


def run_cloud() -> None:
    environment = {"CLOUD_INSECURE": "true", "CLOUD_NODE": "cloud-1", "CLOUD_LEASE_S": "2"}
    run("cloud", "localhost/backhaul-cloud", environment, "cloud-data")


def ask(port: int, path: str, body: object = None) -> dict[str, Any]:
    """The JSON answer of a service."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        shown: dict[str, Any] = json.load(answer)
        return shown


def post(edge: str, number: int) -> None:
    event = {"entity_type": "Sensor", "entity_id": "temp1", "event_type": "Read", "payload": {"n": number}}
    ask(EDGE_HTTP[edge], "/v1/events", event)


def order(number: int, site: str) -> None:
    """A work order for one edge's site, published in the cloud."""
    event = {"entity_type": "WorkOrder", "entity_id": f"o{number}", "event_type": "Placed", "payload": {"n": number}}
    ask(CLOUD_HTTP, "/v1/events", event | {"tags": [f"t:site/{site}"]})


def has_orders(edge: str, wanted: list[int]) -> bool:
    rows = ask(EDGE_HTTP[edge], "/v1/inbox/WorkOrder?after=0&wait_s=1")["events"]
    return [row["payload"]["n"] for row in rows] == wanted


def eventually(what: str, holds: Callable[[], bool]) -> None:
    """Wait for something to hold, and say that it does."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            if holds():
                break
        except (OSError, urllib.error.HTTPError, KeyError):
            pass
        if time.monotonic() > deadline:
            logs = "\n".join(f"--- {name}\n{podman('logs', '--tail', '20', name, check=False)}" for name in NAMES)
            raise SystemExit(f"not within {WAIT_S:g} s: {what}\n{logs}")
        time.sleep(0.1)
    passed.append(what)
    print(f"ok  {what}", flush=True)


def holds(what: str, truth: bool, seen: object = "") -> None:
    """Check something now."""
    if not truth:
        raise SystemExit(f"does not hold: {what} ({seen})")
    passed.append(what)
    print(f"ok  {what}", flush=True)


def tally(edge: str) -> int:
    return int(ask(CLOUD_HTTP, f"/v1/tally/Sensor/{edge}/temp1")["events"])


def has_tally(edge: str, events: int) -> bool:
    return tally(edge) == events


def is_ready(port: int) -> bool:
    return bool(ask(port, "/readyz")["ready"])


def exit_status(name: str) -> int:
    return int(podman("inspect", name, "--format", "{{.State.ExitCode}}"))


def main() -> None:
    run_cloud()
    for name in EDGE_HTTP:
        run_edge(name)
    for name, port in [("cloud", CLOUD_HTTP), *EDGE_HTTP.items()]:
        eventually(f"{name} is ready, asked from outside its container", partial(is_ready, port))
    for name in EDGE_HTTP:
        for number in range(3):
            post(name, number)
    for name in EDGE_HTTP:
        eventually(f"three events of {name} are in the cloud", partial(has_tally, name, 3))
    latest = ask(CLOUD_HTTP, "/v1/latest/Sensor/edge-1/temp1")
    holds("the latest event is the last one posted", latest["payload"] == {"n": 2}, latest)
    order(1, "edge-1")
    order(2, "edge-2")
    eventually("edge-1 has the order of its site and no other", partial(has_orders, "edge-1", [1]))
    eventually("edge-2 has the order of its site and no other", partial(has_orders, "edge-2", [2]))
    for name in NAMES:
        holds(f"{name} runs without privileges", podman("exec", name, "id", "-u") == "10001")
        uncompiled = podman("exec", name, "python", "-c", UNCOMPILED.format(kind=name.partition("-")[0]))
        holds(f"all that {name} imports is compiled", uncompiled == "[]", uncompiled)
        podman("healthcheck", "run", name)
        holds(f"the health check of {name} passes", True)
    memory = podman("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}")
    print(f"    memory: {memory.replace(chr(10), '; ')}")

    post("edge-1", 3)
    order(3, "edge-1")
    podman("kill", "--signal", "KILL", "edge-1")
    podman("start", "edge-1")
    eventually("edge-1 is ready again", lambda: ask(EDGE_HTTP["edge-1"], "/readyz")["ready"])
    eventually("an order published before SIGKILL has come", partial(has_orders, "edge-1", [1, 3]))
    eventually("an event posted right before SIGKILL is in the cloud", lambda: tally("edge-1") == 4)

    podman("stop", "--time", "15", "cloud")
    holds("SIGTERM ends the cloud with status 0", exit_status("cloud") == 0, exit_status("cloud"))
    for name in EDGE_HTTP:
        post(name, 4)
    holds("the edges take events in while the cloud is away", True)
    podman("start", "cloud")
    eventually("what was taken in meanwhile is in the cloud", lambda: (tally("edge-1"), tally("edge-2")) == (5, 4))

    for name in EDGE_HTTP:
        podman("stop", "--time", "15", name)
        holds(f"SIGTERM ends {name} with status 0", exit_status(name) == 0, exit_status(name))
    podman("rm", "--volumes", "edge-2")
    run_edge("edge-2")
    eventually("edge-2 goes on from its volume", lambda: ask(EDGE_HTTP["edge-2"], "/status")["journal"]["head"] == 4)

    run("refused", "localhost/backhaul-cloud", {}, "refused-data")
    podman("wait", "refused")
    said = podman("logs", "refused")
    holds("without TLS files and CLOUD_INSECURE the cloud says so", "settings.plaintext_refused" in said, said)
    holds("and ends with status 2", exit_status("refused") == 2, exit_status("refused"))
    print(f"{len(passed)} passed, 0 failed")


if __name__ == "__main__":
    started = [*NAMES, "refused"]
    podman("rm", "--force", "--time", "1", *started, check=False)
    try:
        main()
    finally:
        podman("rm", "--force", "--volumes", "--time", "3", *started, check=False)
        podman("volume", "rm", "--force", "cloud-data", "edge-1-data", "edge-2-data", "refused-data", check=False)
        sys.stdout.flush()
