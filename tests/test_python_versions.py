"""Outside CPython 3.11 to 3.13 both services, and the set-up, say so in one line and leave with status 1."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _run_as(version: tuple[int, int], code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a Python that believes to be another version."""
    pretend = f"import sys; sys.version_info = ({version[0]}, {version[1]}, 0, 'final', 0); "
    return subprocess.run([sys.executable, "-c", pretend + code], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("package", ["common", "edge_service", "cloud_service"])
@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_another_python_is_refused_in_one_line(package: str, version: tuple[int, int]) -> None:
    done = _run_as(version, f"import {package}")

    expected = f"backhaul: needs CPython 3.11, 3.12 or 3.13; this is cpython {version[0]}.{version[1]}.0\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_a_supported_python_is_not(version: tuple[int, int]) -> None:
    done = _run_as(version, "import common")

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("interpreter", "complaint"),
    [
        ("echo PyPy 3.11.2", "PYTHON={} is PyPy 3.11.2"),
        ("echo not found >&2; exit 127", "PYTHON={} does not run"),
    ],
)
def test_the_set_up_refuses_an_interpreter_it_cannot_use(tmp_path: Path, interpreter: str, complaint: str) -> None:
    python = tmp_path / "python"
    # Says what it is when asked for it, and fails when asked whether it is supported.
    python.write_text(f'#!/bin/sh\ncase "$2" in *sys.exit*) exit 1;; esac\n{interpreter}\n')
    python.chmod(0o755)

    done = subprocess.run(
        [ROOT / ".ci" / "setup"],
        env={**os.environ, "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
    )

    expected = f"backhaul: needs CPython 3.11, 3.12 or 3.13; {complaint.format(python)}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)
