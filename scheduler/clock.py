"""Clock: the shells' only source of time. The core takes `now` as an argument."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall time, aware UTC, whole milliseconds."""

    def boot_ms(self) -> int:
        """Milliseconds of a clock that only moves forward, suspended time included."""


class SystemClock:
    """The host's clocks: wall time for labels, CLOCK_BOOTTIME for lengths."""

    def now(self) -> datetime:
        moment = datetime.now(UTC)
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    def boot_ms(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def to_ms(at: datetime) -> int:
    """Milliseconds since 1970 UTC; exact for whole milliseconds."""
    return (at - EPOCH) // _MILLISECOND


def from_ms(ms: int) -> datetime:
    """The aware UTC instant of a stored millisecond count."""
    return EPOCH + timedelta(milliseconds=ms)
