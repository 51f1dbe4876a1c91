"""Node and Pool: where a job may go."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NewType

from adapters.accelerator import Origin, Source

NodeId = NewType("NodeId", str)
PoolId = NewType("PoolId", str)


class Images(enum.StrEnum):
    """Whether a pool's members run container images: no member does, every one must, or each as its job says."""

    NONE = "none"
    REQUIRED = "required"
    EITHER = "either"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Nodes of one provider, site, backend, model and price list.

    origin is the register's verdict at snapshot time, carried so that `origin: domestic` requests can match.
    memory_bytes: per device, from the catalogue; None when unknown (then a memory demand does not match).
    """

    id: PoolId
    provider: str
    site: str
    region: str
    backend: str
    vendor: str
    model: str
    origin: Origin
    memory_bytes: int | None
    price_fen_per_device_hour: int
    source: Source
    images: Images = Images.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A host. devices: uuids in index order. schedulable: false while cordoned, drained or silent.

    cpu_milli, memory_bytes: None = unknown, and then not checked. links: per device, the number of its fast-link group
    (NVLink, HCCS); () = one group.
    """

    id: NodeId
    pool: PoolId
    devices: tuple[str, ...]
    cpu_milli: int | None = None
    memory_bytes: int | None = None
    rack: str | None = None
    schedulable: bool = True
    links: tuple[int, ...] = ()
