"""Local jobs: the local backend as routes see it, on whichever host they are served."""

from __future__ import annotations

from collections.abc import Sequence

from api import leadership
from api.problems import Problem
from scheduler.database import Database
from scheduler.lease import Lease, LeaseId, Observation
from scheduler.ports import Backend
from scheduler.refusal import Refusal


class LocalJobs:
    """scheduler.ports.Backend that only shows: deeds are the loop's. What a job wrote is where the loop's host keeps it."""

    def __init__(self, backend: Backend, database: Database, home: str) -> None:
        """home: of this process's data directory, see leadership.home_of."""
        self.backend, self.database, self.home = backend, database, home
        self.name = backend.name

    def logs(self, lease: LeaseId, rank: int, *, offset: int, limit: int) -> bytes:
        """LOGS_ELSEWHERE where another host has them, so that nobody takes a job for one that wrote nothing."""
        found = self.backend.logs(lease, rank, offset=offset, limit=limit)
        if not found:
            with self.database.read() as tx:
                home, leader = leadership.local_home(tx), leadership.leader_of(tx)
            if home not in (None, self.home):
                raise Problem(503, "LOGS_ELSEWHERE", {"who": leader.who if leader else "—"})
        return found

    def observe(self, leases: Sequence[LeaseId]) -> tuple[Observation, ...]:
        return self.backend.observe(leases)

    def launch(self, lease: Lease) -> Refusal | None:
        raise NotImplementedError("routes start nothing")

    def stop(self, lease: LeaseId, *, grace_ms: int, signal: str | None) -> None:
        raise NotImplementedError("routes stop nothing; the loop does what they asked for")

    def forget(self, lease: LeaseId) -> None:
        raise NotImplementedError("routes forget nothing")
