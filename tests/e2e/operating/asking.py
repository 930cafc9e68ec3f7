"""The command line asks a service of the stage, as an operator would."""

from __future__ import annotations

import os
import subprocess
import sys

from examples.support.processes import ROOT, environment
from tests.e2e.processes import Service


def command(service: Service, *words: str) -> list[str]:
    """The words of a command that asks ``service``."""
    return [sys.executable, "-m", f"{service.kind}_service", *words, f"--http-port={service.http_port}"]


def variables(**more: str) -> dict[str, str]:
    """The environment of a command, without settings of other services."""
    return {**environment({"PYTHONPATH": ROOT}), "NO_COLOR": "1", **more}


def asked(service: Service, *words: str, stdin: str = "", **more: str) -> tuple[int, str, str]:
    """Run a command: exit status, standard output, standard error."""
    done = subprocess.run(
        command(service, *words),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=os.fspath(service.folder),
        env=variables(**more),
    )
    return done.returncode, done.stdout, done.stderr


def ask(service: Service, *words: str) -> str:
    """What a command prints that ends with status 0."""
    status, answer, errors = asked(service, *words)
    assert status == 0, (words, status, answer, errors)
    return answer
