"""Nodes with keys and agents that speak, for the tests of signed usage events."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, select

from adapters.chain import GENESIS
from adapters.event import Event, Kind, Signed, key_id_of, public_text, sign
from api.migrations import upgrade
from metering import enrolment
from metering.event_schema import quarantined_events, usage_events
from metering.schema import reviews, sites
from scheduler.clock import to_ms
from scheduler.database import Database
from scheduler.schema import devices, nodes, pools
from tests.fakes import NOON

NODES = ("n1", "n2")
KEYS = {node: Ed25519PrivateKey.from_private_bytes(node.encode() * 16) for node in (*NODES, "xx")}
_numbers = itertools.count()


@dataclass
class Zone:
    """A migrated database with two nodes of eight devices (`n1d0` …) whose agents are enrolled."""

    database: Database
    directory: Any = None

    def rows(self, table: Any) -> list[dict[str, Any]]:
        with self.database.read() as tx:
            return [dict(row) for row in tx.execute(select(table)).mappings()]

    def stored(self) -> list[str]:
        return sorted(row["event_id"] for row in self.rows(usage_events))

    def quarantined(self) -> list[str]:
        return [row["code"] for row in self.rows(quarantined_events)]

    def reviews(self) -> list[str]:
        return sorted(row["code"] for row in self.rows(reviews))

    def close(self) -> None:
        self.database.close()
        if self.directory is not None:
            self.directory.cleanup()


def furnish(database: Database) -> Zone:
    """The zone's site, pool, nodes, devices and keys are in the database."""
    now = to_ms(NOON) - 86_400_000
    with database.write() as tx:
        tx.execute(insert(sites).values(id="s", provider="p", name="s", region="bj", created_at_ms=now))
        tx.execute(
            insert(pools).values(
                id="pool", provider="p", site="s", region="bj", backend="local", vendor="ascend", model="Ascend910B3",
                source="simulated", price_fen_per_device_hour=2000, created_at_ms=now,
            )
        )  # fmt: skip
        for node in NODES:
            tx.execute(insert(nodes).values(id=node, pool="pool", created_at_ms=now))
            for index in range(8):
                tx.execute(
                    insert(devices).values(
                        uuid=f"{node}d{index}", node=node, idx=index, vendor="ascend", model_raw="x", health="ok",
                        source="simulated", evidence_level=1,
                    )
                )  # fmt: skip
            code = enrolment.issue_code(tx, site="s", node=node, by="op", now=NOON - timedelta(days=1))
            assert isinstance(code, str)
            key = KEYS[node]
            text = public_text(key.public_key())
            made = enrolment.enrol(
                tx, code=code, key=text, proof=enrolment.proof(key, code), now=NOON - timedelta(days=1)
            )
            assert isinstance(made, dict), made
    return Zone(database)


def make_zone() -> Zone:
    """A fresh zone on SQLite, for examples that need one each: a copy of one that was made once."""
    directory = tempfile.TemporaryDirectory()
    file = Path(directory.name) / "e.db"
    file.write_bytes(_template())
    return Zone(Database(f"sqlite:///{file}"), directory)


@functools.cache
def _template() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "t.db"
        database = Database(f"sqlite:///{file}")
        upgrade(database)
        furnish(database)
        with database.engine.connect() as connection:
            connection.exec_driver_sql("ROLLBACK")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        return file.read_bytes()


@dataclass
class Voice:
    """One stream as an honest agent tells it; each call returns the next event."""

    node: str = "n1"
    allocation: str = "job_a.1"
    devices: Sequence[str] = ("n1d0",)
    share: int = 1000
    boot: str = "b1"
    start: datetime = NOON
    key: Ed25519PrivateKey | None = None
    said: list[Signed] = field(default_factory=list)

    def say(self, kind: Kind, after_s: float = 0, **more: Any) -> Signed:
        last = self.said[-1] if self.said else None
        key = self.key or KEYS[self.node]
        event = Event(
            kind=kind,
            node=self.node,
            boot=self.boot,
            allocation=self.allocation,
            seq=last.event.seq + 1 if last else 1,
            at=self.start + timedelta(seconds=after_s),
            devices=tuple(self.devices),
            share_permille=self.share,
            monotonic_ms=round(after_s * 1000),
            prev_hash=last.hash if last else GENESIS,
            agent_version="0.1",
            key_id=key_id_of(key.public_key()),
            model="Ascend910B3",
        )
        signed = sign(replace(event, **more), key)
        self.said.append(signed)
        return signed

    def story(self, *beats: float, stop: bool = True) -> list[dict[str, Any]]:
        """Started, a heartbeat at each of `beats` seconds; the last one is the stop."""
        self.say(Kind.STARTED)
        for place, beat in enumerate(beats, start=1):
            self.say(Kind.STOPPED if stop and place == len(beats) else Kind.HEARTBEAT, beat)
        return self.documents

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [signed.document() for signed in self.said]


def fresh_name() -> str:
    return f"job_{next(_numbers)}.1"
