"""Killed at random moments under load: what was acknowledged is there, what was retried is there once, the books hold.

The seed is printed with a failure; YISUAN_CRASHES=50 runs more rounds, YISUAN_SEED=n repeats a run's choices.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from metering import store
from metering.ledger import Code, authority, cap_source
from scheduler.database import Database
from tests.fakes import NOON
from tests.keeping import books
from tests.keeping.worker import FIRM_PAIR, POOL_PAIR, YEAR, batch, movement
from tests.postgres import NoPostgres, Server, running_postgres

ROUNDS = int(os.environ.get("YISUAN_CRASHES", "6"))
SEED = int(os.environ.get("YISUAN_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
ROOT = Path(__file__).parents[2]
WORKERS = 3
OVERLAP = 3  # batches that a restarted worker posts again though they were acknowledged


class Worker:
    """A process that posts until it is killed. acknowledged: batches told as committed."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name, self.acknowledged = url, name, -1
        self.start()

    def start(self) -> None:
        first = max(self.acknowledged + 1 - OVERLAP, 0)
        command = [sys.executable, "-m", "tests.keeping.worker", self.url, self.name, str(first)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def hear(self, lines: int) -> None:
        """At least so many more batches are acknowledged."""
        assert self.process.stdout is not None
        for _ in range(lines):
            line = self.process.stdout.readline()
            assert line, f"worker {self.name} ended by itself with {self.process.wait()}"
            self.acknowledged = max(self.acknowledged, int(line))

    def kill(self) -> None:
        self.process.kill()
        rest, _ = self.process.communicate()
        for line in rest.splitlines(keepends=True):
            if line.endswith("\n"):
                self.acknowledged = max(self.acknowledged, int(line))


def open_rooms(database: Database) -> None:
    with database.write() as tx:
        for code, source, room in (
            (Code.APPROPRIATE, authority(YEAR), POOL_PAIR[0]),
            (Code.OPEN_ROOM, cap_source(), FIRM_PAIR[0]),
        ):
            store.post(tx, movement(f"open:{room}", (source, room), 10**12, code=code), NOON)


def judge(database: Database, workers: list[Worker]) -> None:
    """Every acknowledged batch is there, every batch that is there is whole, and the laws of the books hold."""
    promised = {worker.name: worker.acknowledged for worker in workers}  # before the look, as more may follow
    _, amounts = books.check(database)
    seen: dict[tuple[str, int], int] = {}
    for key in amounts:
        if not key.startswith("open:"):
            name, number, _ = key.split(":")
            seen[name, int(number)] = seen.get((name, int(number)), 0) + 1
    for (name, place), count in seen.items():
        assert count == len(batch(name, place)), f"batch {place} of {name} is not whole"
    for name, last in promised.items():
        missing = [number for number in range(last + 1) if (name, number) not in seen]
        assert not missing, f"acknowledged by {name} and lost: {missing}"


def crash(database: Database, server: Server | None) -> None:
    """Rounds of load and a kill; with a server every second kill is its, with all its processes."""
    print(f"YISUAN_SEED={SEED}")
    chance, pause = random.Random(SEED), threading.Event()
    open_rooms(database)
    workers = [Worker(database.url, name) for name in "abc"[:WORKERS]]
    try:
        for number in range(ROUNDS):
            chance.choice(workers).hear(chance.randint(1, 4))
            pause.wait(chance.random() / 30)  # a random moment inside somebody's transaction
            if server is not None and number % 2:
                server.kill()
                server.start()
            else:
                victim = chance.choice(workers)
                victim.kill()
                victim.start()
            judge(database, workers)
        for worker in workers:
            worker.hear(1 + OVERLAP)  # all of them go on
    finally:
        for worker in workers:
            worker.kill()
    judge(database, workers)


def test_killed_processes_lose_and_repeat_nothing(database_url: str) -> None:
    database = Database(database_url)
    crash(database, None)
    database.close()


def test_a_killed_server_loses_and_repeats_nothing() -> None:
    try:
        with running_postgres() as server:
            if server.programs is None:
                pytest.skip("YISUAN_TEST_POSTGRES is a server that is not ours to kill")
            database = Database(server.url(server.create()))
            crash(database, server)
            database.close()
    except NoPostgres as reason:
        pytest.skip(f"no PostgreSQL: {reason}")
