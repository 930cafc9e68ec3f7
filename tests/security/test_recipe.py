"""The page docs/security.md, followed word by word: certificates for a cloud and two gateways, which then talk."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.processes import open_stage

PAGE = Path(__file__).parents[2] / "docs" / "security.md"


def test_a_fleet_of_two_is_set_up_by_the_page(tmp_path: Path) -> None:
    recipe = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    assert len([line for line in recipe.splitlines() if line not in ("issue() {", "}")]) <= 10
    subprocess.run(["sh", "-euc", recipe], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    def tls(name: str) -> dict[str, object]:
        return {
            "tls_ca": tmp_path / "ca.pem",
            "tls_cert": tmp_path / f"{name}.pem",
            "tls_key": tmp_path / f"{name}.key",
        }

    with open_stage(tmp_path) as stage:
        cloud = stage.cloud("cloud", **tls("localhost")).start()
        address = f"localhost:{cloud.grpc_port}"
        for name in ("gateway-1", "gateway-2"):
            stage.edge(name, cloud=address, **tls(name)).start().append(1)
        cloud.until("/status", lambda body: body["journal"]["head"] == 2)
        # Another gateway's name, and the cloud's certificate, which is for serving only.
        thief = stage.edge("gateway-1", cloud=address, **tls("gateway-2")).start()
        assert thief.wait_for("link.needs_operator")["code"] == "auth.identity_mismatch"
        stage.edge("gateway-3", cloud=address, **tls("localhost")).start().wait_for("link.unreachable", level="warning")
        cloud.wait_for("grpc.handshake_failed")
        cloud.wait_for("audit.refused", rule="certificate", result="auth.identity_mismatch")
        closed = stage.edge("gateway-2", cloud=address, subscriptions="Sensor", **tls("gateway-2")).start()
        closed.wait_for("link.needs_operator", code="subscription.no_such_stream")
        cloud.wait_for("audit.refused", who="gateway-2", what="read Sensor", rule="own prefix")


@pytest.mark.parametrize("line", ["CLOUD_TLS_CA=", "EDGE_TLS_CA="])
def test_the_page_says_how_both_are_run(line: str) -> None:
    assert line in PAGE.read_text()
