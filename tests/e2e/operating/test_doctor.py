"""`doctor` against a real cloud: for each fault the step that it breaks fails, with its code and what to do."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cloud_service.cli import main as cloud_main
from common.transport.grpc import TlsFiles
from edge_service.cli import main as edge_main
from examples.support.postgres import Databases
from tests.e2e.operating.asking import asked
from tests.e2e.processes import Service, open_stage
from tests.support.certificates import Authority, day

SERVER = x509.oid.ExtendedKeyUsageOID.SERVER_AUTH

Report = tuple[int, dict[str, str]]
"""Exit status, and by check the worst line of it with its advice."""


class Ward:
    """A cloud with TLS that knows one blocked id, and the files of those who dial it."""

    def __init__(self, folder: Path, cloud: Service, ours: Authority) -> None:
        self.folder, self.cloud, self.ours = folder, cloud, ours
        self.theirs = Authority(folder / "theirs")

    def words(self, name: str, files: TlsFiles | None, address: str = "") -> list[str]:
        held = [f"--tls-ca={files.ca}", f"--tls-cert={files.certificate}", f"--tls-key={files.key}"] if files else []
        address = address or self.cloud.address
        return ["doctor", f"--id={name}", f"--cloud={address}", f"--journal={self.folder}/journal.db", *held]


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("doctor")
    ours = Authority(folder / "ours")
    held = ours.files("cloud", "127.0.0.1", not_after=day(5))
    policy = folder / "policy.toml"
    policy.write_text(
        '[[rule]]\nname = "mute ones"\nwho = ["mute"]\n\n[[rule]]\nname = "edges"\nwho = ["*"]\nwrite = ["*|{id}/*"]\n'
    )
    with open_stage(folder) as stage:
        cloud = stage.cloud(tls_ca=held.ca, tls_cert=held.certificate, tls_key=held.key, policy=policy).start()
        cloud.ask("POST", "/v1/identities/block", {"id": "stolen", "reason": "left in a taxi"})
        yield Ward(folder, cloud, ours)


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], closed_port: str) -> Callable[..., Report]:
    def look(*words: str) -> Report:
        status = edge_main([*words, f"--http-port={closed_port}"])
        found: dict[str, str] = {}
        check = ""
        for line in capsys.readouterr().out.splitlines():
            if not line.startswith(" "):
                verdict, check, text = line.split(None, 2)
                worst = found.get(check, "").split(" ", 1)[0]
                if worst in ("fail", "warn") and verdict in ("ok", "skip"):
                    check = ""  # an address that is well hides no fault
                    continue
                found[check] = f"{verdict} {text}"
            elif check:
                found[check] += " " + line.strip()
        return status, found

    return look


def test_where_all_is_well_each_step_says_so(ward: Ward, doctor: Callable[..., Report]) -> None:
    status, found = doctor(*ward.words("good", ward.ours.files("good", "good", not_after=day(90))))
    assert status == 0
    wanted = ("version", "certificate", "disk", "fsync", "dns", "tcp", "http/2", "identity", "policy", "clock")
    assert [found[check].split()[0] for check in wanted] == ["ok"] * len(wanted)
    assert "takes this service for 'good'" in found["identity"]
    assert "by the rule 'edges'" in found["policy"]
    assert "runs out in" in found["tls"]
    assert "do: renew it" in found["tls"]
    assert found["service"].startswith("warn no service answers")
    assert not ward.cloud.said("push.connected")


def test_each_fault_is_found_at_its_step(ward: Ward, doctor: Callable[..., Report], closed_port: str) -> None:
    ours, theirs = ward.ours, ward.theirs
    stranger = theirs.files("stranger", "stranger")
    doubter = TlsFiles(ours.files("doubter", "doubter").certificate, ours.folder / "doubter.key", theirs.ca_file)
    good = ours.files("good", "good", not_after=day(90))
    host, _, port = ward.cloud.address.rpartition(":")
    assert host == "127.0.0.1"
    cases: dict[str, tuple[list[str], str, str]] = {
        "a name in no certificate": (ward.words("imposter", good), "identity", "auth.identity_mismatch"),
        "a blocked id": (ward.words("stolen", ours.files("stolen", "stolen")), "identity", "left in a taxi"),
        "a stranger": (
            ward.words("stranger", TlsFiles(stranger.certificate, stranger.key, ours.ca_file)),
            "http/2",
            "link.tls_failed",
        ),
        "another authority": (ward.words("doubter", doubter), "tls", "link.tls_failed"),
        "out of time": (ward.words("late", ours.files("late", "late", not_after=day(-1))), "certificate", "ran out on"),
        "a server's certificate": (
            ward.words("wrong", ours.issued("wrong", [x509.DNSName("wrong")], usages=[SERVER])),
            "certificate",
            "does not have clientAuth",
        ),
        "no signatures": (
            ward.words("mute", ours.issued("unsigned", [x509.DNSName("mute")], signs=False)),
            "certificate",
            "does not have digitalSignature",
        ),
        "another name": (ward.words("good", good, f"localhost:{port}"), "tls", "not valid for"),
        "plaintext": (ward.words("good", None), "http/2", "link."),
        "no such name": ([*ward.words("good", None, "nowhere.invalid:1"), "--insecure"], "dns", "does not resolve"),
        "nothing listens": (ward.words("good", None, f"127.0.0.1:{closed_port}"), "tcp", "start the peer"),
        "another port": (ward.words("good", None, f"127.0.0.1:{ward.cloud.http_port}"), "http/2", "link.not_backhaul"),
        "no folder": ([*ward.words("good", good), "--journal=/nowhere/at/all/journal.db"], "disk", "is no folder"),
    }
    for name, (words, check, answer) in cases.items():
        status, found = doctor(*words)
        assert status == 1, name
        assert found[check].startswith("fail "), (name, found)
        assert answer in found[check], (name, found[check])
        assert " do: " in found[check], name


def test_an_id_that_may_write_nothing_is_warned_of(ward: Ward, doctor: Callable[..., Report]) -> None:
    status, found = doctor(*ward.words("mute", ward.ours.files("mute", "mute")))
    assert status == 0
    assert found["policy"].startswith("warn 'mute' may not write below its own prefix, by the rule 'mute ones'")


def test_a_peer_that_takes_connections_and_says_nothing_is_found(ward: Ward, doctor: Callable[..., Report]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = ward.words("good", None, f"127.0.0.1:{silent.getsockname()[1]}")
        status, found = doctor(*words, "--connect-timeout-s=1")
    assert status == 1
    assert found["http/2"].startswith("fail ")
    assert "link.timeout" in found["http/2"]


def test_a_running_edge_is_not_disturbed_and_tells_of_its_link(ward: Ward) -> None:
    held = ward.ours.files("running", "running", not_after=day(90))
    tls: dict[str, Any] = {"tls_ca": held.ca, "tls_cert": held.certificate, "tls_key": held.key}
    folder = ward.folder / "running"
    folder.mkdir()
    with open_stage(folder) as stage:
        edge = stage.edge("running", cloud=ward.cloud, **tls).start()
        edge.wait_for("push.started")
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in tls.items()]
        status, answer, errors = asked(edge, "doctor", "--id=running", f"--cloud={ward.cloud.address}", *flags)
        assert status == 0, answer + errors
        assert "the link is connected" in answer
        assert "a stream of it is open there now" in answer
        edge.append(1)
        edge.until("/status", lambda body: body["link"]["acked"] == 1)
        assert edge.get("/status")["link"]["session"] == 1
        edge.append(1)
        shown = ward.cloud.until("/v1/fleet/running", lambda body: body["certificate_days"] is not None)
        assert 88 < shown["certificate_days"] < 91
        assert 'backhaul_cloud_edge_certificate_days{edge="running"} ' in ward.cloud.text("/metrics")


def test_a_clouds_database_is_looked_at(
    postgres: Databases, capsys: pytest.CaptureFixture[str], closed_port: str
) -> None:
    with postgres.fresh() as url:
        assert cloud_main(["doctor", f"--journal={url}", f"--http-port={closed_port}"]) == 0
        answer = capsys.readouterr().out
        assert "may be written and syncs its commits" in answer
        assert "a synced commit at" in answer
        assert cloud_main(["doctor", f"--journal={url}-not-there", f"--http-port={closed_port}"]) == 1
        assert "(postgres.no_database)" in capsys.readouterr().out
