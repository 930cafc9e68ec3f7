"""What pages tell to run by hand: their files, services, commands and requests, and what those answer.

Ports are other ones, since those of the page may be taken; requests are made by this process, which understands the few words
of `curl` that the pages use. What has no answer on its page need only succeed.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.guide import Block, blocks, is_as_promised
from tests.support.paths import ROOT

PATIENCE_S = 45.0
PORTS = {"7443": "CLOUD_GRPC_PORT", "7480": "CLOUD_HTTP_PORT", "7543": "EDGE_GRPC_PORT", "7580": "EDGE_HTTP_PORT"}


def free_ports() -> dict[str, str]:
    """Ports to use in place of the page's; none that the system might give to a connection before a service has it."""
    found: list[str] = []
    while len(found) < len(PORTS):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", 20_000 + secrets.randbelow(12_000)))
            found.append(str(one.getsockname()[1]))
    return dict(zip(PORTS, found, strict=True))


def surroundings(ports: dict[str, str]) -> dict[str, str]:
    """The environment of what the page runs."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("EDGE_", "CLOUD_"))}
    return environment | {PORTS[reported]: port for reported, port in ports.items()} | {"PYTHONPATH": str(ROOT)}


@contextmanager
def started(command: str, place: Path, ports: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`A=b C=d edge-service run &` in the folder, until the block ends."""
    *given, name, verb, _ = shlex.split(command)
    environment = surroundings(ports) | dict(word.split("=", 1) for word in given)
    with (place / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", name.replace("-", "_"), verb], cwd=place, env=environment, stdout=log, stderr=log
        )
        try:
            yield process
        except AssertionError as error:
            error.add_note(f"{name}: {(place / f'{name}.log').read_text()[-1500:]}")
            raise
        finally:
            process.kill()
            process.wait()


def asked(command: str, ports: dict[str, str]) -> str:
    """What a command of a service prints, or `curl -s URL [--json DATA]`; of the latter nothing while nobody listens."""
    words = shlex.split(command, comments=True)
    if words[0] in ("edge-service", "cloud-service"):
        program = [sys.executable, "-m", words[0].replace("-", "_"), *words[1:]]
        done = subprocess.run(program, env=surroundings(ports), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout
    assert words[:2] == ["curl", "-s"], command
    data = words.pop(words.index("--json") + 1).encode() if "--json" in words else None
    [url] = [word for word in words[2:] if word != "--json"]
    try:
        request = urllib.request.Request(f"http://{url}", data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as refused:
        return refused.read().decode()
    except OSError:
        return ""


def until_promised(command: str, promised: str, ports: dict[str, str]) -> None:
    """Ask until the answer is what the page says; a command that took effect must be right at once."""
    until_s = time.monotonic() + PATIENCE_S
    while not is_as_promised(promised or "…", reported := asked(command, ports)) or (
        not promised and '{"error"' in reported
    ):
        is_final = reported and ("--json " in command or not command.startswith("curl"))
        assert not is_final, f"{command}\nanswered {reported}\ninstead of {promised}"
        assert time.monotonic() < until_s, f"{command}\nanswered {reported}\ninstead of {promised}"
        time.sleep(0.1)


def conversation(block: Block, ports: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Commands of a console block, each with what it prints."""
    text = re.sub("|".join(ports), lambda reported: ports[reported[0]], "\n" + block.text)
    for part in text.split("\n$ ")[1:]:
        lines = part.split("\n")
        length = next(n for n in range(1, len(lines) + 1) if "\n".join(lines[:n]).count("'") % 2 == 0)
        command, promised = "\n".join(lines[:length]), "\n".join(lines[length:])
        if not command.startswith(("make ", "docker ")):  # those have tests of their own
            yield re.sub(r"\s+# [^']*$", "", command), promised.strip()


@pytest.mark.parametrize(
    ("page", "count"),
    [("first-application.md", 8), ("../../examples/drones/README.md", 7), ("../../README.md", 14)],
)
def test_what_a_page_tells_to_run_runs_as_told(tmp_path: Path, page: str, count: int) -> None:
    ports, commands = free_ports(), 0
    with ExitStack() as stack:
        services: list[subprocess.Popen[bytes]] = []
        for block in blocks(page):
            if block.title:
                (tmp_path / block.title).write_text(block.text)
            for command, promised in conversation(block, ports) if block.language == "console" else ():
                commands += 1
                stopped = re.fullmatch(r"kill %(\d); wait %\1", command)
                if command.endswith("&"):
                    services.append(stack.enter_context(started(command, tmp_path, ports)))
                elif stopped:
                    services[int(stopped[1]) - 1].terminate()
                    assert services[int(stopped[1]) - 1].wait(PATIENCE_S) == 0
                else:
                    until_promised(command, promised, ports)
    assert commands == count
