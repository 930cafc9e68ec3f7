"""The guide's recipe for an image with one's own application, without a container engine: its instructions are carried out in a
folder that stands for the file system, and the service then runs what came of them.

The environment of Backhaul in the image is one that finds Backhaul where these tests have it. No index is asked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import venv
from pathlib import Path

import pytest

from tests.support.guide import blocks
from tests.support.paths import ROOT

PAGE = "own-image.md"
START_S = 60.0


class Image:
    """The file system, working directory and variables of one stage."""

    def __init__(self, root: Path, context: Path) -> None:
        self.root = root
        self.context = context
        self.folder = root
        self.variables: dict[str, str] = {}

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(
            [str(self.root / "opt/backhaul/bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        )
        offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        return {"PATH": path, "HOME": str(self.root), **offline, **self.variables}

    def inside(self, path: str) -> Path:
        return self.root / path.lstrip("/") if path.startswith("/") else self.folder / path

    def carry_out(self, instruction: str, words: str) -> None:
        match instruction:
            case "WORKDIR":
                self.folder = self.inside(words)
                self.folder.mkdir(parents=True, exist_ok=True)
            case "ENV":
                name, _, value = words.partition("=")
                self.variables[name] = value
            case "COPY" if not words.startswith("--from="):
                *sources, target = words.split()
                for source in sources:
                    self._copy(self.context / source, self.inside(target), is_folder=target.endswith("/"))
            case "RUN":
                command = re.sub(r"(?<![\w.])/(opt|src)/", rf"{self.root}/\1/", words)
                done = subprocess.run(
                    ["sh", "-c", command],
                    cwd=self.folder,
                    env=self.environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"

    def _copy(self, source: Path, target: Path, *, is_folder: bool) -> None:
        if source.is_dir():
            shutil.copytree(source, target)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_folder:
            target.mkdir(exist_ok=True)
        shutil.copy(source, target)


def backhauls_environment(folder: Path) -> None:
    """As in the image of Backhaul: an environment with Backhaul, its commands, and no pip."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "backhaul.pth").write_text(f"{ROOT}\n{sysconfig.get_paths()['purelib']}\n")
    command = folder / "bin/edge-service"
    command.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m edge_service "$@"\n')
    command.chmod(0o755)


def built(tmp_path: Path, recipe: str) -> Image:
    """The recipe carried out; stages share the file system, which holds what one copies from another."""
    context, root = tmp_path / "context", tmp_path / "root"
    for block in blocks(PAGE):
        if block.title:
            (context / block.title).parent.mkdir(parents=True, exist_ok=True)
            (context / block.title).write_text(block.text)
    shutil.copy(context / "parcels/__init__.py", context / "parcels.py")
    backhauls_environment(root / "opt/backhaul")
    image = Image(root, context)
    for line in (context / recipe).read_text().splitlines():
        instruction, _, words = line.partition(" ")
        if instruction == "FROM":
            image = Image(root, context)
            image.carry_out("WORKDIR", "/app")  # as the image of Backhaul has it
        elif instruction:
            assert instruction in {"ARG", "COPY", "ENV", "RUN", "WORKDIR"}, line
            image.carry_out(instruction, words)
    return image


def edge(image: Image) -> subprocess.Popen[str]:
    data = image.root / "var/lib/backhaul"
    data.mkdir(parents=True)
    settings = {
        "EDGE_ID": "gateway-7",
        "EDGE_CLOUD": "127.0.0.1:9",
        "EDGE_INSECURE": "true",
        "EDGE_JOURNAL": str(data / "journal.db"),
        "EDGE_HTTP_PORT": "0",
        "EDGE_GRPC_PORT": "0",
        "EDGE_LOG_FORMAT": "json",
    }
    return subprocess.Popen(
        ["edge-service", "run"],
        cwd=image.folder,
        env=image.environment | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("recipe", ["Containerfile.file", "Containerfile"])
def test_a_service_starts_with_the_application_of_an_image_made_by_the_page(tmp_path: Path, recipe: str) -> None:
    image = built(tmp_path, recipe)
    assert image.variables == {"EDGE_APP": "parcels:app"}
    lines: list[dict[str, object]] = []
    with edge(image) as service:
        overdue = threading.Timer(START_S, service.kill)
        overdue.start()
        try:
            assert service.stdout is not None
            for text in service.stdout:
                lines.append(json.loads(text))
                if lines[-1]["event"] == "service.ready":
                    break
            service.send_signal(signal.SIGTERM)
            service.communicate(timeout=START_S)
        finally:
            overdue.cancel()
            service.kill()
    assert service.returncode == 0, lines
    [loaded] = [line for line in lines if line["event"] == "application.loaded"]
    assert (loaded["application"], loaded["projections"], loaded["tasks"]) == ("parcels:app", ["parcel"], ["look"])


def test_a_mistake_in_the_application_ends_the_build(tmp_path: Path) -> None:
    image = built(tmp_path, "Containerfile")
    [module] = (image.root / "opt/backhaul").glob("lib/python*/site-packages/parcels/__init__.py")
    module.write_text(module.read_text() + "\nfrom common.app import Nothing\n")
    check = (image.context / "Containerfile").read_text().splitlines()[-1].removeprefix("RUN ")
    done = subprocess.run(
        ["sh", "-c", check], cwd=image.folder, env=image.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "application.import_failed" in done.stdout + done.stderr
    assert "parcels/__init__.py" in done.stdout + done.stderr
