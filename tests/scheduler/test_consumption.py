"""What a lease is billed for, from what its backend saw."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.clock import to_ms
from scheduler.consumption import ending_of, usage_of_end, usage_until
from scheduler.lease import Cause, LeaseId, MemberPhase, MemberStatus, Observation, billed_interval
from scheduler.lifecycle import Event
from tests.fakes import NOON

POOL = {"provider": "p", "site": "s", "vendor": "ascend"}
ZONE = ZoneInfo("Asia/Shanghai")


def lease(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "id": "j.1",
        "job": "j",
        "firm": "f",
        "pool": "q",
        "model": "Ascend910B3",
        "source": "simulated",
        "device_count": 16,
        "price_fen_per_device_hour": 2000,
        "reserved_at_ms": to_ms(NOON) - 5_000,
        "metered_until_ms": None,
        "stop_cause": None,
    }
    return {**values, **changes}


def member(
    rank: int = 0, start_s: float = 0, end_s: float | None = 60, code: int | None = 0, **changes: Any
) -> MemberStatus:
    values: dict[str, Any] = {
        "rank": rank,
        "phase": MemberPhase.EXITED if end_s is not None else MemberPhase.RUNNING,
        "boot_id": "b",
        "started_at": NOON + timedelta(seconds=start_s),
        "started_ms": 1000 + round(start_s * 1000),
        "ended_ms": None if end_s is None else 1000 + round(end_s * 1000),
        "exit_code": None if end_s is None else code,
    }
    return MemberStatus(**{**values, **changes})


def seen(*members: MemberStatus) -> Observation:
    return Observation(lease=LeaseId("j.1"), members=members)


def test_billing_runs_from_the_last_start_to_the_last_exit() -> None:
    billed = billed_interval(seen(member(0, 0, 50), member(1, 2.5, 61)))

    assert billed is not None
    assert (NOON + timedelta(seconds=2.5), 58_500) == (billed.start, billed.duration_ms)


def test_a_gang_that_never_ran_whole_is_not_billed() -> None:
    never = member(1, started_at=None, started_ms=None)

    assert billed_interval(seen(member(0), never)) is None
    records = usage_of_end(lease(), POOL, seen(member(0), never), ending_of(lease(), seen(member(0), never)), NOON)
    assert [(r.kind.value, r.price_fen_per_device_hour) for r in records] == [("starting", 0)]


def test_members_of_different_boots_are_not_comparable() -> None:
    assert billed_interval(seen(member(0), member(1, boot_id="other"))) is None


@pytest.mark.parametrize(
    ("members", "stop_cause", "cause", "event", "code"),
    [
        ([member()], None, Cause.EXITED, Event.EXITED_ZERO, 0),
        ([member(code=3)], None, Cause.EXITED, Event.EXITED_NONZERO, 3),
        ([member(code=0), member(1, code=9)], None, Cause.EXITED, Event.EXITED_NONZERO, 9),
        ([member(code=-15, cause=Cause.CANCELLED)], "cancelled", Cause.CANCELLED, Event.CANCELLED, -15),
        ([member(code=0)], "cancelled", Cause.EXITED, Event.EXITED_ZERO, 0),
        ([member(code=-9, cause=Cause.TIME_LIMIT)], None, Cause.TIME_LIMIT, Event.TIME_LIMIT, -9),
        ([member(code=5), member(1, code=-15, cause=Cause.CANCELLED)], "exited", Cause.EXITED, Event.EXITED_NONZERO, 5),
        # on Kubernetes the others are ended for it before the loop asks
        ([member(code=-15, cause=Cause.CANCELLED), member(1, code=3)], None, Cause.EXITED, Event.EXITED_NONZERO, 3),
        ([member(code=0), member(1, code=-15, cause=Cause.CANCELLED)], None, Cause.CANCELLED, Event.CANCELLED, -15),
        ([member(phase=MemberPhase.LOST, exit_code=None)], None, Cause.NODE_FAIL, Event.NODE_FAILED, None),
        ([member(code=3), member(1, phase=MemberPhase.LOST)], None, Cause.NODE_FAIL, Event.NODE_FAILED, None),
    ],
)
def test_endings(
    members: list[MemberStatus], stop_cause: str | None, cause: Cause, event: Event, code: int | None
) -> None:
    """Each way to end, and what it is called."""
    ending = ending_of(lease(stop_cause=stop_cause), seen(*members))

    assert (cause, event, code) == (ending.cause, ending.event, ending.exit_code)


def test_start_up_is_recorded_at_price_zero_before_the_run() -> None:
    observed = seen(member(0, 3, 63))
    records = usage_of_end(lease(), POOL, observed, ending_of(lease(), observed), NOON)

    assert [(r.kind.value, r.price_fen_per_device_hour, r.device_ms // 16) for r in records] == [
        ("starting", 0, 8_000),
        ("run", 2000, 60_000),
    ]


@given(hours=st.integers(0, 120), cut=st.integers(0, 120))
def test_interim_records_and_the_last_one_cover_the_run_exactly(hours: int, cut: int) -> None:
    """However often the day turned, and wherever the loop looked, no millisecond is missing or counted twice."""
    first_look, end_s = min(hours, cut) * 3600, hours * 3600
    row, records = lease(), []
    for look in (first_look, end_s):
        for record in usage_until(row, POOL, seen(member(end_s=None)), 1000 + look * 1000, ZONE):
            records.append(record)
            row = lease(metered_until_ms=to_ms(record.end))
    observed = seen(member(end_s=end_s))
    records += [r for r in usage_of_end(row, POOL, observed, ending_of(row, observed), NOON) if r.kind.value == "run"]

    assert end_s * 1000 * 16 == sum(record.device_ms for record in records)
    assert all(a.end == b.start for a, b in itertools.pairwise(records))
    assert all(record.end.astimezone(ZONE).hour == 0 for record in records[:-1])


def test_midnight_is_the_zone_s() -> None:
    """Noon in Beijing plus 12 h is midnight there and 16:00 UTC."""
    running = seen(member(end_s=None))

    assert usage_until(lease(), POOL, running, 1000 + 12 * 3_600_000 - 1, ZONE) == ()
    (record,) = usage_until(lease(), POOL, running, 1000 + 12 * 3_600_000, ZONE)
    assert record.end.hour == 16
