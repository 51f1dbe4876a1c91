"""Playback: the planner's own `step` on a virtual clock and the simulated backend. Not a mode of anything: a backend.

Time jumps from event to event (a job arrives, a lease ends, a round or a maintenance window does). What a plan says is done
at once: leases it preempts end and their jobs wait again with what is left of their work, members it moves run on elsewhere,
then the launches start. Stopped work is taken to be saved when it stops; every later start and every move costs a restart.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fractions import Fraction

from scheduler.backends.simulated import EPOCH, SimulatedBackend
from scheduler.clock import to_ms
from scheduler.engine import EMPTY, Change, Clock, Outlook, Remove, Set, State, Value, step
from scheduler.job import JobId, JobSpec
from scheduler.lease import Lease, LeaseId
from scheduler.plan import Launch, Migration, Plan, Preempt
from scheduler.policy import Policy
from scheduler.snapshot import RunningLease, WaitingJob

MS_PER_HOUR = 3_600_000
Lasts = Callable[[WaitingJob, str, int], int]  # milliseconds of the whole job on so many devices of a model
PATIENCE = 12  # rounds in which nothing runs and nothing starts, before those who wait are taken to wait for ever
DONE, PREEMPTED, MIGRATED = "done", "preempted", "migrated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A lease on the same devices for a while. ended: done, preempted (the job waits again) or migrated (it goes on)."""

    job: WaitingJob
    launch: Launch
    start_ms: int
    end_ms: int
    price: int
    ended: str = DONE

    @property
    def submit_ms(self) -> int:
        return to_ms(self.job.submitted_at)

    @property
    def share_permille(self) -> int:
        return self.job.share_permille

    @property
    def device_ms_permille(self) -> int:
        """Device time in thousandths of a millisecond of a whole device."""
        return self.launch.placement.device_count * (self.end_ms - self.start_ms) * self.share_permille

    @property
    def gross_fen(self) -> int:
        """half_up(price × device time × share), design section 5 rule 1."""
        work = self.price * self.device_ms_permille
        return (2 * work + MS_PER_HOUR * 1000) // (2 * MS_PER_HOUR * 1000)


@dataclass(slots=True)
class _Active:
    """What runs. since_ms: on these devices; begins_ms: its work goes on, the restart over; full_ms: all its work here."""

    lease: RunningLease
    end_ms: int
    since_ms: int
    begins_ms: int
    job: WaitingJob | None = None
    launch: Launch | None = None
    full_ms: int = 1
    price: int = 0


