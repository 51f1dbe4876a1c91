"""Keeping: backup and restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.commands.console import REFUSED, UNAVAILABLE, USAGE, Failure, talk, word
from api.commands.service import DataDir, _settings

EVERY = 100_000  # rows between two lines of progress on one table


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to make; an existing file is refused.")],
    data_dir: DataDir = None,
) -> None:
    """While the platform runs: one moment of the whole database, in one file that any supported database takes back."""
    from sqlalchemy.exc import OperationalError

    from api.keeping import Damaged, NotOurs
    from api.keeping import backup as keep
    from scheduler.clock import SystemClock
    from scheduler.database import Database

    settings = _settings(data_dir=data_dir)
    database = Database(settings.database_url)
    try:
        made = keep(
            database,
            file,
            checkpoints=settings.data_dir / "checkpoints.jsonl",
            now=SystemClock().now(),
            progress=_Lines("cli.backup.progress").told,
        )
    except (OSError, NotOurs) as problem:
        raise Failure(word("cli.backup.failed"), why=str(problem), code=USAGE) from None
    except Damaged as problem:
        raise Failure(word("cli.backup.failed"), why=str(problem), code=REFUSED) from None
    except OperationalError as problem:
        raise Failure(word("cli.backup.failed"), why=str(problem.orig), code=UNAVAILABLE) from None
    finally:
        database.close()
    talk(word("cli.backup.done", path=str(file), rows=sum(made.rows.values()), revision=made.revision))


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive that backup made.")],
    data_dir: DataDir = None,
) -> None:
    """Into an empty data directory or database; exit 1 if the archive is damaged or its books break a law."""
    from filelock import FileLock, Timeout
    from sqlalchemy.exc import OperationalError

    from api.keeping import Damaged, NotOurs, Occupied, Unlawful
    from api.keeping import restore as bring_back
    from metering.parameters import load_policies
    from metering.rule import load_rules
    from scheduler.database import Database

    settings = _settings(data_dir=data_dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.database_url)
    url = repr(database.engine.url)
    try:
        with FileLock(settings.data_dir / "loop.lock", timeout=0):
            kept, report = bring_back(
                file,
                database,
                checkpoints=settings.data_dir / "checkpoints.jsonl",
                registry=load_policies(settings.parameters_dir),
                rules=load_rules(),
                progress=_Lines("cli.restore.progress").told,
            )
    except Timeout as problem:
        raise Failure(word("cli.locked", path=str(settings.data_dir)), why=str(problem), code=UNAVAILABLE) from None
    except Damaged as problem:
        raise Failure(word("cli.restore.damaged", path=str(file)), why=str(problem), code=REFUSED) from None
    except Unlawful as problem:
        raise Failure(word("cli.restore.unlawful"), why=str(problem), code=REFUSED) from None
    except Occupied as problem:
        what, do = word("cli.restore.occupied", url=url), word("cli.restore.occupied.do")
        raise Failure(what, why=str(problem), do=do, code=USAGE) from None
    except (OSError, NotOurs) as problem:
        raise Failure(word("cli.input.bad"), why=str(problem), code=USAGE) from None
    except OperationalError as problem:
        what = word("doctor.database.broken", url=url, problem=str(problem.orig))
        raise Failure(what, code=UNAVAILABLE) from None
    finally:
        database.close()
    talk(word("cli.restore.done", url=url, rows=sum(kept.rows.values()), records=report.records))


class _Lines:
    """Progress as lines on stderr: one when a table begins, one per EVERY rows of it."""

    def __init__(self, code: str) -> None:
        self.code, self.table, self.next = code, "", 0

    def told(self, table: str, rows: int) -> None:
        if table != self.table:
            self.table, self.next = table, 0
        if rows >= self.next:
            talk(word(self.code, table=table, rows=rows))
            self.next = rows + EVERY
