"""Quote: every way to run one job, when it would start there, what it would take and cost, and what another choice
would change. Pure.

A quote places nothing. It asks the planner's own decision for the job and everybody who goes before it, and then looks at
each pool with the timelines that backfill uses: at the pools the job names, and at those it would only have to accept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from scheduler import regions
from scheduler.clock import from_ms, to_ms
from scheduler.decision import decide
from scheduler.engine import Set, apply
from scheduler.foresight import Start, Starts
from scheduler.job import Alternative, JobId
from scheduler.netcost import Cost, candidate, cost, predicted_ms, watts
from scheduler.node import Pool
from scheduler.pending import Reasons
from scheduler.placing import affordable
from scheduler.plan import Candidate, Pending, Plan
from scheduler.policy import Ints, JobColumns, Policy
from scheduler.regions import RegionFacts, Saved
from scheduler.shape import class_of, least_nodes
from scheduler.snapshot import Terms, WaitingJob
from scheduler.waiting import DEVICES, LIMIT, PRIORITY, QUEUE, SUBMITTED, WaitingColumns
from scheduler.waits import Waits
from scheduler.workspace import Workspace
from scheduler.zone import Way, images_fit, matches, runs_on

if TYPE_CHECKING:
    from scheduler.engine import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Running the job in one pool. accepts: the job does not ask for it as it stands; its owner would have to accept it.

    code: why it cannot start here, None = it can. earliest: when the leases that are predicted end as predicted and whoever
    goes first and could run elsewhere does; latest: when every lease runs to its limit and all who go first start here and
    do so too; None = unknown. promised: nobody who comes later at the same priority can make it later than that.
    most: of the time limit; expected: of the predicted time, None = not predicted. transfer_ms, transfer_fen: of bringing
    the inputs here, None = there is no link; the devices are held meanwhile, so the predicted time has transfer_ms in it.
    done: of the latest start, the transfer and the predicted time, else the time limit.
    energy_fen: of the electricity, part of the price and shown beside; energy_fen, carbon_g: None = unknown.
    """

    alternative: int | None
    pool: str
    model: str
    region: str
    devices: int
    code: str | None
    earliest: datetime | None
    latest: datetime | None
    promised: bool
    terms: Terms
    most: Cost
    expected: Cost | None
    candidate: Candidate
    transfer_ms: int | None
    transfer_fen: int | None
    done: datetime | None
    energy_fen: int | None
    carbon_g: int | None

    @property
    def accepts(self) -> bool:
        return self.alternative is None

    @property
    def effective_fen(self) -> int:
        """What the choice compares: gross less (1 - λ) of the draw, of the predicted time, else of the time limit."""
        return self.candidate.effective_fen

    @property
    def exceeds_limit(self) -> bool:
        """The prediction is longer than the time limit: it would be cut off."""
        return self.candidate.exceeds_limit

    @property
    def net_fen(self) -> int:
        """What the firm is expected to pay for the devices: of the predicted time, else of the time limit."""
        return (self.expected or self.most).net_fen

    @property
    def total_fen(self) -> int | None:
        """What it is expected to pay for the devices and for moving its data; None where there is no link."""
        return None if self.transfer_fen is None else self.net_fen + self.transfer_fen


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterfactual:
    """What another option would change against the job's own best. Above 0 is better: earlier, less, less emitted.

    earlier_ms: of the latest starts; less_fen: of what is paid, data moved included; done_earlier_ms: of the ends.
    """

    pool: str
    model: str
    accepts: bool
    start: datetime
    earlier_ms: int | None
    less_fen: int | None
    done_earlier_ms: int | None
    carbon_less_g: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """best: the pool the planner would choose, None when the job can start in none that it asks for.

    pending: why it would not start now, None when it would. instead: options that would be earlier or cost less than the
    best, the soonest first. saved: what the best spares against the next region, or the next pool.
    """

    now: datetime
    job: JobId
    best: str | None
    options: tuple[Option, ...]
    instead: tuple[Counterfactual, ...]
    pending: Pending | None
    saved: Saved | None

    def option(self, pool: str) -> Option | None:
        """The option in that pool that the job asks for, else the one it would have to accept."""
        found = [one for one in self.options if one.pool == pool]
        return min(found, key=lambda one: one.accepts, default=None)


