"""Mutual TLS between real services: who is let in, what the others are told, and certificates that change on disk.

One cloud, and one edge for each case; all start together, since starting is what takes time.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.transport.grpc import TlsFiles
from tests.e2e.processes import Service, Stage, open_stage
from tests.support.certificates import Authority, day


def with_files(files: TlsFiles) -> dict[str, Any]:
    return {"tls_ca": files.ca, "tls_cert": files.certificate, "tls_key": files.key}


@dataclass
class Guarded:
    """A cloud with TLS, the authority it believes, and the edges that dial it."""

    ours: Authority
    cloud: Service
    edges: Mapping[str, Service]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder: Path = tmp_path_factory.mktemp("tls")
    ours, theirs = Authority(folder / "ours"), Authority(folder / "theirs")
    stranger = theirs.files("stranger", "stranger")
    files: dict[str, TlsFiles | None] = {
        "dns-name": ours.files("dns-name", "dns-name"),
        "uri-name": ours.uri_files("uri-name", "uri-name"),
        "imposter": ours.files("imposter", "somebody-else", common_name="imposter"),
        "stranger": TlsFiles(stranger.certificate, stranger.key, ours.ca_file),
        "doubter": TlsFiles(ours.files("doubter", "doubter").certificate, ours.folder / "doubter.key", theirs.ca_file),
        "late": ours.files("late", "late", not_before=day(-9), not_after=day(-1)),
        "early": ours.files("early", "early", not_before=day(1), not_after=day(9)),
        "in-plaintext": None,
    }
    with open_stage(folder) as stage:
        cloud = stage.cloud(**with_files(ours.files("cloud", "127.0.0.1"))).start()
        edges = {
            name: stage.edge(name, cloud=cloud, **(with_files(held) if held else {})) for name, held in files.items()
        }
        for edge in edges.values():
            edge.launch()
        for edge in edges.values():
            edge.until_ready()
        yield Guarded(ours, cloud, edges)


@pytest.mark.parametrize("name", ["dns-name", "uri-name"])
def test_an_edge_is_known_by_its_certificate(guarded: Guarded, name: str) -> None:
    edge = guarded.edges[name]
    edge.append(3, entity=name)
    edge.until("/status", lambda body: body["link"]["acked"] == 3)
    guarded.cloud.wait_for("push.connected", origin_id=name)


def test_an_id_that_the_certificate_does_not_name_is_refused_before_anything_is_revealed(guarded: Guarded) -> None:
    edge = guarded.edges["imposter"]
    answer = edge.wait_for("link.needs_operator", code="auth.identity_mismatch")
    assert "imposter" in answer["reason"]
    assert "subject alternative name" in answer["hint"]
    assert answer["next_try_s"] >= 1.5  # five times the longest backoff: nothing but an operator mends it
    guarded.cloud.wait_for("call.refused", code="auth.identity_mismatch")
    assert not guarded.cloud.said("push.connected", origin_id="imposter")
    assert not edge.said("push.started")
    known = guarded.cloud.get("/v1/origins")["origins"]
    assert "imposter" not in [origin["id"] for origin in known]


def test_a_certificate_of_another_authority_is_refused_at_both_ends(guarded: Guarded) -> None:
    answer = guarded.edges["stranger"].wait_for("link.unreachable", code="link.tls_failed", level="warning")
    assert "refused our certificate" in answer["reason"]
    doubts = guarded.edges["doubter"].wait_for("link.unreachable", code="link.tls_failed", level="warning")
    assert "was not accepted" in doubts["reason"]
    reasons = {line["reason"] for line in guarded.cloud.said("grpc.handshake_failed")}
    assert any("unable to get local issuer certificate" in reason for reason in reasons), reasons


def test_a_certificate_out_of_its_time_is_told_with_the_clock(guarded: Guarded) -> None:
    for name in ("late", "early"):
        answer = guarded.edges[name].wait_for("link.unreachable", code="link.tls_failed", level="warning")
        assert "in its time?" in answer["hint"]
        assert "the local clock is" in answer["hint"]
    guarded.cloud.wait_for("grpc.handshake_failed")
    reasons = [line["reason"] for line in guarded.cloud.said("grpc.handshake_failed")]
    for words in ("certificate has expired; the local clock is", "certificate is not yet valid; the local clock is"):
        assert any(words in reason for reason in reasons), reasons


def test_certificates_replaced_on_disk_are_taken_without_a_restart(guarded: Guarded) -> None:
    edge = guarded.edges["late"]
    edge.wait_for("link.unreachable", code="link.tls_failed")
    guarded.ours.files("late", "late")
    edge.wait_for("push.started")
    # And the cloud's own: an edge that dials after they changed meets the new ones.
    guarded.ours.files("cloud", "127.0.0.1", not_before=day(-9), not_after=day(-1))
    guarded.cloud.wait_for("grpc.certificates_reloaded")  # the imposters go on dialling
    mark = guarded.edges["doubter"].mark()
    edge.kill()
    edge.start()
    answer = edge.wait_for("link.unreachable", code="link.tls_failed", process=edge.process.pid)
    assert "certificate has expired; the local clock is" in answer["reason"]
    assert "clock" in answer["hint"]
    guarded.ours.files("cloud", "127.0.0.1")
    edge.wait_for("push.started", process=edge.process.pid)
    assert not guarded.edges["doubter"].said("push.started", after=mark)


def test_nobody_comes_in_without_a_certificate_or_in_plaintext(guarded: Guarded) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(guarded.ours.ca_file)
    with socket.create_connection(("127.0.0.1", guarded.cloud.grpc_port), 10) as plain:
        # In TLS 1.3 the client's handshake is over before the server looks for its certificate: reading tells.
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted:
            assert not encrypted.recv(1), "the cloud talks to a peer without a certificate"
    edge = guarded.edges["in-plaintext"]
    answer = edge.wait_for("link.unreachable")
    assert answer["code"] in ("link.lost", "link.not_backhaul")
    assert not edge.said("push.started")


def test_an_edge_with_tls_says_so_when_the_cloud_has_none(stage: Stage, tmp_path: Path) -> None:
    cloud = stage.cloud().start()
    files = Authority(tmp_path / "authority").files("e1", "e1")
    edge = stage.edge(cloud=cloud, **with_files(files)).start()
    answer = edge.wait_for("link.unreachable", code="link.tls_failed", level="warning")
    assert "does not speak TLS" in answer["reason"]
    cloud.wait_for("grpc.garbage")
    files.key.write_text("no key at all")
    answer = edge.wait_for("link.needs_operator", code="tls.files_unreadable")
    assert str(files.key) in answer["reason"]
    edge.append(1)


def test_ids_are_read_by_the_patterns_of_the_cloud(stage: Stage, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    server = authority.files("cloud", "127.0.0.1")
    cloud = stage.cloud(tls_identities=("spiffe://fleet/edge/{id}",), **with_files(server)).start()
    named = authority.uri_files("g7", "spiffe://fleet/edge/g7")
    edge = stage.edge("g7", cloud=cloud, **with_files(named)).start()
    other = stage.edge("g8", cloud=cloud, **with_files(authority.files("g8", "g8"))).start()
    edge.wait_for("push.started")
    refused = other.wait_for("link.needs_operator", code="auth.identity_mismatch")
    assert "as spiffe://fleet/edge/{id}" in refused["hint"]
