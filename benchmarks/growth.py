"""Cost and memory of one more record with 10⁴, 10⁵ and 10⁶ behind: settled lines and signed events, SQLite and PostgreSQL.

Every record is written as the service writes it, none past the checks. Each kind on each store is a process of its own.
At a mark the last 10⁴ records before it are looked at: their rate (wall), the processor time of one of them here and, on
PostgreSQL, in all of the server's processes, and the most memory this process ever held while they were written. What
writes the load (signing, usage records) is not counted.

`beside` is how the cost grew, on a machine that others use too: batches in turn into the full database and into a second one
with 10⁴ records, the median cost of the one over that of the other, by processor time and by the clock. 1 is flat.

Not one of the benchmarks that `make bench` runs: it takes half an hour. `python -m benchmarks.run growth --record`, or one part
of it: `python -m benchmarks.growth lines sqlite`. YISUAN_BENCHMARK_RECORDS: another last mark, a multiple of 10⁴.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from adapters.event import Kind, Signed
from api.migrations import upgrade
from benchmarks import settling
from metering.events import ingest
from scheduler.database import Database
from tests.fakes import NOON
from tests.metering.event_cases import Voice, furnish
from tests.postgres import NoPostgres, Server, running_postgres

LAST = int(os.environ.get("YISUAN_BENCHMARK_RECORDS", "1000000"))
WINDOW = 10_000
MARKS = tuple(sorted({*(mark for mark in (10_000, 100_000, 1_000_000) if mark < LAST), LAST}))
KINDS, STORES = ("lines", "events"), ("sqlite", "postgresql")
BATCH, STREAM = 500, 500  # events a batch, events a stream
TICKS = os.sysconf("SC_CLK_TCK")

Spent = tuple[float, float, float]  # seconds: wall, processor here, processor of the server


def measure() -> dict[str, Any]:
    """{last, kind: {store: {marks, beside, memory_growth}}}; a store's is the reason where none can be had."""
    return {"last": LAST, **{kind: {store: apart(kind, store) for store in STORES} for kind in KINDS}}