def quote(
    state: State, job: WaitingJob, policy: Policy, *, region_facts: Mapping[str, RegionFacts] | None = None
) -> Quote:
    """Of a job that is submitted now or waits already; neither the state nor any lease is changed.

    region_facts: electricity by region, beside what the state knows; where a region has none it is unknown.
    """
    state = apply(state, [Set(job), *(Set(one) for one in (region_facts or {}).values())])
    work = Workspace(state, policy)
    ways = [(way.alternative, way) for way in work.zone.ways(class_of(job))]
    others = _others(job, work)
    if not ways and not others:
        return Quote(
            now=state.now, job=job.id, best=None, options=(), instead=(), saved=None,
            pending=Reasons(state, work).never(job) if job.gate is None else Reasons(state, work).gate(job),
        )  # fmt: skip
    first = _before(state, policy, job)
    plan = decide(_only(state, first), policy)
    assert isinstance(plan.waits, Waits), "decide returns them so"
    starts = Starts(state, policy, plan, plan.waits.work, _in_line(state, plan, first), job)
    options = [_option(state, job, index, way, starts) for index, way in ways]
    options += [_option(state, one, None, way, starts) for one, way in others]
    launched, pending = _verdict(state, policy, job, first)
    if launched is not None:  # it starts now, where need be by the planner's stopping others
        place = next(i for i, one in enumerate(options) if (one.alternative, one.pool) == launched)
        options[place] = _begun(options[place], state.now)
    best = _best(policy, job, launched, [one for one in options if not one.accepts])
    found = tuple(sorted(options, key=_rank))
    return Quote(
        now=state.now,
        job=job.id,
        best=None if best is None else best.pool,
        options=found,
        instead=_instead(best, found),
        pending=pending,
        saved=_saved(best, found),
    )


# --- who goes first ---------------------------------------------------------------------------------------------------


def _before(state: State, policy: Policy, job: WaitingJob) -> Ints:
    """Rows of the waiting jobs that go before this one, in order. Of queues that take turns, all of its priority do."""
    values = state.waiting.values
    columns = JobColumns(
        priority_rank=values[:, PRIORITY],
        submitted_ms=values[:, SUBMITTED],
        devices=values[:, DEVICES],
        time_limit_ms=values[:, LIMIT],
        id_rank=np.arange(len(values), dtype=np.int64),
    )
    order = policy.order(columns, to_ms(state.now))
    own = int(np.searchsorted(state.waiting.ids, job.id))
    place = int(np.flatnonzero(order == own)[0])
    ahead = np.zeros(len(order), dtype=np.bool_)
    ahead[:place] = True
    if policy.fair:
        rows = values[order]
        ahead |= (rows[:, PRIORITY] == values[own, PRIORITY]) & (rows[:, QUEUE] != values[own, QUEUE])
    found: Ints = order[ahead]
    return found


def _only(state: State, rows: Ints) -> State:
    """The state in which only these jobs wait."""
    kept = np.sort(rows)
    return replace(state, waiting=WaitingColumns(state.waiting.ids[kept], state.waiting.values[kept]))


def _in_line(state: State, plan: Plan, first: Ints) -> list[WaitingJob]:
    """Those who go first and did not start, but could once devices or quota are there; in order."""
    assert isinstance(plan.waits, Waits), "decide returns them so"
    started = {launch.job for launch in plan.launches}
    out = {
        plan.waits.state.waiting.ids[row]
        for row, position in zip(plan.waits.rows, plan.waits.positions, strict=True)
        if (verdict := plan.waits.verdicts.get(int(position))) is not None and verdict.why in ("dear", "never", "gate")
    }
    names = (state.waiting.ids[row] for row in first)
    return [state.jobs[n] for n in names if n not in started and n not in out and state.jobs[n].gate is None]


# --- one option -------------------------------------------------------------------------------------------------------


