"""PCI: the functions that the kernel sees on the bus, read apart from any vendor's tool, and compared with what tools say.

Sources: sysfs (Documentation/ABI/testing/sysfs-bus-pci), `lspci -Dnn`, `-nnk` and `-nnmm`, pci.ids. A tool that lists a
device the bus does not have, or has as something else, is suspect; a device on the bus that no tool lists is unmanaged.
Whoever is root can fake sysfs, and a hypervisor any identity: this raises the evidence to L2 and no further, and in a
virtual machine not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.accelerator import Accelerator, EvidenceLevel, Source
from adapters.cell import read_bdf

SYS, PROC = Path("/sys"), Path("/proc")
MOST_FUNCTIONS = 65536
# PCI base classes: display controllers, and processing accelerators (Huawei's are 1200).
BASE_CLASSES = frozenset({0x03, 0x12})
DISPLAY = 0x0300
VENDORS: Mapping[int, str] = {
    0x10DE: "nvidia",
    0x1002: "amd",
    0x8086: "intel",
    0x19E5: "ascend",
    0xCABC: "cambricon",
    0x1D94: "hygon",
    0x1ED5: "mthreads",
    0x9999: "metax",
    0x1E3E: "iluvatar",
    0x1E36: "enflame",
    0x1D22: "kunlunxin",
    0x1EE0: "biren",
    0x1DED: "thead",
}
# Hygon's CPUs share its vendor id; these are its DCUs (Hygon's device plugin, and one lspci recording for 6320).
HYGON_DCUS = frozenset({0x54B7, 0x55B7, 0x62B7, 0x6210, 0x6211, 0x6212, 0x6213, 0x6320})
ALIBABA_NETWORK = frozenset({0x107F, 0x5007})  # Elastic RDMA adapters under T-Head's vendor id
GRAPHICS_TOO = frozenset({"amd", "intel"})  # whose 0300 functions are mostly a processor's own graphics
# Kernel drivers of which a public source says so; another vendor's driver on a device is a contradiction.
DRIVERS: Mapping[str, frozenset[str]] = {
    "nvidia": frozenset({"nvidia"}),
    "amd": frozenset({"amdgpu"}),
    "hygon": frozenset({"hycu", "hydcu"}),
}
PASSED_THROUGH = frozenset({"vfio-pci", "pci-stub", "pciback", "xen-pciback"})
ASLEEP = 0xFF  # the revision of a function that answers nothing but ones
HYPERVISORS = re.compile(
    r"qemu|kvm|vmware|virtualbox|xen|bochs|bhyve|parallels|microsoft corporation virtual|openstack|"
    r"alibaba cloud ecs|amazon ec2|google compute engine|hvm domu|virtual machine|cloud server",
    re.I,
)
BARE_CLOUD = re.compile(r"\.metal\b|bare ?metal|\bebm", re.I)

_DNN = re.compile(
    r"\s*(?P<bdf>(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]) [^\[]{0,120}\[(?P<class>[0-9a-f]{4})\]: "
    r".{0,300}\[(?P<vendor>[0-9a-f]{4}):(?P<device>[0-9a-f]{4})\](?:.{0,40}?\(rev (?P<rev>[0-9a-f]{2})\))?.{0,80}",
    re.I,
)
_MM = re.compile(r'(?P<bdf>(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]) (?P<rest>".*)', re.I)
_QUOTED = re.compile(r'"([^"]{0,200})"')
_CODE = re.compile(r"\[([0-9a-f]{4})\]\s*$", re.I)
_IN_USE = re.compile(r"\s+Kernel driver in use: (\S{1,60})")


@dataclass(frozen=True, slots=True, kw_only=True)
class PciDevice:
    """One function on the bus. class_code: base and sub class (0x0302); what cannot be read is None.

    driver: the kernel driver bound to it; virtual_function: whether it is a part that SR-IOV made of another.
    """

    bdf: str
    vendor_id: int
    device_id: int
    class_code: int
    subsystem_vendor_id: int | None = None
    subsystem_device_id: int | None = None
    revision: int | None = None
    driver: str | None = None
    numa_node: int | None = None
    virtual_function: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """What bus and tools say of each other. suspect: uuid → why; agreed: uuids that the bus confirms."""

    unmanaged: tuple[PciDevice, ...]
    suspect: Mapping[str, tuple[str, ...]]
    agreed: frozenset[str]
    problems: tuple[str, ...]


def scan(root: Path = SYS) -> tuple[PciDevice, ...]:
    """Every function that sysfs lists, in the order of addresses; () where there is no PCI bus.

    A function whose vendor, device or class cannot be read (it was just pulled out) is left out.
    """
    folder = root / "bus" / "pci" / "devices"
    try:
        names = sorted(path.name for path in folder.iterdir())[:MOST_FUNCTIONS]
    except OSError:
        return ()
    found = (_read_function(folder / name) for name in names)
    return tuple(device for device in found if device is not None)


def parse_lspci(text: str) -> tuple[PciDevice, ...]:
    """The functions in a recorded `lspci -Dnn`, `-nnk`, or `-nnmm`; () when no line is one of theirs."""
    found: list[PciDevice] = []
    for line in text.splitlines():
        if found and (used := _IN_USE.match(line)):
            found[-1] = replace(found[-1], driver=used[1])
            continue
        device = _read_dnn(line) or _read_mm(line)
        if device is not None:
            found.append(device)
    return tuple(found)


def accelerator_vendor(device: PciDevice) -> str | None:
    """Whose accelerator the function may be; None for bridges, sound, network, BMC graphics and CPU functions."""
    vendor = VENDORS.get(device.vendor_id)
    if vendor is None or device.class_code >> 8 not in BASE_CLASSES:
        return None
    if vendor == "hygon" and device.device_id not in HYGON_DCUS:
        return None
    if vendor == "thead" and device.device_id in ALIBABA_NETWORK:
        return None
    return vendor


def reconcile(pci: Sequence[PciDevice], devices: Sequence[Accelerator]) -> Reconciliation:
    """The bus against the tools. Simulated devices are left out: they are on no bus and claim none.

    Without any function on the bus (a container without sysfs) nothing is said of anybody.
    """
    listed = [device for device in devices if device.source is not Source.SIMULATED and device.partition is None]
    functions = {function.bdf: function for function in pci}
    suspect: dict[str, tuple[str, ...]] = {}
    agreed: set[str] = set()
    for device in listed if pci else ():
        if device.pci_bdf is None:
            continue  # nothing to compare: it stays where it is
        doubts = _doubts(device, functions.get(device.pci_bdf))
        if doubts:
            suspect[device.uuid] = doubts
        else:
            agreed.add(device.uuid)
    for device in devices:
        if device.partition is not None:  # a part is as real as the whole
            parent = device.partition.parent_uuid
            if parent in agreed:
                agreed.add(device.uuid)
            elif parent in suspect:
                suspect[device.uuid] = suspect[parent]
    held = {device.pci_bdf for device in listed}
    unmanaged = tuple(function for function in pci if function.bdf not in held and _is_missed(function))
    said = [f"{uuid}: suspect: {'; '.join(doubts)}" for uuid, doubts in suspect.items()]
    return Reconciliation(
        unmanaged=unmanaged,
        suspect=suspect,
        agreed=frozenset(agreed),
        problems=(*(_tell_unmanaged(function) for function in unmanaged), *said),
    )


def attest(
    devices: Sequence[Accelerator], pci: Sequence[PciDevice], *, bare_metal: bool | None
) -> tuple[tuple[Accelerator, ...], tuple[str, ...]]:
    """The devices with what the kernel says of them, and the problems that no device carries.

    A device that the bus confirms, with a driver bound to it, is at L2 on a bare host; in a virtual machine, or where
    that is not known, no device is above L1. A suspect device is at L1 at most, and says why. Ids and NUMA node are
    filled in where the tool gave none.
    """
    told = reconcile(pci, devices)
    functions = {function.bdf: function for function in pci}
    found = []
    for device in devices:
        function = functions.get(device.pci_bdf or "")
        if device.source is Source.SIMULATED:
            found.append(device)
            continue
        if function is not None and device.uuid in told.agreed:
            node = device.numa_node if device.numa_node is not None else function.numa_node
            device = replace(device, pci_vendor_id=function.vendor_id, pci_device_id=function.device_id, numa_node=node)
        level = device.evidence_level
        bound = function is not None and function.driver is not None
        if device.uuid in told.agreed and bare_metal is True and bound:
            level = max(level, EvidenceLevel.KERNEL_OBSERVED)
        elif device.uuid in told.suspect or level is EvidenceLevel.KERNEL_OBSERVED:
            level = min(level, EvidenceLevel.TOOL_REPORTED)
        doubts = tuple(doubt for doubt in told.suspect.get(device.uuid, ()) if doubt not in device.problems)
        found.append(replace(device, evidence_level=level, problems=(*device.problems, *doubts)))
    return tuple(found), tuple(_tell_unmanaged(function) for function in told.unmanaged)


def is_bare_metal(sys: Path = SYS, proc: Path = PROC) -> bool | None:
    """Whether this host is no virtual machine; None when nothing here tells. A hypervisor may lie about it."""
    if _text(sys / "hypervisor" / "type") or (proc / "device-tree" / "hypervisor").exists():
        return False
    flags = next(
        (line.split() for line in (_text(proc / "cpuinfo") or "").splitlines() if line.startswith("flags")), []
    )
    if "hypervisor" in flags:
        return False
    maker = " ".join(
        word for name in ("sys_vendor", "product_name") if (word := _text(sys / "class" / "dmi" / "id" / name))
    )
    if maker and HYPERVISORS.search(maker) and not BARE_CLOUD.search(maker):
        return False
    return True if flags or maker else None


def _doubts(device: Accelerator, function: PciDevice | None) -> tuple[str, ...]:
    if function is None:
        return (f"the tool lists it at {device.pci_bdf}, where the bus has nothing",)
    found = []
    where = f"the bus has {function.vendor_id:04x}:{function.device_id:04x} at {function.bdf}"
    holder = VENDORS.get(function.vendor_id)
    if holder != device.vendor:
        found.append(f"{where}, which is {holder or 'no known vendor of accelerators'}, not {device.vendor}")
    elif device.pci_device_id not in (None, function.device_id):
        found.append(f"{where}; the tool says {device.pci_device_id or 0:04x}")
    if function.class_code >> 8 not in BASE_CLASSES:
        found.append(f"{where}, of class {function.class_code:04x}, which is no accelerator")
    known = DRIVERS.get(device.vendor)
    foreign = any(function.driver in drivers for vendor, drivers in DRIVERS.items() if vendor != device.vendor)
    if function.driver and (function.driver not in known if known else foreign):
        found.append(f"kernel driver {function.driver} is bound to it, which is not {device.vendor}'s")
    return tuple(found)


def _is_missed(function: PciDevice) -> bool:
    """Whether an unlisted function is worth telling: a processor's own graphics is not, a virtual function is."""
    vendor = accelerator_vendor(function)
    return vendor is not None and not (vendor in GRAPHICS_TOO and function.class_code == DISPLAY)


