"""Loop: observe → stop → meter → plan → reserve → launch, once per tick; safe to kill between any two lines.

Every step reads what is stored, does one thing, and stores that it is done; each can be repeated. The loop decides
nothing itself: what to start is `plan` (dispatch.py carries it out), what a state becomes is the state table, what it
costs is the budget.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import Connection, RowMapping, select, update
from sqlalchemy.exc import OperationalError

from scheduler import store, view
from scheduler.clock import Clock, to_ms
from scheduler.consumption import Ending, ending_of, usage_of_end, usage_until
from scheduler.database import Database
from scheduler.dispatch import Dispatch
from scheduler.job import JobId
from scheduler.lease import Cause, LeaseId, MemberPhase, Observation, Report, billed_interval
from scheduler.lifecycle import Event, State
from scheduler.policy import Policy
from scheduler.ports import Backend, Budget
from scheduler.progress import is_new, progress_of, report
from scheduler.refusal import Refusal
from scheduler.schema import leases, pools
from scheduler.stopping import event_of, goes_on, stop_cause
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
        moves_per_hour: int = 0,
    ) -> None:
        """moves_per_hour: running members that plans may move within an hour; 0 = none ever."""
        self.database = database
        self.budget = budget
        self.policy = policy
        self.clock = clock
        self.zone = ZoneInfo(zone)
        self.on_tick = on_tick
        self.dispatch = Dispatch(database, budget, policy, backends, clock, moves_per_hour=moves_per_hour)
        self.ticked_at: datetime | None = None

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
        self.dispatch.place()
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
        except ConnectionError as problem:  # its engine is away, so nothing is known of the lease
            log.warning("engine_away", backend=row["backend"], lease=row["id"], problem=str(problem))
            return []
        except Exception:
            log.exception("lease_failed", lease=row["id"])
            return []

    def _attend(self, row: Mapping[str, Any], spent: Refusal | None) -> list[UsageRecord]:
        """The lease is one step on; returns what it used up to the last local midnight and nobody recorded yet."""
        backend = self.dispatch.backends.get(row["backend"])
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
        elif seen.report is not None:
            self._keep_report(row, seen.report)
        cause = stop_cause(row, job, seen, spent, to_ms(self.clock.now()))
        absent = any(m.phase is MemberPhase.ABSENT for m in seen.members)
        if cause or absent:
            with self.database.read() as tx:
                lease = view.lease_of(tx, row)
            if cause:
                told = {"code": spent.code, **spent.facts} if spent and cause is Cause.BUDGET_EXHAUSTED else {}
                self.dispatch.stop(row, lease, cause, told)
            if absent:
                self.dispatch.launch(lease)  # also after a stop: a member told to stop before it starts must say so
        return self._until_midnight(row, seen)

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

    def _keep_report(self, row: Mapping[str, Any], said: Report) -> None:
        """What the job wrote of itself is stored once; what cannot be true is left out, as if it had not said so."""
        with self.database.read() as tx:
            if not is_new(progress_of(tx, row["job"]), row["id"], said):
                return
        with self.database.write() as tx:
            refusal = report(tx, JobId(row["job"]), **asdict(said), now=self.clock.now())
        if refusal is not None:
            log.info("report_refused", job=row["job"], code=refusal.code, facts=dict(refusal.facts))

    def _until_midnight(self, row: Mapping[str, Any], seen: Observation) -> list[UsageRecord]:
        with self.database.read() as tx:
            stored = tx.execute(select(leases).where(leases.c.id == row["id"])).mappings().one()
            pool = tx.execute(select(pools).where(pools.c.id == row["pool"])).mappings().one()
        now_ms = self.clock.boot_ms() if seen.now_ms is None else seen.now_ms
        return list(usage_until(stored, pool, seen, now_ms, self.zone))

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
        lost = {m.rank for m in seen.members if m.phase is MemberPhase.LOST}
        if lost:
            told["nodes"] = sorted({m.node for m in view.members_of(tx, lease) if m.rank in lost})
        if again:
            store.requeue(tx, job, state, now, lease=lease, facts=told)
            return
        columns = {"exit_code": ending.exit_code, "cause": ending.cause.value}
        store.move(tx, job, event_of(row, ending), now, lease=lease, facts=told, **columns)