def _others(job: WaitingJob, work: Workspace) -> list[tuple[WaitingJob, Way]]:
    """The job as it would be if it accepted each model that it does not name, and where that could run."""
    found = []
    for number, pool in enumerate(work.zone.pools):
        if any(matches(one, pool) for one in job.request.alternatives) or not (
            runs_on(job, pool) and images_fit(job, pool)
        ):
            continue
        count = job.request.alternatives[0].count
        asked = Alternative(text=f"{pool.model}:{count}", count=count, models=(pool.model,))
        one = replace(job, request=replace(job.request, alternatives=(asked,)))
        found += [(one, way) for way in work.zone.ways(class_of(one)) if way.number == number]
    return found


def _option(
    state: State,
    job: WaitingJob,
    alternative: int | None,
    way: Way,
    starts: Starts,
) -> Option:
    pool, devices, near = way.pool, job.nodes * way.shape.count, starts.work.near
    profiles = starts.work.profiles
    priced = candidate(job, way.alternative, pool, state.terms.get((job.firm, pool.id)), profiles, near)
    terms = state.terms.get((job.firm, pool.id)) or _list_price(job, pool)
    draws = job.money.voucher == "auto"
    runs_ms = predicted_ms(job, pool.model, devices, profiles)
    most = cost(terms, devices, job.time_limit_ms, share_permille=job.share_permille, draws=draws)
    moved = near.network.transfer(job.data, pool.region)
    moving_ms = moved[0] if moved else 0
    start, code = _start(job, way, priced, starts, moved)
    duration = job.time_limit_ms if runs_ms is None else runs_ms
    ends = None
    if start.latest_ms is not None and moved is not None:
        ends = from_ms(start.latest_ms + moving_ms + duration)
    power = watts(pool, devices, job.share_permille)
    begin = from_ms((starts.work.now_ms if start.earliest_ms is None else start.earliest_ms) + moving_ms)
    facts = near.facts.get(pool.region)
    return Option(
        alternative=alternative,
        pool=pool.id,
        model=pool.model,
        region=pool.region,
        devices=devices,
        code=code,
        earliest=None if start.earliest_ms is None else from_ms(start.earliest_ms),
        latest=None if start.latest_ms is None else from_ms(start.latest_ms),
        promised=start.promised,
        terms=terms,
        most=most,
        expected=None
        if runs_ms is None
        else cost(terms, devices, moving_ms + runs_ms, share_permille=job.share_permille, draws=draws),
        candidate=priced,
        transfer_ms=None if moved is None else moved[0],
        transfer_fen=None if moved is None else moved[1],
        done=ends,
        energy_fen=regions.energy_fen(power, begin, duration, facts),
        carbon_g=regions.carbon_g(power, duration, facts),
    )


def _begun(one: Option, now: datetime) -> Option:
    done = now + timedelta(milliseconds=(one.transfer_ms or 0) + _runs_ms(one))
    return replace(one, code=None, earliest=now, latest=now, promised=True, done=done)


def _runs_ms(one: Option) -> int:
    """How long it runs once its inputs are there: the predicted time, else the time limit."""
    if one.expected is None:
        return one.most.duration_ms
    return one.expected.duration_ms - (one.transfer_ms or 0)


def _start(
    job: WaitingJob, way: Way, priced: Candidate, starts: Starts, moved: tuple[int, int] | None
) -> tuple[Start, str | None]:
    """When it would start in this pool, and the code of what keeps it from ever doing so as things stand."""
    if moved is None:
        return Start(None, None, False), "NO_LINK"
    if not affordable(job, priced):
        return Start(None, None, False), "MAX_NET_COST_TOO_LOW"
    if job.gate is not None:
        return Start(None, None, False), job.gate.code
    needed = least_nodes(job) * way.shape.count
    most = starts.work.most(job.queue)
    if most is not None and needed > most:
        return Start(None, None, False), "EXCEEDS_QUOTA"
    found = starts.of(job, way)
    if found.earliest_ms is None and found.latest_ms is None:
        return found, "QUOTA_EXHAUSTED" if starts.short_of_quota(job, needed) else "NODES_UNSCHEDULABLE"
    return found, None


