"""Adapter: the read-only port to one vendor's devices. Deciding what to do with them is not its business."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from adapters.accelerator import Accelerator
from adapters.sample import Sample


class Capability(enum.StrEnum):
    """What an adapter can read beyond inventory; what is absent stays None in every Sample."""

    UTILISATION = "utilisation"
    MEMORY = "memory"
    POWER = "power"
    ENERGY = "energy"
    TEMPERATURE = "temperature"
    ECC = "ecc"
    PROCESSES = "processes"
    LINKS = "links"
    PARTITIONS = "partitions"
    EVENTS = "events"


class AdapterError(Exception):
    """A tool or library answered in a way this adapter cannot read. The message shows what it saw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Whether this vendor's devices can be asked on this host; reason is None when available."""

    available: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Everything one recorded tool output says: what `yisuan devices --recording` prints."""

    devices: tuple[Accelerator, ...]
    samples: tuple[Sample, ...]
    problems: tuple[str, ...] = ()


@runtime_checkable
class Adapter(Protocol):
    """Speaks to one device family. Reads only; safe to call from any thread, one call at a time.

    probe never raises. inventory and samples are separate calls joined by uuid, never by index; a failed reading of one
    device is a problem of that device and hides no other. samples(None) means every device.
    visibility gives the environment that makes a process see exactly these devices.
    """

    vendor: str
    capabilities: frozenset[Capability]

    def probe(self) -> Probe: ...

    def inventory(self) -> tuple[Accelerator, ...]: ...

    def samples(self, uuids: Iterable[str] | None = None) -> tuple[Sample, ...]: ...

    def visibility(self, devices: Sequence[Accelerator]) -> Mapping[str, str]: ...

    def parse_recording(self, path: Path) -> Reading: ...
