"""Settled lines per second: jobs' usage settled, posted and recorded, many jobs per commit, on SQLite and PostgreSQL.

Every job draws: its firm claimed before it ran, half of its lines are at the domestic rate and half at the foreign one.

Beside each, in the same run, the database's own ceiling for the same writes: the very rows that settling wrote, into our
own schema with its indices, checks and append-only triggers, one transaction for as many jobs, the same guarded moves of
the same accounts, by nothing but sqlite3 (row by row, and in one call a table; the quicker one counts) and by pgbench on
the same server. Then the same again with more and more records behind: the cost of a line must not grow.

`pure` is the other bound: the same jobs' cases settled and the same records hashed by the same code, with no database at
all. Nothing that settles in Python is faster than one after the other: `both` is that bound, 1/(1/pure + 1/ceiling).
"""

from __future__ import annotations

import itertools
import json
import re
import resource
import shutil
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
from metering.ledger import AccountId, bounded
from metering.parameters import load_origin_register, load_policies
from metering.programme_schema import acts, states
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
        rows = written(path)
        found = {"sqlite": settled(Database(f"sqlite:///{path / 'y.db'}"), bare_sqlite(path, rows))}
    try:
        with running_postgres() as server:
            if server.programs is None:
                return {**found, "postgresql": None}
            name = server.create()
            found["postgresql"] = settled(Database(server.url(name)), bare_postgresql(server, rows))
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
        fact: dict[str, Any] = {"start": SINCE, "end": None, "evidence": {}, "by": "o", "now": NOW}
        for name in standing.SITE_FACTS:
            store.record_fact(tx, subject_kind="site", subject="s", fact=name, **fact)
        for number in range(FIRMS):
            store.enrol_firm(tx, id=f"f{number}", name="f", now=NOW)
            store.record_fact(tx, subject_kind="firm", subject=f"f{number}", fact="eligible", **fact)
            store.claim(tx, firm=f"f{number}", by="f", policy=POLICY, caps=budget.policy.firm_cap_fen, now=SINCE)
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
    values = [json.loads(case) for case in cases.values()]
    began = time.perf_counter()
    lines = sum(len(budget.settle(case).lines) for case in values)
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


# --- the ceiling ------------------------------------------------------------------------------------------------

Rows = dict[str, list[tuple[Any, ...]]]  # table → rows as settling wrote them, in order
WRITTEN = (settlement_lines, transfers, settlements, acts, states)
OWN = ("id", "job", "settlement", "subject", "lease")  # what differs from batch to batch
MOVE = (
    "UPDATE accounts SET debits_posted = debits_posted + {0}, debits_pending = debits_pending + 0, "
    "credits_posted = credits_posted + {1}, credits_pending = credits_pending + 0 WHERE id = {2} "
    "AND (bounded = 0 OR credits_posted + {1} >= debits_posted + debits_pending + {0})"
)
HEAD = "UPDATE chain_heads SET seq = {0}, hash = {1} WHERE stream = {2} AND seq < {0}"


def written(directory: Path) -> Rows:
    """What JOBS jobs leave behind; before.db beside has the schema, the accounts and the heads, and none of it."""
    database = Database(f"sqlite:///{directory / 'written.db'}")
    budget, numbers = prepare(database), itertools.count()
    run(database, budget, numbers, PER_COMMIT)  # so that every account is there
    names = use(database, numbers, JOBS)
    database.close()
    shutil.copy(directory / "written.db", directory / "before.db")
    database = Database(f"sqlite:///{directory / 'written.db'}")
    with database.read() as tx:
        behind = {table: len(tx.execute(select(table)).all()) for table in WRITTEN}
    charge(database, budget, names)
    with database.read() as tx:
        found = {table.name: [tuple(row) for row in tx.execute(select(table))][behind[table] :] for table in WRITTEN}
    database.close()
    assert len(found["settlement_lines"]) == JOBS * LINES
    assert len(found["transfers"]) == 4 * JOBS, "every job draws"
    return found


def moves(posted: Sequence[tuple[Any, ...]]) -> list[tuple[int, int, str]]:
    """(debits, credits, account): how a batch's transfers move each account, the pool last."""
    place = {column.name: number for number, column in enumerate(transfers.columns)}
    found: dict[str, list[int]] = {}
    for row in posted:
        for side, name in enumerate(("debit", "credit")):
            found.setdefault(row[place[name]], [0, 0])[side] += row[place["amount_fen"]]
    last = sorted(found.items(), key=lambda each: (each[0].startswith("pool:"), each[0]))
    return [(debit, credit, name) for name, (debit, credit) in last]


