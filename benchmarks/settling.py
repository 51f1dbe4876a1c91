"""Settled lines per second: jobs' usage settled, posted and recorded, many jobs per commit, on SQLite and PostgreSQL.

Beside each, in the same run, the database's own ceiling for the same shape of write: per job the same rows inserted and
counters moved, one plain statement each, by sqlite3 itself and by pgbench on the same server. Then the same again with
more and more records behind: the cost of a line must not grow.

`pure` is the other bound: the same jobs' cases settled and the same records hashed by the same code, with no database at
all. Nothing that settles in Python is faster than one after the other: `both` is that bound, 1/(1/pure + 1/ceiling).
"""

from __future__ import annotations

import itertools
import json
import re
import resource
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select

from adapters.accelerator import Source
from adapters.chain import link
from api.migrations import upgrade
from metering import posting, standing, store
from metering.budget import VoucherBudget
from metering.parameters import load_origin_register, load_policies
from metering.programme_schema import acts
from metering.rule import load_rules
from metering.schema import settlement_lines, settlements, transfers
from scheduler import journal
from scheduler.clock import to_ms
from scheduler.database import Database
from scheduler.schema import jobs, usage_records
from tests.postgres import NoPostgres, Server, running_postgres

POLICY = "etown-2024-10"
NOW = datetime(2026, 6, 1, 4, tzinfo=UTC)
SINCE = datetime(2024, 3, 27, 16, tzinfo=UTC)
LINES, PER_COMMIT, JOBS = 10, 50, 1000  # lines a job, jobs a commit, jobs in all
STEPS = (1_000, 10_000)  # jobs behind: 10⁴ and 10⁵ lines
FIRMS = 20


