"""Simulated money: what the runs of a simulation would cost, by the very settlement of the platform.

Assumptions, which the command's help repeats: second 0 of the trace is ANCHOR; every firm is eligible and has claimed its
right; rooms are the policy's caps, the pool shared by the firms in order of name; origins are the register's then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from adapters.accelerator import Origin
from adapters.chain import timestamp
from metering.case import settle_document
from metering.parameters import Registry, load_origin_register, load_policies
from metering.rule import load_rules
from scheduler.cluster import Cluster, chip_of
from scheduler.job import FirmId
from scheduler.node import Pool
from scheduler.snapshot import Terms

if TYPE_CHECKING:
    from scheduler.playback import Run

ANCHOR = datetime(2025, 12, 31, 16, 0, tzinfo=UTC)  # the first midnight of 2026 in the zone
POLICY = "etown-2024-10"


class SimulatedMoney:
    """Terms before and a bill after, under one policy."""

    def __init__(self) -> None:
        self.registry: Registry = load_policies()
        self.rules = load_rules()
        self.register = load_origin_register()
        self.policy = self.registry.policy(POLICY)

    def origin(self, pool: Pool) -> Origin:
        """The register's verdict on the catalogue model that the pool's name means; undetermined if it means none."""
        chip = chip_of(pool.model)
        return self.register.origin(chip.vendor, chip.model, ANCHOR)[0] if chip else Origin.UNDETERMINED

    def terms(self, cluster: Cluster, firms: Sequence[str]) -> tuple[Terms, ...]:
        """Full rooms for everyone: what net_cost compares at the start."""
        year = ANCHOR.astimezone(self.policy.zone).year
        return tuple(
            Terms(
                firm=FirmId(firm),
                pool=pool.id,
                price_fen_per_device_hour=pool.price_fen_per_device_hour,
                rate_bp=self.policy.rate_bp(self.origin(pool), ANCHOR) or 0,
                room_fen=self.policy.firm_cap_fen[year],
            )
            for firm in firms
            for pool in cluster.pools
        )

    def net_fen(self, runs: Sequence[Run], pools: Mapping[str, Pool]) -> int:
        """Σ payable of every firm, settled like any usage; the pool's rooms pass from firm to firm. No device, no charge."""
        by_firm: dict[str, list[dict[str, Any]]] = {}
        for run in runs:
            if not run.launch.placement.device_count:
                continue
            pool = pools[run.launch.placement.pool]
            entry = {
                "lease": run.launch.lease,
                "model": pool.model,
                "origin": self.origin(pool).value,
                "devices": run.launch.placement.device_count,
                "share_permille": run.share_permille,
                "start": timestamp(ANCHOR + timedelta(milliseconds=run.start_ms)),
                "end": timestamp(ANCHOR + timedelta(milliseconds=run.end_ms)),
                "price_fen_per_device_hour": run.price,
            }
            by_firm.setdefault(run.job.firm, []).append(entry)
        rooms: dict[str, int] = {}
        net = 0
        for firm, usage in sorted(by_firm.items()):
            eligible = [{"from": "2000-01-01T00:00:00Z", "to": None}]
            case = {
                "version": 1, "policy": POLICY, "firm": {"id": firm, "eligible": eligible}, "rooms": {"pool": rooms},
                "usage": usage,
            }  # fmt: skip
            out = settle_document(json.dumps(case), self.registry, self.rules)
            rooms = out["rooms_after"]["pool"]
            net += out["totals"]["payable_fen"]
        return net
