"""Laws 7, 8 and 10: usage adds up, settling twice changes nothing, a missing sample is a gap."""

from __future__ import annotations

import itertools
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from adapters.accelerator import Source
from adapters.sample import integrate
from metering.schema import settlements, transfers
from scheduler.job import FirmId, JobId
from scheduler.lease import LeaseId
from scheduler.usage import UsageKind, UsageRecord, clip
from tests.fakes import NOON
from tests.platform import Platform, job_text

MS = st.integers(0, 10_000_000)


def usage(start_ms: int, end_ms: int) -> UsageRecord:
    return UsageRecord(
        lease=LeaseId("l"),
        job=JobId("j"),
        firm=FirmId("f"),
        provider="p",
        site="s",
        pool="q",
        vendor="ascend",
        model="Ascend910B3",
        source=Source.SIMULATED,
        kind=UsageKind.RUN,
        cause=None,
        devices=8,
        share_permille=1000,
        start=NOON + timedelta(milliseconds=start_ms),
        end=NOON + timedelta(milliseconds=end_ms),
        price_fen_per_device_hour=2000,
    )


@given(a=MS, b=MS, cuts=st.lists(MS, max_size=6))
def test_usage_over_adjacent_intervals_adds_up_to_usage_over_their_union(a: int, b: int, cuts: list[int]) -> None:
    record = usage(min(a, b), max(a, b))
    edges = sorted({0, *cuts, 10_000_000})
    parts = [
        clip(record, NOON + timedelta(milliseconds=low), NOON + timedelta(milliseconds=high))
        for low, high in itertools.pairwise(edges)
    ]

    assert record.device_ms == sum(part.device_ms for part in parts if part is not None)


def test_settling_twice_changes_nothing(platform: Platform) -> None:
    """A second settlement of the same usage posts no transfer and gives the same totals."""
    job = platform.submit("a", job_text())
    platform.loop.tick()
    platform.clock.advance(3601.234)
    platform.backend.end(f"{job}.1", 0)
    platform.loop.tick()
    before = platform.rows(transfers)

    with platform.database.write() as tx:
        platform.budget.charge(tx, [JobId(job)], platform.clock.now(), final=True)

    assert before == platform.rows(transfers)
    first, second = platform.rows(settlements)
    assert first["case_json"] == second["case_json"]
    assert first["fee_fen"] == second["fee_fen"]


@given(
    readings=st.lists(st.tuples(st.integers(1, 40), st.none() | st.floats(0, 1)), min_size=1, max_size=20),
)
def test_a_missing_sample_is_reported_as_a_gap_and_never_as_zero(readings: list[tuple[int, float | None]]) -> None:
    """Covered and missing time add up to the whole, and an unknown reading covers nothing."""
    at, samples = NOON, []
    for seconds, value in readings:
        at += timedelta(seconds=seconds)
        samples.append((at, value))
    end = at + timedelta(seconds=60)

    found = integrate(samples, NOON, end, period_ms=15_000)

    assert found.covered_ms + found.gap_ms == (end - NOON) // timedelta(milliseconds=1)
    if all(value is None for _, value in readings):
        assert found.value is None
    ones = [(moment, None if value is None else 1.0) for moment, value in samples]
    flat = integrate(ones, NOON, end, period_ms=15_000)
    assert flat.value is None or abs(flat.value * 1000 - flat.covered_ms) < 1
