"""Kubernetes names: what each vendor's chips are called in a cluster, in which units, and which variables show them. No I/O.

One table, both ways: `names_of(vendor)` for who writes a pod, `meaning_of(resource)` for who reads one. A resource is counted in
its own unit (`Unit`), and units differ between vendors: asking one vendor's memory in another's unit is wrong by a factor of 512.
Official names are those of the vendor's own device plugin; HAMi is the sharing scheduler many clusters run beside. Both use
`nvidia.com/gpu`, with another meaning on the node: HAMi counts slots there, a pod's request means physical devices in either.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

MIB, GIB = 1024**2, 1024**3


class Plugin(enum.StrEnum):
    """Whose component understands a name."""

    OFFICIAL = "official"  # the vendor's own device plugin
    HAMI = "hami"
    VOLCANO = "volcano"


class Role(enum.StrEnum):
    """What a resource asks for. PART: a slice of the vendor's own size, named by its profile."""

    COUNT = "count"
    PART = "part"
    MEMORY = "memory"
    CORES = "cores"


class Unit(enum.StrEnum):
    """What one of it is. `bytes_of` and `permille_of` turn an amount into ours."""

    DEVICE = "device"
    SLICE = "slice"
    MIB = "MiB"
    GIB = "GiB"
    BLOCK_256_MIB = "256MiB"
    BLOCK_512_MIB = "512MiB"
    PERCENT = "percent"
    SIXTEENTH = "sixteenth"


