"""Fair shares and the order of the queue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.fairness import FairnessError, age_rank, dominant_shares, fair_order, share_error, turn_shares

HOUR = 3_600_000


def ints(*values: object) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


@st.composite
def zones(draw: st.DrawFn) -> tuple[npt.NDArray[np.int64], ...]:
    queues, classes = draw(st.integers(1, 4)), draw(st.integers(1, 4))

    def row(low: int, high: int, n: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=n, max_size=n))

    used = np.array([row(0, 40, classes) for _ in range(queues)], dtype=np.int64)
    return used, ints(*row(0, 200, classes)), ints(*row(1, 5000, classes)), ints(*row(1, 9, queues))


def test_half_of_the_cheap_class_is_no_heavy_use() -> None:
    used = ints([50, 0], [0, 10])  # 50 of 100 cheap cards against 10 of 100 that cost ten times as much
    shares = dominant_shares(used, ints(100, 100), ints(200, 2000), ints(1, 1))
    assert shares.tolist() == pytest.approx([0.05, 0.10])
    plain = dominant_shares(used, ints(100, 100), ints(7, 7), ints(1, 1))
    assert plain.tolist() == pytest.approx([0.5, 0.1])


def test_shares_of_one_class_by_weight() -> None:
    assert dominant_shares(ints([30], [30]), ints(60), ints(5), ints(1, 3)).tolist() == pytest.approx([0.5, 1 / 6])


def test_devices_that_went_away_and_values_of_nothing() -> None:
    assert dominant_shares(ints([6], [2]), ints(0), ints(0), ints(1, 1)).tolist() == pytest.approx([0.75, 0.25])


@given(zones())
def test_shares_lie_between_0_and_1_and_grow_with_use(zone: tuple[npt.NDArray[np.int64], ...]) -> None:
    used, capacity, value, weights = zone
    shares = dominant_shares(used, capacity, value, weights)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert ((shares > 0) == used.any(axis=1)).all()
    more = used.copy()
    more[0, 0] += 1
    assert dominant_shares(more, capacity, value, weights)[0] >= shares[0]


@given(zones(), st.integers(2, 9))
def test_only_ratios_of_values_count_and_weight_divides(zone: tuple[npt.NDArray[np.int64], ...], k: int) -> None:
    used, capacity, value, weights = zone
    shares = dominant_shares(used, capacity, value, weights)
    assert dominant_shares(used, capacity, value * k, weights) == pytest.approx(shares)
    assert dominant_shares(used, capacity, value, weights * k) == pytest.approx(shares / k)


@given(zones())
def test_of_equal_values_it_is_weighted_drf(zone: tuple[npt.NDArray[np.int64], ...]) -> None:
    used, capacity, value, weights = zone
    there = np.maximum(np.maximum(capacity, used.sum(axis=0)), 1)
    expected = [max(u / t for u, t in zip(row, there, strict=True)) / w for row, w in zip(used, weights, strict=True)]
    assert dominant_shares(used, capacity, np.full_like(value, 300), weights) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((ints(1, 2), ints(1), ints(1), ints(1)), "used: 1 dimensions"),
        ((ints([1]), ints(1, 1), ints(1), ints(1)), r"capacity: shape \(2,\); nearest: \(1,\)"),
        ((ints([1]), ints(1), ints(-1), ints(1)), "value: -1 is below 0"),
        ((ints([-1]), ints(1), ints(1), ints(1)), "used: -1 is below 0"),
        ((ints([1]), ints(1), ints(1), ints(0)), "weights: 0 is below 1; nearest: 1"),
    ],
)
def test_figures_that_make_no_share(arguments: tuple[npt.NDArray[np.int64], ...], text: str) -> None:
    with pytest.raises(FairnessError, match=text):
        dominant_shares(*arguments)


JOBS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 500)), min_size=1, max_size=12)


@given(JOBS, st.randoms())
def test_order_does_not_depend_on_the_order_of_input(jobs: list[tuple[int, int, int]], random: object) -> None:
    names = [f"j{i:02}" for i in range(len(jobs))]
    share = np.array([0.1 * q for _, q, _ in jobs])
    columns = [ints(*(j[0] for j in jobs)), share, ints(*(j[2] for j in jobs)), np.array(names)]
    served = [names[i] for i in fair_order(*columns)]
    shuffled = list(range(len(jobs)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = fair_order(*(c[shuffled] for c in columns))
    assert [names[shuffled[i]] for i in again] == served
    assert served == sorted(names, key=lambda n: (jobs[int(n[1:])][0], jobs[int(n[1:])][1], jobs[int(n[1:])][2], n))


@given(JOBS, st.integers(1, 50), st.integers(500, 900))
def test_nobody_starves_under_ageing(jobs: list[tuple[int, int, int]], step: int, now: int) -> None:
    rank, submitted = ints(*(j[0] for j in jobs)), ints(*(j[2] for j in jobs))
    aged = age_rank(rank, submitted, now, step)
    served = fair_order(aged, np.array([float(j[1]) for j in jobs]), submitted, np.arange(len(jobs))).tolist()
    for i, mine in enumerate(jobs):
        for j, other in enumerate(jobs):
            if other[2] > mine[2] + (mine[0] + 1) * step:
                assert served.index(i) < served.index(j)


def test_ageing_raises_one_rank_a_step() -> None:
    aged = age_rank(ints(2, 2, 0, 1), ints(0, 9 * HOUR, 11 * HOUR, 99 * HOUR), 12 * HOUR, 6 * HOUR)
    assert aged.tolist() == [0, 2, 0, 1]
    with pytest.raises(FairnessError, match="step_ms: 0"):
        age_rank(ints(1), ints(0), 0, 0)


def test_queues_take_turns() -> None:
    queue = ints(0, 0, 0, 1, 1)
    share = turn_shares(
        np.array([0.0, 0.15]), queue, np.full(5, 0.1), ints(0, 0, 0, 0, 0), ints(1, 2, 3, 4, 5), list("abcde")
    )
    assert share.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.15, 0.25])
    order = fair_order(ints(0, 0, 0, 0, 0), share, ints(1, 2, 3, 4, 5), list("abcde"))
    assert order.tolist() == [0, 1, 3, 2, 4]
    assert turn_shares(np.zeros(1), ints(), np.zeros(0), ints(), ints(), []).tolist() == []


def test_only_what_stands_before_a_job_counts() -> None:
    zeros, steps = ints(0, 0, 0), np.array([0.3, 0.1, 0.2])
    assert turn_shares(np.zeros(1), zeros, steps, zeros, ints(1, 3, 2), list("abc")).tolist() == pytest.approx(
        [0.0, 0.5, 0.3]
    )


def test_share_error_counts_those_that_want_more() -> None:
    shares = np.array([0.5, 0.2, 0.0])
    assert share_error(shares, np.array([True, True, False])) == pytest.approx(0.3)
    assert share_error(shares, np.zeros(3, dtype=np.bool_)) == 0.0
