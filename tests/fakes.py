"""Small stand-ins, in the open: a clock that is set, a backend that plays a script, a budget that agrees or refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from adapters.accelerator import Accelerator, EvidenceLevel, Health, Origin, Source
from scheduler.job import FirmId, JobId
from scheduler.lease import Cause, Lease, LeaseId, MemberPhase, MemberStatus, Observation
from scheduler.node import Pool
from scheduler.ports import Held
from scheduler.refusal import Refusal
from scheduler.snapshot import Terms

NOON = datetime(2026, 6, 1, 4, 0, tzinfo=UTC)  # noon in Beijing


@dataclass
class SetClock:
    """Stands still until told otherwise; wall and boot time can be moved apart, as a host's clock can be set."""

    wall: datetime = NOON
    boot: int = 1_000_000

    def now(self) -> datetime:
        return self.wall

    def boot_ms(self) -> int:
        return self.boot

    def advance(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.boot += round(seconds * 1000)


@dataclass
class ScriptedBackend:
    """Members run when launched and end when the test says so. Launching twice is counted, and does nothing twice."""

    clock: SetClock
    name: str = "local"
    refuse: Refusal | None = None
    launches: list[LeaseId] = field(default_factory=list)
    stops: list[tuple[LeaseId, int, str | None]] = field(default_factory=list)
    seen: dict[LeaseId, tuple[MemberStatus, ...]] = field(default_factory=dict)

    def launch(self, lease: Lease) -> Refusal | None:
        if self.refuse is not None:
            return self.refuse
        self.launches.append(lease.id)
        if lease.id not in self.seen:
            self.seen[lease.id] = tuple(self._running(member.rank) for member in lease.placement.members)
        return None

    def _running(self, rank: int) -> MemberStatus:
        return MemberStatus(
            rank=rank,
            phase=MemberPhase.RUNNING,
            pid=100 + rank,
            boot_id="boot",
            started_at=self.clock.wall,
            started_ms=self.clock.boot,
        )

    def end(self, lease: str, *codes: int | None, cause: Cause | None = None) -> None:
        """Members exit with these codes, in rank order; None leaves a member as it is."""
        members = list(self.seen[LeaseId(lease)])
        for rank, code in enumerate(codes):
            if code is not None:
                members[rank] = replace(
                    members[rank], phase=MemberPhase.EXITED, exit_code=code, ended_ms=self.clock.boot, cause=cause
                )
        self.seen[LeaseId(lease)] = tuple(members)

    def lose(self, lease: str, rank: int = 0) -> None:
        """Nobody saw this member end."""
        members = list(self.seen[LeaseId(lease)])
        members[rank] = replace(members[rank], phase=MemberPhase.LOST, detail="its host went away")
        self.seen[LeaseId(lease)] = tuple(members)

    def stop(self, lease: LeaseId, *, grace_ms: int, signal: str | None) -> None:
        self.stops.append((lease, grace_ms, signal))

    def observe(self, leases: Sequence[LeaseId]) -> tuple[Observation, ...]:
        absent = (MemberStatus(rank=0, phase=MemberPhase.ABSENT),)
        return tuple(Observation(lease=lease, members=self.seen.get(lease, absent)) for lease in leases)

    def logs(self, lease: LeaseId, rank: int, *, offset: int, limit: int) -> bytes:
        return b""

    def forget(self, lease: LeaseId) -> None:
        pass


@dataclass
class FreeBudget:
    """Everything is allowed and costs nothing; `refuse` says no to every hold."""

    refuse: Refusal | None = None
    charged: list[tuple[str, bool]] = field(default_factory=list)

    def hold(self, tx: Any, lease: Lease, now: datetime) -> Held | Refusal:
        return self.refuse or Held()

    def charge(
        self, tx: Any, jobs: Sequence[JobId], now: datetime, *, final: bool, over: Sequence[LeaseId] = ()
    ) -> None:
        self.charged += [(job, final) for job in jobs]

    def exhausted(self, tx: Any, held: Sequence[Mapping[str, Any]], now: datetime) -> Mapping[LeaseId, Refusal]:
        return {}

    def terms(self, tx: Any, firms: Sequence[FirmId], pools: Sequence[Pool], now: datetime) -> tuple[Terms, ...]:
        return ()

    def origin(self, vendor: str, model: str, now: datetime) -> Origin:
        return Origin.DOMESTIC if vendor == "ascend" else Origin.FOREIGN

    def sweep(self, tx: Any, now: datetime) -> int:
        return 0


def simulated_device(node: str, index: int, model: str = "Ascend910B3", vendor: str = "ascend") -> Accelerator:
    """A declared device, as the simulated vendor lists it."""
    return Accelerator(
        uuid=f"sim:{node}:{index}",
        index=index,
        vendor=vendor,
        model_raw=model,
        model=model,
        visible_id=str(index),
        memory_total_bytes=64 << 30,
        health=Health.OK,
        source=Source.SIMULATED,
        evidence_level=EvidenceLevel.DECLARED,
    )
