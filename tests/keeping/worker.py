"""What the processes of the race and crash tests run: they post transfers and say what became of each."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from metering import store
from metering.ledger import AccountId, Code, Phase, Transfer, firm_room, firm_spent, pool_room, pool_spent
from metering.store import RoomExceeded
from scheduler.database import Database
from tests.fakes import NOON

YEAR = 2026
FIRM_PAIR = (firm_room("f", YEAR), firm_spent("f", YEAR))
POOL_PAIR = (pool_room(YEAR), pool_spent(YEAR))
_starts: list[threading.Barrier] = []


def movement(
    name: str,
    pair: tuple[AccountId, AccountId],
    amount: int,
    phase: Phase = Phase.POSTED,
    pending: str | None = None,
    code: Code | None = None,
) -> Transfer:
    """A transfer from a room."""
    given = code or (Code.HOLD if phase is Phase.PENDING else Code.DRAW)
    return Transfer(
        id=name, phase=phase, code=given, debit=pair[0], credit=pair[1], amount_fen=amount, pending_id=pending
    )


# --- races --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Transfers of one transaction."""

    transfers: tuple[Transfer, ...]


def ready(start: threading.Barrier) -> None:
    """The process knows the barrier that all of them begin at."""
    _starts.append(start)


def race(url: str, acts: Sequence[Act]) -> list[str]:
    """What became of each act, in order: moved, room (RoomExceeded) or resolved (another process was first)."""
    database = Database(url)
    with database.read():
        pass  # connected before the race begins
    _starts[0].wait(60)
    said = [attempt(database, act) for act in acts]
    database.close()
    return said


def attempt(database: Database, act: Act) -> str:
    """One transaction; whatever else it raises is the test's failure."""
    try:
        with database.write() as tx:
            for transfer in act.transfers:
                store.post(tx, transfer, NOON)
    except RoomExceeded:
        return "room"
    except store.AlreadyResolved:
        return "resolved"
    return "moved"


# --- crashes ------------------------------------------------------------------------------------------------------


def batch(name: str, number: int) -> list[Transfer]:
    """The transfers of a worker's batch: always the same ones under the same ids. Draws, holds, and what resolves them."""
    found = []
    for place in range(1 + number % 10):
        key = f"{name}:{number}:{place}"
        pair = FIRM_PAIR if number % 2 else POOL_PAIR
        match place % 3:
            case 0:
                found.append(movement(key, pair, 1 + number % 7))
            case 1:
                found.append(movement(key, pair, 5, Phase.PENDING))
            case _:
                found.append(movement(key, pair, number % 6, Phase.POST, pending=f"{name}:{number}:{place - 1}"))
    return found


def toil(url: str, name: str, first: int) -> None:
    """Post batch after batch from `first` on, and tell each on stdout once it is committed; ends only by being killed.

    When the server goes away the outcome of the batch in flight is unknown, so it is posted again under the same ids.
    """
    database, pause = Database(url), threading.Event()
    number = first
    while True:
        try:
            with database.write() as tx:
                for transfer in batch(name, number):
                    store.post(tx, transfer, NOON)
        except (OperationalError, DBAPIError) as problem:
            if isinstance(problem, IntegrityError):
                raise
            pause.wait(0.01)
            continue
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 1
        if not database.postgresql:
            pause.wait(0.004)  # SQLite's lock has no queue: who has just let it go would get it again for seconds


if __name__ == "__main__":
    toil(sys.argv[1], sys.argv[2], int(sys.argv[3]))
