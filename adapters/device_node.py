"""Device node: the files under /dev that a process or a container needs for certain devices and no others.

Sources: accelerators.md §3 for davinci and biren; the kernel's own description of devices in sysfs for DRM nodes;
NVIDIA's /proc/driver/nvidia for its minor numbers; the vendors' container instructions for the rest (`docker run
--device …` of Ascend, DTK, MACA, MUSA, Neuware, TopsRider, XRE, PPU SDK). A number in a node's name is not always the
number in the library: where the host does not tell it, nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from adapters.accelerator import Accelerator

ROOT = Path("/")


@runtime_checkable
class NodeReader(Protocol):
    """An adapter that knows which device nodes its devices need."""

    def device_nodes(self, devices: Sequence[Accelerator]) -> tuple[str, ...]: ...


Find = Callable[[Accelerator, Path], tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """One vendor's nodes. shared: needed beside every device; own: those of one device, ValueError where unknown.

    optional: shared ones that only some drivers make; given where the host has them.
    """

    shared: tuple[str, ...]
    own: Find
    optional: tuple[str, ...] = ()


def device_nodes(vendor: str, devices: Sequence[Accelerator], root: Path = ROOT) -> tuple[str, ...]:
    """The nodes that these devices of one vendor need, those of the devices first, without doubles; () for no device.

    ValueError names a device whose nodes are not known: a part of a device, a host that does not tell its number, a
    vendor without a row. root: of the host's file tree, where sysfs and /proc are read.
    """
    if not devices:
        return ()
    row = TABLE.get(vendor)
    if row is None:
        raise ValueError(f"device nodes of {vendor} are not known; known are {', '.join(TABLE)}")
    found: list[str] = []
    for device in devices:
        if device.partition is not None:
            raise ValueError(f"{device.uuid}: device nodes of a part ({device.partition.kind.value}) are not known")
        found += row.own(device, root)
    found += row.shared
    found += [node for node in row.optional if (root / node.lstrip("/")).exists()]
    return tuple(dict.fromkeys(found))


def _numbered(pattern: str) -> Find:
    """The node's number is the device's in its library and tool."""

    def find(device: Accelerator, root: Path) -> tuple[str, ...]:  # noqa: ARG001 - every finder is asked alike
        return (pattern.format(device.index),)

    return find


def _by_visible(pattern: str) -> Find:
    """The node's number is what the container runtime calls the device."""

    def find(device: Accelerator, root: Path) -> tuple[str, ...]:  # noqa: ARG001 - every finder is asked alike
        if device.visible_id is None or not device.visible_id.isdigit():
            raise ValueError(f"{device.uuid}: visible_id {device.visible_id!r} is no number; its node is not known")
        return (pattern.format(device.visible_id),)

    return find


def _drm(*kinds: str) -> Find:
    """DRM nodes of these kinds (`card`, `renderD`), as the kernel lists them under the device's bus address."""

    def find(device: Accelerator, root: Path) -> tuple[str, ...]:
        names = _listed(_function(device, root) / "drm")
        return tuple(f"/dev/dri/{_only(device, kind, names)}" for kind in kinds)

    return find


def _both(first: Find, second: Find) -> Find:
    return lambda device, root: (*first(device, root), *second(device, root))


def _nvidia(device: Accelerator, root: Path) -> tuple[str, ...]:
    """NVIDIA's driver tells the minor number by bus address; it is not the number in NVML."""
    if device.pci_bdf is None:
        raise ValueError(f"{device.uuid}: its bus address is unknown, and with it the number of its node")
    path = root / "proc/driver/nvidia/gpus" / device.pci_bdf / "information"
    try:
        told = re.search(r"^Device Minor:\s*(\d{1,4})\s*$", path.read_text(encoding="utf-8", errors="replace"), re.M)
    except OSError:
        told = None
    if told is None:
        raise ValueError(f"{device.uuid}: {path} does not tell the number of its node")
    return (f"/dev/nvidia{told[1]}",)


def _iluvatar(device: Accelerator, root: Path) -> tuple[str, ...]:
    """The node whose character device the kernel lists below the bus address; its number is the minor number."""
    function = _function(device, root)
    names = [name for folder in _listed(function) for name in _listed(function / folder)]
    return (f"/dev/{_only(device, 'iluvatar', names)}",)


def _none(device: Accelerator, root: Path) -> tuple[str, ...]:  # noqa: ARG001 - every finder is asked alike
    return ()


def _function(device: Accelerator, root: Path) -> Path:
    if device.pci_bdf is None:
        raise ValueError(f"{device.uuid}: its bus address is unknown, and with it its device nodes")
    return root / "sys/bus/pci/devices" / device.pci_bdf


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def _only(device: Accelerator, kind: str, names: Sequence[str]) -> str:
    fit = sorted({name for name in names if re.fullmatch(rf"{kind}\d{{1,4}}", name)})
    if len(fit) != 1:
        raise ValueError(f"{device.uuid}: the kernel lists {fit or 'no'} {kind} node at {device.pci_bdf}")
    return fit[0]


DRM = _drm("card", "renderD")
TABLE = {
    "nvidia": Nodes(
        shared=("/dev/nvidiactl", "/dev/nvidia-uvm"),
        own=_nvidia,
        optional=("/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"),
    ),
    "amd": Nodes(shared=("/dev/kfd",), own=DRM),
    "intel": Nodes(shared=(), own=DRM),
    "ascend": Nodes(
        shared=("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"), own=_by_visible("/dev/davinci{}")
    ),
    "cambricon": Nodes(shared=("/dev/cambricon_ctl",), own=_numbered("/dev/cambricon_dev{}")),
    "hygon": Nodes(shared=("/dev/kfd",), own=DRM, optional=("/dev/mkfd",)),
    "mthreads": Nodes(shared=(), own=_both(_numbered("/dev/mtgpu.{}"), DRM)),
    "metax": Nodes(shared=("/dev/mxcd",), own=DRM),
    "iluvatar": Nodes(shared=(), own=_iluvatar),
    "enflame": Nodes(shared=("/dev/gcuctl",), own=_numbered("/dev/gcu{}")),
    "kunlunxin": Nodes(shared=("/dev/xpuctrl",), own=_numbered("/dev/xpu{}")),
    "biren": Nodes(shared=(), own=_numbered("/dev/biren/card_{}"), optional=("/dev/biren-m",)),
    "thead": Nodes(shared=("/dev/alixpu", "/dev/alixpu_ctl"), own=_numbered("/dev/alixpu_ppu{}")),
    "simulated": Nodes(shared=(), own=_none),  # processes stand in for them
}