def _list_price(job: WaitingJob, pool: Pool) -> Terms:
    price = pool.price_fen_per_device_hour
    return Terms(firm=job.firm, pool=pool.id, price_fen_per_device_hour=price, rate_bp=0, room_fen=0)


# --- choice and comparison --------------------------------------------------------------------------------------------


def _verdict(
    state: State, policy: Policy, job: WaitingJob, first: Ints
) -> tuple[tuple[int, str] | None, Pending | None]:
    """Alternative and pool of the job's launch, or why it waits: the planner's own decision, with the job the last one."""
    own = np.searchsorted(state.waiting.ids, job.id)
    plan = decide(_only(state, np.append(first, own)), policy)
    launch = next((one for one in plan.launches if one.job == job.id), None)
    if launch is not None:
        return (launch.chosen.alternative, launch.chosen.pool), None
    assert isinstance(plan.waits, Waits), "decide returns them so"
    wait = plan.waits.of(job.id)
    return None, None if wait is None else wait.pending


def _best(policy: Policy, job: WaitingJob, launched: tuple[int, str] | None, asked: Sequence[Option]) -> Option | None:
    """Where the planner launches it; else the earliest at the latest, the policy deciding among equals."""
    able = [one for one in asked if one.code is None]
    if launched is not None:
        return next((one for one in able if (one.alternative, one.pool) == launched), None)
    place: dict[tuple[int | None, str], int] = {}
    if able:
        chosen = policy.choose(job, [one.candidate for one in able])
        place = {(one.alternative, one.pool): rank for rank, one in enumerate(chosen)}
    far = datetime.max.replace(tzinfo=UTC)
    return min(able, key=lambda o: (o.latest or far, place.get((o.alternative, o.pool), len(place))), default=None)


def _rank(one: Option) -> tuple[bool, bool, int, str, int]:
    return (one.code is not None, one.accepts, one.effective_fen, one.pool, one.alternative or 0)


def _instead(best: Option | None, options: Sequence[Option]) -> tuple[Counterfactual, ...]:
    """The options that would be earlier or cost less than the best; all that can start where there is no best."""
    found = []
    for one in options:
        start = one.latest or one.earliest
        if one is best or one.code is not None or start is None:
            continue
        earlier = _ms_before(one.latest, best.latest) if best else None
        less = _less(one.total_fen, best.total_fen) if best else None
        if best is not None and (earlier or 0) <= 0 and (less or 0) <= 0:
            continue
        found.append(
            Counterfactual(
                pool=one.pool,
                model=one.model,
                accepts=one.accepts,
                start=start,
                earlier_ms=earlier,
                less_fen=less,
                done_earlier_ms=_ms_before(one.done, best.done) if best else None,
                carbon_less_g=_less(one.carbon_g, best.carbon_g) if best else None,
            )
        )
    return tuple(sorted(found, key=lambda one: (one.start, -(one.less_fen or 0), one.pool)))


def _ms_before(one: datetime | None, other: datetime | None) -> int | None:
    return None if one is None or other is None else to_ms(other) - to_ms(one)


def _less(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else other - one


def _saved(best: Option | None, options: Sequence[Option]) -> Saved | None:
    """Against the best of the other options that the job asks for, in another region if there is one."""
    known = {id(one): found for one in options if not one.accepts and (found := _regional(one)) is not None}
    if best is None or id(best) not in known:
        return None
    return regions.saved(known[id(best)], known.values())


def _regional(one: Option) -> regions.Option | None:
    if one.code is not None or one.latest is None or one.transfer_ms is None or one.transfer_fen is None:
        return None
    return regions.Option(
        region=one.region,
        pool=one.pool,
        net_fen=one.net_fen,
        transfer_ms=one.transfer_ms,
        transfer_fen=one.transfer_fen,
        start_ms=to_ms(one.latest),
        duration_ms=_runs_ms(one),
        energy_fen=one.energy_fen,
        carbon_g=one.carbon_g,
    )
