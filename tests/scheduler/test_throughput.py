"""The throughput table: what is measured weighs more than what is learnt, that more than a prior; unknown stays unknown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.snapshot import Throughput
from scheduler.throughput import (
    Observation,
    error,
    estimate,
    learn,
    look_up,
    peaks,
    prior,
    rate_per_ks,
    table_of,
    update,
)


def row(
    rate: int, source: str = "measured", devices: int = 1, model: str = "A", error: int | None = None
) -> Throughput:
    return Throughput(
        workload="w", model=model, devices=devices, steps_per_ks=rate, source=source, error_permille=error
    )  # fmt: skip


def seen(rate: int, minutes: int = 6, devices: int = 1, model: str = "A") -> Observation:
    return Observation(
        workload="w", model=model, devices=devices, steps=rate * minutes * 60, elapsed_ms=minutes * 60_000
    )


def test_unknown_is_none_and_a_known_zero_is_zero() -> None:
    table = table_of([row(0)])
    assert rate_per_ks(table, "w", "A", 1) == 0
    assert rate_per_ks(table, "w", "A", 2) is None
    assert rate_per_ks(table, "other", "A", 1) is None
    assert look_up(table, "w", "A", 2) is None  # a zero says nothing about another size
    assert look_up({}, "w", "A", 1) is None


def test_of_two_rows_the_better_known_one_stays_whatever_the_order() -> None:
    rows = [row(900, "catalogue"), row(1000, "measured"), row(950, "learnt")]
    assert table_of(rows)["w", "A", 1].steps_per_ks == 1000
    assert table_of(rows[::-1]) == table_of(rows)


def test_one_report_moves_a_prior_far_what_was_learnt_less_and_a_measurement_not_at_all() -> None:
    from_prior, from_learnt = (learn(row(1_000, source), seen(2)) for source in ("catalogue", "learnt"))
    assert from_prior is not None
    assert from_learnt is not None
    assert 1_850 < from_prior.steps_per_ks < 2_000
    assert 1_350 < from_learnt.steps_per_ks < 1_500
    assert from_prior.source == from_learnt.source == "learnt"
    assert learn(row(1_000, "measured"), seen(2)) == row(1_000, "measured")


def test_what_is_learnt_first_starts_from_the_prior() -> None:
    # 2,000 on A with a fifth of B's peak: 10,000 on B as a guess; a report of 12 steps a second moves it most of the way
    table = table_of([row(2_000, model="A")])
    after = update(table, seen(12, model="B"), {"A": 100, "B": 500})["w", "B", 1]
    assert 11_500 < after.steps_per_ks < 12_000
    assert error(after) < 200  # less than of the report alone: the prior says something too
    assert update(table, seen(12, model="B"), {})["w", "B", 1].steps_per_ks == 12_000


def test_an_estimate_is_the_row_else_another_size_else_the_prior() -> None:
    table = table_of([row(1_000, model="V100"), row(700, "learnt", model="T4", devices=2)])
    exact, size, guess = (estimate(table, "w", model, 1) for model in ("V100", "T4", "A100-80GB"))
    assert exact == row(1_000, model="V100")
    assert size == look_up(table, "w", "T4", 1)
    assert size is not None
    assert error(size) > 200
    assert guess == prior(table, "w", "A100-80GB", 1, peaks())
    assert guess is not None
    assert 1_000 < guess.steps_per_ks < 3_000  # 312 against 125 TFLOPS, drawn down by the T4
    assert error(guess) == 700
    assert estimate(table, "w", "a model of no catalogue", 1) is None
    assert estimate(table, "another workload", "V100", 1) is None


def test_a_report_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\('w', 'A', 2\) is not of what was observed, \('w', 'A', 1\)"):
        learn(row(5, devices=2), seen(1))


def test_no_steps_leave_what_was_known_even_if_that_is_nothing() -> None:
    idle = Observation(workload="w", model="A", devices=1, steps=0, elapsed_ms=1)
    assert learn(None, idle) is None
    assert learn(row(5, "learnt"), idle) == row(5, "learnt")


def test_precision_weighted_mean_by_hand() -> None:
    # prior ln 1000 ± hypot(200, 20)‰ = 201.0‰, report ln 4000 ± 200‰: weights 24.752 and 25; mean ln = 7.6044
    after = update(table_of([row(1_000, "learnt")]), seen(4))["w", "A", 1]
    assert after.steps_per_ks == pytest.approx(2_007, abs=2)
    assert after.error_permille == 142


def test_the_first_report_of_something_unknown_is_believed_as_it_is() -> None:
    after = update({}, seen(3))["w", "A", 1]
    assert (after.steps_per_ks, after.error_permille, after.source) == (3_000, 200, "learnt")


@given(
    st.integers(1, 10**6),
    st.lists(st.integers(1, 1000), min_size=1, max_size=30),
    st.sampled_from(["learnt", "catalogue"]),
)
def test_an_update_lies_between_what_was_known_and_what_was_seen(known: int, rates: list[int], source: str) -> None:
    table = table_of([row(known, source)])
    for rate in rates:
        before = table["w", "A", 1]
        after = update(table, seen(rate))
        low, high = sorted((before.steps_per_ks, rate * 1000))
        assert low - 1 <= after["w", "A", 1].steps_per_ks <= high + 1
        assert error(after["w", "A", 1]) <= error(before) + 20
        assert table["w", "A", 1] == before
        table = after


@given(st.integers(1, 10**6), st.integers(1, 1000))
def test_reports_that_agree_win_in_the_end(prior_rate: int, rate: int) -> None:
    table = table_of([row(prior_rate, "catalogue")])
    for _ in range(300):
        table = update(table, seen(rate))
    assert table["w", "A", 1].steps_per_ks == pytest.approx(rate * 1000, rel=0.05)


def test_a_longer_interval_says_more() -> None:
    table = table_of([row(1_000, "learnt")])
    assert (
        update(table, seen(2, minutes=60))["w", "A", 1].steps_per_ks > update(table, seen(2))["w", "A", 1].steps_per_ks
    )


def test_no_steps_say_nothing() -> None:
    table = table_of([row(1_000)])
    assert update(table, Observation(workload="w", model="A", devices=1, steps=0, elapsed_ms=1)) == table


def test_another_size_is_carried_over_with_a_wider_error() -> None:
    table = table_of([row(1_000, devices=1), row(1_800, devices=2)])
    found = look_up(table, "w", "A", 4)
    assert found is not None
    assert found.source == "catalogue"
    assert found.steps_per_ks == round(1_800 * 1.7)  # from two devices, one doubling at 0.85 of linear
    assert error(found) > error(table["w", "A", 2])


def test_the_prior_scales_by_flops_and_knows_nothing_without_them() -> None:
    table = table_of([row(1_000, model="A")])
    found = prior(table, "w", "B", 1, {"A": 100, "B": 300})
    assert found is not None
    assert found.steps_per_ks == 3_000
    assert error(found) == 700
    assert prior(table, "w", "B", 1, {"A": 100, "B": None}) is None
    assert prior(table, "w", "B", 1, {"B": 300}) is None
    assert prior({}, "w", "B", 1, {"A": 100, "B": 300}) is None


@pytest.mark.parametrize(("field", "value"), [("devices", 0), ("steps", -1), ("elapsed_ms", 0)])
def test_a_malformed_observation_says_which_field(field: str, value: int) -> None:
    values = {"devices": 1, "steps": 1, "elapsed_ms": 1, field: value}
    with pytest.raises(ValueError, match=f"{field}: {value}"):
        Observation(workload="w", model="A", **values)
