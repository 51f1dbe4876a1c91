"""Entry: what settle is given, usage and what is left under the caps. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from adapters.accelerator import Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEntry:
    """Devices of one model held by one lease over [start, end), whole milliseconds, aware UTC. Entries stand
    alone.

    origin: by the register at usage time. share_permille: of each device. site: None = its papers are not
    checked. rate: the rate card's key.
    """

    lease: str
    model: str
    origin: Origin
    devices: int
    share_permille: int = 1000
    site: str | None = None
    start: datetime
    end: datetime
    rate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """Fen left under each cap before this settlement. pool, firm: by local year; a year not given has the
    policy's cap.

    contract, tranche: run on through the years; None = there is none, which is not 0.
    """

    pool: Mapping[int, int] = field(default_factory=dict)
    firm: Mapping[int, int] = field(default_factory=dict)
    contract: int | None = None
    tranche: int | None = None
