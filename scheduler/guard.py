"""Guard: a backend that does nothing for a loop which may not be the loop any more.

The database fences what a deposed loop writes (scheduler/election.py); a backend knows no epochs. So the lead is looked at
right before each deed, by this host's clock and in the database. What a process can then still do after it lost the lead is
the one deed it was in the middle of when it was frozen:

* launch: the lease was committed before, under its own name, and launching a lease twice is launching it once. If its job
  ended meanwhile, the late launch is taken back as soon as the process notices, which is right after.
* stop, forget: asked for when the stop was committed or the lease released; repeating either changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from scheduler.database import Database
from scheduler.election import Election, LeadLost, epoch_of
from scheduler.lease import Lease, LeaseId, Observation
from scheduler.ports import Backend
from scheduler.refusal import Refusal
from scheduler.schema import leases

log = structlog.get_logger("guard")


class Guarded:
    """scheduler.ports.Backend for the loop alone: launch, stop and forget raise LeadLost when it does not lead."""

    def __init__(self, backend: Backend, election: Election, database: Database) -> None:
        """database: not a fenced one; it is only read."""
        self.backend = backend
        self.election = election
        self.database = database
        self.name = backend.name

    def launch(self, lease: Lease) -> Refusal | None:
        self._check()
        refusal = self.backend.launch(lease)
        if not self.election.still():
            self._take_back(lease.id)
        return refusal

    def stop(self, lease: LeaseId, *, grace_ms: int, signal: str | None) -> None:
        self._check()
        self.backend.stop(lease, grace_ms=grace_ms, signal=signal)

    def forget(self, lease: LeaseId) -> None:
        self._check()
        self.backend.forget(lease)

    def observe(self, leases: Sequence[LeaseId]) -> tuple[Observation, ...]:
        return self.backend.observe(leases)

    def logs(self, lease: LeaseId, rank: int, *, offset: int, limit: int) -> bytes:
        return self.backend.logs(lease, rank, offset=offset, limit=limit)

    def _check(self) -> None:
        if not self.election.still():
            raise LeadLost("this process cannot tell any more that it is the loop")
        with self.database.read() as tx:
            newest = epoch_of(tx)
        if newest != self.election.epoch:
            raise LeadLost(f"the loop's epoch is {newest}, this process was given {self.election.epoch}")

    def _take_back(self, lease: LeaseId) -> None:
        """A lease that was over before it was launched does not go on running."""
        try:
            with self.database.read() as tx:
                row = tx.execute(select(leases.c.released_at_ms).where(leases.c.id == lease)).first()
        except SQLAlchemyError as problem:
            log.error("late_launch_not_checked", lease=lease, problem=str(problem))
            return
        if row is not None and row.released_at_ms is not None:
            log.warning("late_launch_taken_back", lease=lease)
            self.backend.stop(lease, grace_ms=0, signal=None)
