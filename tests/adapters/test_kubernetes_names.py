"""The table of names in Kubernetes: a test for each row of the interface survey, both ways, with units."""

from __future__ import annotations

import pytest

from adapters.catalog import load_catalog
from adapters.kubernetes_names import (
    GIB,
    MIB,
    TABLE,
    Plugin,
    Role,
    Unit,
    bytes_of,
    meaning_of,
    names_of,
    permille_of,
    resource_of,
)
from adapters.registry import load_adapter, vendors

OFF, H, V = Plugin.OFFICIAL, Plugin.HAMI, Plugin.VOLCANO
COUNT, PART, MEMORY, CORES = Role.COUNT, Role.PART, Role.MEMORY, Role.CORES
DEVICE, SLICE, MI, GI, PERCENT = Unit.DEVICE, Unit.SLICE, Unit.MIB, Unit.GIB, Unit.PERCENT

ROWS = [
    ("nvidia.com/gpu", OFF, "nvidia", COUNT, DEVICE), ("nvidia.com/gpu", H, "nvidia", COUNT, DEVICE),
    ("nvidia.com/gpu.shared", OFF, "nvidia", PART, SLICE), ("nvidia.com/mig-3g.40gb", OFF, "nvidia", PART, SLICE),
    ("nvidia.com/gpumem", H, "nvidia", MEMORY, MI), ("nvidia.com/gpumem-percentage", H, "nvidia", MEMORY, PERCENT),
    ("nvidia.com/gpucores", H, "nvidia", CORES, PERCENT), ("volcano.sh/vgpu-number", V, "nvidia", COUNT, DEVICE),
    ("volcano.sh/vgpu-memory", V, "nvidia", MEMORY, MI), ("volcano.sh/vgpu-cores", V, "nvidia", CORES, PERCENT),
    ("amd.com/gpu", OFF, "amd", COUNT, DEVICE), ("amd.com/gpumem", H, "amd", MEMORY, MI),
    ("amd.com/gpucores", H, "amd", CORES, PERCENT),
    ("gpu.intel.com/i915", OFF, "intel", COUNT, DEVICE), ("gpu.intel.com/xe", OFF, "intel", COUNT, DEVICE),
    ("habana.ai/gaudi", OFF, "intel", COUNT, DEVICE),
    ("huawei.com/Ascend910", OFF, "ascend", COUNT, DEVICE), ("huawei.com/Ascend310", OFF, "ascend", COUNT, DEVICE),
    ("huawei.com/npu", OFF, "ascend", COUNT, DEVICE), ("huawei.com/Ascend310P", OFF, "ascend", COUNT, DEVICE),
    ("huawei.com/Ascend310P", H, "ascend", COUNT, DEVICE), ("huawei.com/Ascend310P-4c", OFF, "ascend", PART, SLICE),
    *((f"huawei.com/{name}{end}", H, "ascend", role, unit)
      for name in ("Ascend910A", "Ascend910B2", "Ascend910B3", "Ascend910B4", "Ascend910B4-1", "Ascend910C", "Ascend310P")
      for end, role, unit in (("", COUNT, DEVICE), ("-memory", MEMORY, MI), ("-core", CORES, PERCENT))),
    ("cambricon.com/mlu", OFF, "cambricon", COUNT, DEVICE), ("cambricon.com/mlu370", OFF, "cambricon", COUNT, DEVICE),
    ("cambricon.com/mlu370.share", OFF, "cambricon", PART, SLICE),
    ("cambricon.com/mlu370.mim-2m.8gb", OFF, "cambricon", PART, SLICE),
    ("cambricon.com/mlu370.smlu.vcore", OFF, "cambricon", CORES, PERCENT),
    ("cambricon.com/mlu370.smlu.vmemory", OFF, "cambricon", MEMORY, PERCENT),
    ("cambricon.com/vmlu", H, "cambricon", COUNT, DEVICE),
    ("cambricon.com/mlu.smlu.vmemory", H, "cambricon", MEMORY, PERCENT),
    ("cambricon.com/mlu.smlu.vcore", H, "cambricon", CORES, PERCENT),
    ("hygon.com/dcu", OFF, "hygon", COUNT, DEVICE), ("hygon.com/hcu", OFF, "hygon", COUNT, DEVICE),
    ("hygon.com/dcunum", H, "hygon", COUNT, DEVICE), ("hygon.com/dcumem", H, "hygon", MEMORY, MI),
    ("hygon.com/dcucores", H, "hygon", CORES, PERCENT),
    ("mthreads.com/gpu", OFF, "mthreads", COUNT, DEVICE), ("mthreads.com/vgpu", H, "mthreads", COUNT, DEVICE),
    ("mthreads.com/sgpu-memory", H, "mthreads", MEMORY, Unit.BLOCK_512_MIB),
    ("mthreads.com/sgpu-core", H, "mthreads", CORES, Unit.SIXTEENTH),
    ("metax-tech.com/gpu", OFF, "metax", COUNT, DEVICE), ("metax-tech.com/sgpu", H, "metax", COUNT, DEVICE),
    ("metax-tech.com/vmemory", H, "metax", MEMORY, GI), ("metax-tech.com/vcore", H, "metax", CORES, PERCENT),
    ("iluvatar.com/gpu", OFF, "iluvatar", COUNT, DEVICE),
    *((f"iluvatar.ai/{name}{end}", H, "iluvatar", role, unit)
      for name in ("MR-V100", "MR-V50", "BI-V150", "BI-V100")
      for end, role, unit in
      (("-vgpu", COUNT, DEVICE), (".vMem", MEMORY, Unit.BLOCK_256_MIB), (".vCore", CORES, PERCENT))),
    ("enflame.com/gcu", OFF, "enflame", COUNT, DEVICE), ("enflame.com/vgcu", OFF, "enflame", PART, SLICE),
    ("enflame.com/shared-gcu", OFF, "enflame", PART, SLICE), ("enflame.com/drs-gcu", H, "enflame", PART, SLICE),
    ("enflame.com/gcu-memory", H, "enflame", MEMORY, MI), ("enflame.com/gcu-core", H, "enflame", CORES, PERCENT),
    ("enflame.com/vgcu-percentage", H, "enflame", CORES, PERCENT),
    ("kunlunxin.com/xpu", OFF, "kunlunxin", COUNT, DEVICE), ("kunlunxin.com/vxpu", H, "kunlunxin", COUNT, DEVICE),
    ("kunlunxin.com/vxpu-memory", H, "kunlunxin", MEMORY, MI),
    ("birentech.com/gpu", OFF, "biren", COUNT, DEVICE), ("birentech.com/1-2-gpu", OFF, "biren", PART, SLICE),
    ("birentech.com/1-4-gpu", OFF, "biren", PART, SLICE),
    ("alibabacloud.com/ppu", OFF, "thead", COUNT, DEVICE), ("aliyun.com/ppu", OFF, "thead", COUNT, DEVICE),
]  # fmt: skip