def measure() -> dict[str, Any]:
    """{store: {lines_per_s, ceiling_lines_per_s, of_ceiling, growth}}; postgresql is None where none can be had."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        found = {"sqlite": settled(Database(f"sqlite:///{path / 'y.db'}"), bare_sqlite(path / "bare.db"))}
    try:
        with running_postgres() as server:
            if server.programs is None:
                return {**found, "postgresql": None}
            name = server.create()
            found["postgresql"] = settled(Database(server.url(name)), bare_postgresql(server))
    except NoPostgres:
        return {**found, "postgresql": None}
    return found


def settled(database: Database, ceiling: float) -> dict[str, Any]:
    budget = prepare(database)
    numbers = itertools.count()
    rates: dict[str, int] = {}
    done = 0
    for behind in (0, *STEPS):
        while done < behind:
            run(database, budget, numbers, min(JOBS, behind - done))
            done += min(JOBS, behind - done)
        rates[str(behind * LINES)] = round(run(database, budget, numbers, JOBS))
        done += JOBS
    alone = pure(database, budget)
    database.close()
    best = max(rates.values())
    both = 1 / (1 / alone + 1 / ceiling)
    return {
        "lines_per_s": rates["0"],
        "ceiling_lines_per_s": round(ceiling),
        "of_ceiling": round(rates["0"] / ceiling, 2),
        "pure_lines_per_s": round(alone),
        "of_pure": round(rates["0"] / alone, 2),
        "both_lines_per_s": round(both),
        "of_both": round(rates["0"] / both, 2),
        "lines_per_s_with_lines_behind": rates,
        "slowest_of_fastest": round(min(rates.values()) / best, 2),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def prepare(database: Database) -> VoucherBudget:
    upgrade(database)
    registry = load_policies()
    budget = VoucherBudget(registry, load_rules(), load_origin_register(), POLICY)
    with database.write() as tx:
        store.open_ledger(tx, mark="demo", policy=POLICY, pool_fen=budget.policy.pool_fen, now=NOW)
        store.enrol_provider(tx, id="p", name="p", now=NOW)
        store.enrol_site(tx, id="s", provider="p", name="s", region="r", now=NOW)
        fact = {"start": SINCE, "end": None, "evidence": {}, "by": "o", "now": NOW}
        for name in standing.SITE_FACTS:
            store.record_fact(tx, subject_kind="site", subject="s", fact=name, **fact)  # type: ignore[arg-type]
        for number in range(FIRMS):
            store.enrol_firm(tx, id=f"f{number}", name="f", now=NOW)
            store.record_fact(tx, subject_kind="firm", subject=f"f{number}", fact="eligible", **fact)  # type: ignore[arg-type]
            store.claim(tx, firm=f"f{number}", by="f", policy=POLICY, caps=budget.policy.firm_cap_fen, now=NOW)
    return budget


def run(database: Database, budget: VoucherBudget, numbers: Iterator[int], count: int) -> float:
    """Lines per second of `count` jobs settled for good, PER_COMMIT a commit; their usage is there before."""
    names = use(database, numbers, count)
    began = time.perf_counter()
    charge(database, budget, names)
    return count * LINES / (time.perf_counter() - began)


def use(database: Database, numbers: Iterator[int], count: int) -> list[str]:
    """As many jobs with their usage are on record; their ids."""
    names = [f"job_{next(numbers)}" for _ in range(count)]
    with database.write() as tx:
        tx.execute(insert(jobs), [job(name, number % FIRMS) for number, name in enumerate(names)])
        records = [record(name, n % FIRMS, part) for n, name in enumerate(names) for part in range(LINES)]
        journal.append_all(tx, usage_records, records)
    return names


def charge(database: Database, budget: VoucherBudget, names: Sequence[str]) -> None:
    for first in range(0, len(names), PER_COMMIT):
        with database.write() as tx:
            posting.charge(budget, tx, names[first : first + PER_COMMIT], NOW, final=True)


CHAINED = (transfers, settlements, settlement_lines, acts)  # what settling a job for good appends to


def pure(database: Database, budget: VoucherBudget) -> float:
    """Lines per second of the last JOBS jobs again in memory: their cases settled, every record they left hashed."""
    with database.read() as tx:
        query = select(settlements.c.id, settlements.c.case_json).order_by(settlements.c.seq.desc()).limit(JOBS)
        cases = {row.id: row.case_json for row in tx.execute(query)}
        column = {transfers: "settlement", settlements: "id", settlement_lines: "settlement", acts: "subject"}
        records = []
        for table in CHAINED:
            found = tx.execute(select(table).order_by(table.c.seq.desc()).limit(JOBS * LINES)).mappings()
            records += [dict(row) for row in found if row[column[table]] in cases]
    bodies = [{name: row[name] for name in row if name not in ("prev_hash", "hash")} for row in records]
    began = time.perf_counter()
    lines = sum(len(budget.settle_case(json.loads(case))["lines"]) for case in cases.values())
    for row, body in zip(records, bodies, strict=True):
        assert link(row["prev_hash"], body) == row["hash"]
    took = time.perf_counter() - began
    assert lines == JOBS * LINES
    return lines / took


def job(name: str, firm: int) -> dict[str, Any]:
    values = {"id": name, "name": name, "firm": f"f{firm}", "queue": "q", "priority": "normal", "spec": "{}"}
    return {**values, "spec_sha256": "0" * 64, "submitted_at_ms": to_ms(NOW), "state": "SUCCEEDED"}


def record(name: str, firm: int, part: int) -> dict[str, Any]:
    """Every second piece is domestic, none touches the next, so each becomes a line of its own."""
    start = NOW - timedelta(hours=2 * LINES - 2 * part)
    domestic = part % 2 == 0
    return {
        "lease": f"{name}.{part}", "job": name, "firm": f"f{firm}", "provider": "p", "site": "s", "pool": "x",
        "vendor": "ascend" if domestic else "nvidia", "model": "Ascend910B3" if domestic else "H800",
        "source": Source.SIMULATED.value, "kind": "run", "cause": None, "devices": 8, "share_permille": 1000,
        "start_ms": to_ms(start), "end_ms": to_ms(start + timedelta(hours=1)), "price_fen_per_device_hour": 7,
    }  # fmt: skip


# --- the ceiling: per job LINES lines, a settlement, an act and its state, six transfers over six counters, four heads --

TABLES = (
    "CREATE TABLE a (id text PRIMARY KEY, d bigint NOT NULL CHECK (d >= 0))",
    "CREATE TABLE h (stream text PRIMARY KEY, seq bigint NOT NULL, hash text NOT NULL)",
    *(f"CREATE TABLE {t} (seq bigint PRIMARY KEY, id text NOT NULL UNIQUE, body text NOT NULL)" for t in "lstx"),
    "CREATE TABLE z (id text PRIMARY KEY, body text NOT NULL)",
    "INSERT INTO a VALUES " + ",".join(f"('a{n}', 0)" for n in range(6)),
    "INSERT INTO h VALUES ('l', 0, ''), ('s', 0, ''), ('t', 0, ''), ('x', 0, '')",
)
BODY, CASE = "x" * 350, "x" * 3000  # a line or transfer with its hashes; a settlement with its case


def writes(number: Any, at: Any) -> list[str]:
    """One job's statements; number, at(n): how a job's number and a row's number are spelt."""
    found = [f"INSERT INTO l VALUES ({at(LINES, n)}, {at(LINES, n)}, '{BODY}')" for n in range(LINES)]
    found += [f"INSERT INTO t VALUES ({at(6, n)}, {at(6, n)}, '{BODY}')" for n in range(6)]
    found += [f"UPDATE a SET d = d + 1 WHERE id = 'a{n}'" for n in range(6)]
    found += [
        f"INSERT INTO s VALUES ({number}, {number}, '{CASE}')",
        f"INSERT INTO x VALUES ({number}, {number}, '{BODY}')",
    ]
    found += [f"INSERT INTO z VALUES ({number}, 'issued')"]
    return found + [f"UPDATE h SET seq = seq + 1, hash = 'x' WHERE stream = '{name}'" for name in "lstx"]


