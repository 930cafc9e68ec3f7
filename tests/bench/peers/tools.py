"""What the comparison needs beside Python: the load driver and the peers' servers, made or found.

With Go, the driver and nats-server are installed below ``.peers`` of the repository once; Mosquitto is a package of the
system. What is missing is left out with a line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.support.processes import ROOT
from tests.bench.processes import BenchFailure

NATS_VERSION: Final = "v2.15.2"
_FOLDER: Final = ROOT / ".peers"
_DRIVER_SOURCE: Final = Path(__file__).parent / "driver"
_INSTALL_TIMEOUT_S: Final = 900
# Debian installs servers where an ordinary user's PATH does not lead.
_SERVER_FOLDERS: Final = ("/usr/sbin", "/usr/local/sbin")


@dataclass(frozen=True, slots=True)
class Tools:
    """Paths of executables; None for a peer that is not here."""

    driver: Path
    nats: Path | None
    mosquitto: Path | None


def find_tools() -> Tools | None:
    """Build and install what is not there yet, and say what is missing; None without Go.

    Raises:
        BenchFailure: the driver does not build.
    """
    go = shutil.which("go")
    if go is None:
        print("peers: skipped: Go is missing (https://go.dev/dl), which the load driver and nats-server need")
        return None
    _FOLDER.mkdir(exist_ok=True)
    driver = _FOLDER / "driver"
    _go(go, ["build", "-o", str(driver), "."], _DRIVER_SOURCE)
    nats = _nats(go)
    mosquitto = shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), *_SERVER_FOLDERS]))
    if mosquitto is None:
        print("peers: Mosquitto is left out: not installed (Debian: apt-get install mosquitto)")
    return Tools(driver, nats, Path(mosquitto) if mosquitto else None)


def _nats(go: str) -> Path | None:
    server = _FOLDER / f"nats-server-{NATS_VERSION}"
    if not server.exists():
        try:
            _go(go, ["install", f"github.com/nats-io/nats-server/v2@{NATS_VERSION}"], _FOLDER)
        except BenchFailure as failure:
            print(f"peers: NATS is left out: {failure}")
            return None
        (_FOLDER / "nats-server").rename(server)
    return server


def _go(go: str, words: list[str], folder: Path) -> None:
    done = subprocess.run(
        [go, *words],
        cwd=folder,
        env={**os.environ, "GOBIN": str(_FOLDER), "GOFLAGS": "-mod=readonly"},
        capture_output=True,
        text=True,
        timeout=_INSTALL_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise BenchFailure(f"go {' '.join(words)} failed: {done.stderr.strip()[-500:]}")
