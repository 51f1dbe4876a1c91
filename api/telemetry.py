"""Telemetry: Prometheus metrics in the glossary's words. Money here is for watching, never a metric of record."""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client as prometheus
from sqlalchemy import func, select

from api.leadership import leader_of
from metering.ledger import PROGRAMME
from metering.schema import accounts
from scheduler.clock import Clock
from scheduler.database import Database
from scheduler.schema import devices, jobs, lease_devices


class Telemetry:
    """A registry of its own: two platforms in one process, as in tests, do not share counters."""

    def __init__(self, database: Database, clock: Clock, leading: Callable[[], bool] = lambda: False) -> None:
        """leading: whether this process is the loop now."""
        self.database = database
        self.clock = clock
        self.leading = leading
        self.registry = prometheus.CollectorRegistry()
        self.ticks = prometheus.Counter("yisuan_loop_ticks", "Rounds of the loop.", registry=self.registry)
        self.tick_seconds = prometheus.Histogram(
            "yisuan_loop_tick_seconds", "Length of a round of the loop.", registry=self.registry
        )
        self.leads = prometheus.Gauge(
            "yisuan_loop_leads", "1 on the process that is the loop, 0 on the others.", registry=self.registry
        )
        self.ticked_at = prometheus.Gauge(
            "yisuan_loop_ticked_timestamp_seconds", "When the loop, on whichever process, told last that it ticked.",
            registry=self.registry,
        )  # fmt: skip
        self.epoch = prometheus.Gauge(
            "yisuan_loop_epoch", "The number of the loop's term; it grows by one with each takeover.",
            registry=self.registry,
        )  # fmt: skip
        self.jobs = prometheus.Gauge("yisuan_jobs", "Jobs by state.", ["state"], registry=self.registry)
        self.devices = prometheus.Gauge(
            "yisuan_devices", "Devices by vendor, model, source and whether a lease holds them.",
            ["vendor", "model", "source", "state"], registry=self.registry,
        )  # fmt: skip
        self.pool_room = prometheus.Gauge(
            "yisuan_voucher_pool_room_fen", "What of a year's vouchers is neither drawn nor held, in fen.", ["year"],
            registry=self.registry,
        )  # fmt: skip

    def ticked(self, seconds: float) -> None:
        """The loop has made a round of this length."""
        self.ticks.inc()
        self.tick_seconds.observe(seconds)

    def exposition(self) -> bytes:
        """The metrics now, in Prometheus' text format."""
        self._read()
        return prometheus.generate_latest(self.registry)

    def _read(self) -> None:
        with self.database.read() as tx:
            by_state = {
                r.state: r.n for r in tx.execute(select(jobs.c.state, func.count().label("n")).group_by(jobs.c.state))
            }
            held = {r.device for r in tx.execute(select(lease_devices.c.device).where(lease_devices.c.released == 0))}
            found: dict[tuple[str, str, str, str], int] = {}
            for row in tx.execute(select(devices).where(devices.c.leasable == 1)):
                key = (row.vendor, row.model or "unknown", row.source, "allocated" if row.uuid in held else "free")
                found[key] = found.get(key, 0) + 1
            leader = leader_of(tx)
            rooms = tx.execute(select(accounts).where(accounts.c.id.startswith(f"pool:{PROGRAMME}:"))).mappings().all()
        self.leads.set(self.leading())
        if leader is not None:
            self.epoch.set(leader.epoch)
            if leader.ticked_at is not None:
                self.ticked_at.set(leader.ticked_at.timestamp())
        self.jobs.clear()
        for state, n in by_state.items():
            self.jobs.labels(state=state).set(n)
        self.devices.clear()
        for (vendor, model, source, state), n in found.items():
            self.devices.labels(vendor=vendor, model=model, source=source, state=state).set(n)
        for account in rooms:
            left = account["credits_posted"] - account["debits_posted"] - account["debits_pending"]
            self.pool_room.labels(year=account["id"].rsplit(":", 1)[1]).set(left)
