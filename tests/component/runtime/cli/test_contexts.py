"""Contexts: several services by name, from one file that any editor may write."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_service.cli import main as cloud_main
from edge_service.cli import main as edge_main
from tests.support.answering import AnsweringService


@pytest.fixture
def other() -> Iterator[AnsweringService]:
    made = AnsweringService()
    yield made
    made.close()


@pytest.fixture
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "backhaul" / "contexts.toml"


def test_services_are_asked_by_name(
    contexts: Path,
    service: AnsweringService,
    other: AnsweringService,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service.answer("GET", "/v1/origins", {"origins": [{"id": "of-plant"}]})
    other.answer("GET", "/v1/origins", {"origins": [{"id": "of-lab"}]})
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    monkeypatch.chdir(tmp_path)

    def origins(*words: str) -> str:
        assert cloud_main(["origins", "list", *words]) == 0
        return capsys.readouterr().out.split()[-1]

    assert cloud_main(["context", "add", "plant", f"--http-port={service.port}", "--operators-token=token"]) == 0
    assert cloud_main(["context", "add", "lab", f"--http-port={other.port}"]) == 0
    assert tomllib.loads(contexts.read_text())["cloud"]["plant"]["operators_token"] == str(token)
    assert "0123456789abcdef" not in contexts.read_text()
    capsys.readouterr()

    assert origins("--context=plant") == "of-plant"
    assert origins("--context", "lab") == "of-lab"
    assert cloud_main(["context", "use", "lab"]) == 0
    assert origins() == "of-lab"
    monkeypatch.setenv("CLOUD_HTTP_PORT", "1")  # a context stands above the environment,
    assert origins() == "of-lab"
    assert origins(f"--http-port={service.port}") == "of-plant"  # and below flags

    assert cloud_main(["context", "list"]) == 0
    [_, lab, plant] = capsys.readouterr().out.splitlines()
    assert lab.split() == ["*", "lab", f"--http-port={other.port}"]
    assert plant.split()[:2] == ["-", "plant"]

    assert cloud_main(["context", "remove", "lab"]) == 0
    assert cloud_main(["origins", "list"]) == 1  # the environment says where again
    assert cloud_main(["context", "use", "plant"]) == 0
    capsys.readouterr()
    assert origins() == "of-plant"
    assert cloud_main(["context", "use", "-"]) == 0
    assert cloud_main(["origins", "list"]) == 1


def test_each_kind_of_service_has_its_own(contexts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cloud_main(["context", "add", "x", "--http-port=1"]) == 0
    assert edge_main(["context", "add", "x", "--http-port=2"]) == 0
    assert edge_main(["context", "use", "x"]) == 0
    content = tomllib.loads(contexts.read_text())
    assert content == {"current": {"edge": "x"}, "cloud": {"x": {"http_port": "1"}}, "edge": {"x": {"http_port": "2"}}}
    capsys.readouterr()
    assert edge_main(["status"]) == 1
    assert "127.0.0.1:2" in capsys.readouterr().err


def test_a_file_written_by_hand_is_read(
    contexts: Path, service: AnsweringService, capsys: pytest.CaptureFixture[str]
) -> None:
    contexts.parent.mkdir()
    contexts.write_text(f'current.edge = "gw 7"\n[edge.gw-7]\nhttp_port = {service.port}\ninsecure_local = true\n')
    service.answer("GET", "/status", {"head": 1})
    assert edge_main(["status", "--context=gw-7"]) == 0
    assert edge_main(["status"]) == 1
    assert "cli.no_such_context: there is no context 'gw 7'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [("nonsense", "contexts.toml cannot be used"), ("[edges.a]", "other tables"), ("[edge.a]\nid = 'x'", "a has 'id'")],
)
def test_a_file_that_cannot_be_used_is_named(
    content: str, told: str, contexts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contexts.parent.mkdir()
    contexts.write_text(content)
    assert edge_main(["status"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("cli.bad_contexts: ")
    assert told in error


@pytest.mark.parametrize(
    "words",
    [
        ["add", "a b", "--http-port=1"],
        ["add", "a"],
        ["add", "a", "--journal=/x"],
        ["add", "a", "--http-port=many"],
        ["add", "a", "--http-hots=x"],
    ],
)
def test_what_is_no_context_is_not_kept(words: list[str], contexts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edge_main(["context", *words]) == 2
    assert not contexts.exists()
    assert edge_main(["context", "use", "none"]) == 1
    assert edge_main(["context", "remove", "none"]) == 1
    assert capsys.readouterr().err.count("cli.no_such_context") == 2


def test_commands_about_this_machine_know_no_contexts(contexts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["run"], ["check-config"], ["doctor"], ["support-bundle"]):
        assert edge_main([*words, "--id=a", "--cloud=localhost", "--context=x"]) == 2, words
    assert "--context" in capsys.readouterr().err
