"""Completion scripts and man pages, made of the same parsers that read the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cloud_service.cli import CLOUD
from cloud_service.cli import main as cloud_main
from edge_service.cli import EDGE
from edge_service.cli import main as edge_main
from tests.support.paths import ROOT

ASK_BASH = """
source {script}
COMP_WORDS=({words}) COMP_CWORD={last}
_shtab_{name}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(script: Path, program: str, *words: str) -> set[str]:
    """What bash offers for the last word."""
    name = program.replace("-", "_")
    asked = ASK_BASH.format(script=script, words=" ".join([program, *words]), last=len(words), name=name)
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=False, timeout=60)
    assert not done.stderr, done.stderr
    return {word.strip() for word in done.stdout.splitlines() if word.strip()}


def test_bash_completes_commands_their_words_and_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "completion"
    assert cloud_main(["completion", "bash"]) == 0
    script.write_text(capsys.readouterr().out)
    offered = completed(script, "cloud-service", "t")
    assert {"tail", "top"} <= offered
    assert all(word.startswith("t") for word in offered)
    assert completed(script, "cloud-service", "parked", "re") == {"retry"}
    assert {"--since", "--topic"} <= completed(script, "cloud-service", "tail", "--")
    for shell in ("zsh", "tcsh"):
        assert edge_main(["completion", shell]) == 0
        assert "support-bundle" in capsys.readouterr().out


def test_without_the_extra_completion_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert edge_main(["completion", "bash"]) == 1
    assert capsys.readouterr().err.startswith("cli.extra_missing: ")
    assert edge_main(["completion", "fish"]) == 2


def test_the_manual_names_every_command_of_each_program(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ".ci/manual.py", str(tmp_path)], cwd=ROOT, check=True, timeout=120)
    for program in (EDGE, CLOUD):
        page = (tmp_path / "man" / "man1" / f"{program.name}.1").read_text().replace("\\-", "-").replace("\\ ", " ")
        missing = [command.words for command in program.commands if " ".join(command.words) not in page]
        assert missing == []
        assert "exit status: 0 done" in page
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*backhaul*")} == {
        "man/man1/backhaul.1",
        "zsh/site-functions/_backhaul",
        "bash-completion/completions/backhaul",
    }
