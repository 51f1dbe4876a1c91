"""Dispatch: what the loop does about the jobs that wait: plan → stop for it → reserve → launch. Each can be repeated.

Nothing is decided here but the order of deeds: what starts, stops and moves is `plan`, whether money allows it the budget.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import OperationalError

from scheduler import relocations, store, view
from scheduler.clock import Clock, to_ms
from scheduler.codec import pending_document
from scheduler.database import Database
from scheduler.gates import gates_of, waiting_jobs
from scheduler.job import JobId
from scheduler.lease import Cause, Lease, LeaseId, Placement
from scheduler.lifecycle import Event, State
from scheduler.node import PoolId
from scheduler.plan import Launch, Migration, Plan, Preempt
from scheduler.planner import plan
from scheduler.policy import Policy
from scheduler.ports import Backend, Budget, Held
from scheduler.refusal import Refusal
from scheduler.region_file import RegionFile
from scheduler.relocations import Relocation
from scheduler.schema import jobs, leases, nodes, pools
from scheduler.snapshot import MixShape, Snapshot
from scheduler.stopping import grace_of

log = structlog.get_logger("loop")
REFUSALS = 4  # plans of one tick at most, each without the jobs refused before
OVERDUE_EVERY = timedelta(seconds=1)
REPLAN_AFTER = timedelta(seconds=5)  # time alone can change a plan: silent nodes, dated terms


class Dispatch:
    """place() carries one plan out; stop() and launch() are what the loop repeats for leases that exist."""

    def __init__(
        self,
        database: Database,
        budget: Budget,
        policy: Policy,
        backends: Mapping[str, Backend],
        clock: Clock,
        *,
        moves_per_hour: int = 0,
    ) -> None:
        self.database = database
        self.budget = budget
        self.policy = policy
        self.backends = backends
        self.clock = clock
        self.moves_per_hour = moves_per_hour
        self.regions = RegionFile()  # what is recorded of the regions; the composition root sets it
        self.last_plan: Plan | None = None
        self._planned_version = -1
        self._looked_at: datetime | None = None
        self._mix: tuple[datetime, tuple[MixShape, ...]] | None = None

    def place(self) -> None:
        """One plan, carried out. Jobs that the budget refuses are left out and planned around, so that what they would
        have taken goes to the next."""
        now = self.clock.now()
        self._end_overdue(now)
        self._go_on_elsewhere(now)
        with self.database.read() as tx:
            if not self._replan(tx, now):
                return
            never = {job: gate for job, gate in gates_of(tx).items() if isinstance(gate, Refusal)}
            mix = self._recent_mix(tx, now)
        if never:
            self._end({job: (Event.REJECTED, {"code": why.code, **why.facts}) for job, why in never.items()}, now)
        refused: set[JobId] = set()
        for _ in range(REFUSALS):
            snapshot = self._snapshot(now, mix)
            ready = tuple(job for job in snapshot.jobs if job.id not in refused)
            decided = plan(replace(snapshot, jobs=ready), self.policy)
            more = self._carry_out(decided, snapshot.migrations)
            refused |= more
            if not more:
                break
        if decided.waits:
            with self.database.write() as tx:
                for wait in decided.waits:
                    store.set_pending(tx, wait.job, wait.pending, pending_document(wait.pending), now)
        with self.database.read() as tx:
            self._planned_version = store.version(tx)
        self.last_plan = decided

    def _replan(self, tx: Connection, now: datetime) -> bool:
        if tx.execute(waiting_jobs().with_only_columns(jobs.c.id).order_by(None).limit(1)).first() is None:
            return False
        stale = self.last_plan is None or now - self.last_plan.now >= REPLAN_AFTER
        return stale or store.version(tx) != self._planned_version

    def _snapshot(self, now: datetime, mix: tuple[MixShape, ...]) -> Snapshot:
        with self.database.read() as tx:
            found = view.snapshot(tx, now, self.budget, mix, moves_per_hour=self.moves_per_hour)
            return view.regional(tx, found, self.regions)

    def _recent_mix(self, tx: Connection, now: datetime) -> tuple[MixShape, ...]:
        """It is the same all hour long: read once an hour."""
        hour = now.replace(minute=0, second=0, microsecond=0)
        if self._mix is None or self._mix[0] != hour:
            self._mix = (hour, view.mix_of(tx, now))
        return self._mix[1]

    # --- jobs that end before they start --------------------------------------------------------------------------

    def _end_overdue(self, now: datetime) -> None:
        """A job whose deadline has come waits no more. Looked for at most once a second: the line may be long."""
        if self._looked_at is not None and timedelta(0) <= now - self._looked_at < OVERDUE_EVERY:
            return
        self._looked_at = now
        with self.database.read() as tx:
            late = list(tx.execute(waiting_jobs().where(jobs.c.deadline_at_ms <= to_ms(now))).mappings())
        if late:
            told = {JobId(row["id"]): {"deadline_at_ms": row["deadline_at_ms"]} for row in late}
            self._end({job: (Event.DEADLINE_PASSED, facts) for job, facts in told.items()}, now)

    def _end(self, found: Mapping[JobId, tuple[Event, Mapping[str, Any]]], now: datetime) -> None:
        """These jobs end without devices; one that ran before is settled for good. Who waits no more is left alone."""
        with self.database.write() as tx:
            for job, (event, facts) in found.items():
                row = tx.execute(waiting_jobs().where(jobs.c.id == job)).mappings().first()
                if row is None:
                    continue
                store.move(tx, job, event, now, facts=facts)
                if row["attempt"]:
                    self.budget.charge(tx, [job], now, final=True)

    # --- what a plan says -----------------------------------------------------------------------------------------

    def _carry_out(self, decided: Plan, movable: int) -> set[JobId]:
        """Stops first: a launch that counts on one finds its devices once the stopped lease has ended. Returns the jobs
        that the budget refused. movable: members that may move."""
        refused = set()
        moves: dict[LeaseId, list[Migration]] = defaultdict(list)
        for migration in decided.migrations[:movable]:
            moves[migration.lease].append(migration)
        for lease, members in moves.items():
            try:
                self._migrate(lease, members)
            except OperationalError:
                raise
            except Exception:
                log.exception("migration_failed", lease=lease)
        for preempt in decided.preempts:
            try:
                self._preempt(preempt)
            except OperationalError:
                raise
            except Exception:
                log.exception("preemption_failed", lease=preempt.lease)
        for launch in decided.launches:
            try:
                if self._reserve_and_launch(launch, decided) is not None:
                    refused.add(launch.job)
            except OperationalError:
                raise
            except Exception:  # one job that cannot be placed keeps no other waiting; it stays pending
                log.exception("placement_failed", job=launch.job)
        return refused

    def _preempt(self, preempt: Preempt) -> None:
        """The lease is told to stop, as gently as any, and its job will wait again; one that stops or ended is left alone."""
        with self.database.read() as tx:
            row = _going_on(tx, preempt.lease)
            if row is None:
                return
            lease = view.lease_of(tx, row)
        told = {"code": preempt.code, "by": preempt.by, "cost_device_ms": preempt.cost_device_ms}
        self.stop(row, lease, Cause.PREEMPTED, told)

    # --- moves ----------------------------------------------------------------------------------------------------

    def _migrate(self, name: LeaseId, migrations: list[Migration]) -> None:
        """The lease is told to stop with its checkpoint, and its job goes on where the plan says; until then those devices
        count as taken. One that declares no checkpoint, stops already or would change its shape is left alone."""
        with self.database.read() as tx:
            row = _going_on(tx, name)
            if row is None:
                return
            lease = view.lease_of(tx, row)
            target = relocations.target_of(lease.placement, migrations)
            where = [member.node for member in target.members] if target else []
            there = set(tx.execute(select(nodes.c.pool).where(nodes.c.id.in_(where))).scalars())
        if target is None or lease.spec.checkpoint is None or len(there) != 1:
            log.warning("not_movable", lease=name)
            return
        target = replace(target, pool=PoolId(there.pop()))
        told = {
            "code": "MIGRATION",
            "to": [{"rank": one.rank, "node": one.to.node} for one in migrations],
        }
        self.stop(row, lease, Cause.PREEMPTED, told, goes_to=target, moved=len(migrations))

    def _go_on_elsewhere(self, now: datetime) -> None:
        """Jobs whose lease has stopped for a move start where they move to; where that cannot be they wait like any other."""
        with self.database.read() as tx:
            ready = [one for one in relocations.relocations(tx) if one.ended]
        for one in ready:
            try:
                self._resume(one, now)
            except OperationalError:
                raise
            except Exception:
                log.exception("move_failed", lease=one.lease)
            with self.database.write() as tx:
                relocations.done(tx, one.lease)

    def _resume(self, move: Relocation, now: datetime) -> None:
        snapshot = self._snapshot(now, ())
        there = _only(snapshot, move)
        if not there.jobs or there.jobs[0].gate is not None:
            return
        decided = plan(there, self.policy)
        for launch in decided.launches:
            self._reserve_and_launch(launch, decided)

    # --- deeds ----------------------------------------------------------------------------------------------------

    def stop(
        self,
        row: Mapping[Any, Any],
        lease: Lease,
        cause: Cause,
        told: Mapping[str, Any],
        *,
        goes_to: Placement | None = None,
        moved: int = 0,
    ) -> None:
        """The lease is told to stop, and the first time its job's story says why. goes_to: where the job goes on after."""
        if row["stop_requested_at_ms"] is None:
            now = self.clock.now()
            with self.database.write() as tx:
                tx.execute(
                    update(leases)
                    .where(leases.c.id == row["id"])
                    .values(stop_requested_at_ms=to_ms(now), stop_cause=cause.value)
                )
                store.move(tx, lease.job, Event.STOPPING, now, lease=lease.id, facts={"cause": cause.value, **told})
                if goes_to is not None:
                    relocations.ask(tx, lease.id, goes_to, moved, now)
        checkpoint = lease.spec.checkpoint
        backend = self.backends[row["backend"]]
        backend.stop(lease.id, grace_ms=grace_of(lease.spec), signal=checkpoint.signal if checkpoint else None)

    def _reserve_and_launch(self, launch: Launch, decided: Plan) -> Refusal | None:
        now = self.clock.now()
        with self.database.write() as tx:
            lease = self._lease(tx, launch, now)
            outcome = store.reserve(tx, launch, lease, self.budget, decided.based_on, now)
            if isinstance(outcome, Refusal):
                store.set_refused(tx, launch.job, outcome, now)
        if isinstance(outcome, Held):
            self.launch(lease)
        else:
            log.info("not_reserved", job=launch.job, outcome=outcome)
        return outcome if isinstance(outcome, Refusal) else None

    def _lease(self, tx: Connection, launch: Launch, now: datetime) -> Lease:
        job = store.job_row(tx, launch.job)
        pool = tx.execute(select(pools).where(pools.c.id == launch.placement.pool)).mappings().one()
        assert job is not None, "the plan was made from stored jobs, which are never deleted"
        return Lease(
            id=launch.lease,
            job=launch.job,
            firm=launch.firm,
            spec=store.spec_of(job),
            placement=launch.placement,
            backend=pool["backend"],
            price_fen_per_device_hour=pool["price_fen_per_device_hour"],
            reserved_at=now,
            visibility={m.rank: view.visibility(tx, m.devices) for m in launch.placement.members},
        )

    def launch(self, lease: Lease) -> None:
        """The backend has the lease; where it refuses for good the lease is over and its job with it."""
        backend = self.backends[lease.backend]
        refusal = backend.launch(lease)
        now = self.clock.now()
        with self.database.write() as tx:
            state = State(tx.execute(select(jobs.c.state).where(jobs.c.id == lease.job)).scalar_one())
            if refusal is None:
                if state is State.RESERVED:
                    store.move(tx, lease.job, Event.LAUNCHED, now, lease=lease.id, facts={"backend": backend.name})
                return
            store.release(tx, lease.id, cause=Cause.LAUNCH_FAILED, exit_code=None, started=None, now=now)
            event = Event.REJECTED if state is State.RESERVED else Event.NODE_FAILED
            facts = {"code": refusal.code, **dict(refusal.facts)}
            store.move(tx, lease.job, event, now, lease=lease.id, facts=facts, cause=Cause.LAUNCH_FAILED.value)
            self.budget.charge(tx, [lease.job], now, final=True)


def _going_on(tx: Connection, lease: LeaseId) -> dict[str, Any] | None:
    """The stored row of a lease that runs and nobody told to stop."""
    row = tx.execute(select(leases).where(leases.c.id == lease)).mappings().first()
    if row is None or row["released_at_ms"] is not None or row["stop_requested_at_ms"] is not None:
        return None
    return dict(row)


def _only(snapshot: Snapshot, move: Relocation) -> Snapshot:
    """A zone of nothing but the devices the job moves to, and nobody else who waits. No quota: it had as many before."""
    devices = {device for member in move.target.members for device in member.devices}
    places = {member.node for member in move.target.members}
    jobs_ = (
        replace(job, nodes=len(move.target.members), min_nodes=None)
        for job in snapshot.jobs
        if job.id == move.job and job.attempt == move.attempt + 1
    )
    return replace(
        snapshot,
        pools=tuple(pool for pool in snapshot.pools if pool.id == move.target.pool),
        nodes=tuple(
            replace(node, devices=tuple(device for device in node.devices if device in devices))
            for node in snapshot.nodes
            if node.id in places
        ),
        jobs=tuple(jobs_),
        leases=(),
        queues=(),
        migrations=0,
    )
