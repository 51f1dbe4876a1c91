"""Signed usage events verified, deduplicated and stored per second, beside bare Ed25519 verification and bare INSERTs.

Two loads: `deep`, few allocations with many heartbeats each, as a spool is sent after an outage; `wide`, each batch
of a hundred allocations of eight devices heard a few times, as minutes of a large zone. Each batch is one transaction.
`apart` is how the service works: two senders, and signatures verified in processes beside before the transaction.
load is the machine's load average when the run began: above 0.5 the rates are those of a busy machine.
The same load on 10,000 and on 100,000 stored events shows whether cost grows with what is stored. cpu_us is this
process's processor time for one event, which neighbours on a shared machine disturb less than the rate.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select

from adapters.event import Kind, Signed, public_text, verify
from api.migrations import upgrade
from metering.event_schema import device_intervals, event_batches, event_streams, usage_events
from metering.events import _row, examine, ingest
from metering.verification import Processes
from scheduler.clock import to_ms
from scheduler.database import Database
from scheduler.journal import append
from scheduler.schema import devices
from tests.fakes import NOON
from tests.metering.event_cases import KEYS, Voice, furnish
from tests.postgres import NoPostgres, running_postgres

EVENTS = int(os.environ.get("YISUAN_BENCHMARK_EVENTS", "10000"))
BATCH = 500
LATER = NOON + timedelta(days=30)


def measure() -> dict[str, Any]:
    """{verify_per_s, sqlite: …, postgresql: …}; for each database rates per second and their growth."""
    deep, wide = list(deep_load(EVENTS)), list(wide_load(EVENTS))
    found: dict[str, Any] = {
        "load": round(os.getloadavg()[0], 2),
        "events": EVENTS,
        "batch": BATCH,
        "verify_per_s": round(bare_verify(deep[:2000])),
    }
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{Path(directory) / 'e.db'}"
        bare = f"sqlite:///{Path(directory) / 'b.db'}"
        for each in (url, bare):
            database = Database(each)
            upgrade(database)
            database.close()
        found["sqlite"] = on(url, bare, deep, wide)
    try:
        with running_postgres() as server:
            found["postgresql"] = on(server.url(server.create()), server.url(server.create()), deep, wide)
    except NoPostgres as reason:
        found["postgresql"] = str(reason)
    return found


def on(url: str, bare: str, deep: Sequence[Signed], wide: Sequence[Signed]) -> dict[str, Any]:
    """Rates of one kind of database; of_insert: what is left of the bare INSERT rate."""
    database = Database(url)
    furnish(database)
    add_devices(database)
    third = len(deep) // 3 // 500 * 500
    deep_rate, deep_cpu = rate(database, deep[:third])
    wide_rate, wide_cpu = rate(database, wide)
    again, _ = rate(database, deep[:third], "duplicate")
    apart = {"deep_apart_per_s": sent(database, deep_load(len(deep), "apart")),
             "wide_apart_per_s": sent(database, wide_load(len(wide), "apart"))}  # fmt: skip
    fill(database, 10_000)
    few_rate, few_cpu = rate(database, deep[third : 2 * third])
    fill(database, 100_000)
    many_rate, many_cpu = rate(database, deep[2 * third :])
    database.close()
    inserts = bare_inserts(bare, deep)
    return {
        "deep_per_s": round(deep_rate),
        "deep_cpu_us": round(deep_cpu),
        "wide_per_s": round(wide_rate),
        "wide_cpu_us": round(wide_cpu),
        **apart,
        "duplicates_per_s": round(again),
        "on_10000_per_s": round(few_rate),
        "on_100000_per_s": round(many_rate),
        "cpu_growth": round(many_cpu / few_cpu, 2),
        "inserts_per_s": round(inserts),
        "of_insert": round(deep_rate / inserts, 2),
    }


def deep_load(count: int, name: str = "deep") -> Iterator[Signed]:
    """Streams of 500 events on one device, one after another on eight devices."""
    for number in range(count // 500):
        voice = Voice(
            allocation=f"{name}_{number}.1",
            devices=(f"n1d{number % 8}",),
            start=NOON + timedelta(hours=number, days=-9 if name == "apart" else 0),
        )
        yield voice.say(Kind.STARTED)
        for beat in range(1, 500):
            yield voice.say(Kind.STOPPED if beat == 499 else Kind.HEARTBEAT, beat)


def wide_load(count: int, name: str = "wide") -> Iterator[Signed]:
    """A hundred allocations of eight devices each, minute by minute; every batch hears of each of them a few times."""
    voices = [
        Voice(
            node="n2",
            allocation=f"{name}_wide_{n}.1",
            devices=tuple(f"w{n}d{i}" for i in range(8)),
            start=NOON - timedelta(days=9 if name == "apart" else 0),
        )
        for n in range(100)
    ]
    for voice in voices:
        yield voice.say(Kind.STARTED)
    for beat in range(1, count // 100):
        for voice in voices:
            yield voice.say(Kind.HEARTBEAT, beat * 60)


def add_devices(database: Database) -> None:
    with database.write() as tx:
        rows = [
            {
                "uuid": f"w{n}d{i}", "node": "n2", "idx": i, "vendor": "ascend", "model_raw": "x", "health": "ok",
                "source": "simulated", "evidence_level": 1,
            }
            for n in range(100)
            for i in range(8)
        ]  # fmt: skip
        tx.execute(insert(devices), rows)


def rate(database: Database, load: Sequence[Signed], status: str = "accepted") -> tuple[float, float]:
    """(events per second from parsed JSON to commit, microseconds of this process's processor time per event)."""
    documents = [signed.document() for signed in load]
    took = cpu = 0.0
    for at in range(0, len(documents), BATCH):
        batch = documents[at : at + BATCH]
        began, worked = time.perf_counter(), time.process_time()
        with database.write() as tx:
            outcomes = ingest(tx, batch, LATER)
        took, cpu = took + time.perf_counter() - began, cpu + time.process_time() - worked
        assert {outcome.status for outcome in outcomes} == {status}, outcomes[0]
    return len(documents) / took, cpu / len(documents) * 1e6


def sent(database: Database, load: Iterator[Signed], senders: int = 2) -> int:
    """Events per second from parsed JSON to commit as the service does it: several senders, signatures verified apart."""
    documents = [signed.document() for signed in load]
    batches = [documents[at : at + BATCH] for at in range(0, len(documents), BATCH)]
    verifier = Processes()
    verifier([(public_text(KEYS["n1"].public_key()), b"", b"x" * 64)] * 200)  # its processes are up

    def send(batch: list[dict[str, Any]]) -> set[str]:
        with database.read() as tx:
            examined = examine(tx, batch, verifier)
        with database.write() as tx:
            return {outcome.status for outcome in ingest(tx, examined, LATER)}

    began = time.perf_counter()
    with ThreadPoolExecutor(senders) as threads:
        found = set().union(*threads.map(send, batches))
    took = time.perf_counter() - began
    verifier.close()
    assert found == {"accepted"}, found
    return round(len(documents) / took)


def fill(database: Database, count: int) -> None:
    """As many stored events as `count`, with streams and device intervals of the past, written past the checks."""
    with database.write() as tx:
        have = tx.execute(select(func.count()).select_from(usage_events)).scalar_one()
        row = dict(tx.execute(select(usage_events).limit(1)).mappings().one())
        stream = dict(tx.execute(select(event_streams).limit(1)).mappings().one())
        interval = dict(tx.execute(select(device_intervals).limit(1)).mappings().one())
        del row["number"]
        for at in range(have, count, BATCH):
            name = {"allocation": f"old_{at}.1"}
            rows = [{**row, **name, "seq": n, "event_id": f"old:{at}:{n}"} for n in range(1, BATCH + 1)]
            tx.execute(insert(usage_events), rows)
            tx.execute(insert(event_streams), [{**stream, **name}])
            span = {"device": f"n1d{at % 8}", "from_ms": at * 1000, "to_ms": at * 1000 + 500_000}
            tx.execute(insert(device_intervals), [{**interval, **name, **span}])
        last = tx.execute(select(func.max(usage_events.c.number))).scalar_one()
        append(tx, event_batches, {"last_number": last, "events": count - have, "root": "", "received_at_ms": 0})


def bare_verify(load: Sequence[Signed]) -> float:
    """Ed25519 verifications per second and nothing else, on one core."""
    keys = {node: key.public_key() for node, key in KEYS.items()}
    began = time.perf_counter()
    for signed in load:
        assert verify(signed, keys[signed.event.node])
    return len(load) / (time.perf_counter() - began)


def bare_inserts(url: str, load: Sequence[Signed]) -> float:
    """The same rows in the same batches and transactions, unread: what the database and its driver take."""
    database = Database(url)
    rows = [_row(signed, to_ms(LATER), None) for signed in load]
    began = time.perf_counter()
    for at in range(0, len(rows), BATCH):
        with database.write() as tx:
            tx.execute(insert(usage_events), rows[at : at + BATCH])
    took = time.perf_counter() - began
    database.close()
    return len(rows) / took
