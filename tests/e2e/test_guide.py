"""Applications that a page tells how to run by hand: their files, services, requests, and what they answer.

Ports are other ones, since those of the page may be taken; requests are made by this process, which understands the few words
of `curl` that the page uses.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.guide import Block, blocks, is_as_promised

PATIENCE_S = 30.0
PORTS = {"7443": "CLOUD_GRPC_PORT", "7480": "CLOUD_HTTP_PORT", "7543": "EDGE_GRPC_PORT", "7580": "EDGE_HTTP_PORT"}


def free_ports() -> dict[str, str]:
    """Ports to use in place of the page's."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in PORTS]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return {told: str(one.getsockname()[1]) for told, one in zip(PORTS, taken, strict=True)}


@contextmanager
def started(command: str, place: Path, ports: dict[str, str]) -> Iterator[None]:
    """`A=b C=d edge-service run &` in the folder, until the block ends."""
    *given, name, verb, _ = shlex.split(command)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("EDGE_", "CLOUD_"))}
    environment |= {PORTS[told]: port for told, port in ports.items() if name.startswith(PORTS[told][:4].lower())}
    environment |= dict(word.split("=", 1) for word in given)
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    with (place / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", name.replace("-", "_"), verb], cwd=place, env=environment, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()


def asked(command: str) -> str:
    """What `curl -s URL [-d DATA]` prints; nothing while nobody listens."""
    words = shlex.split(command)
    assert words[:2] == ["curl", "-s"], command
    data = words[words.index("-d") + 1].encode() if "-d" in words else None
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{words[2]}", data), timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as refused:
        return refused.read().decode()
    except OSError:
        return ""


def until_promised(command: str, promised: str) -> None:
    """Ask until the answer is what the page says; a command that took effect must be right at once."""
    until_s = time.monotonic() + PATIENCE_S
    while not is_as_promised(promised, told := asked(command)):
        is_final = "-d" in command and told
        assert not is_final, f"{command}\nanswered {told}\ninstead of {promised}"
        assert time.monotonic() < until_s, f"{command}\nanswered {told}\ninstead of {promised}"
        time.sleep(0.1)


def conversation(block: Block, ports: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Commands of a console block, each with what it prints."""
    text = re.sub("|".join(ports), lambda told: ports[told[0]], "\n" + block.text)
    for part in text.split("\n$ ")[1:]:
        command, _, promised = part.partition("\n")
        if not command.startswith("make "):  # those have tests of their own
            yield command, promised


@pytest.mark.parametrize("page", ["first-application.md", "../../examples/drones/README.md"])
def test_an_application_runs_as_told(tmp_path: Path, page: str) -> None:
    ports, commands = free_ports(), 0
    with ExitStack() as stack:
        for block in blocks(page):
            if block.title:
                (tmp_path / block.title).write_text(block.text)
            for command, promised in conversation(block, ports) if block.language == "console" else ():
                commands += 1
                if command.endswith("&"):
                    stack.enter_context(started(command, tmp_path, ports))
                else:
                    until_promised(command, promised)
    assert commands == 7