def _tell_unmanaged(function: PciDevice) -> str:
    vendor = accelerator_vendor(function)
    why = "no tool lists it"
    if function.driver in PASSED_THROUGH:
        why = f"it is passed through to a virtual machine ({function.driver})"
    elif function.revision == ASLEEP:
        why = "it answers nothing on the bus (rev ff)"
    elif function.virtual_function:
        why = "it is a virtual function that no tool lists"
    return f"{function.bdf}: {vendor} {function.vendor_id:04x}:{function.device_id:04x} is present, unmanaged: {why}"


def _read_function(folder: Path) -> PciDevice | None:
    bdf = read_bdf(folder.name)
    vendor, device, kind = (_number(folder / name) for name in ("vendor", "device", "class"))
    if bdf is None or vendor is None or device is None or kind is None:
        return None
    node = _text(folder / "numa_node")
    try:
        driver = (folder / "driver").resolve(strict=True).name
    except OSError:
        driver = None
    return PciDevice(
        bdf=bdf,
        vendor_id=vendor,
        device_id=device,
        class_code=kind >> 8,
        subsystem_vendor_id=_number(folder / "subsystem_vendor"),
        subsystem_device_id=_number(folder / "subsystem_device"),
        revision=_number(folder / "revision"),
        driver=driver,
        numa_node=int(node) if node and node.isdigit() else None,  # -1: the firmware does not say
        virtual_function=(folder / "physfn").exists(),
    )


