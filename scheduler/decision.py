"""Decision: order → gate → quota → afford → fit → choose → place, over one state. Pure.

A gang goes whole into one pool (one model, one price, one voucher rate), each member on a node of its own. A job that does
not fit keeps its place: without backfill nothing overtakes it in any pool it could run in; with backfill the first `depth`
jobs that wait in a pool get nodes and a start of their own there, and whoever comes later may use those nodes only until
then. Jobs that cannot change anything are passed over by class, many at a time, so that a step with a long queue costs
about what it changes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from scheduler.clock import to_ms
from scheduler.job import JobId
from scheduler.lease import lease_id
from scheduler.migration import make_room
from scheduler.placing import affordable, place
from scheduler.plan import Candidate, Launch, Plan
from scheduler.policy import Ints, JobColumns, Policy
from scheduler.rotation import RoundPolicy, rotate
from scheduler.snapshot import WaitingJob
from scheduler.waiting import CLASS, DEVICES, LIMIT, PRIORITY, SUBMITTED, Line
from scheduler.waits import Verdict, Waits
from scheduler.workspace import Workspace
from scheduler.zone import Way

if TYPE_CHECKING:
    from scheduler.engine import State

FEW = 64  # a queue this short is looked at job by job
FIRST, CHUNK = (
    128,
    512,
)  # jobs taken up between two looks at the whole queue: few at first, then twice as many each time
MISSES = 16  # jobs found to be past after which those left of a chunk are looked at together
TESTS = 400  # jobs tried for backfill in one plan, after the first that waits


def decide(state: State, policy: Policy) -> Plan:
    """A launch or a wait for every waiting job of the state."""
    order = _order(state, policy)
    if (rounds := getattr(policy, "allocate_round", None)) is not None and callable(rounds):
        return rotate(state, cast("RoundPolicy", policy), order)
    work = Workspace(state, policy)
    launches: list[Launch] = []
    verdicts: dict[int, Verdict] = {}
    launched = np.zeros(len(order), dtype=np.bool_)
    for position in _borrowers_last(state, work, order, _worth_a_look(state, policy, work, order)):
        row = order[position]
        ways = work.zone.ways_of(int(state.waiting.values[row, CLASS]), state.registry)
        outcome = _decide_one(policy, state.jobs[state.waiting.ids[row]], ways, work)
        if isinstance(outcome, Launch):
            launches.append(outcome)
            launched[position] = True
        else:
            verdicts[position] = outcome
    waits = Waits(state, work, order[~launched], np.flatnonzero(~launched), verdicts)
    return Plan(
        based_on=state.version,
        now=state.now,
        policy=policy.name,
        launches=tuple(launches),
        waits=waits,
        preempts=tuple(work.preempts),
        migrations=tuple(work.migrations),
    )


def _order(state: State, policy: Policy) -> Ints:
    values = state.waiting.values
    if len(values) == 1:
        return np.zeros(1, dtype=np.int64)
    return policy.order(_columns(values), to_ms(state.now))


def _columns(values: Ints) -> JobColumns:
    return JobColumns(
        priority_rank=values[:, PRIORITY],
        submitted_ms=values[:, SUBMITTED],
        devices=values[:, DEVICES],
        time_limit_ms=values[:, LIMIT],
        id_rank=np.arange(len(values), dtype=np.int64),
    )


def _ranks(state: State, policy: Policy) -> Ints:
    """Of each waiting job, what comes before the share of its queue: its priority, aged where the policy ages it."""
    aged = getattr(policy, "ranks", None)
    if aged is None:
        return state.waiting.values[:, PRIORITY]
    found: Ints = aged(_columns(state.waiting.values), to_ms(state.now))
    return found


# --- which jobs to look at --------------------------------------------------------------------------------------------


def _worth_a_look(
    state: State,
    policy: Policy,
    work: Workspace,
    order: Ints,
) -> Iterator[int]:
    """Positions in the order in which they are to be decided; those left out wait and change nothing."""
    if len(order) <= FEW and not policy.fair:
        yield from range(len(order))
        return
    line = state.waiting.line(order)
    chunk = FIRST
    found = work.worth(line, np.arange(len(order)))
    while len(found):
        if policy.fair:
            yield from _by_share(work, line, _ranks(state, policy)[order[found]], found)
            return
        rest = found[:chunk]
        while len(rest):
            missed = seen = 0
            for position in rest.tolist():
                seen += 1
                if work.still_worth(line, position):
                    missed = 0
                    yield position
                    if work.tests > TESTS:
                        return
                elif (missed := missed + 1) == MISSES:
                    break
            rest = work.worth(line, rest[seen:])
        # what a plan decides only takes room, so whoever is not worth a look now never is; but moves make room
        left = np.arange(int(found[:chunk][-1]) + 1, len(order)) if state.migrations else found[chunk:]
        found, chunk = work.worth(line, left), min(CHUNK, 2 * chunk)


def _borrowers_last(state: State, work: Workspace, order: Ints, positions: Iterator[int]) -> Iterator[int]:
    """The same positions; a job that would take what another queue of its cohort wants for itself comes after all others,
    and only as far as it leaves that one, while it waits, the quota it needs."""
    claims = work.claims()
    if not claims:
        yield from positions
        return
    later = []
    for position in positions:
        job = state.jobs[state.waiting.ids[order[position]]]
        if work.quotas.borrows(job.queue, int(state.waiting.values[order[position], DEVICES]), claims):
            later.append(position)
        else:
            yield position
    for position in later:
        if work.leaves_enough(state.jobs[state.waiting.ids[order[position]]]):
            yield position


def _by_share(work: Workspace, line: Line, ranks: Ints, found: Ints) -> Iterator[int]:
    """Each time the first job of the queue that has the least share of what it may have; higher priorities first.

    ranks: of those found, what comes before the share.
    """
    rank = dict(zip(found.tolist(), ranks.tolist(), strict=True))
    lines: dict[int, list[int]] = {}
    for position in found[::-1].tolist():
        lines.setdefault(int(line.queue[position]), []).append(position)
    heap = [(rank[mine[-1]], work.share(queue), mine[-1], queue) for queue, mine in lines.items()]
    heapq.heapify(heap)
    while heap:
        _, share, position, queue = heapq.heappop(heap)
        now = work.share(queue)
        mine = lines[queue]
        if now != share:
            heapq.heappush(heap, (rank[mine[-1]], now, mine[-1], queue))
            continue
        mine.pop()
        if work.still_worth(line, position):
            yield position
            if work.tests > TESTS:
                return
        if mine:
            heapq.heappush(heap, (rank[mine[-1]], work.share(queue), mine[-1], queue))


# --- one job ----------------------------------------------------------------------------------------------------------


def _decide_one(policy: Policy, job: WaitingJob, ways: Sequence[Way], work: Workspace) -> Launch | Verdict:
    if job.gate is not None:
        return Verdict("gate")
    if not ways:
        return Verdict("never")
    if not (ways := work.linked(job, ways)):
        return Verdict("far")
    work.book()
    headroom = work.quotas.headroom(job.queue)
    within = ways if headroom is None else [w for w in ways if w.least * w.shape.count <= headroom]
    if not within:
        least = min(way.least * way.shape.count for way in ways)
        work.owe(job.queue, least)
        if policy.preempts and headroom is not None:
            work.stops.make_room(job, ways, release=least - headroom)
        return Verdict("quota")
    if work.blocked and all(work.blocked.get(way.number) for way in within):
        work.hold(within)
        work.owe(job.queue, min(way.least * way.shape.count for way in within))
        return Verdict("behind")
    able = within
    if job.money.max_net_fen is not None:
        priced = [(way, work.candidate(job, way)) for way in within]
        able = [way for way, one in priced if affordable(job, one)]
        if not able:
            return Verdict("dear", tuple(one for _, one in priced))
    open_ = [way for way in able if not work.blocked.get(way.number)] if work.blocked else able
    now = work.fitting(open_, job) if open_ else []
    if job.request.ordered and now:
        first = min(way.alternative for way in now)
        now = [way for way in now if way.alternative == first]
    if now:
        launch = _launch(policy, job, [(way, work.candidate(job, way)) for way in now], work, headroom)
        if launch is not None:
            return launch
    if work.state.migrations and make_room(job, open_, work):
        return _decide_one(policy, job, ways, work)
    if policy.preempts:
        work.stops.make_room(job, able)
    work.wait(job, able)
    work.owe(job.queue, min(way.least * way.shape.count for way in able))
    return Verdict("busy", offered=tuple(open_ or able))


def _launch(
    policy: Policy,
    job: WaitingJob,
    now: Sequence[tuple[Way, Candidate]],
    work: Workspace,
    headroom: int | None,
) -> Launch | None:
    """The best candidate that topology allows, placed; None if none is left."""
    way_of = {(one.alternative, one.pool): way for way, one in now}
    ranked = policy.choose(job, [one for _, one in now]) if len(now) > 1 else (now[0][1],)
    while ranked:
        best = ranked[0]
        terms = _terms(best)
        alike = [one for one in ranked if _terms(one) == terms]
        placed = place(job, [(way_of[one.alternative, one.pool], one) for one in alike], work, headroom)
        if placed is not None:
            chosen, placement = placed
            work.quotas.take(job.queue, placement.device_count)
            if len(placement.members) != job.nodes:
                smaller = replace(job, nodes=len(placement.members))
                chosen = work.candidate(smaller, way_of[chosen.alternative, chosen.pool])
            return Launch(
                job=job.id,
                firm=job.firm,
                lease=lease_id(JobId(job.id), job.attempt),
                placement=placement,
                chosen=chosen,
                rejected=tuple(
                    one for one in ranked if one.pool != chosen.pool or one.alternative != chosen.alternative
                ),
            )
        ranked = tuple(one for one in ranked if _terms(one) != terms)
    return None


def _terms(one: Candidate) -> tuple[object, ...]:
    """All that tells it from another but its nodes: of candidates alike in this, packing may decide."""
    return (one.alternative, one.effective_fen, one.gross_fen, one.transfer_ms, one.energy_fen, one.carbon_g)
