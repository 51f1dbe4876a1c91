"""Embedded agents: the node agents of nodes that have no host of their own, in the platform's process.

A simulated node is declared, not found; somebody has to say that it is alive and read the processes that stand in for
its devices. One thread does it for all of them, also for nodes enrolled later.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, func, select

from adapters.accelerator import Accelerator, Source
from adapters.agent import Agent
from adapters.device_event import DeviceEvent
from adapters.event import key_id_of, public_text
from adapters.sample import Sample
from adapters.spool import SpoolBusy, SpoolDamaged
from adapters.vendors.simulated import Declaration, Simulated
from adapters.witness import Host, Witness, host_boot, load_key
from metering import enrolment
from metering.events import examine, ingest
from scheduler import places
from scheduler.refusal import Refusal
from scheduler.schema import devices, nodes, pools

if TYPE_CHECKING:
    from api.wiring import Services

log = structlog.get_logger("embedded")
PERIOD_S = 2.0
ASK_AGAIN_EVERY = 15  # beats until a node that could not sign tries again
SAMPLE_EVERY = 5  # heartbeats per reading: readings are for looking at, and are kept


class LocalPush:
    """adapters.agent.Push straight into the store."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def heartbeat(self, node: str, inventory: Sequence[Accelerator], at: datetime) -> None:
        with self.services.database.write() as tx:
            places.heartbeat(tx, node, inventory, at)

    def samples(self, node: str, batch: Sequence[Sample], events: Sequence[DeviceEvent] = ()) -> None:
        with self.services.database.write() as tx:
            places.add_samples(tx, batch)
            places.add_device_events(tx, node, events)

    def events(self, batch: list[dict[str, Any]], sent_at: datetime) -> list[dict[str, Any]]:
        """One {id, status} per signed event: the platform has each of them."""
        with self.services.database.read() as tx:
            examined = examine(tx, batch)
        with self.services.database.write() as tx:
            outcomes = ingest(tx, examined, self.services.clock.now(), sent_at=sent_at)
        for outcome in outcomes:
            if outcome.status == "quarantined":
                log.warning("event_quarantined", id=outcome.id, code=outcome.code, facts=dict(outcome.facts))
        return [{"id": outcome.id, "status": outcome.status} for outcome in outcomes]


def witness_of(services: Services, node: str, assignments: Path) -> Witness | None:
    """The node's witness with a key that speaks for it, enrolled now if it was not; None, and why in the log, if not.

    Its directory is `agents/<node>` of the data directory. The code is issued and used in one transaction, by the same
    rules as an operator's.
    """
    directory = services.settings.data_dir / "agents" / node
    host = Host(boot=host_boot(), now=services.clock.now, boot_ms=services.clock.boot_ms)
    try:
        key = load_key(directory)
        with services.database.write() as tx:
            refusal = _enrol(tx, node, key, services.clock.now())
        if refusal is not None:
            log.warning("agent_not_enrolled", node=node, code=refusal.code, facts=dict(refusal.facts))
            return None
        return Witness(node, directory, assignments, LocalPush(services).events, host)
    except (OSError, ValueError, SpoolBusy, SpoolDamaged) as problem:
        log.error("agent_signs_nothing", node=node, problem=f"{type(problem).__name__}: {problem}")
        return None


def _enrol(tx: Connection, node: str, key: Ed25519PrivateKey, now: datetime) -> Refusal | None:
    identity = key_id_of(key.public_key())
    known = enrolment.keys_of(tx, [identity]).get(identity)
    if known is not None:
        usable = known["node"] == node and known["revoked_from_ms"] is None
        return None if usable else Refusal(code="KEY_REVOKED", facts={"key": identity})
    site = tx.execute(select(pools.c.site).join(nodes, nodes.c.pool == pools.c.id).where(nodes.c.id == node)).scalar()
    code = enrolment.issue_code(tx, site=str(site), node=node, by="embedded", now=now)
    if isinstance(code, Refusal):
        return code
    public, word = public_text(key.public_key()), enrolment.proof(key, code)
    got = enrolment.enrol(tx, code=code, key=public, proof=word, now=now)
    return got if isinstance(got, Refusal) else None


class EmbeddedAgents:
    """beat() once for every simulated node of the local backend; run() beats until told to stop."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.assignments = services.settings.data_dir / "assignments"
        self.assignments.mkdir(exist_ok=True)
        self._agents: dict[str, Agent] = {}
        self._witnesses: list[Witness] = []
        self._unsworn: set[str] = set()  # nodes whose agents sign nothing yet
        self._beats = 0

    def beat(self) -> None:
        """Every simulated node is heard from, what holds its devices is signed, and they are read."""
        now = self.services.clock.now()
        for node, model, count in self._declared():
            again = node in self._unsworn and self._beats % ASK_AGAIN_EVERY == 0
            if node not in self._agents or again:
                self._agents[node] = self._agent_of(node, model, count)
            self._agents[node].beat(now)
            self._agents[node].attest()
            if self._beats % SAMPLE_EVERY == 0:
                self._agents[node].sample(now)
        self._beats += 1

    def _agent_of(self, node: str, model: str, count: int) -> Agent:
        """The node's agent. One without a witness is made anew later: a loop that was frozen keeps its spools for a while."""
        declaration = Declaration(node=node, model=model, count=count)
        adapter = Simulated((declaration,), assignments_dir=self.assignments, catalog=self.services.catalog)
        witness = witness_of(self.services, node, self.assignments)
        if witness is None:
            self._unsworn.add(node)
        else:
            self._unsworn.discard(node)
            self._witnesses.append(witness)
        return Agent(node, [adapter], LocalPush(self.services), self.assignments, witness=witness)

    def _declared(self) -> list[tuple[str, str, int]]:
        query = (
            select(nodes.c.id, devices.c.model, func.count().label("n"))
            .join(devices, devices.c.node == nodes.c.id)
            .join(pools, pools.c.id == nodes.c.pool)
            .where(pools.c.backend == "local", devices.c.source == Source.SIMULATED.value)
            .group_by(nodes.c.id, devices.c.model)
            .order_by(nodes.c.id)
        )
        with self.services.database.read() as tx:
            return [(row.id, row.model, row.n) for row in tx.execute(query) if row.model]

    def run(self, stop: threading.Event, period_s: float = PERIOD_S) -> None:
        """Beat until `stop` is set; a beat that fails is logged and the next one tries again."""
        while not stop.is_set():
            try:
                self.beat()
            except Exception:
                log.exception("beat_failed")
            stop.wait(period_s)
        self.close()

    def close(self) -> None:
        """Spools are let go; what they hold waits for the next start."""
        while self._witnesses:
            self._witnesses.pop().close()

    def start(self, stop: threading.Event) -> threading.Thread:
        """A first beat now, then a thread of its own, also where the first one fails: the database may be away just then."""
        try:
            self.beat()
        except Exception:
            log.exception("beat_failed")
        thread = threading.Thread(target=self.run, args=(stop,), name="embedded agents", daemon=True)
        thread.start()
        return thread
