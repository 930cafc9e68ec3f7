"""`support-bundle`: what is in it, and that no secret is, wherever secrets were put."""

from __future__ import annotations

import json
import stat
import tarfile
from pathlib import Path

import pytest

from cloud_service.cli import main as cloud_main
from common.runtime.cli.support import bundle
from common.runtime.cli.support.scrub import Scrubber
from edge_service.cli import main as edge_main
from tests.support.answering import AnsweringService

PASSWORD = 'hunter2/"ä'
IN_URL = "hunter2%2F%22%C3%A4"
TOKEN = "0123456789abcdef-token"
API_KEY = "sk-9f8e7d6c"
PAYLOAD = "a-patients-name"
KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIBkg\nAbCd==\n-----END EC PRIVATE KEY-----"
SECRETS = ("hunter2", TOKEN, API_KEY, PAYLOAD, "MHcCAQEEIBkg", "AbCd==", "other-pw", "eyJhbGciOi")


def unpacked(path: Path) -> dict[str, str]:
    found = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.removeprefix("backhaul-support/")] = file.read().decode()
    return found


def test_no_secret_is_in_it_wherever_one_was_put(
    service: AnsweringService, tmp_path: Path, closed_port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    token_file = tmp_path / "operators.token"
    token_file.write_text(TOKEN)
    token_file.chmod(0o600)
    key_file = tmp_path / "key.pem"
    key_file.write_text(KEY)
    everywhere = f"{PASSWORD} {IN_URL} {TOKEN}"
    status = {
        "name": everywhere,
        TOKEN: 1,
        "nested": [{"reason": "amqp://user:other-pw@host/ refused, Authorization: Bearer eyJhbGciOi.x.y"}],
        "password": {"any": "other-pw"},
        "payload": PAYLOAD,
        "idempotency_tokens": 3,
    }
    pages = ("/status", "/readyz", "/v1/parked", "/v1/projections", "/v1/subscriptions", "/v1/fleet", "/v1/nodes")
    for page in (*pages, "/v1/origins"):
        service.answer("GET", page, {"ready": True, **status})
    service.answer("GET", "/metrics", f'backhaul_x{{edge="{TOKEN}",entity="{IN_URL}"}} 7\n'.encode())
    log = tmp_path / "cloud.log"
    log.write_text(
        "\n".join(
            [
                json.dumps(
                    {"event": "link.lost", "reason": everywhere, "api_key": API_KEY, "payload": PAYLOAD, "n": 3}
                ),
                json.dumps({"event": "app.said", "message": KEY, "nested": {"authorization": "Basic eyJhbGciOi"}}),
                f"plain text with {PASSWORD} and password='other-pw' and api_key: {API_KEY}, token={TOKEN}",
                f"postgresql://app:other-pw@db/app {json.dumps(PASSWORD)}",
                *KEY.splitlines(),
            ]
        )
    )
    made = tmp_path / "bundle.tar.gz"
    words = [
        "support-bundle",
        str(made),
        f"--logs={log}",
        f"--http-port={service.port}",
        f"--journal=postgresql://app:{IN_URL}@127.0.0.1:{closed_port}/backhaul",
        f"--operators-token={token_file}",
    ]
    assert cloud_main(words) == 0
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    found = unpacked(made)
    for name, content in found.items():
        for secret in SECRETS:
            assert secret not in content, (name, secret, content)
        assert PASSWORD not in content
    told = capsys.readouterr().out
    assert not any(secret in told for secret in SECRETS)

    # What is no secret is still there.
    assert set(found) == {
        "README.txt", "config.json", "doctor.txt", "doctor.json", "status.json", "ready.json", "parked.json",
        "projections.json", "subscriptions.json", "fleet.json", "nodes.json", "origins.json", "metrics.txt", "log.jsonl",
        "missing.txt",
    }  # fmt: skip
    assert json.loads(found["config.json"])["journal"]["value"].startswith("postgresql://app:***@127.0.0.1")
    assert "postgres.unreachable" in found["doctor.txt"]
    assert json.loads(found["status.json"])["idempotency_tokens"] == 3
    lines = [json.loads(line) for line in found["log.jsonl"].splitlines()[:2]]
    assert (lines[0]["event"], lines[0]["n"]) == ("link.lost", 3)
    assert found["metrics.txt"].endswith("} 7\n")


def test_a_service_that_is_down_leaves_a_bundle_that_says_what_is_missing(
    closed_port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "bundle.tar.gz"
    words = ["support-bundle", str(made), "--id=e1", f"--cloud=127.0.0.1:{closed_port}", f"--http-port={closed_port}"]
    words.append(f"--journal={tmp_path}/journal.db")
    assert edge_main([*words, "--logs=/nowhere.log"]) == 0
    found = unpacked(made)
    assert set(found) == {"README.txt", "config.json", "doctor.txt", "doctor.json", "missing.txt"}
    assert "status.json: no service answers" in found["missing.txt"]
    assert "log.jsonl: /nowhere.log: No such file" in found["missing.txt"]
    assert "without metrics.txt" in capsys.readouterr().out

    assert edge_main(words) == 1  # it replaces none
    assert capsys.readouterr().err.startswith("cli.file_unwritable: ")


def test_the_end_of_a_long_log_begins_with_a_whole_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "LOG_MAX_BYTES", 100)
    log = tmp_path / "log"
    log.write_text("".join(f'{{"n": {number}}}\n' for number in range(1000)))
    lines = bundle._end_of(log).splitlines()
    assert lines[-1] == '{"n": 999}'
    assert all(json.loads(line) for line in lines)
    assert len("\n".join(lines)) <= 100


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("abc abcd xabc abc", "*** abcd xabc ***"),
        ("-----BEGIN PRIVATE KEY-----\nMIIcut off", "***"),
        ("tokens 7, token_bytes=12", "tokens 7, token_bytes=12"),
        ("session-secret=x1; a=b", "session-secret=***; a=b"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out_and_figures_stay(text: str, scrubbed: str) -> None:
    assert Scrubber(["abc"]).text(text) == scrubbed
