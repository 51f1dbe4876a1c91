"""Evidence of pools: what it costs to know the pools that a quote cannot promise the domestic rate for, by nodes.

    python -m benchmarks.evidence_pools [--nodes 1000 10000] [-o json]

For each size a zone of that many nodes with eight real devices each, a hundred to a pool, every one signed for its node ten times in
the last days. `whole`: every device's whole course, read and decided pool by pool. `first`: the first question of a process.
`again`: nothing is new. `new`: one node's answer to a challenge is new. Milliseconds, the median of `repeats`; no target but the slope.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select

import api.schema  # noqa: F401 - the one metadata must know every table
from metering import evidence, evidence_pools
from metering.evidence_level import Kind, verdict_at
from metering.evidence_schema import evidence_records
from scheduler.clock import to_ms
from scheduler.database import Database
from scheduler.schema import devices, metadata, nodes, pools

NOW = datetime.fromisoformat("2027-01-15T04:00:00+00:00")
DEVICES, TO_A_POOL, TIMES, LEVEL = 8, 100, 10, 3
FACTS = '{"bare_metal":true,"bus":true,"key":"k1","versions":{"rules":2}}'


@contextmanager
def zone(directory: Path, count: int) -> Iterator[Database]:
    """A database with so many nodes, their devices and what is on record of them; the chain's hashes are not of this benchmark."""
    database = Database(f"sqlite:///{directory / f'{count}.db'}")
    metadata.create_all(database.engine)
    with database.write() as tx:
        tx.execute(insert(pools), [_pool(number) for number in range(-(-count // TO_A_POOL))])
        tx.execute(
            insert(nodes), [{"id": f"n{n}", "pool": f"p{n // TO_A_POOL}", "created_at_ms": 0} for n in range(count)]
        )
        tx.execute(insert(devices), [_device(n, i) for n in range(count) for i in range(DEVICES)])
        for time_ in range(TIMES):
            start = to_ms(NOW - timedelta(days=TIMES - time_))
            rows = [
                _record(n, i, time_ * count * DEVICES + n * DEVICES + i + 1, start)
                for n in range(count)
                for i in range(DEVICES)
            ]
            tx.execute(insert(evidence_records), rows)
    try:
        yield database
    finally:
        database.close()


def _pool(number: int) -> dict[str, Any]:
    said = dict.fromkeys(("provider", "site", "region", "backend"), "x")
    return {"id": f"p{number}", **said, "vendor": "ascend", "model": "Ascend910B3", "source": "library",
            "price_fen_per_device_hour": 1, "created_at_ms": 0}  # fmt: skip


def _device(node: int, index: int) -> dict[str, Any]:
    return {"uuid": f"d{node}-{index}", "node": f"n{node}", "idx": index, "vendor": "ascend", "model": "Ascend910B3",
            "model_raw": "910B3", "health": "ok", "source": "library", "evidence_level": 1, "problems": "[]"}  # fmt: skip


def _record(node: int, index: int, seq: int, start_ms: int) -> dict[str, Any]:
    until = start_ms + 30 * 86_400_000
    return {"seq": seq, "prev_hash": "0" * 64, "hash": f"{seq:064d}", "device": f"d{node}-{index}", "node": f"n{node}",
            "kind": Kind.SIGNED.value, "from_ms": start_ms, "to_ms": until, "facts": FACTS,
            "recorded_at_ms": start_ms, "recorded_by": "benchmark"}  # fmt: skip


def whole(tx: Connection) -> frozenset[str]:
    """The pools with a device below the level, from every device's whole course, pool by pool."""
    found = set()
    for pool in tx.execute(select(pools.c.id)).scalars().all():
        query = select(devices.c.uuid).join(nodes, nodes.c.id == devices.c.node).where(nodes.c.pool == pool)
        known = evidence.courses(tx, list(tx.execute(query).scalars()))
        if any(verdict_at(steps, to_ms(NOW)).level < LEVEL for steps in known.values()):
            found.add(pool)
    return frozenset(found)


def kept(tx: Connection) -> frozenset[str]:
    """The same from what is kept."""
    return frozenset(pool for pool, levels in evidence_pools.levels_of_pools(tx, NOW).items() if any(levels[:LEVEL]))


def timed(
    database: Database, act: Callable[[Connection], frozenset[str]], before: Callable[[], None] | None, repeats: int
) -> float:
    """Milliseconds of one answer, the median."""
    found = []
    for _ in range(repeats):
        if before is not None:
            before()
        with database.read() as tx:
            began = time.perf_counter()
            act(tx)
            found.append((time.perf_counter() - began) * 1000)
    return round(statistics.median(found), 2)


def measured(directory: Path, count: int, repeats: int) -> dict[str, Any]:
    with zone(directory, count) as database:
        seq = [TIMES * count * DEVICES]

        def news() -> None:
            with database.write() as tx:
                for index in range(DEVICES):
                    seq[0] += 1
                    tx.execute(insert(evidence_records).values(**_record(0, index, seq[0], to_ms(NOW) - 1)))

        said = {
            "nodes": count,
            "devices": count * DEVICES,
            "records": seq[0],
            "whole_ms": timed(database, whole, None, 1),
            "first_ms": timed(database, kept, evidence_pools.forget, max(1, repeats // 5)),
            "again_ms": timed(database, kept, None, repeats),
            "new_ms": timed(database, kept, news, repeats),
        }
        with database.read() as tx:
            assert kept(tx) == whole(tx)
        return said


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.evidence_pools", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        found = [measured(Path(directory), count, given.repeats) for count in given.nodes]
    if given.output == "json":
        print(json.dumps({"version": 1, "devices_per_node": DEVICES, "sizes": found}, indent=2))
    else:
        for row in found:
            print("  ".join(f"{name} {value}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
