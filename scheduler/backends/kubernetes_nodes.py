"""What a cluster's nodes offer, read from its Node and Pod objects. Pure.

Which devices: every resource name of adapters/kubernetes_names.py that counts whole devices. Which model: the clusters file's word
for the resource, else the resource's own (HAMi's names of one model), else the labels that vendors' feature discovery writes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from adapters.accelerator import Source
from adapters.catalog import Catalog
from adapters.kubernetes_names import MIB, Meaning, Plugin, Role, Unit, meaning_of, names_of, resource_of
from scheduler.backends.kubernetes_objects import FINALIZER, OURS, Settings, name_of
from scheduler.discovery import FoundNode

# Labels that say which chip a node has, by vendor where it matters not: NVIDIA's and AMD's feature discovery, MetaX's and
# Huawei's device plugins (accelerators.md §4); the last ones are clouds' and clusters' own habits.
MODEL_LABELS = (
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "metax-tech.com/gpu.product",
    "node.kubernetes.io/npu.chip.name",
    "accelerator-type",
    "accelerator",
)
MEMORY_LABELS = ("nvidia.com/gpu.memory", "metax-tech.com/gpu.memory")  # MiB per device
RACK_LABELS = ("topology.kubernetes.io/rack", "topology.kubernetes.io/zone", "topology.kubernetes.io/region")
STAYS = frozenset({"NoSchedule", "NoExecute"})
SUFFIXES = ("-SHARED", "-MIG")  # NVIDIA's feature discovery marks what is shared or split
SCALES: Mapping[str, Decimal] = {
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("", "k", "M", "G", "T", "P", "E"))},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate(("", "K", "M", "G", "T", "P", "E")) if unit},
}


@dataclass(frozen=True, slots=True)
class Unknown:
    """Devices of a node that nobody can be given, and why: the node, the resource name, what is not known."""

    node: str
    resource: str
    why: str


def found_nodes(
    nodes: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]], settings: Settings, catalog: Catalog
) -> tuple[list[FoundNode], list[Unknown]]:
    """Every node with devices that the catalogue knows, and what could not be told of the others. pods: of everybody.

    Of a node with several kinds the largest is told, since jobs are placed on one model.
    """
    held = _held(pods, settings)
    found, unknown = [], []
    for node in nodes:
        name = node["metadata"]["name"]
        fit = []
        for resource, meaning, count in _counted(node, settings):
            model = _model(node, resource, meaning, settings, catalog)
            if model is None:
                unknown.append(Unknown(name, resource, "the catalogue has no such model; name it in `models`"))
            else:
                fit.append((count, resource, meaning.vendor, model))
        fit.sort(key=lambda one: (-one[0], one[1]))
        unknown += [Unknown(name, resource, "another kind of the node is told") for _, resource, _, _ in fit[1:]]
        for count, resource, vendor, model in fit[:1]:
            why = closed(node, resource)
            labels = node["metadata"].get("labels") or {}
            amounts = node["status"].get("allocatable") or {}
            found.append(
                FoundNode(
                    name=name,
                    vendor=vendor,
                    model=model,
                    devices=max(0, count - held.get((name, resource), 0)),
                    cpu_milli=int(quantity(amounts["cpu"]) * 1000) if "cpu" in amounts else None,
                    memory_bytes=int(quantity(amounts["memory"])) if "memory" in amounts else None,
                    rack=next((labels[key] for key in RACK_LABELS if labels.get(key)), None),
                    schedulable=why is None,
                    why=why,
                    source=Source.ENGINE,
                    labels=dict(labels),
                )
            )
    return found, unknown


def devices_of(
    node: Mapping[str, Any] | None, vendor: str, model: str, count: int, settings: Settings
) -> dict[str, str]:
    """What a pod asks for `count` whole devices of the model: the names that the node itself has, where it is known.

    HAMi gives a device away whole when all of its cores are asked. {} if nobody has a name for it.
    """
    known = settings.resources.get(model)
    if known is None and node is not None:
        fit = [(-n, name) for name, meaning, n in _counted(node, settings) if meaning.vendor == vendor]
        known = min(fit)[1] if fit else None
    if known is None:
        resource = resource_of(vendor, Role.COUNT, plugin=Plugin(settings.plugin), model=model)
        known = resource.name if resource else None
    if known is None:
        return {}
    asked = {known: str(count)}
    meaning = meaning_of(known, plugin=Plugin(settings.plugin))
    if meaning is not None and meaning.resource.plugin is Plugin.HAMI:
        cores = _beside(meaning, known, Role.CORES)
        asked |= {name: str(16 if unit is Unit.SIXTEENTH else 100) for name, unit in cores}
    return asked


def is_ready(node: Mapping[str, Any]) -> bool:
    """Does the node's kubelet answer?"""
    conditions = node.get("status", {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def closed(node: Mapping[str, Any], resource: str | None = None) -> str | None:
    """Why the node takes no pods of ours; None if it does. A taint of the resource's own name is tolerated."""
    if node["spec"].get("unschedulable"):
        return "cordoned"
    if not is_ready(node):
        return "not ready"
    ours = {resource} if resource else set(node["status"].get("allocatable") or {})
    taints = (t for t in node["spec"].get("taints") or () if t["effect"] in STAYS and t["key"] not in ours)
    first = next(taints, None)
    return f"taint {first['key']}:{first['effect']}" if first else None


def essence(node: Mapping[str, Any]) -> object:
    """What of a node decides where jobs may go; the rest changes all the time."""
    return closed(node), node["status"].get("allocatable"), node["metadata"].get("labels")


def quantity(text: str | int) -> Decimal:
    """A Kubernetes quantity: 63500m, 512Gi, 1e3. ValueError for anything else."""
    word = str(text)
    if "e" in word.lower() and word[-1].isdigit():
        return Decimal(word)
    unit = word.lstrip("+-0123456789.")
    if unit not in SCALES:
        raise ValueError(f"quantity: {word!r} has no known unit; known are {', '.join(sorted(SCALES))}")
    return Decimal(word.removesuffix(unit) if unit else word) * SCALES[unit]


def _counted(node: Mapping[str, Any], settings: Settings) -> Iterator[tuple[str, Meaning, int]]:
    """The node's resources that count whole devices, and how many devices they are."""
    for name, amount in sorted((node["status"].get("allocatable") or {}).items()):
        meaning = meaning_of(name, plugin=Plugin(settings.plugin))
        if meaning is None or meaning.resource.role is not Role.COUNT or quantity(amount) < 1:
            continue
        count = int(quantity(amount))
        if meaning.resource.plugin is Plugin.HAMI:
            count = _registered(node) or count // settings.slots
        yield name, meaning, count


def _registered(node: Mapping[str, Any]) -> int | None:
    """How many devices HAMi's device plugins wrote down for the node, in either of their spellings; None if none did."""
    total = 0
    for key, text in (node["metadata"].get("annotations") or {}).items():
        if not (key.startswith("hami.io/node-") and key.endswith("-register")):
            continue
        try:
            total += len(json.loads(text))
        except ValueError:
            total += sum(1 for part in text.split(":") if part.count(",") >= 3)
    return total or None


def _held(pods: Iterable[Mapping[str, Any]], settings: Settings) -> Mapping[tuple[str, str], int]:
    """(node, resource) -> what pods of others hold there. A pod of ours whose lease is forgotten is another's too."""
    found: dict[tuple[str, str], int] = defaultdict(int)
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if node is None or pod.get("status", {}).get("phase") in ("Succeeded", "Failed") or _ours(pod, settings):
            continue
        for name, amount in _asked(pod).items():
            found[node, name] += amount
    return found


def _ours(pod: Mapping[str, Any], settings: Settings) -> bool:
    labels = pod["metadata"].get("labels") or {}
    mine = labels.get("app.kubernetes.io/managed-by") == OURS
    mine = mine and labels.get("app.kubernetes.io/instance") == name_of(settings.cluster)
    return mine and FINALIZER in (pod["metadata"].get("finalizers") or ())


def _asked(pod: Mapping[str, Any]) -> Mapping[str, int]:
    """Devices by resource: the sum of containers, or one init container's if that is more."""
    total: dict[str, int] = defaultdict(int)
    for container in pod["spec"].get("containers") or ():
        for name, amount in _limits(container).items():
            total[name] += amount
    for container in pod["spec"].get("initContainers") or ():
        for name, amount in _limits(container).items():
            total[name] = max(total[name], amount)
    return total


def _limits(container: Mapping[str, Any]) -> Mapping[str, int]:
    limits = (container.get("resources") or {}).get("limits") or {}
    return {name: int(quantity(amount)) for name, amount in limits.items() if "/" in name}


def _model(
    node: Mapping[str, Any], resource: str, meaning: Meaning, settings: Settings, catalog: Catalog
) -> str | None:
    named = settings.models.get(resource)
    if named is None and len(meaning.resource.models) == 1:
        named = meaning.resource.models[0]
    if named is not None:
        keys = catalog.resolve(named)
        return keys[0] if len(keys) == 1 else None
    labels = node["metadata"].get("labels") or {}
    memory = next((int(labels[key]) * MIB for key in MEMORY_LABELS if str(labels.get(key, "")).isdigit()), None)
    for key in MODEL_LABELS:
        said = str(labels.get(key, ""))
        for suffix in SUFFIXES:
            said = said.split(suffix)[0]
        if said and (model := catalog.identify(meaning.vendor, said, memory)):
            return model
    return None


def _beside(meaning: Meaning, name: str, role: Role) -> list[tuple[str, Unit]]:
    """The resources of HAMi that divide the devices which `name` counts."""
    names = names_of(meaning.vendor)
    fit = [r for r in (names.resources if names else ()) if r.plugin is Plugin.HAMI and r.role is role]
    own = [r for r in fit if r.models == meaning.resource.models]
    near = [r for r in own if r.name.startswith(name)] or own
    return [(r.name, r.unit) for r in near[:1]]
