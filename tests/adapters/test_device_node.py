"""Every vendor's adapter names the nodes its devices need, as its host tells them, and guesses none."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.accelerator import Accelerator, Partition, PartitionKind, Source
from adapters.device_node import TABLE, NodeReader, device_nodes
from adapters.registry import load_adapter, vendors

FIRST, SECOND = "0000:1b:00.0", "0000:2c:00.0"


def device(vendor: str, index: int, bdf: str | None = None, **more: object) -> Accelerator:
    held: dict[str, object] = {"uuid": f"u{index}", "visible_id": str(index), "pci_bdf": bdf, "source": Source.LIBRARY}
    return Accelerator(index=index, vendor=vendor, model_raw="any", **(held | more))  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host whose kernel numbers its devices otherwise than their libraries."""
    for bdf, minor in ((FIRST, 3), (SECOND, 0)):
        for kind in (f"drm/card{minor + 1}", f"drm/renderD{128 + minor}", f"iluvatar_class/iluvatar{minor}"):
            (tmp_path / "sys/bus/pci/devices" / bdf / kind).mkdir(parents=True)
        info = tmp_path / "proc/driver/nvidia/gpus" / bdf / "information"
        info.parent.mkdir(parents=True)
        info.write_text(
            f"Model: \t\t NVIDIA H800\nBus Location: \t {bdf}\nDevice Minor: \t {minor}\nGPU Excluded:\t No\n"
        )
    (tmp_path / "dev").mkdir()
    for optional in ("nvidia-uvm-tools", "mkfd", "biren-m"):
        (tmp_path / "dev" / optional).touch()
    return tmp_path


DRI = ("/dev/dri/card4", "/dev/dri/renderD131", "/dev/dri/card1", "/dev/dri/renderD128")
WANTED = {
    "nvidia": ("/dev/nvidia3", "/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"),
    "amd": (*DRI, "/dev/kfd"),
    "intel": DRI,
    "ascend": ("/dev/davinci0", "/dev/davinci1", "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"),
    "cambricon": ("/dev/cambricon_dev0", "/dev/cambricon_dev1", "/dev/cambricon_ctl"),
    "hygon": (*DRI, "/dev/kfd", "/dev/mkfd"),
    "mthreads": ("/dev/mtgpu.0", *DRI[:2], "/dev/mtgpu.1", *DRI[2:]),
    "metax": (*DRI, "/dev/mxcd"),
    "iluvatar": ("/dev/iluvatar3", "/dev/iluvatar0"),
    "enflame": ("/dev/gcu0", "/dev/gcu1", "/dev/gcuctl"),
    "kunlunxin": ("/dev/xpu0", "/dev/xpu1", "/dev/xpuctrl"),
    "biren": ("/dev/biren/card_0", "/dev/biren/card_1", "/dev/biren-m"),
    "thead": ("/dev/alixpu_ppu0", "/dev/alixpu_ppu1", "/dev/alixpu", "/dev/alixpu_ctl"),
    "simulated": (),
}


@pytest.mark.parametrize("vendor", sorted(vendors()))
def test_each_vendors_nodes_are_those_of_its_devices_and_what_all_of_them_need(vendor: str, root: Path) -> None:
    pair = [device(vendor, 0, FIRST), device(vendor, 1, SECOND)]

    assert device_nodes(vendor, pair, root) == WANTED[vendor]
    assert device_nodes(vendor, [], root) == (), "no device, no node: not even a control node"


@pytest.mark.parametrize("vendor", sorted(vendors()))
def test_each_adapter_has_the_port(vendor: str) -> None:
    adapter = load_adapter(vendor)

    assert isinstance(adapter, NodeReader)
    assert adapter.device_nodes([]) == ()
    assert vendor in TABLE


@pytest.mark.parametrize("vendor", ["nvidia", "amd", "intel", "hygon", "mthreads", "metax", "iluvatar"])
@pytest.mark.parametrize("bdf", [None, "0000:ff:00.0"])
def test_a_number_that_the_host_does_not_tell_is_not_guessed(vendor: str, bdf: str | None, root: Path) -> None:
    with pytest.raises(ValueError, match="u5: "):
        device_nodes(vendor, [device(vendor, 5, bdf)], root)


def test_a_device_with_two_nodes_of_a_kind_is_not_guessed(root: Path) -> None:
    (root / "sys/bus/pci/devices" / FIRST / "drm/renderD199").mkdir()
    with pytest.raises(ValueError, match="renderD131"):
        device_nodes("amd", [device("amd", 0, FIRST)], root)


@pytest.mark.parametrize("visible", [None, "GPU-1"])
def test_an_ascend_device_without_a_number_has_no_known_node(visible: str | None, root: Path) -> None:
    with pytest.raises(ValueError, match="visible_id"):
        device_nodes("ascend", [device("ascend", 0, FIRST, visible_id=visible)], root)


def test_the_nodes_of_a_part_are_not_known(root: Path) -> None:
    part = device("nvidia", 0, FIRST, partition=Partition(kind=PartitionKind.MIG, parent_uuid="u1"))
    with pytest.raises(ValueError, match="a part"):
        device_nodes("nvidia", [part], root)


def test_a_vendor_without_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="device nodes of sophgo are not known"):
        device_nodes("sophgo", [device("sophgo", 0)])
