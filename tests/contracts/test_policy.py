"""What every registered placement policy must keep: total, deterministic order; choices that lose and add nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.plan import Candidate
from scheduler.policy import JobColumns
from scheduler.registry import POLICIES, load_policy, registered
from tests.builders import snapshots

pytestmark = pytest.mark.contract
every_policy = pytest.mark.parametrize("name", sorted(registered(POLICIES)))
NUMBERS = st.integers(0, 3)


@every_policy
def test_its_name_is_the_one_it_is_registered_under(name: str) -> None:
    assert name == load_policy(name).name


@every_policy
@given(rows=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=12))
def test_order_is_a_permutation_and_the_same_each_time(name: str, rows: list[tuple[int, int, int, int]]) -> None:
    columns = [np.array([row[i] for row in rows], dtype=np.int64) for i in range(4)]
    jobs = JobColumns(
        priority_rank=columns[0], submitted_ms=columns[1], devices=columns[2], time_limit_ms=columns[3],
        id_rank=np.arange(len(rows), dtype=np.int64),
    )  # fmt: skip
    before = [column.copy() for column in columns]
    first = load_policy(name).order(jobs, 0)

    assert list(range(len(rows))) == sorted(int(i) for i in first)
    assert list(first) == list(load_policy(name).order(jobs, 0))
    assert all((a == b).all() for a, b in zip(before, columns, strict=True))


CANDIDATES = st.lists(
    st.builds(
        Candidate, alternative=NUMBERS, pool=st.sampled_from("abcd"), model=st.just("m"), gross_fen=NUMBERS, net_fen=NUMBERS,
        hold_fen=NUMBERS, effective_fen=NUMBERS,
    ),
    min_size=1, max_size=6, unique_by=lambda c: (c.alternative, c.pool),
)  # fmt: skip


@every_policy
@given(candidates=CANDIDATES, snapshot=snapshots().filter(lambda s: bool(s.jobs)), turn=st.integers(0, 5))
def test_choice_is_a_permutation_that_does_not_depend_on_the_order_given(
    name: str, candidates: list[Candidate], snapshot: object, turn: int
) -> None:
    job = snapshot.jobs[0]  # type: ignore[attr-defined]
    chosen = load_policy(name).choose(job, candidates)
    turned = candidates[turn % len(candidates) :] + candidates[: turn % len(candidates)]

    assert sorted(candidates, key=repr) == sorted(chosen, key=repr)
    assert chosen == load_policy(name).choose(job, turned)
