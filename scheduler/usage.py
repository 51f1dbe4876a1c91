"""UsageRecord: what one lease consumed in one interval; the scheduler's published language to metering."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta

from adapters.accelerator import Source
from scheduler.job import FirmId, JobId
from scheduler.lease import LeaseId


class UsageKind(enum.StrEnum):
    """RUN is billed at the lease's price; every other kind is recorded at price 0 with its cause."""

    RUN = "run"
    STARTING = "starting"
    SUSPENDED = "suspended"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """Devices of one model held by one lease over [start, end). price 0 unless kind is RUN."""

    lease: LeaseId
    job: JobId
    firm: FirmId
    provider: str
    site: str
    pool: str
    vendor: str
    model: str
    source: Source
    kind: UsageKind
    cause: str | None
    devices: int
    share_permille: int
    start: datetime
    end: datetime
    price_fen_per_device_hour: int

    @property
    def device_ms(self) -> int:
        """devices × milliseconds (exact: instants are whole milliseconds)."""
        return self.devices * ((self.end - self.start) // timedelta(milliseconds=1))


def clip(record: UsageRecord, start: datetime, end: datetime) -> UsageRecord | None:
    """The part of a record inside [start, end); None when nothing is. Adjacent clips add up to their union."""
    low, high = max(record.start, start), min(record.end, end)
    if low >= high:
        return None
    values = {name: getattr(record, name) for name in UsageRecord.__slots__}
    return UsageRecord(**{**values, "start": low, "end": high})
