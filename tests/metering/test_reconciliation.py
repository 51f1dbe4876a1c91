"""Three counts of one lease and day side by side; a difference is shown to somebody, and no count is bent."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from adapters.event import Kind
from metering.events import events_of, ingest
from metering.metered import device_ms_within, metered
from metering.reconciliation import covered_ms, day_bounds, reconcile
from metering.schema import reviews
from scheduler import journal
from scheduler.clock import to_ms
from scheduler.database import Database
from scheduler.schema import jobs, lease_devices, leases, samples, usage_records
from tests.fakes import NOON
from tests.metering.event_cases import Voice, Zone, furnish

LEASE = "job_a.1"
DAY = date(2026, 6, 1)
NIGHT = datetime(2026, 6, 1, 16, tzinfo=UTC)  # midnight in Beijing, where 2 June begins
LATER = NOON + timedelta(days=5)


@pytest.fixture
def zone(database_url: str) -> Iterator[Zone]:
    """On SQLite and on PostgreSQL; a lease of two devices of node n1, reserved at noon."""
    made = furnish(Database(database_url))
    with made.database.write() as tx:
        tx.execute(
            insert(jobs).values(
                id="job_a", name="a", firm="f", queue="q", priority="normal", spec="{}", spec_sha256="0" * 64,
                submitted_at_ms=to_ms(NOON), state="RUNNING",
            )
        )  # fmt: skip
        tx.execute(
            insert(leases).values(
                id=LEASE, job="job_a", firm="f", queue="q", pool="pool", backend="local", model="Ascend910B3",
                source="simulated", device_count=2, price_fen_per_device_hour=2000, time_limit_ms=1, based_on=1,
                reserved_at_ms=to_ms(NOON),
            )
        )  # fmt: skip
        for index in range(2):
            tx.execute(insert(lease_devices).values(lease=LEASE, device=f"n1d{index}", node="n1", rank=0, idx=index))
    yield made
    made.close()


def record(zone: Zone, start: datetime, end: datetime, kind: str = "run") -> None:
    values = {
        "lease": LEASE, "job": "job_a", "firm": "f", "provider": "p", "site": "s", "pool": "pool", "vendor": "ascend",
        "model": "Ascend910B3", "source": "simulated", "kind": kind, "cause": None, "devices": 2, "share_permille": 1000,
        "start_ms": to_ms(start), "end_ms": to_ms(end), "price_fen_per_device_hour": 2000,
    }  # fmt: skip
    with zone.database.write() as tx:
        journal.append(tx, usage_records, values)


def tell(zone: Zone, *beats: float, start: datetime = NOON, **more: Any) -> None:
    voice = Voice(allocation=LEASE, devices=("n1d0", "n1d1"), start=start)
    with zone.database.write() as tx:
        outcomes = ingest(tx, voice.story(*beats, **more), LATER)
    assert {outcome.status for outcome in outcomes} == {"accepted"}


def read(zone: Zone, start: datetime, end: datetime, ratio: float | None, device: str = "n1d0") -> None:
    at = start
    with zone.database.write() as tx:
        while at <= end:
            tx.execute(insert(samples).values(device=device, at_ms=to_ms(at), utilisation_ratio=ratio))
            at += timedelta(seconds=60)


def look(zone: Zone, day: date = DAY) -> Any:
    with zone.database.write() as tx:
        found = reconcile(tx, day, LATER)
    return found[0] if found else None


def test_counts_that_agree_need_nobody(zone: Zone) -> None:
    record(zone, NOON, NOON + timedelta(hours=1))
    tell(zone, 60, 3630)
    read(zone, NOON, NOON + timedelta(hours=1), 0.9)
    count = look(zone)

    assert (count.scheduler_device_ms, count.events_device_ms) == (7_200_000, 7_260_000)
    assert (count.read_device_ms, count.busy_device_ms) == (3_600_000, 3_600_000)
    assert zone.reviews() == []


def test_a_difference_shows_every_count_and_is_opened_once(zone: Zone) -> None:
    """[koku 6168: a run repeated, the cost doubled]"""
    record(zone, NOON, NOON + timedelta(hours=1))
    tell(zone, 60, 1800)
    for _ in range(3):
        look(zone)
    rows = zone.rows(reviews)

    assert [(row["code"], row["subject"]) for row in rows] == [("USAGE_DIFFERS", "job_a.1:2026-06-01")]
    assert json.loads(rows[0]["facts"]) == {
        "lease": LEASE, "day": "2026-06-01", "devices": 2, "scheduler_device_ms": 7_200_000,
        "held_device_ms": 7_200_000, "events_device_ms": 3_600_000, "read_device_ms": None, "busy_device_ms": None, "provisional": False,
    }  # fmt: skip


@pytest.mark.parametrize(("over_s", "opened"), [(60, False), (60.001, True), (-60, False), (-60.001, True)])
def test_the_tolerance_is_per_device_and_counts_as_agreement(zone: Zone, over_s: float, opened: bool) -> None:
    record(zone, NOON, NOON + timedelta(hours=1))
    tell(zone, 3600 + over_s)
    look(zone)

    assert (zone.reviews() == ["USAGE_DIFFERS"]) is opened


def test_one_count_alone_is_a_difference_and_unknown_is_not_zero(zone: Zone) -> None:
    """[background-agents 418: a killed turn metered zero]"""
    tell(zone, 600, stop=False)
    count = look(zone)

    assert (count.scheduler_device_ms, count.events_device_ms, count.read_device_ms) == (None, 1_200_000, None)
    assert count.provisional
    assert zone.reviews() == ["USAGE_DIFFERS"]


def test_a_device_that_works_while_nobody_counts_is_noticed(zone: Zone) -> None:
    record(zone, NOON, NOON + timedelta(minutes=10))
    tell(zone, 600)
    read(zone, NOON, NOON + timedelta(hours=1), 0.5)
    assert look(zone).busy_device_ms == 3_600_000
    assert zone.reviews() == ["USAGE_DIFFERS"]


def test_an_idle_or_unread_device_contradicts_nothing(zone: Zone) -> None:
    record(zone, NOON, NOON + timedelta(hours=1))
    tell(zone, 3600)
    read(zone, NOON, NOON + timedelta(hours=1), 0.0, "n1d0")
    read(zone, NOON, NOON + timedelta(hours=1), None, "n1d1")
    count = look(zone)

    assert (count.read_device_ms, count.busy_device_ms) == (7_200_000, 0)
    assert zone.reviews() == []


def test_what_is_not_a_run_is_not_compared(zone: Zone) -> None:
    record(zone, NOON, NOON + timedelta(hours=1), kind="starting")

    assert look(zone).scheduler_device_ms is None
    assert zone.reviews() == []


def test_a_job_over_midnight_counts_in_each_day_once(zone: Zone) -> None:
    """[PySlurm 319: counted in both months; reframe 1083: lost over midnight; killbill 1856: the end of a UTC+8 day]"""
    start = NIGHT - timedelta(hours=1)
    record(zone, start, start + timedelta(hours=3))
    tell(zone, 3600 * 3, start=start)
    first, second = look(zone), look(zone, date(2026, 6, 2))

    assert (first.scheduler_device_ms, first.events_device_ms) == (7_200_000, 7_200_000)
    assert (second.scheduler_device_ms, second.events_device_ms) == (14_400_000, 14_400_000)
    third = look(zone, date(2026, 6, 3))
    assert (third.scheduler_device_ms, third.events_device_ms) == (None, None)
    assert zone.reviews() == []


def test_a_day_that_has_not_ended_is_not_compared(zone: Zone) -> None:
    with zone.database.write() as tx:
        with pytest.raises(ValueError, match="2026-06-01 has not ended"):
            reconcile(tx, DAY, NIGHT - timedelta(milliseconds=1))
        assert len(reconcile(tx, DAY, NIGHT)) == 1


def test_a_stream_with_a_hole_is_compared_by_its_last_proof(zone: Zone) -> None:
    record(zone, NOON, NOON + timedelta(hours=1))
    voice = Voice(allocation=LEASE, devices=("n1d0", "n1d1"))
    voice.story(60, 120, 3600)
    with zone.database.write() as tx:
        ingest(tx, [voice.documents[0], voice.documents[3]], LATER)
        assert len(events_of(tx, LEASE)) == 2
    count = look(zone)

    assert (count.events_device_ms, count.provisional) == (7_200_000, True)
    assert zone.reviews() == []


@given(
    beats=st.lists(st.integers(1, 200_000), min_size=1, max_size=6).map(sorted),
    offset=st.integers(-200_000, 200_000),
    moved=st.booleans(),
)
def test_days_add_up_to_the_whole(beats: list[int], offset: int, moved: bool) -> None:
    voice = Voice(start=NIGHT + timedelta(seconds=offset))
    voice.say(Kind.STARTED)
    for beat in beats:
        if moved:
            voice.devices = ("n1d1", "n1d2") if voice.devices == ("n1d0",) else ("n1d0",)
        voice.say(Kind.MIGRATED if moved else Kind.HEARTBEAT, beat)
    found = metered(voice.allocation, [signed.event for signed in voice.said])
    days = [day_bounds(DAY + timedelta(days=step)) for step in range(-5, 8)]

    assert sum(device_ms_within(found.intervals, low, high) for low, high in days) == found.device_ms
    assert found.provisional
    assert all(interval.start <= interval.end for interval in found.intervals)


@given(at=st.lists(st.integers(0, 1000), max_size=20).map(sorted), join=st.integers(0, 300))
def test_readings_cover_no_more_than_their_span(at: list[int], join: int) -> None:
    covered = covered_ms(at, join)

    assert 0 <= covered <= (at[-1] - at[0] if at else 0)
    if all(b - a <= join for a, b in itertools.pairwise(at)):
        assert covered == (at[-1] - at[0] if at else 0)