def bare_sqlite(directory: Path, rows: Rows) -> float:
    return max(replayed(directory, rows, at_once=at_once) for at_once in (False, True))


def replayed(directory: Path, rows: Rows, *, at_once: bool) -> float:
    """Lines per second of the same batches by sqlite3 alone; at_once: one call a table instead of one a row."""
    shutil.copy(directory / "before.db", directory / "bare.db")
    connection = sqlite3.connect(directory / "bare.db", isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
        connection.execute(f"PRAGMA {pragma}")
    inserts = {name: f"INSERT INTO {name} VALUES ({', '.join('?' * len(each[0]))})" for name, each in rows.items()}
    move, head = MOVE.format("?1", "?2", "?3"), HEAD.format("?1", "?2", "?3")
    batches = []
    for first in range(0, JOBS, PER_COMMIT):
        batch = {
            name: each[first * len(each) // JOBS : (first + PER_COMMIT) * len(each) // JOBS]
            for name, each in rows.items()
        }
        heads = [(each[-1][0], each[-1][2], name) for name, each in batch.items() if name != "states"]
        batches.append(
            [*((inserts[name], each) for name, each in batch.items()), (move, moves(batch["transfers"])), (head, heads)]
        )
    began = time.perf_counter()
    for statements in batches:
        connection.execute("BEGIN IMMEDIATE")
        for statement, each in statements:
            if at_once:
                assert connection.executemany(statement, each).rowcount == len(each)
            else:
                for row in each:
                    connection.execute(statement, row)
        connection.execute("COMMIT")
    rate = JOBS * LINES / (time.perf_counter() - began)
    connection.close()
    return rate


def bare_postgresql(server: Server, rows: Rows) -> float:
    """pgbench: one client, the writer's lock taken first as Database.write() does; a batch's rows again and again, as new ones."""
    assert server.programs is not None
    name = server.create()
    upgrade(Database(server.url(name)))
    batch = {table: each[: PER_COMMIT * len(each) // JOBS] for table, each in rows.items()}
    with server.connect(name) as connection:
        connection.execute(b"CREATE SEQUENCE n")
        for _, _, account in moves(batch["transfers"]):
            values = f"('{unnamed(account)}', 'entitlement', {int(bounded(AccountId(account)))}, {10**15})"
            connection.execute(f"INSERT INTO accounts (id, ledger, bounded, credits_posted) VALUES {values}".encode())
        for table in batch:
            connection.execute(f"INSERT INTO chain_heads VALUES ('{table}', 0, '')".encode())
    script = ["SELECT nextval('n') AS n \\gset", "BEGIN;", "SELECT pg_advisory_xact_lock(1);"]
    for written_to in WRITTEN:
        names = [column.name for column in written_to.columns]
        into = f"INSERT INTO {written_to.name} ({', '.join(map(quoted, names))}) VALUES"
        many = len(batch[written_to.name])
        for number, row in enumerate(batch[written_to.name]):
            values = ", ".join(spelt(name, value, number, many) for name, value in zip(names, row, strict=True))
            script.append(f"{into} ({values});")
    for debit, credit, account in moves(batch["transfers"]):
        script.append(f"{MOVE.format(debit, credit, repr(unnamed(account)))};")
    script += [f"{HEAD.format(':n', repr('x' * 64), repr(table))};" for table in batch if table != "states"]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write("\n".join([*script, "COMMIT;"]) + "\n")
        file.flush()
        address = ("-h", str(server.home), "-U", "postgres")
        options = ("-n", "-c", "1", "-M", "prepared", "-T", "5", "-f", file.name)
        ran = subprocess.run(
            [server.programs / "pgbench", *address, *options, name], capture_output=True, text=True, check=True
        )
    rate = re.search(r"tps = ([0-9.]+)", ran.stdout)
    assert rate is not None, ran.stdout
    return float(rate.group(1)) * PER_COMMIT * LINES


def quoted(column: str) -> str:
    return f'"{column}"'


def unnamed(text: str) -> str:
    """The same without a colon, in which pgbench would see one of its variables."""
    return text.replace(":", ";")


def spelt(column: str, value: Any, number: int, many: int) -> str:
    """A value as pgbench sends it; what names a row is a new one in each batch :n."""
    if column in ("seq", "act_seq"):
        return f":n * {many} + {number}"
    if value is None or isinstance(value, int):
        return "NULL" if value is None else str(value)
    text = "'" + unnamed(str(value)).replace("'", "''") + "'"
    return f"{text} || :n" if column in OWN else text
