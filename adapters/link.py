"""Link: how near two devices of a node are, by the fabric of their vendor or by the bus.

Levels have NVML's numbers (nvmlGpuTopologyLevel_t), which other vendors' tools share.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


class Nearness(enum.IntEnum):
    """Where the path between two devices turns around; lower is nearer. FABRIC is the vendor's own link."""

    SELF = 0
    FABRIC = 5
    SWITCH = 10  # one PCIe switch (PIX)
    SWITCHES = 20  # several PCIe switches (PXB)
    HOST_BRIDGE = 30  # PHB
    NUMA_NODE = 40  # NODE
    SYSTEM = 50  # across sockets
    UNKNOWN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Two devices and the nearest path between them, a_uuid < b_uuid.

    fabric: nvlink, hccs, mlulink, xgmi, mtlink, metaxlink, lare, xpulink, blink, icn, xelink; None on the bus.
    count: links of the fabric; bandwidth_gbs: 10^9 bytes a second, both ways. None where the vendor does not say.
    """

    a_uuid: str
    b_uuid: str
    nearness: Nearness
    fabric: str | None = None
    count: int | None = None
    bandwidth_gbs: float | None = None


@runtime_checkable
class LinkReader(Protocol):
    """An adapter that can say how its devices are joined."""

    def links(self) -> tuple[Link, ...]: ...
