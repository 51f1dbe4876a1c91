"""Accelerator: what one device *is*. Identity is (vendor, model), never "GPU"."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Origin(enum.StrEnum):
    """Where a chip counts as made. The catalogue only hints; the dated register in metering decides."""

    DOMESTIC = "domestic"
    FOREIGN = "foreign"
    UNDETERMINED = "undetermined"


class Source(enum.StrEnum):
    """How a device became known. ENGINE: a cluster's own scheduler said so, nobody looked at the device. SIMULATED may be
    settled in a ledger marked demo only."""

    LIBRARY = "library"
    CLI = "cli"
    ENGINE = "engine"
    SIMULATED = "simulated"


class Health(enum.StrEnum):
    """The vendor's verdict folded into four; the vendor's own code is kept beside it."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"
    UNKNOWN = "unknown"


class EvidenceLevel(enum.IntEnum):
    """How well a device's origin is proved, from a form field (L0) to an audit on site (L5)."""

    DECLARED = 0
    TOOL_REPORTED = 1
    KERNEL_OBSERVED = 2
    NODE_SIGNED = 3
    DEVICE_SIGNED = 4
    OUT_OF_BAND = 5


class PartitionKind(enum.StrEnum):
    """By which of the vendors' means a device was split."""

    MIG = "mig"  # NVIDIA, T-Head
    VNPU = "vnpu"  # Huawei
    SMLU = "smlu"  # Cambricon; its MIM instances too
    SGPU = "sgpu"  # MetaX, Moore Threads
    SVI = "svi"  # Biren
    VGPU = "vgpu"  # AMD compute partitions, Hygon virtual cards, others


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Of which device this one is a part, and how large: profile in the vendor's words (`1g.10gb`)."""

    kind: PartitionKind
    parent_uuid: str
    profile: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One physical device, as its adapter read it. Every reading the tool does not give is None.

    uuid: the vendor's own string; where it gives none, `<vendor>:<bdf>`.
    model_raw: the name the tool prints; model: the catalogue key, None when the catalogue has none.
    pci_bdf: `0000:66:00.0`. visible_id: what the vendor's visibility variable wants for this device.
    pci_vendor_id, pci_device_id: as the kernel or the library gives them. partition: None for a whole device.
    package_id: shared by the dies of one board, so that power and price are not counted twice.
    problems: short sentences; a device with problems is listed, never hidden.
    """

    uuid: str
    index: int
    vendor: str
    model_raw: str
    model: str | None = None
    serial: str | None = None
    pci_bdf: str | None = None
    pci_vendor_id: int | None = None
    pci_device_id: int | None = None
    partition: Partition | None = None
    package_id: str | None = None
    numa_node: int | None = None
    visible_id: str | None = None
    memory_total_bytes: int | None = None
    power_limit_watts: float | None = None
    driver_version: str | None = None
    firmware_version: str | None = None
    health: Health = Health.UNKNOWN
    health_code: str | None = None
    source: Source
    evidence_level: EvidenceLevel = EvidenceLevel.TOOL_REPORTED
    problems: tuple[str, ...] = ()
