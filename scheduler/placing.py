"""Placing: which nodes and devices a gang gets, in the best of pools that cost it the same. Pure but for the workspace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scheduler.columns import WHOLE, Ints
from scheduler.lease import Member, Placement
from scheduler.plan import Candidate
from scheduler.shape import least_nodes
from scheduler.snapshot import WaitingJob
from scheduler.topology import INSIDE, choose, devices
from scheduler.workspace import Workspace
from scheduler.zone import Way


def place(
    job: WaitingJob, ways: Sequence[tuple[Way, Candidate]], work: Workspace, headroom: int | None
) -> tuple[Candidate, Placement] | None:
    """The gang is started in the workspace on the best nodes; None if topology or links allow none.

    An elastic gang gets as many nodes as fit, up to `nodes`. Pools compete by the mean score of the gang's nodes.
    """
    score, device = work.score([way for way, _ in ways], job)
    if job.nodes == 1 and job.request.topology_required not in INSIDE[1:]:
        return _place_one(job, ways, work, score, device)
    best: tuple[float, int, Way, Candidate, Ints] | None = None
    for rank, (way, one) in enumerate(ways):
        rows = work.zone.rows[way.number]
        able = score[rows] > -np.inf
        if job.request.topology_required in INSIDE[1:]:
            able &= np.array(
                [fit and _linked(work, int(row), way, job) is not None for row, fit in zip(rows, able, strict=True)]
            )
        nodes = min(job.nodes, int(able.sum()))
        if headroom is not None and way.shape.count:
            nodes = min(nodes, headroom // way.shape.count)
        chosen = _rows(job, work, rows, able, score, nodes)
        if chosen is not None:
            mean = float(score[chosen].mean())
            if best is None or (len(chosen), mean) > (len(best[4]), best[0]):
                best = (mean, rank, way, one, chosen)
    if best is None:
        return None
    _, _, way, one, chosen = best
    return one, _start(job, way, work, sorted(chosen.tolist()), device)


def affordable(job: WaitingJob, one: Candidate) -> bool:
    """The job allows that much, net."""
    return job.money.max_net_fen is None or one.net_fen + one.transfer_fen <= job.money.max_net_fen


def _place_one(
    job: WaitingJob,
    ways: Sequence[tuple[Way, Candidate]],
    work: Workspace,
    score: npt.NDArray[np.float64],
    device: Ints,
) -> tuple[Candidate, Placement]:
    rows = work.zone.within(sorted({way.number for way, _ in ways}))
    row = int(rows[score[rows].argmax()])
    number = int(work.zone.pool_of[row])
    way, one = next(both for both in ways if both[0].number == number)
    return one, _start(job, way, work, [row], device)


def _rows(
    job: WaitingJob,
    work: Workspace,
    rows: Ints,
    able: npt.NDArray[np.bool_],
    score: npt.NDArray[np.float64],
    nodes: int,
) -> Ints | None:
    """The best rows for as many members as fit, no fewer than the job's smallest gang."""
    required, preferred = job.request.topology_required, job.request.topology_preferred
    required = None if required in INSIDE else required
    preferred = None if preferred in INSIDE else preferred
    least = least_nodes(job)
    if required is None and preferred is None:
        if nodes < least:
            return None
        fitting = rows[able]
        worth = score[fitting]
        if nodes < len(fitting):
            edge = np.partition(worth, len(worth) - nodes)[len(worth) - nodes]
            above = fitting[worth > edge]
            return np.concatenate([above, fitting[worth == edge][: nodes - len(above)]])
        return fitting
    domains = {level: domain[rows] for level, domain in work.zone.domains().items()}
    while nodes >= least:
        found = choose(rows, able.astype(np.int64), domains, nodes, required, preferred, -score[rows])
        if found is not None:
            return found
        nodes -= 1
    return None


def _start(job: WaitingJob, way: Way, work: Workspace, rows: list[int], device: Ints) -> Placement:
    places = []
    members = []
    columns = work.columns
    for rank, row in enumerate(rows):
        held = _places(work, row, way, job, device)
        places.append(held)
        names = columns.devices[row]
        members.append(Member(rank=rank, node=columns.ids[row], devices=tuple([names[i] for i in held])))
    work.start(way, rows, places, job)
    return Placement(pool=way.pool.id, model=way.pool.model, members=tuple(members))


def _places(work: Workspace, row: int, way: Way, job: WaitingJob, device: Ints) -> tuple[int, ...]:
    """The devices of one member: the best for a share, else of one link group where that is possible, lowest first."""
    if not way.shape.count:
        return ()
    if way.shape.share < WHOLE:
        return (int(device[row]),)
    if work.zone.links(row):
        linked = _linked(work, row, way, job)
        assert linked is not None, "the row was found to fit"
        return linked
    free = work.columns.free[row]
    return tuple((free == WHOLE).nonzero()[0][: way.shape.count].tolist())


def _linked(work: Workspace, row: int, way: Way, job: WaitingJob) -> tuple[int, ...] | None:
    free = (work.columns.free[row] == WHOLE).nonzero()[0].tolist()
    links = work.zone.links(row) or tuple(0 for _ in work.columns.devices[row])
    return devices(free, links, way.shape.count, job.request.topology_required in INSIDE[1:])
