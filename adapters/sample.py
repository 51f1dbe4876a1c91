"""Sample: what one device *reported* at an instant. None is unknown; it is never billed as 0."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from adapters.accelerator import Health


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One reading of one device.

    at: aware UTC. utilisation_ratio: 0..1, in the vendor's own sense, named by utilisation_semantics
    (NVML "a kernel ran", Ascend "AI core busy", simulated "process CPU time"): not comparable across vendors.
    energy_joules_total: a hardware counter, None where there is none. memory_bandwidth_ratio: 0..1. clocks: MHz.
    Totals count over the device's or the driver's life as the vendor counts them; link_errors_total sums over links.
    throttled: why the clock is held down, in the vendor's words; empty: it says it is not; None: it does not say.
    health_code: the vendor's own code, kept as it was; last_error: its last numbered event (an XID or its equal).
    """

    uuid: str
    at: datetime
    utilisation_ratio: float | None = None
    utilisation_semantics: str | None = None
    memory_used_bytes: int | None = None
    power_watts: float | None = None
    energy_joules_total: float | None = None
    temperature_celsius: float | None = None
    memory_bandwidth_ratio: float | None = None
    memory_temperature_celsius: float | None = None
    core_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    ecc_corrected_total: int | None = None
    ecc_uncorrected_total: int | None = None
    retired_pages: int | None = None
    link_errors_total: int | None = None
    throttled: tuple[str, ...] | None = None
    health: Health | None = None
    health_code: str | None = None
    last_error: str | None = None
    raw_error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Integral:
    """An integral over an interval, and how much of the interval no sample covers."""

    value: float | None
    covered_ms: int
    gap_ms: int


def integrate(
    samples: Sequence[tuple[datetime, float | None]], start: datetime, end: datetime, *, period_ms: int
) -> Integral:
    """Integrate readings over [start, end) by trapezoids; returns reading·seconds, covered and missing ms.

    samples: sorted by time, of one device. Neighbours up to two periods apart are joined; a longer hole, and a
    None on either side of it, counts as gap and never as zero. value is None when nothing is covered.
    """
    total = 0.0
    covered = 0
    for (left_at, left), (right_at, right) in itertools.pairwise(samples):
        low, high = max(left_at, start), min(right_at, end)
        span_ms = _milliseconds(left_at, right_at)
        if left is None or right is None or low >= high or span_ms > 2 * period_ms or span_ms <= 0:
            continue
        slope = (right - left) / span_ms
        at_low = left + slope * _milliseconds(left_at, low)
        at_high = left + slope * _milliseconds(left_at, high)
        part_ms = _milliseconds(low, high)
        total += (at_low + at_high) / 2 * part_ms / 1000
        covered += part_ms
    whole = max(0, _milliseconds(start, end))
    return Integral(value=total if covered else None, covered_ms=covered, gap_ms=whole - covered)


def _milliseconds(start: datetime, end: datetime) -> int:
    return round((end - start).total_seconds() * 1000)