@pytest.mark.parametrize(("name", "plugin", "vendor", "role", "unit"), ROWS)
def test_a_resource_means_what_its_vendor_says(name: str, plugin: Plugin, vendor: str, role: Role, unit: Unit) -> None:
    found = meaning_of(name, plugin=plugin)

    assert found is not None
    assert (found.vendor, found.resource.plugin, found.resource.role, found.resource.unit) == (
        vendor, plugin, role, unit,
    )  # fmt: skip


def test_every_row_of_the_table_is_among_those_tested() -> None:
    tested = {(name, plugin) for name, plugin, *_ in ROWS}
    exact = {(r.name, r.plugin) for names in TABLE for r in names.resources if "<profile>" not in r.name}

    # HAMi's own reading of a name it shares with the vendor's plugin is tested once, for NVIDIA and for Ascend310P
    shared = {("amd.com/gpu", H), ("birentech.com/gpu", H), ("enflame.com/drs-gcu", OFF)}
    assert exact - tested == shared


def test_names_and_meanings_agree_both_ways() -> None:
    for names in TABLE:
        for resource in names.resources:
            name = resource.name.replace("<profile>", "1g.5gb")
            found = meaning_of(name, plugin=resource.plugin)
            assert found is not None
            assert (found.vendor, found.resource) == (names.vendor, resource)


@pytest.mark.parametrize(
    ("name", "profile"),
    [("nvidia.com/mig-1g.10gb", "1g.10gb"), ("huawei.com/Ascend310P-4c", "4c"), ("cambricon.com/mlu370.mim-2m.8gb", "2m.8gb")],
)  # fmt: skip
def test_a_slice_keeps_its_profile(name: str, profile: str) -> None:
    found = meaning_of(name)
    assert found is not None
    assert found.profile == profile


@pytest.mark.parametrize("name", ["cpu", "memory", "nvidia.com/", "nvidia.com/mig-", "huawei.com/Ascend310P-4c x", ""])
def test_other_names_are_no_accelerators(name: str) -> None:
    assert meaning_of(name) is None


def test_every_model_named_is_that_vendors_in_the_catalogue() -> None:
    catalog = load_catalog()
    for names in TABLE:
        for resource in names.resources:
            for model in resource.models:
                chip = catalog.get(model)
                assert chip is not None, model
                assert chip.vendor == names.vendor


@pytest.mark.parametrize(
    ("vendor", "role", "plugin", "model", "name"),
    [
        ("ascend", COUNT, H, "Ascend910B3", "huawei.com/Ascend910B3"),
        ("ascend", MEMORY, H, "Ascend910C", "huawei.com/Ascend910C-memory"),
        ("ascend", COUNT, H, "Ascend950PR", None),  # HAMi names models, and not this one
        ("ascend", COUNT, OFF, "Ascend910B3", "huawei.com/Ascend910"),
        ("iluvatar", CORES, H, "BI-V150", "iluvatar.ai/BI-V150.vCore"),
        ("intel", COUNT, OFF, "Max1550", "gpu.intel.com/i915"),
        ("intel", COUNT, OFF, "Gaudi3", "habana.ai/gaudi"),
        ("kunlunxin", CORES, H, "P800", None),
        ("nobody", COUNT, OFF, None, None),
    ],
)
def test_who_writes_a_pod_finds_the_name(vendor: str, role: Role, plugin: Plugin, model: str, name: str | None) -> None:
    found = resource_of(vendor, role, plugin=plugin, model=model)
    assert (None if found is None else found.name) == name


