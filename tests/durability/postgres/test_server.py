"""The server that durable things are tested against must itself be durable, private and gone afterwards."""

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from examples.support.postgres import Databases, PostgresServer, PostgresUnavailable, postgres_server


def test_a_committed_row_survives_a_crash_of_the_server(own_postgres: PostgresServer) -> None:
    url = own_postgres.create()
    database = Databases(url)
    database.run("CREATE TABLE kept (n int)")
    database.run("INSERT INTO kept VALUES (7)")

    own_postgres.restart()

    assert database.run("SELECT n FROM kept") == "7"
    assert "automatic recovery in progress" in own_postgres.log


def test_databases_of_two_tests_share_nothing(postgres: Databases) -> None:
    with postgres.fresh() as one, postgres.fresh() as other:
        Databases(one).run("CREATE TABLE mine (n int)")
        assert Databases(other).run("SELECT to_regclass('mine') IS NULL") == "t"


def test_tests_run_as_an_ordinary_role(own_postgres: PostgresServer) -> None:
    assert own_postgres.run("SHOW is_superuser") == "off"


def test_a_server_that_does_not_sync_is_refused() -> None:
    with postgres_server(settings={"fsync": "off"}) as server:
        with pytest.raises(PostgresUnavailable, match="fsync = off"):
            server.require_durable()


def test_the_server_ends_with_a_process_that_was_killed() -> None:
    script = """
import os, signal
from examples.support.postgres import postgres_server
with postgres_server() as server:
    print(server.run("SELECT pg_postmaster_start_time()") and server.directory, flush=True)
    print((server.directory / "data" / "postmaster.pid").read_text().split()[0], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    directory, pid = done.stdout.split()

    try:
        psutil.Process(int(pid)).wait(timeout=30)
    except psutil.NoSuchProcess:
        pass
    log = (Path(directory) / "log").read_text()
    shutil.rmtree(directory)
    assert "immediate shutdown" in log
