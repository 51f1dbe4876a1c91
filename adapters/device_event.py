"""Device event: what a driver said of a device between two readings: an XID, an error code, a reset."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable


class Severity(enum.StrEnum):
    """What follows for the device: nothing, a look, or no further work until it was reset or replaced."""

    INFO = "info"
    WARNING = "warning"
    FATAL = "fatal"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEvent:
    """One event. at: aware UTC, when it was read. code: the vendor's own (`XID 79`); severity None: not known."""

    uuid: str
    at: datetime
    code: str
    severity: Severity | None = None
    text: str | None = None


@runtime_checkable
class EventReader(Protocol):
    """An adapter that can say what happened since it was last asked. Waits at most wait_ms; never longer."""

    def events(self, wait_ms: int = 0) -> tuple[DeviceEvent, ...]: ...