@dataclass(slots=True)
class Playback:
    """One zone and its jobs over virtual time. runs: what has ended; started: when each job first started."""

    policy: Policy
    lasts: Lasts
    restart_ms: int = 0
    outlook: Outlook = field(default_factory=Outlook)
    now_ms: int = 0
    version: int = 0
    planned: int = 0
    wall_s: float = 0.0
    state: State = EMPTY
    runs: list[Run] = field(default_factory=list)
    started: dict[JobId, int] = field(default_factory=dict)
    _active: dict[LeaseId, _Active] = field(default_factory=dict)
    _ends: list[tuple[int, LeaseId]] = field(default_factory=list)
    _whole: dict[JobId, WaitingJob] = field(default_factory=dict)  # as it first started
    _left: dict[JobId, Fraction] = field(default_factory=dict)  # of that
    _durations: dict[str, int] = field(default_factory=dict)
    _idle: int = 0

    def play(
        self,
        known: Iterable[Value],
        arrivals: Sequence[tuple[int, WaitingJob]],
        *,
        running: Iterable[tuple[RunningLease, int]] = (),
        enough: Callable[[], bool] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Until nothing runs and nobody comes, or `enough` says so. arrivals: with their instants, ascending.

        running: leases that hold devices from the beginning, each with the instant it ends.
        """
        backend = SimulatedBackend(clock=lambda: self.now_ms, durations=self._durations)
        changes: list[Change] = [self.outlook, *(Set(value) for value in known)]
        for lease, end in running:
            changes.append(Set(lease))
            self._begin(_Active(lease, end, self.now_ms, self.now_ms))
        index, again = 0, False  # again: devices came free at this very instant, once
        while index < len(arrivals) or self._active or again or self._reopenings() or self._more_rounds():
            if not again:
                self.now_ms = self._next(arrivals[index][0] if index < len(arrivals) else None)
            changes += self._ended()
            while index < len(arrivals) and arrivals[index][0] <= self.now_ms:
                changes.append(Set(arrivals[index][1]))
                index += 1
            changes += self._progress()
            self.version += 1
            began = time.perf_counter()
            clock = Clock(EPOCH + timedelta(milliseconds=self.now_ms), self.version)
            self.state, plan = step(self.state, [clock, *changes], self.policy)
            self.wall_s += time.perf_counter() - began
            self.planned += len(plan.launches) + len(plan.waits)
            changes = self._carry_out(plan, backend)
            again = bool(plan.preempts) and not again
            self._idle = 0 if self._active else self._idle + 1
            if progress:
                progress(len(self.runs))
            if enough is not None and enough():
                return

    # --- time -------------------------------------------------------------------------------------------------------

    def _next(self, arrival: int | None) -> int:
        """The next instant at which something happens: never before now."""
        found = [arrival] if arrival is not None else []
        while self._ends and self._stale(self._ends[0]):
            heapq.heappop(self._ends)
        if self._ends:
            found.append(self._ends[0][0])
        boundary = self._boundary()
        if boundary is not None and (self._active or self._more_rounds()):
            found.append(boundary)
        found += self._reopenings()
        return max(self.now_ms, min(found))

    def _reopenings(self) -> list[int]:
        """When maintenance that somebody may wait for is over."""
        ends = (to_ms(one.end) for one in self.state.maintenance.values())
        return [end for end in ends if end > self.now_ms] if self.state.jobs else []

    def _stale(self, end: tuple[int, LeaseId]) -> bool:
        one = self._active.get(end[1])
        return one is None or one.end_ms != end[0]

    def _boundary(self) -> int | None:
        """The end of the round, under a policy that has rounds."""
        length = getattr(self.policy, "round_ms", None)
        return None if not length else (self.now_ms // length + 1) * length

    def _more_rounds(self) -> bool:
        """Somebody waits under a policy that has rounds, and not for so long that none would change anything."""
        return self._boundary() is not None and bool(self.state.jobs) and self._idle < PATIENCE

    def _ended(self) -> list[Change]:
        changes: list[Change] = []
        while self._ends and self._ends[0][0] <= self.now_ms:
            end = heapq.heappop(self._ends)
            if not self._stale(end):
                changes.append(Remove(RunningLease, end[1]))
                self._close(self._active.pop(end[1]), DONE)
        return changes

    def _progress(self) -> list[Change]:
        """Under rounds, what each running job has left to do: the policy looks at it again."""
        if self._boundary() is None:
            return []
        changes: list[Change] = []
        for one in self._active.values():
            if one.job is not None and one.job.remaining_steps is not None:
                left = self._share_left(one)
                steps, again = self._steps(one.job.id, left), self._again(one.job, left)
                one.lease = replace(one.lease, remaining_steps=steps, again=again)
                changes.append(Set(one.lease))
        return changes

    # --- a plan -----------------------------------------------------------------------------------------------------

    def _carry_out(self, plan: Plan, backend: SimulatedBackend) -> list[Change]:
        back: dict[JobId, WaitingJob] = {}
        changes: list[Change] = []
        for preempt in plan.preempts:
            changes += self._preempt(preempt, backend, back)
        for migration in plan.migrations:
            changes += self._migrate(migration)
        for launch in plan.launches:
            changes += self._start(launch, back.get(launch.job) or self.state.jobs[launch.job], backend)
        return changes

    def _start(self, launch: Launch, job: WaitingJob, backend: SimulatedBackend) -> list[Change]:
        pool = self.state.pools[launch.placement.pool]
        whole = self._whole.setdefault(launch.job, job)
        full = self.lasts(whole, pool.model, launch.placement.device_count)
        restart = self.restart_ms if launch.job in self.started else 0
        left = self._left.get(launch.job, Fraction(1))
        self._durations[launch.job] = restart + -(-full * left.numerator // left.denominator)
        spec = JobSpec(name=job.name, request=job.request, time_limit_ms=job.time_limit_ms, nodes=job.nodes)
        backend.launch(
            Lease(
                id=launch.lease,
                job=launch.job,
                firm=launch.firm,
                spec=spec,
                placement=launch.placement,
                backend=backend.name,
                price_fen_per_device_hour=pool.price_fen_per_device_hour,
                reserved_at=self._now(),
            )
        )
        self.started.setdefault(launch.job, self.now_ms)
        lease = RunningLease(
            id=launch.lease,
            job=launch.job,
            firm=launch.firm,
            queue=job.queue,
            pool=launch.placement.pool,
            members=launch.placement.members,
            ends_by=self._now() + timedelta(milliseconds=job.time_limit_ms),
            cpu_milli=job.cpu_milli,
            memory_bytes=job.memory_bytes,
            share_permille=job.share_permille,
            priority=job.priority,
            started_at=self._now(),
            checkpoint_interval_ms=job.checkpoint_interval_ms,
            workload=job.workload,
            remaining_steps=self._steps(launch.job, left),
            again=self._again(job, left),
        )
        self._begin(
            _Active(
                lease,
                backend.ends_at(launch.lease),
                self.now_ms,
                self.now_ms + restart,
                job,
                launch,
                max(1, full),
                pool.price_fen_per_device_hour,
            )
        )
        return [Remove(WaitingJob, launch.job), Set(lease)]

    def _preempt(self, preempt: Preempt, backend: SimulatedBackend, back: dict[JobId, WaitingJob]) -> list[Change]:
        """The lease has ended; its job waits again with the rest of its work. One that ran from the beginning just ends."""
        one = self._active.pop(preempt.lease)
        backend.stop(preempt.lease, grace_ms=0, signal=None)
        self._close(one, PREEMPTED)
        changes: list[Change] = [Remove(RunningLease, preempt.lease)]
        if one.job is not None:
            left = self._left[one.job.id] = self._share_left(one)
            again = replace(self._again(one.job, left), pending_since=self._now())
            back[one.job.id] = again
            changes.append(Set(again))
        return changes

    def _migrate(self, migration: Migration) -> list[Change]:
        """The member is elsewhere; the whole gang stood still for a restart."""
        one = self._active[migration.lease]
        members = tuple(migration.to if m.rank == migration.rank else m for m in one.lease.members)
        if one.launch is not None and self.now_ms > one.since_ms:
            self._close(one, MIGRATED)
        if one.launch is not None:
            one.launch = replace(one.launch, placement=replace(one.launch.placement, members=members))
        one.since_ms = self.now_ms
        one.begins_ms += self.restart_ms
        one.end_ms += self.restart_ms
        ends_by = one.lease.ends_by + timedelta(milliseconds=self.restart_ms)
        one.lease = replace(one.lease, members=members, ends_by=ends_by)
        heapq.heappush(self._ends, (one.end_ms, migration.lease))
        return [Set(one.lease)]

    # --- parts ------------------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return EPOCH + timedelta(milliseconds=self.now_ms)

    def _begin(self, one: _Active) -> None:
        self._active[one.lease.id] = one
        heapq.heappush(self._ends, (one.end_ms, one.lease.id))

    def _share_left(self, one: _Active) -> Fraction:
        """Of the whole work of the job, what is still to be done now."""
        assert one.job is not None, "asked of a job of ours"
        before = self._left.get(one.job.id, Fraction(1))
        return max(Fraction(0), before - Fraction(max(0, self.now_ms - one.begins_ms), one.full_ms))

    def _again(self, job: WaitingJob, left: Fraction) -> WaitingJob:
        """The job as it waits when it has been stopped; its limit allows for the restart."""
        limit = self._whole[job.id].time_limit_ms + self.restart_ms
        return replace(job, attempt=job.attempt + 1, time_limit_ms=limit, remaining_steps=self._steps(job.id, left))

    def _steps(self, job: JobId, left: Fraction) -> int | None:
        """Steps of that part of the job's work, rounded up; None where the job counts none."""
        steps = self._whole[job].remaining_steps
        return None if steps is None else -(-steps * left.numerator // left.denominator)

    def _close(self, one: _Active, ended: str) -> None:
        if one.job is not None and one.launch is not None:
            end = min(one.end_ms, self.now_ms)
            run = Run(job=one.job, launch=one.launch, start_ms=one.since_ms, end_ms=end, price=one.price, ended=ended)
            self.runs.append(run)
