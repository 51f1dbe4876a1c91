"""Service: serve, loop, demo, migrate, doctor."""

from __future__ import annotations

import enum
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.commands.console import REFUSED, UNAVAILABLE, USAGE, Failure, Output, language, talk, word

if TYPE_CHECKING:
    from api.leadership import Leader
    from api.settings import Settings
    from api.wiring import Services

DataDir = Annotated[Path | None, typer.Option(help="Where everything is kept; default YISUAN_DATA_DIR.")]


class Role(enum.StrEnum):
    """What a process does of the platform."""

    ALL = "all"
    API = "api"
    LOOP = "loop"


Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Default YISUAN_PORT, else 8080.")]


def demo(
    once: Annotated[bool, typer.Option("--once", help="End when the story is told, instead of staying up.")] = False,
    output: Annotated[Output, typer.Option("-o", "--output", help="json: one document on stdout.")] = Output.TABLE,
    data_dir: Annotated[Path, typer.Option(help="Kept between runs; a killed demo goes on from it.")] = Path(
        ".demo/data"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
) -> None:
    """Probes, enrols, submits the examples, meters, settles, audits. Progress on stderr."""
    from api.demo import Arguments, run

    arguments = Arguments(data_dir=data_dir, once=once, output=output.value, port=port, language=language())
    raise typer.Exit(run(arguments))


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default YISUAN_HOST, else 127.0.0.1.")] = None,
    port: Port = None,
    data_dir: DataDir = None,
    role: Annotated[
        Role | None,
        typer.Option(help="all: routes, and the loop when its turn comes; api: routes alone; loop: no routes."),
    ] = None,
) -> None:
    """The first start on an empty database mints an operator key and shows it once."""
    settings = _settings(host=host, port=port, data_dir=data_dir, role=role)
    if settings.role == "loop":
        _stand_by(settings)
        return
    from api.app import create_app
    from api.server import Server
    from api.standby import Standby

    services = _assemble(settings)
    _first_key(services)
    stop = stop_on_signals()  # uvicorn raises its signal again when it has ended; what follows must still run
    talk(word("cli.serve.pages", url=f"http://{settings.host}:{settings.port}/"))
    standby = Standby(services) if settings.role == "all" else None
    thread = threading.Thread(target=standby.run, args=(stop,), name="loop") if standby else None
    if thread is not None:
        thread.start()
    try:
        Server(create_app(services), services, stop).run()
    finally:
        stop.set()
        if thread is not None:
            thread.join()
        services.close()


def loop(data_dir: DataDir = None) -> None:
    """Alone: for a database whose routes other processes serve. Stands by while another process is its loop."""
    _stand_by(_settings(data_dir=data_dir, role="loop"))


def _stand_by(settings: Settings) -> None:
    from api.standby import Standby

    services = _assemble(settings)
    stop = stop_on_signals()
    # In a thread: the handler of a signal runs in the main one, which must not be inside what the handler sets.
    thread = threading.Thread(target=Standby(services).run, args=(stop,), name="loop")
    thread.start()
    thread.join()
    services.close()


def stop_on_signals() -> threading.Event:
    """Set when this process is told to end (SIGTERM, SIGINT)."""
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    return stop


def migrate(data_dir: DataDir = None) -> None:
    """Safe to repeat."""
    from sqlalchemy.exc import OperationalError

    from api.migrations import SchemaNewer, upgrade
    from scheduler.database import Database

    settings = _settings(data_dir=data_dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.database_url)
    try:
        upgrade(database)
    except SchemaNewer as problem:
        raise _newer(problem) from None
    except OperationalError as problem:
        what = word("doctor.database.broken", url=_shown(settings), problem=str(problem.orig))
        raise Failure(what, code=UNAVAILABLE) from None
    finally:
        database.close()
    talk(word("cli.migrated", url=_shown(settings)))


def _settings(**given: Any) -> Settings:
    """Settings from the environment, the command's own options first."""
    from pydantic import ValidationError

    from api.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as problem:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}: {e['input']!r}" for e in problem.errors()]
        raise Failure(word("cli.settings.bad"), why="\n".join(lines), do=word("cli.settings.do"), code=USAGE) from None


def _assemble(settings: Settings) -> Services:
    from filelock import Timeout
    from sqlalchemy.exc import OperationalError

    from api.logs import write_plainly
    from api.migrations import SchemaNewer
    from api.wiring import WrongKey, WrongLedger, assemble
    from scheduler.cluster_file import ClusterFileError

    write_plainly()
    try:
        return assemble(settings)
    except SchemaNewer as problem:
        raise _newer(problem) from None
    except Timeout as problem:
        raise Failure(word("cli.locked", path=str(settings.data_dir)), why=str(problem), code=UNAVAILABLE) from None
    except WrongKey as problem:
        raise Failure(word("cli.key.other"), why=str(problem), do=word("cli.key.other.do"), code=USAGE) from None
    except ClusterFileError as problem:
        raise Failure(word("cli.clusters.bad"), why=str(problem), code=USAGE) from None
    except WrongLedger as problem:
        raise Failure(word("cli.ledger.other"), why=str(problem), do=word("cli.settings.do"), code=USAGE) from None
    except OperationalError as problem:
        what = word("doctor.database.broken", url=_shown(settings), problem=str(problem.orig))
        raise Failure(what, code=UNAVAILABLE) from None


