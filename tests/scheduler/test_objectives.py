"""What each objective compares once it is known how long a job takes on a model."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.engine import EMPTY, Set, Value, apply
from scheduler.job import Alternative, Money, Objective, Request
from scheduler.netcost import candidate, profiles_of
from scheduler.node import Node, NodeId, PoolId
from scheduler.plan import Candidate
from scheduler.policies.net_cost import NetCost
from scheduler.shape import class_of
from scheduler.snapshot import Terms, Throughput, WaitingJob
from scheduler.workspace import Workspace
from tests.scheduler.test_net_cost import FIRM, HOUR, job, pool, rate, terms


def offered(found: WaitingJob, rows: list[tuple[str, int, int]]) -> list[Candidate]:
    """model, price, steps per 1,000 s on eight devices (0 = unknown)."""
    known = profiles_of([rate(model, 8, steps) for model, _, steps in rows if steps])
    return [
        candidate(found, 0, pool(model, price), replace(terms(price, rate=0), pool=PoolId(model)), known)
        for model, price, _ in rows
    ]


def first(objective: Objective, rows: list[tuple[str, int, int]], hours: int = 10) -> str:
    asked = job(
        money=Money(objective=objective),
        time_limit_ms=hours * HOUR,
        request=Request(alternatives=(Alternative(text="8", count=8),)),
    )
    return NetCost().choose(asked, offered(asked, rows))[0].pool


# Slow and cheap an hour, quick and dear an hour but cheaper for the work, quickest and dearest.
ROWS = [("slow", 1000, 500), ("quick", 1500, 1000), ("quickest", 9000, 2000)]


@pytest.mark.parametrize(
    ("objective", "wanted"),
    [(Objective.GROSS_COST, "quick"), (Objective.NET_COST, "quick"), (Objective.START_TIME, "quickest")],
)
def test_an_objective_compares_what_is_predicted(objective: Objective, wanted: str) -> None:
    assert first(objective, ROWS) == wanted


@pytest.mark.parametrize("objective", list(Objective))
def test_a_model_on_which_the_job_would_be_cut_off_comes_last_and_says_so(objective: Objective) -> None:
    """3,600 steps in an hour's limit: the cheap slow model needs two."""
    rows = [("slow", 1, 500), ("quick", 5000, 1000)]
    assert first(objective, rows, hours=1) == "quick"
    asked = job(time_limit_ms=HOUR)
    assert [one.exceeds_limit for one in offered(asked, rows)] == [True, False]


def test_a_candidate_says_what_is_expected_of_it() -> None:
    known = profiles_of([rate("m", 8, 1000)])
    one = candidate(job(), 0, pool("m"), terms(shadow=300), known)
    assert (one.predicted_ms, one.expected_fen, one.gross_fen) == (HOUR, 8_000, 80_000)
    assert (one.shadow_price_permille, one.exceeds_limit) == (300, False)
    bare = candidate(job(workload=None), 0, pool("m"), None, known)
    assert (bare.predicted_ms, bare.expected_fen, bare.shadow_price_permille) == (None, None, 0)


@given(rows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=6))
def test_a_choice_is_a_permutation_with_the_cut_off_ones_behind(rows: list[tuple[int, int, int]]) -> None:
    ways = [
        Candidate(
            alternative=0, pool=f"p{n}", model="m", gross_fen=gross, net_fen=gross, hold_fen=0, effective_fen=effective,
            predicted_ms=None if late == 2 else late, expected_fen=None, exceeds_limit=late == 1,
        )
        for n, (gross, effective, late) in enumerate(rows)
    ]  # fmt: skip
    for objective in Objective:
        found = NetCost().choose(job(money=Money(objective=objective)), ways)
        assert sorted(one.pool for one in found) == sorted(one.pool for one in ways)
        flags = [one.exceeds_limit for one in found]
        assert flags == sorted(flags)


def test_what_is_copied_to_an_alike_pool_is_all_of_it() -> None:
    """Pools at the same terms are priced once; the second pool's candidate differs in its pool only."""
    asked = job(request=Request(alternatives=(Alternative(text="8", count=8, models=("m",)),)))
    pools = [replace(pool("m"), id=PoolId(name)) for name in ("a", "b")]
    nodes = [Node(id=NodeId(p.id), pool=p.id, devices=tuple(f"{p.id}{i}" for i in range(8))) for p in pools]
    money = [
        Terms(
            firm=FIRM, pool=p.id, price_fen_per_device_hour=1000, rate_bp=4000, room_fen=10**9, shadow_price_permille=9
        )
        for p in pools
    ]
    known: Throughput = rate("m", 8, 99)
    values: list[Value] = [*pools, *nodes, *money, asked, known]
    state = apply(EMPTY, [Set(value) for value in values])
    work = Workspace(state, NetCost())
    assert state.zone is not None
    one, other = (work.candidate(asked, way) for way in state.zone.ways(class_of(asked)))
    assert {f.name for f in fields(Candidate) if getattr(one, f.name) != getattr(other, f.name)} == {"pool"}
    assert one.exceeds_limit
