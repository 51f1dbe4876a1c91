"""Discovery: the nodes and devices that an engine underneath already knows become pools of the zone by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from adapters.accelerator import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundNode:
    """A node as its engine describes it. name: the engine's own; vendor, model: of the catalogue, of all its devices.

    devices: how many may be leased there, those that jobs of others hold left out. schedulable: false while cordoned,
    draining, tainted or not ready; why: the engine's own word for it. cpu_milli, memory_bytes: None = unknown.
    """

    name: str
    vendor: str
    model: str
    devices: int
    cpu_milli: int | None = None
    memory_bytes: int | None = None
    rack: str | None = None
    schedulable: bool = True
    why: str | None = None
    source: Source = Source.ENGINE
    labels: Mapping[str, str] = field(default_factory=dict)


class Discovery(Protocol):
    """What a backend of an existing cluster can do beside the port: say what is there now.

    Raises ConnectionError while the engine cannot be asked: nothing is known then, which is not "nothing is there".
    """

    def nodes(self) -> Sequence[FoundNode]: ...
