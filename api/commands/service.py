"""Service: serve, loop, demo, migrate, doctor."""

from __future__ import annotations

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
    from api.settings import Settings
    from api.wiring import Services

DataDir = Annotated[Path | None, typer.Option(help="Where everything is kept; default YISUAN_DATA_DIR.")]
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
) -> None:
    """The first start on an empty database mints an operator key and shows it once."""
    import uvicorn

    from api.app import create_app
    from api.embedded import EmbeddedAgents

    services = _build(_settings(host=host, port=port, data_dir=data_dir))
    _first_key(services)
    stop = stop_on_signals()  # uvicorn raises its signal again when it has ended; what follows must still run
    thread = threading.Thread(target=services.loop.run, args=(stop, services.settings.tick_ms / 1000), name="loop")
    settings = services.settings
    talk(word("cli.serve.pages", url=f"http://{settings.host}:{settings.port}/"))
    EmbeddedAgents(services).start(stop)
    thread.start()
    try:
        uvicorn.run(create_app(services), host=settings.host, port=settings.port, log_level="warning")
    finally:
        stop.set()
        thread.join()
        services.close()


def loop(data_dir: DataDir = None) -> None:
    """Alone: for a data directory whose routes another process serves."""
    from api.embedded import EmbeddedAgents

    services = _build(_settings(data_dir=data_dir))
    stop = stop_on_signals()
    EmbeddedAgents(services).start(stop)
    services.loop.run(stop, services.settings.tick_ms / 1000)
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

    from api.migrations import upgrade
    from scheduler.database import Database

    settings = _settings(data_dir=data_dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.database_url)
    try:
        upgrade(database)
    except OperationalError as problem:
        what = word("doctor.database.broken", url=settings.database_url, problem=str(problem.orig))
        raise Failure(what, code=UNAVAILABLE) from None
    finally:
        database.close()
    talk(word("cli.migrated", url=settings.database_url))


def _settings(**given: Any) -> Settings:
    """Settings from the environment, the command's own options first."""
    from pydantic import ValidationError

    from api.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as problem:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}: {e['input']!r}" for e in problem.errors()]
        raise Failure(word("cli.settings.bad"), why="\n".join(lines), do=word("cli.settings.do"), code=USAGE) from None


def _build(settings: Settings) -> Services:
    from filelock import Timeout

    from api.wiring import AnotherLeads, WrongLedger, build

    try:
        return build(settings)
    except AnotherLeads as problem:
        raise Failure(word("cli.led"), why=str(problem), code=UNAVAILABLE) from None
    except Timeout as problem:
        raise Failure(word("cli.locked", path=str(settings.data_dir)), why=str(problem), code=UNAVAILABLE) from None
    except WrongLedger as problem:
        raise Failure(word("cli.ledger.other"), why=str(problem), do=word("cli.settings.do"), code=USAGE) from None


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
    checks = [_data_dir(settings), _database(settings), *_confinement(), *_vendors()]
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


def _database(settings: Settings) -> Check:
    from sqlalchemy import make_url, text
    from sqlalchemy.exc import SQLAlchemyError

    from scheduler.database import Database

    url = make_url(settings.database_url)
    if url.drivername.startswith("sqlite") and url.database and not Path(url.database).exists():
        return None, word("doctor.database.absent", url=settings.database_url)
    database = Database(settings.database_url)
    try:
        with database.read() as tx:
            tx.execute(text("SELECT 1"))
    except SQLAlchemyError as problem:
        return False, word("doctor.database.broken", url=settings.database_url, problem=str(problem))
    finally:
        database.close()
    return True, word("doctor.database", url=settings.database_url)


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