@pytest.mark.parametrize(
    ("name", "amount", "device", "expected"),
    [
        ("nvidia.com/gpumem", 3000, None, 3000 * MIB),
        ("mthreads.com/sgpu-memory", 32, None, 16 * GIB),
        ("iluvatar.ai/BI-V150.vMem", 64, None, 16 * GIB),
        ("metax-tech.com/vmemory", 4, None, 4 * GIB),
        ("cambricon.com/mlu.smlu.vmemory", 20, 24 * GIB, 24 * GIB // 5),
        ("cambricon.com/mlu.smlu.vmemory", 20, None, None),
    ],
)
def test_memory_is_asked_for_in_each_vendors_unit(
    name: str, amount: int, device: int | None, expected: int | None
) -> None:
    found = meaning_of(name, plugin=H)
    assert found is not None
    assert bytes_of(found.resource, amount, device) == expected


@pytest.mark.parametrize(
    ("name", "amount", "permille"), [("mthreads.com/sgpu-core", 8, 500), ("hygon.com/dcucores", 15, 150)]
)
def test_cores_are_asked_for_in_each_vendors_unit(name: str, amount: int, permille: int) -> None:
    found = meaning_of(name, plugin=H)
    assert found is not None
    assert permille_of(found.resource, amount) == permille
    with pytest.raises(ValueError, match="not for memory"):
        bytes_of(found.resource, amount)
    with pytest.raises(ValueError, match="below 0"):
        permille_of(found.resource, -1)


LABELS = {
    "nvidia": ("nvidia.com/gpu.product", "nvidia.com/gpu.memory", "nvidia.com/gpu.count", "nvidia.com/gpu.family"),
    "amd": ("amd.com/gpu.*",),
    "ascend": ("accelerator", "accelerator-type"),
    "hygon": ("dcu=on",),
    "metax": ("metax-tech.com/gpu.product", "metax-tech.com/gpu.memory"),
    "biren": ("birentech.com=gpu",),
}


@pytest.mark.parametrize("names", TABLE, ids=lambda names: names.vendor)
def test_nodes_carry_the_labels_that_vendors_publish(names: object) -> None:
    assert names.labels == LABELS.get(names.vendor, ())  # type: ignore[attr-defined]


VARIABLES = {
    "nvidia": (("CUDA_VISIBLE_DEVICES",), ("NVIDIA_VISIBLE_DEVICES",)),
    "amd": (("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"), ("AMD_VISIBLE_DEVICES",)),
    "intel": (("ZE_AFFINITY_MASK", "HABANA_VISIBLE_MODULES"), ()),
    "ascend": (("ASCEND_RT_VISIBLE_DEVICES",), ("ASCEND_VISIBLE_DEVICES",)),
    "cambricon": (("MLU_VISIBLE_DEVICES",), ("CAMBRICON_VISIBLE_DEVICES", "CAMBRICON_SPLIT_VISIBLE_DEVICES")),
    "hygon": (("HIP_VISIBLE_DEVICES",), ("HYGON_VISIBLE_DEVICES",)),
    "mthreads": (("MUSA_VISIBLE_DEVICES",), ("MTHREADS_VISIBLE_DEVICES",)),
    "metax": (("CUDA_VISIBLE_DEVICES", "MACA_VISIBLE_DEVICES"), ()),
    "iluvatar": (("CUDA_VISIBLE_DEVICES",), ("IX_VISIBLE_DEVICES", "ILUVATAR_COREX_VISIBLE_DEVICES")),
    "enflame": (("TOPS_VISIBLE_DEVICES",), ("ENFLAME_VISIBLE_DEVICES",)),
    "kunlunxin": (("XPU_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"), ("CXPU_VISIBLE_DEVICES",)),
    "biren": (("SUPA_VISIBLE_DEVICES",), ("BIREN_VISIBLE_DEVICES",)),
    "thead": (("CUDA_VISIBLE_DEVICES",), ("NVIDIA_VISIBLE_DEVICES",)),
}


@pytest.mark.parametrize("vendor", sorted(VARIABLES))
def test_variables_show_devices_to_processes_and_containers(vendor: str) -> None:
    names = names_of(vendor)
    assert names is not None
    assert (names.process, names.container) == VARIABLES[vendor]


@pytest.mark.parametrize("vendor", sorted(set(vendors()) - {"simulated"}))
def test_adapters_set_no_variable_that_the_table_does_not_know(vendor: str) -> None:
    names = names_of(vendor)
    assert names is not None, f"{vendor} has an adapter and no names"
    told = set(load_adapter(vendor).visibility(())) - {"CUDA_DEVICE_ORDER"}
    assert told <= {*names.process, *names.container}
