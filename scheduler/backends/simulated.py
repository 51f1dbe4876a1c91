"""Simulated backend: members run for as long as they are said to, on whatever clock it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from scheduler.lease import Cause, Lease, LeaseId, MemberPhase, MemberStatus, Observation
from scheduler.refusal import Refusal

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class _Run:
    ranks: int
    start_ms: int
    end_ms: int
    exit_code: int = 0
    cause: Cause | None = None


@dataclass(slots=True)
class SimulatedBackend:
    """scheduler.ports.Backend without processes. clock: milliseconds now. durations: per job, else the time limit.

    A run longer than its time limit ends there with cause TIME_LIMIT, as a shim would do it.
    """

    clock: Callable[[], int]
    durations: Mapping[str, int] = field(default_factory=dict)
    name: str = "simulated"
    _runs: dict[LeaseId, _Run] = field(default_factory=dict)

    def launch(self, lease: Lease) -> Refusal | None:
        """The members run from now on; launching again changes nothing."""
        if lease.id not in self._runs:
            now, limit = self.clock(), lease.spec.time_limit_ms
            wanted = self.durations.get(lease.job, limit)
            run = _Run(ranks=len(lease.placement.members), start_ms=now, end_ms=now + min(wanted, limit))
            if wanted > limit:
                run.exit_code, run.cause = -15, Cause.TIME_LIMIT
            self._runs[lease.id] = run
        return None

    def stop(self, lease: LeaseId, *, grace_ms: int, signal: str | None) -> None:  # noqa: ARG002 - nothing to wait for
        """The members have ended now; stopping what has ended, or what was never launched, changes nothing."""
        run = self._runs.get(lease)
        if run is not None and self.clock() < run.end_ms:
            run.end_ms, run.exit_code, run.cause = self.clock(), -15, Cause.CANCELLED

    def ends_at(self, lease: LeaseId) -> int:
        """When the lease's members end, in the clock's milliseconds."""
        return self._runs[lease].end_ms

    def observe(self, leases: Sequence[LeaseId]) -> tuple[Observation, ...]:
        """One status per rank; ABSENT for a lease that was never launched."""
        return tuple(self._observe(lease) for lease in leases)

    def _observe(self, lease: LeaseId) -> Observation:
        run = self._runs.get(lease)
        if run is None:
            return Observation(lease=lease, members=(MemberStatus(rank=0, phase=MemberPhase.ABSENT),))
        ended = self.clock() >= run.end_ms
        status = {
            "phase": MemberPhase.EXITED if ended else MemberPhase.RUNNING,
            "boot_id": "simulated",
            "started_at": EPOCH + timedelta(milliseconds=run.start_ms),
            "started_ms": run.start_ms,
            "ended_ms": run.end_ms if ended else None,
            "exit_code": run.exit_code if ended else None,
            "cause": run.cause if ended else None,
        }
        return Observation(lease=lease, members=tuple(MemberStatus(rank=r, **status) for r in range(run.ranks)))  # type: ignore[arg-type]

    def logs(self, lease: LeaseId, rank: int, *, offset: int, limit: int) -> bytes:  # noqa: ARG002
        """Nothing runs, so nothing is written."""
        return b""

    def forget(self, lease: LeaseId) -> None:
        """The run stays known: observing it again gives the same answer."""
