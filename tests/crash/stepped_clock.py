"""A wall clock that is set while a process runs: `python -m tests.crash.stepped_clock MODULE WORDS` runs a service under it.

How far the clock is ahead stands in a file that the process maps: whoever writes it sets the clock, at once and for all
lives to come. Only the wall clock: what has to go on evenly reads another one.
"""

from __future__ import annotations

import mmap
import os
import runpy
import struct
import sys
import time
from pathlib import Path
from typing import Final

VARIABLE: Final = "CRASH_CLOCK"
_SECONDS: Final = struct.Struct("<q")
_real_ns = time.time_ns


class ClockFile:
    """Whole seconds that a clock is ahead of the real one, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(_SECONDS.pack(0))
        self.ahead_s = 0

    def step(self, seconds: int) -> None:
        """Set the clock on, or back."""
        self.ahead_s += seconds
        with self.path.open("r+b") as file:
            file.write(_SECONDS.pack(self.ahead_s))


def main() -> None:
    """Run the module that the command line names, as `python -m` does."""
    with open(os.environ.pop(VARIABLE), "rb") as file:
        ahead = mmap.mmap(file.fileno(), _SECONDS.size, prot=mmap.PROT_READ)

    def stepped_ns() -> int:
        (seconds,) = _SECONDS.unpack(ahead)
        return _real_ns() + int(seconds) * 1_000_000_000

    time.time_ns = stepped_ns
    time.time = lambda: stepped_ns() / 1e9
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