_BYTES: Mapping[Unit, int] = MappingProxyType(
    {Unit.MIB: MIB, Unit.GIB: GIB, Unit.BLOCK_256_MIB: 256 * MIB, Unit.BLOCK_512_MIB: 512 * MIB}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One extended resource. models: the catalogue's keys where the name is theirs alone, () = any of the vendor's.

    `<profile>` in a name stands for any slice's.
    """

    name: str
    plugin: Plugin
    role: Role
    unit: Unit
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """A vendor's names. labels: of nodes, `key` or `key=value`. process: the variables that the vendor's stack reads in a process;
    container: those that its container runtime reads. () = none is published."""

    vendor: str
    resources: tuple[Resource, ...]
    labels: tuple[str, ...] = ()
    process: tuple[str, ...] = ()
    container: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a resource name in a pod means. profile: what stands where the table has `<profile>`."""

    vendor: str
    resource: Resource
    profile: str | None = None


def _of(plugin: Plugin, role: Role, unit: Unit, *names: str, models: tuple[str, ...] = ()) -> tuple[Resource, ...]:
    return tuple(Resource(name=name, plugin=plugin, role=role, unit=unit, models=models) for name in names)


def _whole(*names: str, plugin: Plugin = Plugin.OFFICIAL, models: tuple[str, ...] = ()) -> tuple[Resource, ...]:
    return _of(plugin, Role.COUNT, Unit.DEVICE, *names, models=models)


def _parts(*names: str) -> tuple[Resource, ...]:
    return _of(Plugin.OFFICIAL, Role.PART, Unit.SLICE, *names)


def _hami(
    count: str, memory: tuple[str, Unit] | None, cores: tuple[str, Unit] | None, models: tuple[str, ...] = ()
) -> tuple[Resource, ...]:
    found = _whole(count, plugin=Plugin.HAMI, models=models)
    for role, asked in ((Role.MEMORY, memory), (Role.CORES, cores)):
        found += () if asked is None else _of(Plugin.HAMI, role, asked[1], asked[0], models=models)
    return found


def _ascend(name: str, model: str) -> tuple[Resource, ...]:
    name = f"huawei.com/{name}"
    return _hami(name, (f"{name}-memory", Unit.MIB), (f"{name}-core", Unit.PERCENT), (model,))


def _iluvatar(name: str) -> tuple[Resource, ...]:
    at = f"iluvatar.ai/{name}"
    return _hami(f"{at}-vgpu", (f"{at}.vMem", Unit.BLOCK_256_MIB), (f"{at}.vCore", Unit.PERCENT), (name,))


# In order of vendor. Names from the vendors' device plugins and from HAMi's charts, device packages and user guides.
TABLE: tuple[Names, ...] = (
    Names(
        vendor="amd",
        resources=(
            *_whole("amd.com/gpu"),
            *_hami("amd.com/gpu", ("amd.com/gpumem", Unit.MIB), ("amd.com/gpucores", Unit.PERCENT)),
        ),
        labels=("amd.com/gpu.*",),
        process=("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
        container=("AMD_VISIBLE_DEVICES",),
    ),
    Names(
        vendor="ascend",
        resources=(
            *_whole("huawei.com/Ascend910", "huawei.com/Ascend310", "huawei.com/Ascend310P", "huawei.com/npu"),
            *_parts("huawei.com/Ascend910-<profile>", "huawei.com/Ascend310P-<profile>"),  # vNPU, such as 4c
            *_ascend("Ascend910A", "Ascend910A"),
            *_ascend("Ascend910B2", "Ascend910B2"),
            *_ascend("Ascend910B3", "Ascend910B3"),
            *_ascend("Ascend910B4", "Ascend910B4"),
            *_ascend("Ascend910B4-1", "Ascend910B4"),  # its variant whose slices have twice the memory
            *_ascend(
                "Ascend910C", "Ascend910C"
            ),  # in a super pod a count of 1 becomes 2, and other odd ones are refused
            *_ascend("Ascend310P", "Ascend310P3"),
        ),
        labels=("accelerator", "accelerator-type"),
        process=("ASCEND_RT_VISIBLE_DEVICES",),
        container=("ASCEND_VISIBLE_DEVICES",),
    ),
    Names(
        vendor="biren",
        resources=(
            *_whole("birentech.com/gpu"),
            *_parts("birentech.com/1-2-gpu", "birentech.com/1-4-gpu"),
            *_hami("birentech.com/gpu", None, None),
        ),
        labels=("birentech.com=gpu",),
        process=("SUPA_VISIBLE_DEVICES",),
        container=("BIREN_VISIBLE_DEVICES",),
    ),
    Names(
        vendor="cambricon",
        resources=(
            *_whole("cambricon.com/mlu", "cambricon.com/mlu370"),
            *_parts("cambricon.com/mlu370.share", "cambricon.com/mlu370.mim-<profile>"),
            *_of(Plugin.OFFICIAL, Role.CORES, Unit.PERCENT, "cambricon.com/mlu370.smlu.vcore"),
            *_of(Plugin.OFFICIAL, Role.MEMORY, Unit.PERCENT, "cambricon.com/mlu370.smlu.vmemory"),
            *_hami(
                "cambricon.com/vmlu",
                ("cambricon.com/mlu.smlu.vmemory", Unit.PERCENT),
                ("cambricon.com/mlu.smlu.vcore", Unit.PERCENT),
            ),
        ),
        process=("MLU_VISIBLE_DEVICES",),
        container=("CAMBRICON_VISIBLE_DEVICES", "CAMBRICON_SPLIT_VISIBLE_DEVICES"),
    ),
    Names(
        vendor="enflame",
        resources=(
            *_whole("enflame.com/gcu"),
            *_parts("enflame.com/vgcu", "enflame.com/shared-gcu", "enflame.com/drs-gcu"),
            *_of(Plugin.HAMI, Role.PART, Unit.SLICE, "enflame.com/drs-gcu"),
            *_of(Plugin.HAMI, Role.MEMORY, Unit.MIB, "enflame.com/gcu-memory"),
            *_of(Plugin.HAMI, Role.CORES, Unit.PERCENT, "enflame.com/gcu-core", "enflame.com/vgcu-percentage"),
        ),
        process=("TOPS_VISIBLE_DEVICES",),
        container=("ENFLAME_VISIBLE_DEVICES",),
    ),
    Names(
        vendor="hygon",
        resources=(
            *_whole("hygon.com/dcu", "hygon.com/hcu"),
            *_hami("hygon.com/dcunum", ("hygon.com/dcumem", Unit.MIB), ("hygon.com/dcucores", Unit.PERCENT)),
        ),
        labels=("dcu=on",),
        process=("HIP_VISIBLE_DEVICES",),
        container=("HYGON_VISIBLE_DEVICES",),
    ),
    Names(
        vendor="iluvatar",
        resources=(
            *_whole("iluvatar.com/gpu"),  # .com is the vendor's, .ai is HAMi's
            *_iluvatar("MR-V100"),
            *_iluvatar("MR-V50"),
            *_iluvatar("BI-V150"),
            *_iluvatar("BI-V100"),
        ),
        process=("CUDA_VISIBLE_DEVICES",),
        container=("IX_VISIBLE_DEVICES", "ILUVATAR_COREX_VISIBLE_DEVICES"),
    ),
    Names(
        vendor="intel",
        resources=(
            *_whole("gpu.intel.com/i915", "gpu.intel.com/xe"),
            *_whole("habana.ai/gaudi", models=("Gaudi2", "Gaudi3")),
        ),
        process=("ZE_AFFINITY_MASK", "HABANA_VISIBLE_MODULES"),  # the second is Gaudi's
    ),
    Names(
        vendor="kunlunxin",
        resources=(
            *_whole("kunlunxin.com/xpu"),
            *_hami("kunlunxin.com/vxpu", ("kunlunxin.com/vxpu-memory", Unit.MIB), None),
        ),
        process=("XPU_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),  # the second is the P800's
        container=("CXPU_VISIBLE_DEVICES",),
    ),
    Names(
        vendor="metax",
        resources=(
            *_whole("metax-tech.com/gpu"),
            *_hami("metax-tech.com/sgpu", ("metax-tech.com/vmemory", Unit.GIB), ("metax-tech.com/vcore", Unit.PERCENT)),
        ),
        labels=("metax-tech.com/gpu.product", "metax-tech.com/gpu.memory"),
        process=("CUDA_VISIBLE_DEVICES", "MACA_VISIBLE_DEVICES"),
    ),
    Names(
        vendor="mthreads",
        resources=(
            *_whole("mthreads.com/gpu"),
            *_hami(
                "mthreads.com/vgpu",
                ("mthreads.com/sgpu-memory", Unit.BLOCK_512_MIB),
                ("mthreads.com/sgpu-core", Unit.SIXTEENTH),
            ),
        ),
        process=("MUSA_VISIBLE_DEVICES",),
        container=("MTHREADS_VISIBLE_DEVICES",),
    ),
    Names(
        vendor="nvidia",
        resources=(
            *_whole("nvidia.com/gpu"),
            *_parts("nvidia.com/gpu.shared", "nvidia.com/mig-<profile>"),
            *_hami("nvidia.com/gpu", ("nvidia.com/gpumem", Unit.MIB), ("nvidia.com/gpucores", Unit.PERCENT)),
            *_of(Plugin.HAMI, Role.MEMORY, Unit.PERCENT, "nvidia.com/gpumem-percentage"),
            *_whole("volcano.sh/vgpu-number", plugin=Plugin.VOLCANO),
            *_of(Plugin.VOLCANO, Role.MEMORY, Unit.MIB, "volcano.sh/vgpu-memory"),
            *_of(Plugin.VOLCANO, Role.CORES, Unit.PERCENT, "volcano.sh/vgpu-cores"),
        ),
        labels=("nvidia.com/gpu.product", "nvidia.com/gpu.memory", "nvidia.com/gpu.count", "nvidia.com/gpu.family"),
        process=("CUDA_VISIBLE_DEVICES",),
        container=("NVIDIA_VISIBLE_DEVICES",),
    ),
    Names(
        vendor="thead",
        resources=_whole("alibabacloud.com/ppu", "aliyun.com/ppu"),
        process=("CUDA_VISIBLE_DEVICES",),
        container=("NVIDIA_VISIBLE_DEVICES",),
    ),
)

_BY_VENDOR: Mapping[str, Names] = MappingProxyType({names.vendor: names for names in TABLE})
_PROFILE = "<profile>"


def names_of(vendor: str) -> Names | None:
    """The vendor's names; None for one that the table does not have."""
    return _BY_VENDOR.get(vendor)


def resource_of(vendor: str, role: Role, *, plugin: Plugin, model: str | None = None) -> Resource | None:
    """The resource that asks for this of the vendor's devices: one of the model's own before one of all models.

    None where that plugin has none; a plugin that names models has none for a model it does not name.
    """
    names = _BY_VENDOR.get(vendor)
    fit = [r for r in (names.resources if names else ()) if r.role is role and r.plugin is plugin]
    own = [resource for resource in fit if model in resource.models]
    return next(iter(own or [resource for resource in fit if not resource.models]), None)


def meaning_of(name: str, *, plugin: Plugin = Plugin.OFFICIAL) -> Meaning | None:
    """What a resource name means; None for no accelerator's. A name that several plugins have is read as `plugin`'s."""
    found = _EXACT.get(name)
    if found is None:
        found = [Meaning(m.vendor, m.resource, p) for m, pattern in _PATTERNS if (p := _fits(pattern, name))]
    return next((m for m in found if m.resource.plugin is plugin), next(iter(found), None))


def _fits(pattern: re.Pattern[str], name: str) -> str | None:
    match = pattern.fullmatch(name)
    return match[1] if match else None


def _meanings() -> Iterator[Meaning]:
    for names in TABLE:
        for resource in names.resources:
            yield Meaning(names.vendor, resource)


def _exact() -> Mapping[str, list[Meaning]]:
    found: dict[str, list[Meaning]] = {}
    for meaning in _meanings():
        if _PROFILE not in meaning.resource.name:
            found.setdefault(meaning.resource.name, []).append(meaning)
    return MappingProxyType(found)


_EXACT = _exact()
_PATTERNS = tuple(
    (meaning, re.compile(re.escape(meaning.resource.name).replace(re.escape(_PROFILE), r"([0-9a-z][0-9a-z._-]{0,30})")))
    for meaning in _meanings()
    if _PROFILE in meaning.resource.name
)


def bytes_of(resource: Resource, amount: int, device_bytes: int | None = None) -> int | None:
    """How much memory an amount of the resource is, rounded down; a share of the device needs its size, else None.

    ValueError for a resource that asks for no memory, and for an amount below 0.
    """
    _check(resource, Role.MEMORY, amount)
    if resource.unit is Unit.PERCENT:
        return None if device_bytes is None else device_bytes * amount // 100
    return _BYTES[resource.unit] * amount


def permille_of(resource: Resource, amount: int) -> int:
    """How much of a device's cores an amount of the resource is, in permille, rounded down. ValueError as `bytes_of`."""
    _check(resource, Role.CORES, amount)
    return amount * 1000 // (16 if resource.unit is Unit.SIXTEENTH else 100)


def _check(resource: Resource, role: Role, amount: int) -> None:
    if resource.role is not role:
        raise ValueError(f"resource: {resource.name} asks for {resource.role}, not for {role}")
    if amount < 0:
        raise ValueError(f"amount: {amount} of {resource.name} is below 0; the nearest is 0")
