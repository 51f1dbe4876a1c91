"""Embedded agents: the node agents of nodes that have no host of their own, in the platform's process.

A simulated node is declared, not found; somebody has to say that it is alive and read the processes that stand in for
its devices. One thread does it for all of them, also for nodes enrolled later.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import func, select

from adapters.accelerator import Accelerator, Source
from adapters.agent import Agent
from adapters.sample import Sample
from adapters.vendors.simulated import Declaration, Simulated
from scheduler import store
from scheduler.schema import devices, nodes, pools

if TYPE_CHECKING:
    from api.wiring import Services

log = structlog.get_logger("embedded")
PERIOD_S = 2.0
SAMPLE_EVERY = 5  # heartbeats per reading: readings are for looking at, and are kept


class LocalPush:
    """adapters.agent.Push straight into the store."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def heartbeat(self, node: str, inventory: Sequence[Accelerator], at: datetime) -> None:
        with self.services.database.write() as tx:
            store.heartbeat(tx, node, inventory, at)

    def samples(self, node: str, batch: Sequence[Sample]) -> None:  # noqa: ARG002 - a sample names its device
        with self.services.database.write() as tx:
            store.add_samples(tx, batch)


class EmbeddedAgents:
    """beat() once for every simulated node of the local backend; run() beats until told to stop."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.assignments = services.settings.data_dir / "assignments"
        self.assignments.mkdir(exist_ok=True)
        self._agents: dict[str, Agent] = {}
        self._beats = 0

    def beat(self) -> None:
        """Every simulated node is heard from, and its devices are read."""
        now = self.services.clock.now()
        for node, model, count in self._declared():
            if node not in self._agents:
                declaration = Declaration(node=node, model=model, count=count)
                adapter = Simulated((declaration,), assignments_dir=self.assignments, catalog=self.services.catalog)
                self._agents[node] = Agent(node, [adapter], LocalPush(self.services), self.assignments)
            self._agents[node].beat(now)
            if self._beats % SAMPLE_EVERY == 0:
                self._agents[node].sample(now)
        self._beats += 1

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

    def start(self, stop: threading.Event) -> threading.Thread:
        """A first beat now, then a thread of its own."""
        self.beat()
        thread = threading.Thread(target=self.run, args=(stop,), name="embedded agents", daemon=True)
        thread.start()
        return thread
