"""How long a zone is without a loop: from the death of the leader to the first round of the next, on a real PostgreSQL.

Two processes `yisuan serve --role loop` on one database. The leader is killed (kill -9), frozen (SIGSTOP), told to end
(SIGTERM), or its session is ended by the server, as a restart does; the time is measured till the database shows a round
of the other one. Then the first is started again, so that there is always one that stands by.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.leadership import Leader, leader_of
from scheduler.database import Database
from tests.postgres import running_postgres

TARGET_S = 10.0
WAIT_S = 60.0
LOOK_S = 0.02
WAYS = ("SIGKILL", "SIGSTOP", "SIGTERM", "session")


@dataclass
class Member:
    """One process that may be the loop."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


def measure(rounds: int, ways: Sequence[str] = WAYS) -> dict[str, Any]:
    """{way: {seconds: [...], median_s, worst_s}, target_s, holds} over so many takeovers of each way."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder, zone(Path(folder)) as (database, start):
        members = {name: start(name) for name in ("a", "b")}
        ticked_by(database, set(members), 0)
        for _ in range(rounds):
            for way in ways:
                before = leader(database)
                old = members[before.who]
                for other in members.values():
                    if other is not old:
                        stands_by(other)
                began = time.monotonic()
                end(old, way, database)
                after = ticked_by(database, set(members) - ({old.name} if way != "session" else set()), before.epoch)
                found[way].append(round(time.monotonic() - began, 3))
                if way != "session":
                    bury(old)
                    members[old.name] = start(old.name)
                assert after.epoch > before.epoch
        for member in members.values():
            bury(member)
    worst = max(max(times) for times in found.values())
    shown = {
        way: {"seconds": times, "median_s": round(statistics.median(times), 3), "worst_s": max(times)}
        for way, times in found.items()
    }
    return {"rounds": rounds, "ways": shown, "worst_s": worst, "target_s": TARGET_S, "holds": worst <= TARGET_S}


@contextlib.contextmanager
def zone(folder: Path) -> Iterator[tuple[Database, Any]]:
    """A database, and how to start a member of it."""
    with running_postgres() as server:
        name = server.create()
        database = Database(server.url(name))
        members: list[Member] = []

        def start(who: str) -> Member:
            environment = {
                **os.environ,
                "YISUAN_DATABASE_URL": server.url(name),
                "YISUAN_DATA_DIR": str(folder / "data"),
                "YISUAN_IDENTITY": who,
                "YISUAN_LEDGER": "demo",
            }
            path = folder / f"{who}-{len(members)}.log"
            with path.open("ab") as log:
                process = subprocess.Popen(
                    [str(Path(sys.executable).parent / "yisuan"), "serve", "--role", "loop"],
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            members.append(Member(who, process, path))
            return members[-1]

        try:
            yield database, start
        finally:
            for member in members:
                bury(member)
            database.close()


def leader(database: Database) -> Leader:
    """Who leads now."""
    with database.read() as tx:
        found = leader_of(tx)
    assert found is not None, "somebody has led"
    return found


def ticked_by(database: Database, names: set[str], epoch: int) -> Leader:
    """One of these has made a round in a term after `epoch`."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        with database.read() as tx:
            found = leader_of(tx)
        ticked = found is not None and found.ticked_ms is not None and found.ticked_ms >= found.since_ms
        if found is not None and ticked and found.who in names and found.epoch > epoch:
            return found
        time.sleep(LOOK_S)
    raise RuntimeError(f"none of {sorted(names)} leads after {WAIT_S} s")


def stands_by(member: Member) -> None:
    """It has asked for the lead, and another one had it."""
    until = time.monotonic() + WAIT_S
    while "stands_by" not in member.log.read_text(errors="replace"):
        if time.monotonic() > until:
            raise RuntimeError(f"{member.name} does not stand by: {member.log.read_text(errors='replace')[-2000:]}")
        time.sleep(LOOK_S)


def end(member: Member, way: str, database: Database) -> None:
    """What happens to the leader."""
    if way == "session":
        with database.write() as tx:
            tx.exec_driver_sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
                               "AND pid <> pg_backend_pid()")  # fmt: skip
    else:
        os.kill(member.process.pid, signal.Signals[way])


def bury(member: Member) -> None:
    """The process is gone."""
    if member.process.poll() is None:
        os.kill(member.process.pid, signal.SIGCONT)
        member.process.kill()
    member.process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """0 if every takeover took at most TARGET_S."""
    parser = argparse.ArgumentParser(prog="benchmarks takeover", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args(argv)
    found = measure(arguments.rounds)
    if arguments.output == "json":
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        for way, times in found["ways"].items():
            sys.stdout.write(f"{way:8} median {times['median_s']:6.2f} s  worst {times['worst_s']:6.2f} s\n")
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
