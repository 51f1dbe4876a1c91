"""Sixteen processes race for the last fen, on both stores: exact totals, and nothing said but yes or RoomExceeded."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import pytest

from metering import store
from metering.ledger import AccountId, Balance, Code, Phase, authority, cap_source
from scheduler.database import Database
from tests.fakes import NOON
from tests.keeping import books
from tests.keeping.worker import FIRM_PAIR, POOL_PAIR, YEAR, Act, movement, race, ready

PROCESSES = 16
ATTEMPTS = 12


@pytest.fixture(scope="module")
def crew() -> Iterator[ProcessPoolExecutor]:
    """One process per task, all held at a barrier until every one of them is connected."""
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, mp_context=spawn, initializer=ready, initargs=(start,)) as made:
        yield made


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


def open_rooms(database: Database, *, pool: int, firm: int) -> None:
    with database.write() as tx:
        for code, source, (room, _), fen in (
            (Code.APPROPRIATE, authority(YEAR), POOL_PAIR, pool),
            (Code.OPEN_ROOM, cap_source(), FIRM_PAIR, firm),
        ):
            store.post(tx, movement(f"open:{room}", (source, room), fen, code=code), NOON)


def run(crew: ProcessPoolExecutor, database: Database, acts: Sequence[Sequence[Act]]) -> list[list[str]]:
    assert len(acts) == PROCESSES
    return [task.result(120) for task in [crew.submit(race, database.url, mine) for mine in acts]]


def left(balances: dict[AccountId, Balance], pair: tuple[AccountId, AccountId]) -> int:
    return balances[pair[0]].available


def test_the_last_fen_of_a_pool_is_given_once(crew: ProcessPoolExecutor, database: Database) -> None:
    """100 fen, 192 processes' attempts at one each: a hundred yes, the rest RoomExceeded, the pool at zero."""
    open_rooms(database, pool=100, firm=0)
    acts = [[Act(transfers=(movement(f"d:{p}:{n}", POOL_PAIR, 1),)) for n in range(ATTEMPTS)] for p in range(PROCESSES)]
    said = [word for mine in run(crew, database, acts) for word in mine]
    assert (said.count("moved"), said.count("room")) == (100, PROCESSES * ATTEMPTS - 100)
    balances, amounts = books.check(database)
    assert left(balances, POOL_PAIR) == 0
    assert len(amounts) == 2 + 100


@pytest.mark.parametrize(("pool", "firm"), [(50, 1000), (1000, 50)])
def test_a_hold_takes_both_rooms_or_neither(
    crew: ProcessPoolExecutor, database: Database, pool: int, firm: int
) -> None:
    """7 fen of the firm's room and of the pool in one transaction, whichever of them is the narrow one."""
    open_rooms(database, pool=pool, firm=firm)

    def hold(name: str) -> Act:
        pairs = (("firm", FIRM_PAIR), ("pool", POOL_PAIR))
        return Act(transfers=tuple(movement(f"{name}:{k}", pair, 7, Phase.PENDING) for k, pair in pairs))

    acts = [[hold(f"h:{p}:{n}") for n in range(2)] for p in range(PROCESSES)]
    said = [word for mine in run(crew, database, acts) for word in mine]
    assert (said.count("moved"), said.count("room")) == (7, 2 * PROCESSES - 7)
    balances, _ = books.check(database)
    assert (left(balances, POOL_PAIR), left(balances, FIRM_PAIR)) == (pool - 49, firm - 49)


def test_what_is_released_can_be_held_again(crew: ProcessPoolExecutor, database: Database) -> None:
    """Hold 7, draw 3 of it, over and over: what is drawn is what was told, and nothing stays pending."""
    open_rooms(database, pool=100, firm=0)

    def cycle(name: str) -> list[Act]:
        held = movement(f"{name}:hold", POOL_PAIR, 7, Phase.PENDING)
        return [Act(transfers=(held, movement(f"{name}:draw", POOL_PAIR, 3, Phase.POST, pending=held.id)))]

    acts = [[act for n in range(4) for act in cycle(f"c:{p}:{n}")] for p in range(PROCESSES)]
    said = [word for mine in run(crew, database, acts) for word in mine]
    assert set(said) == {"moved", "room"}
    balances, _ = books.check(database)
    assert said.count("moved") == 32  # 100 - 31 × 3 = 7 is held once more, then 4 are left
    assert left(balances, POOL_PAIR) == 100 - 3 * 32
    assert balances[POOL_PAIR[0]].debits_pending == 0


def test_the_same_id_from_every_process_is_applied_once(crew: ProcessPoolExecutor, database: Database) -> None:
    open_rooms(database, pool=10_000, firm=0)
    same = [Act(transfers=(movement(f"s:{n}", POOL_PAIR, n + 1),)) for n in range(ATTEMPTS)]
    acts = [same[p % ATTEMPTS :] + same[: p % ATTEMPTS] for p in range(PROCESSES)]
    said = [word for mine in run(crew, database, acts) for word in mine]
    assert set(said) == {"moved"}, "a repetition is a yes"
    balances, amounts = books.check(database)
    assert left(balances, POOL_PAIR) == 10_000 - sum(range(ATTEMPTS + 1))
    assert len(amounts) == 2 + ATTEMPTS


def test_a_hold_that_many_want_to_resolve_is_resolved_once(crew: ProcessPoolExecutor, database: Database) -> None:
    """Half of them post it, half void it, under their own ids: one gets through, and its amount is what moved.

    Another hold stands beside it, so that a second resolution would not show in the pending sums alone.
    """
    open_rooms(database, pool=100, firm=0)
    with database.write() as tx:
        for name in ("h", "beside"):
            store.post(tx, movement(name, POOL_PAIR, 40, Phase.PENDING), NOON)
    acts = []
    for number in range(PROCESSES):
        phase, amount = (Phase.POST, 25) if number % 2 else (Phase.VOID, 0)
        acts.append([Act(transfers=(movement(f"r:{number}", POOL_PAIR, amount, phase, pending="h"),))])
    said = [word for mine in run(crew, database, acts) for word in mine]
    assert (said.count("moved"), said.count("resolved")) == (1, PROCESSES - 1)
    balances, _ = books.check(database)
    assert left(balances, POOL_PAIR) == 60 - (25 if said.index("moved") % 2 else 0)
