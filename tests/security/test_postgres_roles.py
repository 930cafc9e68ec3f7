"""Two roles in a real PostgreSQL, with exactly the grants of docs/security.md: one migrates, the other runs a whole service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from examples.support.postgres import Databases, PostgresServer, PostgresUnavailable
from examples.support.processes import ROOT, environment
from tests.e2e.processes import Stage, open_stage

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
GRANTS = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)[0].strip().splitlines()
PASSWORD = "of-both-roles"
APP = "tests.support.apps.counting:app"


class Roles:
    """A database with both roles, and the two commands."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self.server = server
        self.folder = folder

    def url(self, role: str) -> str:
        """The journal's URL for a role."""
        parts = urlsplit(self.server.url)
        netloc = f"{role}:{PASSWORD}@{parts.hostname}:{parts.port}"
        return urlunsplit(parts._replace(netloc=netloc, path="/backhaul"))

    def as_role(self, role: str, sql: str) -> str:
        """What the server says to a statement of this role."""
        try:
            return Databases(self.url(role)).run(sql)
        except PostgresUnavailable as refused:
            return str(refused)

    def grant(self, *, without: str = "") -> None:
        """Do what the page says, line by line."""
        for line in GRANTS:
            if not without or without not in line:
                self.server.superuser.run(line, database="backhaul")
        for role in ("backhaul_owner", "backhaul_node"):
            self.server.superuser.run(f"ALTER ROLE {role} PASSWORD '{PASSWORD}'")

    def command(self, word: str, role: str, **settings: str) -> tuple[int, str]:
        """A command of the cloud service; exit status and all it said. A node that starts after all is ended."""
        variables = {f"CLOUD_{key.upper()}": value for key, value in settings.items()}
        (self.folder / "url").write_text(self.url(role))
        done = subprocess.run(
            [sys.executable, "-m", "cloud_service", word, "--journal-file", "url", "--http-port=0", "--grpc-port=0"],
            env=environment({"PYTHONPATH": ROOT, **variables}),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def run_node(self, stage: Stage, app: str = APP) -> None:
        """A node of the run-time role that takes in events, projects them and removes them again."""
        node = stage.cloud(
            "node",
            journal=self.url("backhaul_node"),
            migrations="check",
            app=app,
            retention_age_s=1,
            retention_least_age_s=0,
            retention_interval_s=0.1,
        ).start()
        edge = stage.edge("g1", cloud=node.address).start()
        measured = {"entity_type": "Sensor", "entity_id": "t", "event_type": "Measured", "payload": {"value": 1}}
        assert edge.ask("POST", "/v1/events", {"events": [measured] * 3})[0] == 201
        node.until("/status", lambda body: body["journal"]["head"] >= 3, timeout_s=60)
        node.until("/v1/projections", lambda body: _have_passed(body, 3), timeout_s=60)
        node.until("/status", lambda body: body["retention"]["trimmed"] >= 3, timeout_s=60)
        node.stop()


def _have_passed(body: dict[str, Any], position: int) -> bool:
    passed = {row["name"] for row in body["projections"] if row["position"] >= position}
    return passed >= {"latest", "tally"}


@pytest.fixture
def roles(own_postgres: PostgresServer, tmp_path: Path) -> Roles:
    own_postgres.superuser.run("CREATE DATABASE backhaul TEMPLATE template0")
    return Roles(own_postgres, tmp_path)


def test_the_service_runs_with_a_role_that_may_change_no_table(roles: Roles, tmp_path: Path) -> None:
    roles.grant()
    status, said = roles.command("run", "backhaul_node", migrations="check")
    assert status == 2
    assert "journal.schema_older" in said
    # Without the check it tries, and is refused by the server.
    status, said = roles.command("run", "backhaul_node")
    assert (status, "postgres.access_denied" in said) == (2, True)
    assert roles.command("migrate", "backhaul_owner")[0] == 0
    status, said = roles.command("run", "backhaul_node", migrations="check", app=APP)
    assert (status, "journal.schema_older" in said) == (2, True), said
    status, said = roles.command("migrate", "backhaul_owner", app=APP)
    assert status == 0, said
    with open_stage(tmp_path) as stage:
        roles.run_node(stage)
    for statement in (
        "CREATE TABLE backhaul.mine (x int)",
        "CREATE TABLE public.mine (x int)",
        "CREATE TEMP TABLE mine (x int)",
        "CREATE SCHEMA mine",
        "ALTER TABLE backhaul.event ADD COLUMN mine int",
        "DROP TABLE backhaul.event",
        "TRUNCATE backhaul.event",
        "DROP FUNCTION backhaul.texts",
        "CREATE OR REPLACE FUNCTION backhaul.texts(joined text) RETURNS text[] LANGUAGE sql AS $$ SELECT NULL::text[] $$",
        "SET ROLE backhaul_owner",
    ):
        refusal = roles.as_role("backhaul_node", statement)
        assert "permission denied" in refusal or "must be owner" in refusal, (statement, refusal)


@pytest.mark.parametrize("line", [line for line in GRANTS if "GRANT" in line and "ALL TABLES" not in line])
def test_none_of_the_grants_can_be_left_out(roles: Roles, line: str) -> None:
    roles.grant(without=line)
    status, said = roles.command("migrate", "backhaul_owner")
    if status == 0:
        status, said = roles.command("run", "backhaul_node", migrations="check")
    assert (status, "postgres.access_denied" in said) == (2, True), (status, said)


def test_a_database_whose_tables_a_node_made_is_handed_over(roles: Roles, tmp_path: Path) -> None:
    superuser = roles.server.superuser
    superuser.run(f"CREATE ROLE that_role LOGIN PASSWORD '{PASSWORD}'")
    superuser.run("GRANT CREATE ON DATABASE backhaul TO that_role")
    assert roles.command("migrate", "that_role", app=APP)[0] == 0
    superuser.run("CREATE ROLE backhaul_owner LOGIN")
    superuser.run("REASSIGN OWNED BY that_role TO backhaul_owner", database="backhaul")
    superuser.run("REVOKE CREATE ON DATABASE backhaul FROM that_role")
    roles.grant(without="CREATE ROLE backhaul_owner")
    assert roles.command("migrate", "backhaul_owner", app=APP)[0] == 0
    with open_stage(tmp_path) as stage:
        roles.run_node(stage)


def test_a_file_has_no_roles(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cloud_service", "check-config", "--migrations=check"],
        env=environment({"PYTHONPATH": ROOT, "PATH": os.environ["PATH"]}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "settings.conflict" in done.stderr) == (2, True)
