"""`… | edge-service append --retry`: a stream of lines outlives its service, and each is stored once and in order."""

from __future__ import annotations

import json
import subprocess
import threading

import pytest

from tests.e2e.operating.asking import command, variables
from tests.e2e.processes import Service, Stage

LINES = 3_000


def write_lines(process: subprocess.Popen[str], go_on: threading.Semaphore) -> None:
    """As a program that knows nothing of the service: a line when there is one, then the end."""
    assert process.stdin is not None
    with process.stdin as pipe:
        for number in range(LINES):
            if number % 100 == 0:
                go_on.acquire()
            event = {"entity_type": "Sensor", "entity_id": f"s{number % 7}", "event_type": "Read", "payload": number}
            pipe.write(json.dumps(event) + "\n")
            pipe.flush()


def stored(service: Service) -> list[int]:
    found: list[int] = []
    through = 0
    while True:
        page = service.get(f"/v1/events?after={through}&max=1000")
        found += [event["payload"] for event in page["events"]]
        through = page["through"]
        if through >= page["end"]:
            return found


@pytest.mark.parametrize("kind", ["edge", "cloud"])
def test_nothing_is_lost_or_stored_twice_over_kills_of_the_service(kind: str, stage: Stage) -> None:
    service = stage.edge(cloud="127.0.0.1:9") if kind == "edge" else stage.cloud()
    service.start()
    service.settings["http_port"] = service.http_port
    go_on = threading.Semaphore(0)
    process = subprocess.Popen(
        command(service, "append", "--retry"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables(),
    )
    writer = threading.Thread(target=write_lines, args=(process, go_on), daemon=True)
    writer.start()
    try:
        go_on.release(3)
        service.until("/v1/events?last=1", lambda page: page["head"] >= 200)
        service.kill()
        for point in (
            "append.after_commit:2",
            "append.before_commit:2",
        ):  # an answer that is owed, a commit that is not
            service.launch(prologue=f"import os; os.environ['BACKHAUL_FAIL_POINT'] = '{point}'")
            for _ in range(8):
                go_on.release()
            service.process.wait(60)  # it starts, and is asked again after up to five seconds
            service.kill()
            assert service.noise == [f"fail point hit: {point.partition(':')[0]}"]
            service.noise.clear()
        service.start()
        go_on.release(LINES)
        writer.join(60)
        process.stdin = None  # closed by the writer
        answer, notes = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert stored(service) == list(range(LINES))
    assert process.returncode == 0, notes
    assert answer.startswith(f"{LINES} events acknowledged")
    assert "cli.service_unreachable: " in notes
    assert "none of these is stored" in notes
    assert "cli.no_answer: " in notes
    assert "was stored before: the answer was lost" in notes