def _newer(problem: Exception) -> Failure:
    return Failure(word("cli.schema.newer"), why=str(problem), do=word("cli.schema.newer.do"), code=UNAVAILABLE)


def _shown(settings: Settings) -> str:
    """The database's address without its password."""
    from sqlalchemy import make_url

    return make_url(settings.database_url).render_as_string()


def _first_key(services: Services) -> None:
    from datetime import UTC, datetime

    from sqlalchemy import select

    from api.auth import mint_key
    from api.schema import api_keys

    with services.database.write() as tx:
        if tx.execute(select(api_keys.c.id)).first() is None:
            for role in ("operator", "reviewer", "finance"):
                key = mint_key(tx, name=f"first {role}", role=role, tenant=None, now=datetime.now(UTC))
                talk(word("cli.first_key", role=role, key=key))


def doctor(data_dir: DataDir = None) -> None:
    """Exit 1 if something that the platform needs is missing."""
    from importlib.metadata import version

    typer.echo(f"yisuan {version('yisuan')}  Python {sys.version.split()[0]}  SQLite {_sqlite()}")
    settings = _settings(data_dir=data_dir)
    checks = [_data_dir(settings), *_database(settings), *_confinement(), *_vendors()]
    for ok, line in checks:
        typer.echo(f"{'✓' if ok else '✗' if ok is False else '·'} {line}")
    if any(ok is False for ok, _ in checks):
        raise typer.Exit(REFUSED)


Check = tuple[bool | None, str]  # holds, broken, or None: merely absent


def _sqlite() -> str:
    import sqlite3

    return sqlite3.sqlite_version


def _data_dir(settings: Settings) -> Check:
    path = Path(settings.data_dir)
    if not path.exists():
        return None, word("doctor.data_dir.absent", path=str(path))
    private = path.stat().st_mode & 0o077 == 0
    return (private and os.access(path, os.W_OK)), word(
        "doctor.data_dir" if private else "doctor.data_dir.open", path=str(path)
    )


def _database(settings: Settings) -> list[Check]:
    from sqlalchemy import make_url, text
    from sqlalchemy.exc import SQLAlchemyError

    from api.leadership import leader_of
    from api.migrations import revision_of
    from scheduler.database import Database

    url = make_url(settings.database_url)
    if url.drivername.startswith("sqlite") and url.database and not Path(url.database).exists():
        return [(None, word("doctor.database.absent", url=_shown(settings)))]
    database = Database(settings.database_url)
    try:
        with database.read() as tx:
            tx.execute(text("SELECT 1"))
            found = revision_of(tx)
            leader = leader_of(tx) if found else None
    except SQLAlchemyError as problem:
        return [(False, word("doctor.database.broken", url=_shown(settings), problem=str(problem)))]
    finally:
        database.close()
    return [(True, word("doctor.database", url=_shown(settings))), *_loop(leader)]


def _loop(leader: Leader | None) -> list[Check]:
    """Who is the loop, as the database tells; none having led yet is no fault."""
    from datetime import UTC, datetime

    from adapters.chain import timestamp
    from api.leadership import QUIET

    if leader is None:
        return [(None, word("doctor.loop.none"))]
    at = leader.ticked_at
    facts = {"who": leader.who, "since": timestamp(leader.since), "at": timestamp(at) if at else "—"}
    if leader.resigned:
        return [(None, word("doctor.loop.resigned", **facts))]
    fresh = at is not None and datetime.now(UTC) - at <= QUIET
    return [(fresh or None, word("doctor.loop" if fresh else "doctor.loop.silent", **facts))]


def _confinement() -> list[Check]:
    """One confinement that works is enough; the others are only told."""
    import tempfile

    from scheduler.backends.confinement import unavailable

    with tempfile.TemporaryDirectory() as private, tempfile.TemporaryDirectory() as work:
        found = {method: unavailable(method, [private], work, None) for method in ("namespace", "landlock")}
    works = any(reason is None for reason in found.values())
    checks: list[Check] = []
    for method, reason in found.items():
        if reason is None:
            checks.append((True, word("doctor.confinement", method=method)))
        else:
            told = word("doctor.confinement.absent", method=method, reason=reason)
            checks.append((None if works else False, told))
    return checks


def _vendors() -> list[Check]:
    from adapters.registry import load_adapter, vendors

    found: list[Check] = []
    for name in vendors():
        probe = load_adapter(name).probe()
        if probe.available:
            found.append((True, word("doctor.vendor", vendor=name)))
        else:
            found.append((None, word("cli.vendor.absent", vendor=name, reason=probe.reason)))
    return found
