"""Readings wait on disk, in order, through a killed agent; the oldest are thinned, and no device event is."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from adapters.accelerator import Health
from adapters.backlog import Backlog, Report
from adapters.device_event import DeviceEvent, Severity
from adapters.sample import Sample
from tests.adapters.recorded import AT

FULL = Sample(
    uuid="GPU-1",
    at=AT,
    utilisation_ratio=0.5,
    memory_used_bytes=0,
    energy_joules_total=12.5,
    throttled=("thermal",),
    health=Health.DEGRADED,
    health_code="x",
    ecc_corrected_total=3,
)


def report(step: int, *events: DeviceEvent) -> Report:
    at = AT + timedelta(seconds=15 * step)
    return Report(
        samples=(Sample(uuid="GPU-1", at=at, power_watts=float(step)), Sample(uuid="GPU-2", at=at)), events=events
    )


def emptied(backlog: Backlog) -> list[Report]:
    found = []
    while (one := backlog.oldest()) is not None:
        found.append(one)
        backlog.drop()
    return found


def event(step: int) -> DeviceEvent:
    return DeviceEvent(uuid="GPU-1", at=AT, code=f"XID {step}", severity=Severity.FATAL)


@pytest.mark.parametrize("on_disk", [True, False])
def test_every_field_comes_back_as_it_was_and_unknown_stays_unknown(tmp_path: Path, on_disk: bool) -> None:
    backlog = Backlog(tmp_path / "waits" if on_disk else None)
    given = Report(
        samples=(FULL, Sample(uuid="GPU-2", at=AT)), events=(event(79), DeviceEvent(uuid="b", at=AT, code="?"))
    )
    backlog.put(given)

    assert backlog.samples == 2
    assert emptied(backlog) == [given]
    assert backlog.oldest() is None


def test_what_waits_outlives_the_process_and_goes_on_in_order(tmp_path: Path) -> None:
    for step in range(3):
        Backlog(tmp_path).put(report(step))
    (tmp_path / "000000000009.draft").write_text("half a repo")

    again = Backlog(tmp_path)

    assert (len(again), again.samples) == (3, 6)
    assert emptied(again) == [report(step) for step in range(3)]
    assert list(tmp_path.iterdir()) == []
    assert len(Backlog(tmp_path)) == 0


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_full_backlog_thins_its_older_half_and_keeps_every_device_event(tmp_path: Path, on_disk: bool) -> None:
    backlog = Backlog(tmp_path / "waits" if on_disk else None, capacity=8)
    for step in range(40):
        backlog.put(report(step, event(step)))

    assert len(backlog) <= 8
    assert backlog.samples + backlog.thinned == 80
    left = emptied(backlog)
    assert [one.samples[0].at for one in left] == sorted(one.samples[0].at for one in left)
    assert left[-4:] == [report(step, event(step)) for step in range(36, 40)], "the newest are whole"
    assert [said.code for one in left for said in one.events] == [f"XID {step}" for step in range(40)]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"samples": [{}], "events": []}', '{"samples": 3}'])
def test_a_damaged_report_is_put_aside_and_hides_no_other(tmp_path: Path, content: str) -> None:
    backlog = Backlog(tmp_path)
    backlog.put(report(0))
    backlog.put(report(1))
    (tmp_path / "000000000001-2.json").write_text(content)

    again = Backlog(tmp_path)

    assert emptied(again) == [report(1)]
    assert again.damaged == 1
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001-2.damaged"]


def test_a_backlog_too_small_to_thin_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity: 1"):
        Backlog(capacity=1)
