"""Backlog: telemetry that could not be delivered, in order, in memory or on disk, and never more than so much.

On disk every report is one file, written whole and renamed, so a killed agent finds all that waited; a report that was
sent just before the agent died is sent again, and the platform keeps each reading once. When there are too many, the
older half is thinned to every second report: neighbours are then two periods apart, which integration still joins.
Device events are few and are never thinned away: they move to the report before. Usage events do not wait here but in
the spool, which thins nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.device_event import DeviceEvent
from adapters.reading import event_document, read_event, read_sample, sample_document
from adapters.sample import Sample

CAPACITY = 720  # reports: three hours at one every 15 s
EVENTS_MAX = 2_000  # of one report; a device that tells so many says nothing new
_NAME = re.compile(r"(\d{12})-(\d{1,6})\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one round read: a sample of each device, and what drivers said since the round before."""

    samples: tuple[Sample, ...]
    events: tuple[DeviceEvent, ...] = ()


class Backlog:
    """Reports that wait, oldest first. directory: where they outlive the process, None: nowhere.

    capacity: reports that may wait, at least 2. damaged: files that were found unreadable and put aside as `*.damaged`.
    """

    def __init__(self, directory: Path | None = None, *, capacity: int = CAPACITY) -> None:
        if capacity < 2:
            raise ValueError(f"capacity: {capacity} is below 2; nothing could be thinned")
        self._directory, self._capacity = directory, capacity
        self._held: dict[int, Report] = {}  # without a directory
        self._sizes: dict[int, int] = {}  # number → samples, in order of age
        self.thinned = 0
        self.damaged = 0
        if directory is not None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in sorted(directory.iterdir()):
                match = _NAME.fullmatch(path.name)
                if match:
                    self._sizes[int(match[1])] = int(match[2])
                elif path.suffix == ".draft":
                    path.unlink()
        self._next = max(self._sizes, default=0) + 1

    @property
    def samples(self) -> int:
        """How many samples wait."""
        return sum(self._sizes.values())

    def __len__(self) -> int:
        return len(self._sizes)

    def put(self, report: Report) -> None:
        """The report waits after the others; older ones may have been thinned for it. OSError when the disk is full."""
        number, self._next = self._next, self._next + 1
        self._write(number, report)
        if len(self._sizes) > self._capacity:
            self._thin()

    def oldest(self) -> Report | None:
        """The report that waits longest; None when none does. One that cannot be read is put aside, and counted."""
        for number in list(self._sizes):
            report = self._read(number)
            if report is not None:
                return report
        return None

    def drop(self) -> None:
        """The oldest report does not wait any more."""
        number = next(iter(self._sizes), None)
        if number is not None:
            self._forget(number)

    def _thin(self) -> None:
        older = list(self._sizes)[: len(self._sizes) // 2]
        for kept, gone in zip(older[::2], older[1::2], strict=False):
            report, before = self._read(gone), self._read(kept)
            if report is not None and report.events and before is not None:
                self._forget(kept)
                self._write(kept, replace(before, events=(*before.events, *report.events)[-EVENTS_MAX:]))
                self._sizes = dict(sorted(self._sizes.items()))
            self.thinned += self._sizes.get(gone, 0)
            self._forget(gone)

    def _path(self, directory: Path, number: int) -> Path:
        return directory / f"{number:012d}-{self._sizes[number]}.json"

    def _write(self, number: int, report: Report) -> None:
        if self._directory is None:
            self._sizes[number], self._held[number] = len(report.samples), report
            return
        draft = self._directory / f"{number:012d}.draft"
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(json.dumps(_document(report), ensure_ascii=False, separators=(",", ":")))
        draft.rename(self._directory / f"{number:012d}-{len(report.samples)}.json")
        self._sizes[number] = len(report.samples)

    def _read(self, number: int) -> Report | None:
        if self._directory is None:
            return self._held[number]
        path = self._path(self._directory, number)
        try:
            return _report(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.damaged += 1
            del self._sizes[number]
            if path.exists():
                path.rename(path.with_suffix(".damaged"))
            return None

    def _forget(self, number: int) -> None:
        if number not in self._sizes:
            return
        if self._directory is not None:
            self._path(self._directory, number).unlink(missing_ok=True)
        self._held.pop(number, None)
        del self._sizes[number]


def _document(report: Report) -> dict[str, Sequence[object]]:
    return {
        "samples": [sample_document(sample) for sample in report.samples],
        "events": [event_document(event) for event in report.events],
    }


def _report(body: dict[str, Sequence[dict[str, object]]]) -> Report:
    return Report(
        samples=tuple(read_sample(one) for one in body["samples"]),
        events=tuple(read_event(one) for one in body["events"]),
    )
