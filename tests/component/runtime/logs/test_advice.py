"""The catalogues as the command `backhaul logs` reads them: whole, and in the wheel."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from common.core.log_analysis import log_story
from common.runtime.logs.advice import load_advice
from examples.support.processes import ROOT
from tests.test_catalogue import rows


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def test_every_event_and_code_has_its_meaning_and_what_to_do() -> None:
    advice = load_advice()
    assert set(advice.events) == {name for name in rows(page("logs.md")) if "." in name}
    assert set(advice.codes) == set(rows(page("errors.md")))
    for meaning, action in (*advice.events.values(), *advice.codes.values()):
        assert meaning
        assert action
        assert "`" not in meaning + action
        assert "](" not in meaning + action


def test_every_event_and_code_that_the_story_is_made_of_is_in_the_catalogues() -> None:
    source = Path(log_story.__file__).read_text()
    literals = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    names = {str(one) for one in literals if re.fullmatch(r"[a-z]+\.[a-z_]+", str(one))}
    assert len(names) > 15
    assert names <= {*load_advice().events, *load_advice().codes}


def test_the_wheel_carries_both_pages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path / "installed")
    pages = tmp_path / "installed" / "common" / "runtime" / "logs" / "pages"
    assert load_advice(pages) == load_advice(ROOT / "docs")