def apart(kind: str, store: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.growth", kind, store]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def one(kind: str, store: str) -> Any:
    work = lines if kind == "lines" else events
    try:
        with somewhere(store) as (database, fresh, server):
            step = work(database)
            marks = [reach(mark, step, database, server) for mark in MARKS]
            other = work(fresh)
            while other()() < WINDOW:
                pass
            return {
                "marks": {str(mark): figures for mark, figures in zip(MARKS, marks, strict=True)},
                "beside": beside(step, other, server),
                "memory_growth": round(marks[-1]["peak_memory_mib"] / marks[0]["peak_memory_mib"], 2),
            }
    except NoPostgres as reason:
        return str(reason)


@contextmanager
def somewhere(store: str) -> Iterator[tuple[Database, Database, Server | None]]:
    """Two databases with our schema in them, and the server they are on."""
    if store == "sqlite":
        with tempfile.TemporaryDirectory() as directory:
            found = [Database(f"sqlite:///{Path(directory) / name}") for name in ("full.db", "fresh.db")]
            for database in found:
                upgrade(database)
            yield found[0], found[1], None
            for database in found:
                database.close()
        return
    with running_postgres() as server:
        found = [Database(server.url(server.create())) for _ in range(2)]
        yield found[0], found[1], server
        for database in found:
            database.close()


# --- the work: what a step returns writes the next batch, and how many were written since the first -----------------

Write = Callable[[], int]
Step = Callable[[], Write]


def lines(database: Database) -> Step:
    """Fifty jobs of ten lines each settled for good in one transaction; their usage is on record before."""
    budget = settling.prepare(database)
    numbers, done = itertools.count(), itertools.count(1)

    def step() -> Write:
        names = settling.use(database, numbers, settling.PER_COMMIT)

        def write() -> int:
            settling.charge(database, budget, names)
            return next(done) * len(names) * settling.LINES

        return write

    return step


def events(database: Database) -> Step:
    """Batches of five hundred signed events, verified here: whole streams, one after another on sixteen devices."""
    furnish(database)
    load, done = told(), itertools.count(1)

    def step() -> Write:
        batch = [signed.document() for signed in itertools.islice(load, BATCH)]

        def write() -> int:
            with database.write() as tx:
                found = {outcome.status for outcome in ingest(tx, batch, NOON + timedelta(days=30))}
            assert found == {"accepted"}, found
            return next(done) * BATCH

        return write

    return step


def told() -> Iterator[Signed]:
    """Streams of STREAM events, ten minutes each, without end; half of them on each of two nodes."""
    for number in itertools.count():
        node = ("n1", "n2")[number % 2]
        began = NOON + timedelta(minutes=10 * (number // 16))
        voice = Voice(node=node, allocation=f"job_{number}.1", devices=(f"{node}d{number // 2 % 8}",), start=began)
        yield voice.say(Kind.STARTED)
        for beat in range(1, STREAM):
            yield voice.say(Kind.STOPPED if beat == STREAM - 1 else Kind.HEARTBEAT, beat)


# --- watching ---------------------------------------------------------------------------------------------------


def reach(mark: int, step: Step, database: Database, server: Server | None) -> dict[str, Any]:
    """What the last WINDOW records before the mark took."""
    done, batches = 0, []
    while done < mark - WINDOW:
        done = step()()
    forget_peak()
    while done < mark:
        done, spent = timed(step, server)
        batches.append(spent)
    wall, here, there = (sum(each) / WINDOW for each in zip(*batches, strict=True))
    found = {
        "per_s": round(1 / wall),
        "cpu_us": round(here * 1e6, 1),
        **({"server_cpu_us": round(there * 1e6, 1)} if server else {}),
        "peak_memory_mib": peak_mib(),
        "stored_mib": round(stored(database) / 2**20),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps({mark: found}), file=sys.stderr, flush=True)
    return found


def beside(full: Step, fresh: Step, server: Server | None) -> dict[str, float]:
    """Median cost of a batch with LAST records behind over that with WINDOW, written in turn."""
    pairs = [(timed(full, server)[1], timed(fresh, server)[1]) for _ in range(2 * WINDOW // BATCH)]
    processor = [statistics.median(here + there for _, here, there in each) for each in zip(*pairs, strict=True)]
    wall = [statistics.median(each[0] for each in one) for one in zip(*pairs, strict=True)]
    return {"processor": round(processor[0] / processor[1], 2), "wall": round(wall[0] / wall[1], 2)}


def timed(step: Step, server: Server | None) -> tuple[int, Spent]:
    write = step()
    before = (time.perf_counter(), time.process_time(), server_seconds(server))
    done = write()
    after = (time.perf_counter(), time.process_time(), server_seconds(server))
    return done, (after[0] - before[0], after[1] - before[1], after[2] - before[2])


def server_seconds(server: Server | None) -> float:
    """Processor time of the server's processes, those that ended too; 0 for none, and where /proc does not tell."""
    if server is None or server.process is None:
        return 0.0
    main = server.process.pid
    children = Path(f"/proc/{main}/task/{main}/children")
    pids = [main, *map(int, children.read_text().split())] if children.exists() else []
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
        except OSError:
            continue  # it has just ended; the postmaster will count it
        total += sum(map(int, fields[11:15] if pid == main else fields[11:13]))
    return total / TICKS


def forget_peak() -> None:
    """The kernel's high-water mark of this process's memory starts again from what it holds now (Linux: proc(5))."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # then the peak is that of the whole run


def peak_mib() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) // 1024


def stored(database: Database) -> int:
    with database.read() as tx:
        if database.postgresql:
            return int(tx.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
        pages = tx.exec_driver_sql("PRAGMA page_count").scalar_one()
        return int(pages) * int(tx.exec_driver_sql("PRAGMA page_size").scalar_one())


if __name__ == "__main__":
    print(json.dumps(one(*sys.argv[1:3])))
