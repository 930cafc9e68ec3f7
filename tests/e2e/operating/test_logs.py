"""`backhaul logs` on what real services have written: the lines alone tell what happened, compared with the truth."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from examples.support.processes import ROOT
from tests.e2e.lines import Relays
from tests.e2e.processes import Service, Stage


def written(stage: Stage, folder: Path) -> list[str]:
    """The services' lines as files, one a service."""
    paths = []
    for service in stage.services:
        path = folder / f"{service.name}.log"
        path.write_text("".join(json.dumps(line) + "\n" for line in list(service.lines)))
        paths.append(str(path))
    return paths


def backhaul(*words: str, text: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from common.runtime.cli.logs import main; raise SystemExit(main())", *words],
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def up_link(story: dict[str, Any], edge: str) -> dict[str, Any]:
    (found,) = (link for link in story["links"] if link["link"] == f"{edge} → cloud")
    assert isinstance(found, dict)
    return found


def until_summary(edge: Service, **fields: int) -> None:
    edge.wait_for("link.summary", after=edge.mark(), **fields)


def test_the_story_of_a_chaotic_run_is_in_the_lines(stage: Stage, relays: Relays, tmp_path: Path) -> None:
    cloud = stage.cloud().start()
    line = relays.open(cloud)
    edge = stage.edge(cloud=line.address, summary_interval_s=0.2, on_full="refuse").start()
    other_line = relays.open(cloud)
    other = stage.edge("e2", cloud=other_line.address, summary_interval_s=0.2).start()
    edge.wait_for("push.started")
    edge.append(40)
    other.append(10)
    cloud.delivered(50)
    until_summary(edge, acked=40)
    until_summary(other, acked=10)

    line.obey("refuse")
    edge.wait_for("link.disconnected")
    edge.append(30)
    until_summary(edge, lag_events=30)
    time.sleep(0.5)
    mark = edge.mark()
    line.obey("pass")
    edge.wait_for("link.connected", after=mark)
    cloud.delivered(80)

    edge.kill()  # power lost, with the cloud up
    edge.start()
    edge.wait_for("push.started", process=edge.process.pid)
    edge.append(5)
    cloud.delivered(85)
    until_summary(edge, acked=75)

    port = {"grpc_port": cloud.grpc_port, "http_port": cloud.http_port}
    mark = other.mark()
    cloud.kill()
    edge.wait_for("link.unreachable", process=edge.process.pid)
    edge.append(7)
    cloud.start(**port)
    cloud.delivered(92)
    until_summary(edge, head=82, acked=82)
    other.wait_for("link.connected", after=mark)
    until_summary(other, head=10, acked=10)

    # The disk of `e2` is destroyed with three events on it that nobody else has.
    mark = other.mark()
    other_line.obey("refuse")
    other.wait_for("link.disconnected", after=mark)
    other.append(3)
    until_summary(other, lag_events=3)
    other.kill()
    for path in other.folder.rglob("*.db*"):
        path.unlink()
    other_line.obey("pass")
    other.start()
    other.wait_for("push.started", process=other.process.pid, resume="new_journal")
    other.append(2)
    until_summary(other, acked=2)
    stored = len(cloud.delivered(94))

    paths = written(stage, tmp_path)
    story = json.loads(backhaul("logs", "--json", *paths))
    first, second = up_link(story, "e1"), up_link(story, "e2")
    truth = edge.get("/status")["link"]
    assert first["state"] == "connected"
    assert first["connects"] == len(edge.said("link.connected"))
    assert first["events"]["head"] == truth["acked"] == 82
    assert first["events"]["stored"] == 82
    assert first["events"]["underway"] == 0
    assert first["lag_events_highest"] >= 30
    causes = [outage["reason"] or outage["code"] for outage in first["outages"]]
    assert any("without a last line" in cause for cause in causes), causes
    longest = max(first["outages"], key=lambda outage: float(outage["seconds"]))
    assert longest["until"] is not None
    assert all(outage["until"] is not None for outage in first["outages"])
    assert second["events"]["gone_with_disk"] == 3
    assert second["events"]["stored"] == 12
    assert first["events"]["stored"] + second["events"]["stored"] == stored

    text = backhaul("logs", *paths)
    assert "gone with disk 3" in text
    assert "lag " in text
    from_stdin = backhaul("logs", text="".join(f"edge-1  | {Path(path).read_text()}" for path in paths))
    assert "e1 → cloud: connected" in from_stdin


def test_what_was_refused_comes_with_what_to_do(stage: Stage, tmp_path: Path) -> None:
    cloud, edge = stage.pair()
    edge.send(signal.SIGTERM)
    edge.wait_for("service.stopped")
    stranger = stage.edge("e2", cloud="127.0.0.1:1").start()
    stranger.wait_for("link.unreachable")
    cloud.ask("GET", "/v1/projections/none")
    text = backhaul("logs", *written(stage, tmp_path))
    assert "e1 → cloud: offline" in text
    assert "link.refused (nothing listens at 127.0.0.1:1)" in backhaul("logs", "--timeline", *written(stage, tmp_path))
    assert "do: " in text
