"""Quotas and cohorts: what may be taken, what is lent, what may be reclaimed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.quota import QuotaError, Quotas, beyond
from scheduler.snapshot import QueueQuota

NAMES = ("a", "b", "c", "d")
LIMIT = st.none() | st.integers(0, 12)


def quota(name: str, nominal: int | None, **rest: Any) -> QueueQuota:
    return QueueQuota(name=name, nominal_devices=nominal, **({"cohort": "all"} | rest))


@st.composite
def cohorts(draw: st.DrawFn) -> list[QueueQuota]:
    return [
        quota(name, draw(st.integers(0, 12)), borrowing_limit=draw(LIMIT), lending_limit=draw(LIMIT))
        for name in NAMES[: draw(st.integers(1, 4))]
    ]


STEPS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 20)), max_size=12)


def grown(queues: list[QueueQuota], steps: list[tuple[str, int]]) -> dict[str, int]:
    """What is used after each queue in turn took what it wanted of its headroom."""
    found, used = Quotas(queues), dict.fromkeys((q.name for q in queues), 0)
    for name, wanted in steps:
        if name in used:
            used[name] += min(wanted, found.headroom(name, used) or 0)
    return used


@given(cohorts(), STEPS)
def test_cohort_never_uses_more_than_its_nominals(queues: list[QueueQuota], steps: list[tuple[str, int]]) -> None:
    used = grown(queues, steps)
    assert sum(used.values()) <= sum(q.nominal_devices or 0 for q in queues)


@given(cohorts(), STEPS)
def test_what_a_queue_does_not_lend_is_always_there(queues: list[QueueQuota], steps: list[tuple[str, int]]) -> None:
    used, found = grown(queues, steps), Quotas(queues)
    for q in queues:
        if q.lending_limit is not None:
            kept = (q.nominal_devices or 0) - q.lending_limit - used[q.name]
            assert (found.headroom(q.name, used) or 0) >= kept


@given(cohorts(), STEPS)
def test_limits_on_lending_and_borrowing_hold(queues: list[QueueQuota], steps: list[tuple[str, int]]) -> None:
    used, found = grown(queues, steps), Quotas(queues)
    for q in queues:
        assert used[q.name] <= (found.most(q.name) or 0)
        assert q.borrowing_limit is None or found.borrowed(q.name, used) <= q.borrowing_limit
    lent = sum(
        min(max(0, (q.nominal_devices or 0) - used[q.name]), 99 if q.lending_limit is None else q.lending_limit)
        for q in queues
    )
    assert sum(found.borrowed(q.name, used) for q in queues) <= lent


@given(cohorts(), st.dictionaries(st.sampled_from(NAMES), st.integers(0, 30)), st.sampled_from(NAMES))
def test_headroom_is_never_negative_and_falls_as_use_grows(
    queues: list[QueueQuota], used: dict[str, int], name: str
) -> None:
    found, more = Quotas(queues), used | {name: used.get(name, 0) + 1}
    for q in queues:
        before, after = found.headroom(q.name, used), found.headroom(q.name, more)
        assert before is not None
        assert after is not None
        assert 0 <= after <= before <= (found.most(q.name) or 0)


@given(cohorts(), STEPS)
def test_reclaiming_gives_the_nominal_back(queues: list[QueueQuota], steps: list[tuple[str, int]]) -> None:
    used, found = grown(queues, steps), Quotas(queues)
    for q in queues:
        owed, now = found.reclaimable(q.name, used), dict(used)
        borrowers = found.borrowers(q.name, used)
        assert bool(owed) == bool(borrowers)
        for other in borrowers:
            assert q.name in found.lenders(other, used)
            now[other] -= found.borrowed(other, used)
        assert (found.headroom(q.name, now) or 0) >= (q.nominal_devices or 0) - used[q.name]


@given(cohorts(), st.lists(st.tuples(st.sampled_from((*NAMES, "none")), st.integers(-5, 20)), max_size=12))
def test_a_standing_counts_as_the_quotas_do(queues: list[QueueQuota], steps: list[tuple[str, int]]) -> None:
    queues = [*queues, quota("own", 5, cohort=None), quota("free", None)]
    found, used = Quotas(queues), {"a": 3}
    standing = found.standing(used)
    for name, devices in steps:
        assert standing.headroom("a") == found.headroom("a", used)
        used[name] = used.get(name, 0) + devices
        standing.take(name, devices)
        for q in (*NAMES, "own", "free", "none"):
            assert standing.headroom(q) == found.headroom(q, used)
    assert standing.used() == used


def test_a_cohort_of_three() -> None:
    found = Quotas([quota("a", 8), quota("b", 8, lending_limit=3), quota("c", 4, borrowing_limit=2)])
    assert [found.most(n) for n in "abc"] == [15, 20, 6]
    assert found.headroom("a", {}) == 15
    used = {"a": 13}  # five above its nominal
    assert found.borrowed("a", used) == 5
    assert found.headroom("a", used) == 2  # 3 of b and 4 of c were lent at most
    assert found.headroom("b", used) == 7  # of 20 in all 13 are used
    assert found.headroom("c", used) == 2  # its own 4 + 3 of b - 5 lent to a
    assert found.reclaimable("b", used) == 1
    assert found.reclaimable("c", used) == 2
    assert found.lenders("a", used) == ("b", "c")
    assert found.borrowers("c", used) == ("a",)
    assert found.lenders("c", used) == ()


def test_without_a_cohort_the_nominal_is_the_limit() -> None:
    found = Quotas([quota("a", 8, cohort=None), quota("b", 8, cohort=None)])
    assert (found.most("a"), found.headroom("a", {"a": 5}), found.headroom("a", {"a": 9})) == (8, 3, 0)


def test_no_limit() -> None:
    found = Quotas([quota("free", None), quota("a", 4)])
    assert (found.most("free"), found.headroom("free", {"free": 99}), found.borrowed("free", {"free": 99})) == (
        None,
        None,
        0,
    )
    assert found.headroom("nobody", {}) is None
    assert found.most("nobody") is None
    assert found.headroom("a", {"free": 99}) == 4  # what has no nominal neither lends nor borrows


def test_the_newest_leases_are_the_borrowed_ones() -> None:
    assert beyond([4, 4, 4, 1], 8) == (False, False, True, True)
    assert beyond([6, 4, 1], 8) == (False, True, True)
    assert beyond([], 8) == ()


@pytest.mark.parametrize(
    ("queues", "text"),
    [
        ([quota("a", 1), quota("a", 2)], "queues/a: given twice"),
        ([quota("a", -1)], "nominal_devices: -1 is below 0; nearest: 0"),
        ([quota("a", 1, lending_limit=-2)], "lending_limit: -2"),
        ([quota("a", 1, borrowing_limit=-2)], "borrowing_limit: -2"),
    ],
)
def test_quota_that_cannot_hold(queues: list[QueueQuota], text: str) -> None:
    with pytest.raises(QuotaError, match=text):
        Quotas(queues)
