"""Process: what one process uses of one device, as the vendor's driver counts it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUse:
    """One process on one device. pid: of the host's namespace; a reading that the driver does not give is None."""

    uuid: str
    pid: int
    name: str | None = None
    memory_used_bytes: int | None = None
    utilisation_ratio: float | None = None


@runtime_checkable
class ProcessReader(Protocol):
    """An adapter that can say which processes hold its devices."""

    def processes(self, uuids: Iterable[str] | None = None) -> tuple[ProcessUse, ...]: ...
