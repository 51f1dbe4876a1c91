"""The bus is read apart from the vendors' tools, and what the two say of each other is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.accelerator import Accelerator, EvidenceLevel, Partition, PartitionKind, Source
from adapters.pci import (
    PciDevice,
    accelerator_vendor,
    attest,
    is_bare_metal,
    known_vendors,
    parse_lspci,
    reconcile,
    scan,
)
from tests.adapters.mutation import mutate
from tests.adapters.recorded import recordings

DNN = """\
0000:00:00.0 Host bridge [0600]: Chengdu Haiguang IC Design Co., Ltd. Root Complex [1d94:1450]
0000:01:00.0 Display controller [0380]: Chengdu Haiguang IC Design Co., Ltd. Device [1d94:6210] (rev 01)
0000:02:00.0 Processing accelerators [1200]: Huawei Technologies Co., Ltd. Device d802 [19e5:d802] (rev 20)
0000:03:00.0 Ethernet controller [0200]: Huawei Technologies Co., Ltd. Hi1822 [19e5:0222] (rev 45)
0000:04:00.0 3D controller [0302]: NVIDIA Corporation GH100 [H800] [10de:2324] (rev ff)
\tSubsystem: NVIDIA Corporation Device [10de:17a6]
\tKernel driver in use: vfio-pci
0000:05:00.0 VGA compatible controller [0300]: ASPEED Technology, Inc. ASPEED Graphics Family [1a03:2000] (rev 52)
0000:06:00.0 VGA compatible controller [0300]: Advanced Micro Devices, Inc. [AMD/ATI] Raphael [1002:164e] (rev c1)
0000:07:00.1 Audio device [0403]: NVIDIA Corporation GA102 [10de:1aef] (rev a1)
0000:08:00.0 Display controller [0380]: Alibaba (China) Co., Ltd. Elastic RDMA [1ded:5007]
"""
MM = (
    '3b:00.0 "3D controller [0302]" "NVIDIA Corporation [10de]" "TU104GL [Tesla T4] [1eb8]" -ra1 '
    '"NVIDIA Corporation [10de]" "Device [12a2]"\n'
)


def function(**changes: object) -> PciDevice:
    held: dict[str, object] = {
        "bdf": "0000:1b:00.0",
        "vendor_id": 0x10DE,
        "device_id": 0x2324,
        "class_code": 0x0302,
        "driver": "nvidia",
        "numa_node": 1,
    }
    return PciDevice(**(held | changes))  # type: ignore[arg-type]


def device(**changes: object) -> Accelerator:
    held: dict[str, object] = {
        "uuid": "GPU-1",
        "index": 0,
        "vendor": "nvidia",
        "model_raw": "H800",
        "pci_bdf": "0000:1b:00.0",
        "source": Source.LIBRARY,
    }
    return Accelerator(**(held | changes))  # type: ignore[arg-type]


def bus(root: Path, functions: Mapping[str, Mapping[str, str]]) -> Path:
    """A sysfs tree with these functions; `driver` and `physfn` are links, as there."""
    for name, files in functions.items():
        folder = root / "bus" / "pci" / "devices" / name
        folder.mkdir(parents=True)
        for key, value in files.items():
            if key in ("driver", "physfn"):
                target = root / key / value
                target.mkdir(parents=True, exist_ok=True)
                (folder / key).symlink_to(target)
            else:
                (folder / key).write_text(value + "\n", encoding="ascii")
    return root


def test_sysfs_is_read_as_the_kernel_writes_it(tmp_path: Path) -> None:
    whole = {
        "vendor": "0x10de",
        "device": "0x2324",
        "class": "0x030200",
        "revision": "0xa1",
        "numa_node": "1",
        "subsystem_vendor": "0x10de",
        "subsystem_device": "0x17a6",
        "driver": "nvidia",
    }
    part = {"vendor": "0x1ed5", "device": "0x0400", "class": "0x030200", "numa_node": "-1", "physfn": "0000:2a:00.0"}
    root = bus(tmp_path, {"0000:1b:00.0": whole, "0000:2a:00.1": part, "0000:99:00.0": {"vendor": "0x10de"}})

    first, second = scan(root)  # the third was pulled out while it was read

    assert first == function(revision=0xA1, subsystem_vendor_id=0x10DE, subsystem_device_id=0x17A6)
    assert (second.driver, second.numa_node, second.virtual_function) == (None, None, True)


def test_a_host_without_a_bus_lists_nothing(tmp_path: Path) -> None:
    assert scan(tmp_path) == ()
    assert reconcile((), [device()]).problems == ()


def test_lspci_is_read_in_all_its_forms() -> None:
    functions = {found.bdf: found for found in parse_lspci(DNN)}
    (machine,) = parse_lspci(MM)

    assert len(functions) == 9
    passed = functions["0000:04:00.0"]
    assert (passed.vendor_id, passed.device_id, passed.revision, passed.driver) == (0x10DE, 0x2324, 0xFF, "vfio-pci")
    assert (machine.bdf, machine.device_id, machine.class_code, machine.revision) == (
        "0000:3b:00.0",
        0x1EB8,
        0x0302,
        0xA1,
    )
    assert machine.subsystem_device_id == 0x12A2
    assert parse_lspci("nothing here\n") == ()


def test_only_accelerators_are_taken_for_accelerators() -> None:
    whose = {found.bdf: accelerator_vendor(found) for found in parse_lspci(DNN)}

    assert whose == {
        "0000:00:00.0": None,  # a bridge of Hygon's CPU
        "0000:01:00.0": "hygon",
        "0000:02:00.0": "ascend",
        "0000:03:00.0": None,  # Huawei's network card
        "0000:04:00.0": "nvidia",
        "0000:05:00.0": None,  # the BMC's graphics
        "0000:06:00.0": "amd",
        "0000:07:00.1": None,  # a graphics card's sound
        "0000:08:00.0": None,  # Alibaba's network card
    }
    assert known_vendors(parse_lspci(DNN)) == ("amd", "ascend", "hygon", "nvidia")


def test_what_no_tool_lists_is_unmanaged_and_says_why() -> None:
    told = reconcile(parse_lspci(DNN), [device(vendor="ascend", uuid="a", pci_bdf="0000:02:00.0")])

    assert [found.bdf for found in told.unmanaged] == ["0000:01:00.0", "0000:04:00.0"]  # not a processor's graphics
    assert "no tool lists it" in told.problems[0]
    assert "passed through to a virtual machine (vfio-pci)" in told.problems[1]
    assert (told.suspect, told.agreed) == ({}, {"a"})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bdf": "0000:99:00.0"}, "the bus has nothing"),
        ({"vendor_id": 0x19E5}, "which is ascend, not nvidia"),
        ({"vendor_id": 0x1234}, "no known vendor of accelerators"),
        ({"class_code": 0x0403}, "which is no accelerator"),
        ({"driver": "amdgpu"}, "kernel driver amdgpu is bound"),
        ({"device_id": 0x20B0}, "the tool says 2324"),
    ],
)
def test_a_device_that_the_bus_does_not_confirm_is_suspect(changed: dict[str, object], said: str) -> None:
    (found,), _ = attest([device(pci_device_id=0x2324)], [function(**changed)], bare_metal=True)

    assert said in found.problems[0]
    assert found.evidence_level is EvidenceLevel.TOOL_REPORTED


def test_a_foreign_card_under_a_domestic_name_is_suspect() -> None:
    claimed = device(vendor="metax", model_raw="C500")

    told = reconcile([function()], [claimed])

    assert "which is nvidia, not metax" in told.suspect["GPU-1"][0]
    assert any("kernel driver nvidia" in doubt for doubt in told.suspect["GPU-1"])


@pytest.mark.parametrize(("bare", "level"), [(True, 2), (False, 1), (None, 1)])
def test_the_bus_raises_the_evidence_on_a_bare_host_only(bare: bool | None, level: int) -> None:
    (found,), said = attest([device()], [function()], bare_metal=bare)

    assert (found.evidence_level, found.problems, said) == (level, (), ())
    assert (found.pci_vendor_id, found.pci_device_id, found.numa_node) == (0x10DE, 0x2324, 1)


def test_in_a_virtual_machine_no_claim_of_the_kernel_stands() -> None:
    claimed = device(evidence_level=EvidenceLevel.KERNEL_OBSERVED)

    assert attest([claimed], [function()], bare_metal=False)[0][0].evidence_level is EvidenceLevel.TOOL_REPORTED


def test_a_function_without_a_driver_proves_no_device() -> None:
    assert attest([device()], [function(driver=None)], bare_metal=True)[0][0].evidence_level == 1


def test_partitions_stand_and_fall_with_their_device_and_the_simulated_stay_as_declared() -> None:
    part = device(uuid="MIG-1", partition=Partition(kind=PartitionKind.MIG, parent_uuid="GPU-1"))
    play = device(uuid="sim", vendor="simulated", source=Source.SIMULATED, evidence_level=EvidenceLevel.DECLARED)

    good, _ = attest([device(), part, play], [function()], bare_metal=True)
    bad, _ = attest([device(), part, play], [function(vendor_id=0x1002)], bare_metal=True)

    assert [found.evidence_level for found in good] == [2, 2, 0]
    assert [bool(found.problems) for found in bad] == [True, True, False]
    assert bad[2] == play


def test_a_device_without_an_address_is_neither_confirmed_nor_suspect() -> None:
    unplaced = device(pci_bdf=None)

    told = reconcile([replace(function(), bdf="0000:55:00.0")], [unplaced])

    assert (told.suspect, told.agreed) == ({}, frozenset())


@pytest.mark.parametrize(
    ("flags", "maker", "bare"),
    [
        ("fpu sse hypervisor", None, False),
        ("fpu sse", "Inspur NF5688M6", True),
        ("fpu sse", "QEMU Standard PC", False),
        (None, "Amazon EC2 p4d.24xlarge", False),
        (None, "Amazon EC2 p4d.metal", True),
        (None, "Huawei TaiShan 200", True),
        (None, None, None),
    ],
)
def test_a_virtual_machine_is_known_by_its_processor_or_its_maker(
    tmp_path: Path, flags: str | None, maker: str | None, bare: bool | None
) -> None:
    proc, names = tmp_path / "proc", tmp_path / "sys" / "class" / "dmi" / "id"
    proc.mkdir()
    names.mkdir(parents=True)
    if flags:
        (proc / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n", encoding="ascii")
    if maker:
        (names / "sys_vendor").write_text(maker, encoding="ascii")

    assert is_bare_metal(tmp_path / "sys", proc) is bare


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_mutated_lspci_is_read_or_skipped(data: st.DataObject) -> None:
    for found in parse_lspci(mutate(DNN + MM, data)):
        assert 0 <= found.vendor_id <= 0xFFFF
        assert accelerator_vendor(found) is None or found.class_code >> 8 in (0x03, 0x12)


def test_real_recordings_of_lspci_are_read() -> None:
    folder = recordings("pci", "lspci")
    whose = {
        path.name: [accelerator_vendor(found) for found in parse_lspci(path.read_text(encoding="utf-8"))]
        for path in sorted(folder.glob("lspci*"))
    }

    assert whose["lspci_Dnn_samples.txt"] == ["ascend", "mthreads", "nvidia", None, "nvidia"]
    assert whose["lspci_nnmm_hygon.txt"] == ["hygon"]
