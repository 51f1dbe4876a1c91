"""When a gang can start, and what may go before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.backfill import FOREVER, Release, Timeline, Window

END = 40  # after the last event of a generated case


def timeline(free: list[int], releases: list[tuple[int, int, int]], *windows: Window, **rest: Any) -> Timeline:
    return Timeline(np.array(free, dtype=np.int64), [Release(*r) for r in releases], 0, windows, **rest)


class Slow:
    """Free devices at every instant, counted one by one."""

    def __init__(self, free: list[int], releases: list[tuple[int, int, int]], windows: list[Window]) -> None:
        self.at = [[n] * (2 * END) for n in free]
        for row, devices, end in releases:
            self.add(row, devices, max(end, 1), 2 * END)
        for window in windows:
            for row in window.rows:
                self.add(row, -1000, window.start_ms, 2 * END if window.end_ms is None else window.end_ms)

    def add(self, row: int, devices: int, start: int, end: int) -> None:
        for t in range(max(start, 0), min(end, 2 * END)):
            self.at[row][t] += devices

    def open(self, row: int, count: int, start: int, end: int) -> bool:
        return all(self.at[row][t] >= count for t in range(start, end))

    def earliest(self, count: int, nodes: int, now: int, duration: int) -> int | None:
        for start in range(now, END):
            if sum(self.open(row, count, start, start + duration) for row in range(len(self.at))) >= nodes:
                return start
        return None


@st.composite
def zones(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, int, int]], list[Window]]:
    rows = draw(st.integers(1, 4))
    free = draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows))
    release = st.tuples(st.integers(0, rows - 1), st.integers(1, 4), st.integers(-3, 20))
    window = st.builds(
        lambda row, start, length: Window((row,), start, None if length == 12 else start + length),
        st.integers(0, rows - 1), st.integers(-5, 20), st.integers(1, 12),
    )  # fmt: skip
    return free, draw(st.lists(release, max_size=6)), draw(st.lists(window, max_size=3))


ASKS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 8), st.integers(1, 9)), min_size=1, max_size=4
)


@given(zones(), ASKS)
@settings(max_examples=300)
def test_earliest_agrees_with_counting_every_instant(
    zone: tuple[list[int], list[tuple[int, int, int]], list[Window]], asks: list[tuple[int, int, int, int]]
) -> None:
    """Each answer is reserved before the next is asked for."""
    free, releases, windows = zone
    fast, slow = timeline(free, releases, *windows), Slow(free, releases, windows)
    for count, nodes, now, duration in asks:
        found = fast.earliest(count, nodes, now, duration)
        expected = slow.earliest(count, nodes, now, duration)
        assert (found[0] if found else None) == expected
        if found is None:
            continue
        start, rows = found
        assert len(set(rows)) == nodes
        assert all(slow.open(row, count, start, start + duration) for row in rows)
        fast.reserve(rows, count, start, start + duration)
        for row in rows:
            slow.add(row, -count, start, start + duration)


@given(zones(), ASKS, st.integers(1, 4), st.integers(1, 30))
@settings(max_examples=200)
def test_may_start_agrees_with_counting_every_instant(
    zone: tuple[list[int], list[tuple[int, int, int]], list[Window]],
    asks: list[tuple[int, int, int, int]],
    count: int,
    end: int,
) -> None:
    free, releases, windows = zone
    fast, slow = timeline(free, releases, *windows, depth=None), Slow(free, releases, windows)
    for wanted, nodes, _, duration in asks:
        for row in range(len(free)):  # asked between reservations too
            assert fast.may_start([row], count, end) == slow.open(row, count, 0, end)
        found = fast.book(wanted, nodes, duration)
        if found:
            for row in found[1]:
                slow.add(row, -wanted, found[0], found[0] + duration)
    until = fast.open_until(count)
    for row in range(len(free)):
        assert fast.may_start([row], count, end) == slow.open(row, count, 0, end) == (until[row] >= end)


@given(zones(), ASKS, st.lists(st.tuples(st.integers(1, 4), st.integers(1, 20)), max_size=6))
@settings(max_examples=200)
def test_what_is_backfilled_delays_no_reservation(
    zone: tuple[list[int], list[tuple[int, int, int]], list[Window]],
    asks: list[tuple[int, int, int, int]],
    fillers: list[tuple[int, int]],
) -> None:
    free, releases, windows = zone
    fast, slow = timeline(free, releases, *windows, depth=None), Slow(free, releases, windows)
    for count, nodes, _, duration in asks:
        fast.book(count, nodes, duration)
    for count, end in fillers:
        for row in range(len(free)):
            if fast.may_start([row], count, end):
                fast.reserve([row], count, 0, end)
                slow.add(row, -count, 0, end)
    for held in fast.reservations:
        for row in held.rows:
            assert slow.open(row, held.count, held.start_ms, held.end_ms)
            slow.add(row, -held.count, held.start_ms, held.end_ms)


def test_a_gang_waits_for_the_lease_that_ends_second() -> None:
    found = timeline([0, 0, 4], [(0, 8, 100), (1, 8, 200)])
    assert found.earliest(8, 1, 0, 50) == (100, (0,))
    assert found.earliest(8, 2, 0, 50) == (200, (0, 1))
    assert found.earliest(4, 1, 0, 50) == (0, (2,))
    assert found.earliest(4, 1, 150, 50) == (150, (0,))
    assert found.earliest(8, 3, 0, 50) is None


def test_rows_that_are_open_now_are_left_to_others() -> None:
    found = timeline([8, 0, 0], [(1, 8, 100), (2, 8, 100)])
    assert found.earliest(8, 2, 1, 50) == (100, (1, 2))


def test_easy_lets_short_jobs_pass_and_long_ones_wait() -> None:
    found = timeline([4, 0], [(0, 4, 100), (1, 8, 300)])
    assert found.book(8, 1, 50) == (100, (0,))
    assert found.may_start([0], 4, 100)
    assert not found.may_start([0], 4, 101)
    assert found.book(8, 1, 50) == (150, (0,))
    assert len(found.reservations) == 1  # the second is an estimate: a job may still start after the first one
    assert timeline([4], [], depth=0).book(4, 1, 10) == (0, (0,))


def test_conservative_holds_for_every_gang() -> None:
    easy = timeline([8, 0], [(1, 8, 100)])
    conservative = timeline([8, 0], [(1, 8, 100)], depth=None)
    for one in (easy, conservative):
        assert one.book(8, 2, 50) == (100, (0, 1))
        assert one.book(4, 1, 150) == (150, (0,))
        one.reserve([0], 8, 0, 100)
    assert easy.may_start([1], 8, 100) is conservative.may_start([1], 8, 100) is False
    assert [len(one.reservations) for one in (easy, conservative)] == [1, 2]


def test_no_job_reaches_into_maintenance() -> None:
    found = timeline([8, 8], [], Window((0,), 100, 200), Window((1,), 50, None))
    assert found.may_start([0], 8, 100)
    assert not found.may_start([0], 8, 101)
    assert found.earliest(8, 1, 0, 100) == (0, (0,))
    assert found.earliest(8, 1, 0, 101) == (200, (0,))
    assert found.earliest(8, 2, 0, 50) == (0, (0, 1))
    assert found.earliest(8, 2, 0, 51) is None
    assert found.open_until(8).tolist() == [100, 50]
    assert timeline([8], [], Window((0,), -9, 0)).open_until(8).tolist() == [FOREVER]


def test_a_lease_past_its_end_holds_its_devices_still() -> None:
    found = timeline([0], [(0, 8, -500)])
    assert not found.may_start([0], 8, 10)
    assert found.earliest(8, 1, 0, 10) == (1, (0,))


def test_two_members_on_one_row_need_room_for_both() -> None:
    found = timeline([8], [])
    assert found.may_start([0, 0], 4, 10)
    assert not found.may_start([0, 0], 5, 10)


def test_only_the_rows_that_qualify() -> None:
    found = timeline([8, 8, 0], [(2, 8, 70)])
    assert found.earliest(8, 1, 0, 10, rows=np.array([2])) == (70, (2,))
    assert found.earliest(8, 2, 0, 10, rows=np.array([1])) is None


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: timeline([1], [(1, 1, 5)]), "row: 1 is not one of the pool's 1; nearest: 0"),
        (lambda: timeline([1], [], depth=-1), "depth: -1 is below 0"),
        (lambda: timeline([1], []).earliest(0, 1, 0, 5), "count: 0 is below 1"),
        (lambda: timeline([1], []).earliest(1, 0, 0, 5), "nodes: 0 is below 1"),
        (lambda: timeline([1], []).earliest(1, 1, 0, 0), "duration_ms: 0 is below 1"),
        (lambda: timeline([1], []).reserve([0], 1, 5, 5), "end_ms: 5 is not after start_ms 5; nearest: 6"),
        (lambda: timeline([1], []).reserve([-1], 1, 0, 5), "row: -1"),
    ],
)
def test_figures_that_cannot_be(call: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
