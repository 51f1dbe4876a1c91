"""Nodes: what a Ray cluster's own list of nodes says of accelerators. Pure.

Ray counts accelerators as a resource: GPU, NPU, HPU and the like where it knows the vendor, else whatever name the node
was started with (`--resources='{"chip_ascend910b": 8}'`). The model is the first of these that names one chip: the
cluster's own mapping, the label `ray.io/accelerator-type`, a resource `accelerator_type:X`, the resource's name.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.catalog import Catalog
from scheduler.discovery import FoundNode

FAMILIES = ("GPU", "NPU", "HPU", "TPU", "neuron_cores")  # ray/_private/accelerators, get_resource_name
TYPE_LABEL, TYPE_PREFIX = "ray.io/accelerator-type", "accelerator_type:"
PLAIN = ("CPU", "memory", "object_store_memory")
RACKS = ("rack", "topology.kubernetes.io/rack")
# ray/util/accelerators/accelerators.py, where its words are not the catalogue's.
SPELLED = {
    "A100-40G": "A100-40GB",
    "A100-80G": "A100-80GB",
    "AMD-Instinct-MI100": "MI100",
    "AMD-Instinct-MI210": "MI210",
    "AMD-Instinct-MI250X": "MI250X",
    "AMD-Instinct-MI300X-OAM": "MI300X",
    "AMD-Instinct-MI308X": "MI308X",
    "AMD-Instinct-MI325X-OAM": "MI325X",
    "AMD-Instinct-MI355X-OAM": "MI355X",
    "Intel-GPU-Max-1550": "Max1550",
    "MXC500": "C500",
    "MXC550": "C550",
}
# ray/autoscaler/_private/util.py, parse_usage: `1.0/4.0 NPU (1.0 used of 3.0 reserved in placement groups)`
USED = re.compile(
    r"^(?P<used>[0-9.]+)/[0-9.]+ (?P<name>\S+)(?: \((?P<inside>[0-9.]+) used of (?P<reserved>[0-9.]+) reserved)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """The accelerators of one node: how many of which resource, and the catalogue's key of their model."""

    resource: str
    model: str
    count: int


def devices_of(row: Mapping[str, Any], models: Mapping[str, str], catalog: Catalog) -> Devices | str | None:
    """What a node has; None without accelerators; a sentence where their model cannot be told.

    models: of the clusters file, from a resource or an accelerator type to a catalogue key.
    """
    totals = {str(k): v for k, v in (row.get("resources_total") or {}).items() if isinstance(v, int | float) and v >= 1}
    families = [name for name in FAMILIES if name in totals]
    own = [name for name in totals if not _reserved(name)]
    known = families or [name for name in own if name in models or _one(name, models, catalog)]
    if not known:
        return None
    resource = known[0]
    if len(known) > 1:
        return f"it has {', '.join(known)}: one kind of accelerator a node can be leased"
    words = [resource, *_types(row), *own] if families else [resource]
    for word in words:
        model = _one(word, models, catalog)
        if model is not None:
            return Devices(resource=resource, model=model, count=int(totals[resource]))
    near = next((found for word in words if (found := catalog.nearest(word))), None)
    told = ", ".join(words[1:]) or "nothing"
    return f"the model of its {resource} cannot be told from {told}; name it in options.models (nearest: {near})"


def found_nodes(
    rows: Sequence[Mapping[str, Any]],
    held: Mapping[str, str],
    draining: frozenset[str],
    ours: Mapping[tuple[str, str], int],
    models: Mapping[str, str],
    catalog: Catalog,
) -> tuple[list[FoundNode], dict[str, str]]:
    """The nodes that can be leased, and per other node with accelerators why it cannot.

    held: per node id the dashboard's text of what is taken. ours: per node name and resource what our own leases take
    of that; the rest belongs to others and is left out.
    """
    alive = [row for row in rows if row["state"] == "ALIVE"]
    names = Counter(row["node_name"] for row in alive)
    found, problems = [], {}
    for row in alive:
        name = row["node_name"]
        devices = devices_of(row, models, catalog)
        if devices is None:
            continue
        if isinstance(devices, str):
            problems[name] = devices
        elif names[name] > 1:
            problems[name] = f"{names[name]} nodes bear this name: give each its own with ray start --node-name"
        else:
            used = dict(_used(held.get(str(row.get("node_id")), ""))).get(devices.resource, 0)
            others = max(0, used - ours.get((name, devices.resource), 0))
            labels = {str(k): str(v) for k, v in (row.get("labels") or {}).items()}
            totals = row["resources_total"]
            chip = catalog.get(devices.model)
            assert chip is not None, "devices_of answers with keys of the catalogue"
            drains = row.get("node_id") in draining
            found.append(
                FoundNode(
                    name=name,
                    vendor=chip.vendor,
                    model=devices.model,
                    devices=max(0, devices.count - others),
                    cpu_milli=int(totals["CPU"] * 1000) if "CPU" in totals else None,
                    memory_bytes=int(totals["memory"]) if "memory" in totals else None,
                    rack=next((labels[key] for key in RACKS if key in labels), None),
                    schedulable=not drains,
                    why="draining" if drains else None,
                    labels=labels,
                )
            )
    return found, problems


def _reserved(name: str) -> bool:
    return name in PLAIN or name in FAMILIES or name.startswith(("node:", TYPE_PREFIX, "bundle_"))


def _types(row: Mapping[str, Any]) -> list[str]:
    """How the node itself names its chips."""
    label = (row.get("labels") or {}).get(TYPE_LABEL)
    named = [str(k).removeprefix(TYPE_PREFIX) for k in (row.get("resources_total") or {}) if k.startswith(TYPE_PREFIX)]
    return [*([str(label)] if label else []), *named]


def _one(word: str, models: Mapping[str, str], catalog: Catalog) -> str | None:
    """The one chip that a word names, None for none or several."""
    if word in models:
        return models[word]
    bare = re.sub(r"^(chip|accelerator|card)[_-]", "", word, flags=re.IGNORECASE).replace("_", " ")
    for term in (SPELLED.get(word), word, bare):
        found = catalog.resolve(term) if term else ()
        if len(found) == 1:
            return found[0]
    return None


def _used(text: str) -> Iterator[tuple[str, int]]:
    """Whole devices that are taken, in part or in full, by resource; what a placement group reserves is taken."""
    for line in text.splitlines():
        match = USED.match(line.strip())
        if match:
            idle = float(match["reserved"] or 0) - float(match["inside"] or 0)
            yield match["name"], math.ceil(round(float(match["used"]) + idle, 4))