def bare_sqlite(path: Path) -> float:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", *TABLES):
        connection.execute(statement)
    statements = writes(":n", lambda many, n: f":n * {many} + {n}")
    began = time.perf_counter()
    for first in range(0, JOBS, PER_COMMIT):
        connection.execute("BEGIN IMMEDIATE")
        for number in range(first, first + PER_COMMIT):
            for statement in statements:
                connection.execute(statement, {"n": number})
        connection.execute("COMMIT")
    rate = JOBS * LINES / (time.perf_counter() - began)
    connection.close()
    return rate


def bare_postgresql(server: Server) -> float:
    """pgbench: one client, the writer's lock taken first as Database.write() does."""
    assert server.programs is not None
    name = server.create("template0")
    with server.connect(name) as connection:
        for statement in (*TABLES, "CREATE SEQUENCE n"):
            connection.execute(statement.encode())
    one = [
        "SELECT nextval('n') AS n \\gset",
        *(f"{each};" for each in writes(":n", lambda many, n: f":n * {many} + {n}")),
    ]
    script = ["BEGIN;", "SELECT pg_advisory_xact_lock(1);", *(one * PER_COMMIT), "COMMIT;"]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write("\n".join(script) + "\n")
        file.flush()
        address = ("-h", str(server.home), "-U", "postgres")
        options = ("-n", "-c", "1", "-M", "prepared", "-T", "5", "-f", file.name)
        ran = subprocess.run(
            [server.programs / "pgbench", *address, *options, name], capture_output=True, text=True, check=True
        )
    rate = re.search(r"tps = ([0-9.]+)", ran.stdout)
    assert rate is not None, ran.stdout
    return float(rate.group(1)) * PER_COMMIT * LINES
