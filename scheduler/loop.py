"""Loop: observe → stop → meter → plan → reserve → launch, once per tick; safe to kill between any two lines.

Every step reads what is stored, does one thing, and stores that it is done; each can be repeated. The loop decides
nothing itself: what to start is `plan`, what a state becomes is the state table, what it costs is the budget.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import Connection, RowMapping, select, update
from sqlalchemy.exc import OperationalError

from scheduler import store, view
from scheduler.clock import Clock, to_ms
from scheduler.codec import pending_document
from scheduler.consumption import Ending, ending_of, usage_of_end, usage_until
from scheduler.database import Database
from scheduler.job import JobId
from scheduler.lease import Cause, Lease, LeaseId, MemberPhase, Observation, billed_interval
from scheduler.lifecycle import Event, State
from scheduler.plan import Launch, Plan, Preempt
from scheduler.planner import plan
from scheduler.policy import Policy
from scheduler.ports import Backend, Budget, Held
from scheduler.refusal import Refusal
from scheduler.schema import jobs, leases, pools
from scheduler.snapshot import MixShape
from scheduler.stopping import event_of, goes_on, grace_of, stop_cause
from scheduler.usage import UsageRecord

log = structlog.get_logger("loop")
INTERIM_BATCH = 50  # jobs whose daily settlements share a commit
REFUSALS = 4  # plans of one tick at most, each without the jobs refused before
REPLAN_AFTER = timedelta(seconds=5)  # time alone can change a plan: silent nodes, dated terms


class Loop:
    """The one writer of leases. tick() does a whole round; run() ticks until told to stop."""

    def __init__(
        self,
        database: Database,
        budget: Budget,
        policy: Policy,
        backends: Mapping[str, Backend],
        clock: Clock,
        *,
        zone: str = "Asia/Shanghai",
        on_tick: Callable[[float], None] | None = None,
    ) -> None:
        self.database = database
        self.budget = budget
        self.policy = policy
        self.backends = backends
        self.clock = clock
        self.zone = ZoneInfo(zone)
        self.on_tick = on_tick
        self.ticked_at: datetime | None = None
        self.last_plan: Plan | None = None

    def run(self, stop: threading.Event, period_s: float = 0.25) -> None:
        """Tick until `stop` is set. A tick that fails is logged and the next one starts from what is stored."""
        while not stop.is_set():
            started = self.clock.boot_ms()
            try:
                self.tick()
            except Exception:  # the loop must outlive one bad tick; nothing is half-stored
                log.exception("tick_failed")
            if self.on_tick:
                self.on_tick((self.clock.boot_ms() - started) / 1000)
            stop.wait(period_s)

    def tick(self) -> None:
        """One round over everything that is stored."""
        with self.database.read() as tx:
            held = [dict(row) for row in store.held_leases(tx)]
            spent = self._exhausted(tx, held)
        due = [records for records in (self._attended(row, spent.get(row["id"])) for row in held) if records]
        self._settle_until_midnight(due)
        with self.database.write() as tx:  # first: a price that starts now holds for what is placed now
            self.budget.sweep(tx, self.clock.now())
        self._place()
        self.ticked_at = self.clock.now()

    # --- leases that exist ----------------------------------------------------------------------------------------

    def _exhausted(self, tx: Connection, held: Sequence[Mapping[str, Any]]) -> Mapping[LeaseId, Refusal]:
        """Whose money is gone; nobody's if the budget cannot say, so that no job ends by its mistake."""
        try:
            return self.budget.exhausted(tx, held, self.clock.now()) if held else {}
        except OperationalError:
            raise
        except Exception:
            log.exception("exhausted_failed")
            return {}

    def _attended(self, row: Mapping[str, Any], spent: Refusal | None) -> list[UsageRecord]:
        """_attend, so that one lease that cannot be attended to keeps no other waiting; the next tick tries again."""
        try:
            return self._attend(row, spent)
        except OperationalError:
            raise  # the database is away: that is everybody's
        except Exception:
            log.exception("lease_failed", lease=row["id"])
            return []

    def _attend(self, row: Mapping[str, Any], spent: Refusal | None) -> list[UsageRecord]:
        """The lease is one step on; returns what it used up to the last local midnight and nobody recorded yet."""
        backend = self.backends.get(row["backend"])
        if backend is None:
            log.warning("backend_missing", lease=row["id"], backend=row["backend"])
            return []
        (seen,) = backend.observe([LeaseId(row["id"])])
        if seen.all_ended:
            self._finish(row, seen)
            backend.forget(LeaseId(row["id"]))
            return []
        with self.database.read() as tx:
            job = store.job_row(tx, row["job"])
        assert job is not None, "a lease row references its job"
        if State(job["state"]) is State.STARTING and seen.all_running_or_done:
            self._mark_running(row, seen)
        cause = stop_cause(row, job, seen, spent)
        absent = any(m.phase is MemberPhase.ABSENT for m in seen.members)
        if cause or absent:
            with self.database.read() as tx:
                lease = view.lease_of(tx, row)
            if cause:
                told = {"code": spent.code, **spent.facts} if spent and cause is Cause.BUDGET_EXHAUSTED else {}
                self._stop(backend, row, lease, cause, told)
            if absent:
                self._launch(backend, lease)  # also after a stop: a member told to stop before it starts must say so
        return self._until_midnight(row, seen)

    def _stop(
        self, backend: Backend, row: Mapping[Any, Any], lease: Lease, cause: Cause, told: Mapping[str, Any]
    ) -> None:
        if row["stop_requested_at_ms"] is None:
            now = self.clock.now()
            with self.database.write() as tx:
                tx.execute(
                    update(leases)
                    .where(leases.c.id == row["id"])
                    .values(stop_requested_at_ms=to_ms(now), stop_cause=cause.value)
                )
                store.move(tx, lease.job, Event.STOPPING, now, lease=lease.id, facts={"cause": cause.value, **told})
        checkpoint = lease.spec.checkpoint
        backend.stop(lease.id, grace_ms=grace_of(lease.spec), signal=checkpoint.signal if checkpoint else None)

    def _mark_running(self, row: Mapping[str, Any], seen: Observation) -> None:
        start = max(m.started_at for m in seen.members if m.started_at is not None)
        with self.database.write() as tx:
            tx.execute(update(leases).where(leases.c.id == row["id"]).values(started_at_ms=to_ms(start)))
            store.move(
                tx,
                JobId(row["job"]),
                Event.MEMBERS_RUNNING,
                self.clock.now(),
                lease=LeaseId(row["id"]),
                facts={"started_at_ms": to_ms(start), "pids": [m.pid for m in seen.members]},
            )

    def _until_midnight(self, row: Mapping[str, Any], seen: Observation) -> list[UsageRecord]:
        with self.database.read() as tx:
            stored = tx.execute(select(leases).where(leases.c.id == row["id"])).mappings().one()
            pool = tx.execute(select(pools).where(pools.c.id == row["pool"])).mappings().one()
        return list(usage_until(stored, pool, seen, self.clock.boot_ms(), self.zone))

    def _settle_until_midnight(self, due: Sequence[list[UsageRecord]]) -> None:
        """At each local midnight running jobs' usage so far is recorded and settled (interim settlement), many a commit.

        A batch that fails is tried job by job, so that one bad job never keeps the others from being settled.
        """
        for first in range(0, len(due), INTERIM_BATCH):
            batch = due[first : first + INTERIM_BATCH]
            try:
                self._settle_interim(batch)
            except Exception:
                if len(batch) == 1:
                    raise
                log.exception("interim_batch_failed", jobs=[records[0].job for records in batch])
                for records in batch:
                    try:
                        self._settle_interim([records])
                    except Exception:
                        log.exception("interim_failed", job=records[0].job)

    def _settle_interim(self, batch: Sequence[list[UsageRecord]]) -> None:
        with self.database.write() as tx:
            for records in batch:
                for record in records:
                    store.add_usage(tx, record)
                until = {"metered_until_ms": to_ms(records[-1].end)}
                tx.execute(update(leases).where(leases.c.id == records[-1].lease).values(**until))
            names = list(dict.fromkeys(records[0].job for records in batch))
            self.budget.charge(tx, names, self.clock.now(), final=False)

    def _finish(self, row: Mapping[str, Any], seen: Observation) -> None:
        """The lease is over: usage, state, devices and money change in one transaction, or none of them does."""
        now = self.clock.now()
        with self.database.write() as tx:
            stored = tx.execute(select(leases).where(leases.c.id == row["id"])).mappings().one()
            if stored["released_at_ms"] is not None:
                return
            pool = tx.execute(select(pools).where(pools.c.id == stored["pool"])).mappings().one()
            ending = ending_of(stored, seen)
            job = store.job_row(tx, row["job"])
            assert job is not None, "a lease row references its job"
            spec = store.spec_of(job)
            for record in usage_of_end(stored, pool, seen, ending, now, spec.checkpoint):
                store.add_usage(tx, record)
            billed = billed_interval(seen)
            store.release(
                tx,
                row["id"],
                cause=ending.cause,
                exit_code=ending.exit_code,
                started=billed.start if billed else None,
                now=now,
            )
            again = goes_on(stored, job, spec, ending, store.story(tx, row["job"]))
            self._end_job(tx, job, LeaseId(row["id"]), ending, seen, now, again=again)
            over = [LeaseId(row["id"])] if again else []
            self.budget.charge(tx, [JobId(row["job"])], now, final=not again, over=over)

    def _end_job(
        self,
        tx: Connection,
        row: RowMapping,
        lease: LeaseId,
        ending: Ending,
        seen: Observation,
        now: datetime,
        *,
        again: bool,
    ) -> None:
        job, state = JobId(row["id"]), State(row["state"])
        if state is State.RESERVED and any(m.started_ms is not None for m in seen.members):
            state = store.move(tx, job, Event.LAUNCHED, now, lease=lease, facts={"seen": "after it ended"})
        if state is State.STARTING and billed_interval(seen) is not None:
            billed = billed_interval(seen)
            assert billed is not None
            facts = {"started_at_ms": to_ms(billed.start)}
            state = store.move(tx, job, Event.MEMBERS_RUNNING, now, lease=lease, facts=facts)
        told = {
            "exit_codes": [m.exit_code for m in seen.members],
            "cause": ending.cause.value,
            "details": sorted({m.detail for m in seen.members if m.detail}),
        }
        if again:
            store.requeue(tx, job, state, now, lease=lease, facts=told)
            return
        columns = {"exit_code": ending.exit_code, "cause": ending.cause.value}
        store.move(tx, job, event_of(row, ending), now, lease=lease, facts=told, **columns)

    # --- leases to come -------------------------------------------------------------------------------------------

    def _place(self) -> None:
        """One plan, carried out. Jobs that the budget refuses are left out and planned around, so that what they would
        have taken goes to the next."""
        now = self.clock.now()
        with self.database.read() as tx:
            if not self._replan(tx, now):
                return
            never = {job: gate for job, gate in view.gates_of(tx).items() if isinstance(gate, Refusal)}
            mix = self._recent_mix(tx, now)
        if never:
            with self.database.write() as tx:
                for job, why in never.items():
                    store.move(tx, job, Event.REJECTED, now, facts={"code": why.code, **why.facts})
        refused: set[JobId] = set()
        for _ in range(REFUSALS):
            with self.database.read() as tx:
                snapshot = view.snapshot(tx, now, self.budget, mix)
            ready = tuple(job for job in snapshot.jobs if job.id not in refused)
            decided = plan(replace(snapshot, jobs=ready), self.policy)
            more = self._carry_out(decided)
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

    _planned_version = -1
    _mix: tuple[datetime, tuple[MixShape, ...]] | None = None

    def _recent_mix(self, tx: Connection, now: datetime) -> tuple[MixShape, ...]:
        """It is the same all hour long: read once an hour."""
        hour = now.replace(minute=0, second=0, microsecond=0)
        if self._mix is None or self._mix[0] != hour:
            self._mix = (hour, view.mix_of(tx, now))
        return self._mix[1]

    def _carry_out(self, decided: Plan) -> set[JobId]:
        """Stops first: a launch that counts on one finds its devices once the stopped lease has ended. Returns the jobs
        that the budget refused."""
        refused = set()
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
            row = dict(tx.execute(select(leases).where(leases.c.id == preempt.lease)).mappings().one())
            if row["released_at_ms"] is not None or row["stop_requested_at_ms"] is not None:
                return
            lease = view.lease_of(tx, row)
        told = {"code": preempt.code, "by": preempt.by, "cost_device_ms": preempt.cost_device_ms}
        self._stop(self.backends[row["backend"]], row, lease, Cause.PREEMPTED, told)

    def _replan(self, tx: Connection, now: datetime) -> bool:
        waiting = (State.SUBMITTED.value, State.PENDING.value)
        if tx.execute(select(jobs.c.id).where(jobs.c.state.in_(waiting)).limit(1)).first() is None:
            return False
        stale = self.last_plan is None or now - self.last_plan.now >= REPLAN_AFTER
        return stale or store.version(tx) != self._planned_version

    def _reserve_and_launch(self, launch: Launch, decided: Plan) -> Refusal | None:
        now = self.clock.now()
        with self.database.write() as tx:
            lease = self._lease(tx, launch, now)
            outcome = store.reserve(tx, launch, lease, self.budget, decided.based_on, now)
            if isinstance(outcome, Refusal):
                store.set_refused(tx, launch.job, outcome, now)
        if isinstance(outcome, Held):
            self._launch(self.backends[lease.backend], lease)
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

    def _launch(self, backend: Backend, lease: Lease) -> None:
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
