"""The drones sample as real processes, on a short flight: it holds, it says so in JSON, and it leaves nobody behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil


def test_the_sample_flies_and_proves_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.drones", "--json", "--pace", "6"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    facts = json.loads(done.stdout)
    assert facts["holds"] is True
    assert facts["problems"] == []
    assert [site["site"] for site in facts["sites"]] == ["north", "south"]
    for site in facts["sites"]:
        assert site["drones"] == 4
        assert site["reports"] == site["fine_events"] > 0
        assert 0 < site["coarse_events"] == site["in_overview"] < site["fine_events"]
        assert site["ordered"] == site["queued"] > 0
        assert site["missing"] == site["foreign"] == site["different"] == []
    # The outage was felt in the cloud and not at the site.
    assert facts["outage"]["drones_outdated"] > 0
    assert facts["outage"]["orders_waiting"] > 0
    assert facts["outage"]["found_meanwhile"] > 0


def test_a_signal_ends_every_process_and_leaves_no_files(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "examples.drones"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as flight:
        assert flight.stdout is not None
        assert "starting a cloud" in flight.stdout.readline()
        assert "are up" in flight.stdout.readline()
        children = psutil.Process(flight.pid).children(recursive=True)
        assert len(children) == 3
        flight.send_signal(signal.SIGTERM)
        _, error = flight.communicate(timeout=60)
    assert flight.returncode == 128 + signal.SIGINT, error
    assert "every process is ended" in error
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert list(tmp_path.iterdir()) == []