def _read_dnn(line: str) -> PciDevice | None:
    match = _DNN.fullmatch(line.rstrip())
    bdf = read_bdf(match["bdf"]) if match else None
    if match is None or bdf is None:
        return None
    return PciDevice(
        bdf=bdf,
        vendor_id=int(match["vendor"], 16),
        device_id=int(match["device"], 16),
        class_code=int(match["class"], 16),
        revision=int(match["rev"], 16) if match["rev"] else None,
    )


def _read_mm(line: str) -> PciDevice | None:
    match = _MM.fullmatch(line.strip())
    bdf = read_bdf(match["bdf"]) if match else None
    if match is None or bdf is None:
        return None
    codes = [_code(cell) for cell in _QUOTED.findall(match["rest"])]
    codes += [None] * (5 - len(codes))
    kind, vendor, device, sub_vendor, sub_device = codes[:5]
    if kind is None or vendor is None or device is None:
        return None
    revision = re.search(r" -r([0-9a-f]{2})\b", match["rest"], re.I)
    return PciDevice(
        bdf=bdf,
        vendor_id=vendor,
        device_id=device,
        class_code=kind,
        subsystem_vendor_id=sub_vendor,
        subsystem_device_id=sub_device,
        revision=int(revision[1], 16) if revision else None,
    )


def _code(cell: str) -> int | None:
    match = _CODE.search(cell)
    return int(match[1], 16) if match else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[: 1 << 20].strip() or None
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text, 16) if text and re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text) else None


def known_vendors(pci: Iterable[PciDevice]) -> tuple[str, ...]:
    """The vendors whose accelerators are on the bus, in name order: whose adapters to ask."""
    return tuple(sorted({vendor for function in pci if (vendor := accelerator_vendor(function))}))
