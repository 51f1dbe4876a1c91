"""Cluster file: pools and their nodes, as YAML (design section 4). Models may be catalogue models or the trace's own names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from adapters.accelerator import Origin, Source
from adapters.catalog import load_catalog
from scheduler.node import Node, NodeId, Pool, PoolId

KEYS = (
    "name", "provider", "site", "region", "model", "nodes", "devices_per_node", "cpu_milli", "memory_mib", "rack_size",
    "price_fen_per_device_hour", "backend",
)  # fmt: skip
REQUIRED = ("name", "model", "nodes", "devices_per_node")
LIMITS = {
    "nodes": (1, 1_000_000), "devices_per_node": (1, 1024), "cpu_milli": (1, 1 << 40), "memory_mib": (1, 1 << 40),
    "rack_size": (1, 1_000_000), "price_fen_per_device_hour": (0, 1 << 40),
}  # fmt: skip


class ClusterError(ValueError):
    """A cluster file that cannot be read: the field, the value, and the nearest valid spelling."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Pools and nodes, ready for a snapshot."""

    pools: tuple[Pool, ...]
    nodes: tuple[Node, ...]

    @property
    def device_count(self) -> int:
        return sum(len(node.devices) for node in self.nodes)

    @property
    def models(self) -> frozenset[str]:
        return frozenset(pool.model for pool in self.pools)


def read_cluster(path: Path) -> Cluster:
    """The cluster of a file; ClusterError (or OSError) if it cannot be read."""
    return parse_cluster(path.read_text(encoding="utf-8"))


def parse_cluster(text: str) -> Cluster:
    """Nodes are named `<pool>-<00001>`, devices `sim:<node>:<index>`; a price that is not given is 0."""
    try:
        body = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as problem:
        raise ClusterError(f"not YAML: {problem}") from None
    if not isinstance(body, dict) or set(body) != {"pools"} or not isinstance(body["pools"], list) or not body["pools"]:
        raise ClusterError("a cluster file has one key, `pools`, with a list of at least one pool")
    pools, nodes, seen = [], [], set()
    for index, entry in enumerate(body["pools"]):
        values = _checked(entry, f"/pools/{index}")
        if values["name"] in seen:
            raise ClusterError(f"/pools/{index}/name: {values['name']!r} stands twice")
        seen.add(values["name"])
        pool = _pool(values)
        pools.append(pool)
        nodes += _nodes(pool, values)
    return Cluster(tuple(pools), tuple(nodes))


def _checked(entry: Any, at: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise ClusterError(f"{at}: must be a mapping, not {entry!r}")
    for key in entry:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.0)[0]
            raise ClusterError(f"{at}/{key}: unknown key; nearest: {near}")
    for key in REQUIRED:
        if key not in entry:
            raise ClusterError(f"{at}/{key}: is required")
    for key, value in entry.items():
        if value is None:
            raise ClusterError(f"{at}/{key}: has no value")
        if key in LIMITS:
            low, high = LIMITS[key]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ClusterError(f"{at}/{key}: must be a whole number from {low} to {high}, not {value!r}")
    for key in ("name", "model", "provider", "site", "region", "backend"):
        value = entry.get(key, "-")
        if isinstance(value, bool | dict | list) or not str(value).strip():
            raise ClusterError(f"{at}/{key}: must be a text, not {value!r}")
    return entry


def _pool(values: Mapping[str, Any]) -> Pool:
    model = str(values["model"])
    chip = chip_of(model)
    return Pool(
        id=PoolId(str(values["name"])),
        provider=str(values.get("provider", "provider")),
        site=str(values.get("site", "site")),
        region=str(values.get("region", "region")),
        backend=str(values.get("backend", "simulated")),
        vendor=chip.vendor if chip else "unknown",
        model=model,
        origin=chip.origin if chip else Origin.UNDETERMINED,
        memory_bytes=chip.memory_bytes if chip else None,
        price_fen_per_device_hour=values.get("price_fen_per_device_hour", 0),
        source=Source.SIMULATED,
    )


def chip_of(model: str) -> Any:
    """The catalogue's chip for a model's name, alias or (its first member) family; None when it has none."""
    catalog = load_catalog()
    found = catalog.resolve(model)
    return catalog.get(found[0]) if found else None


def _nodes(pool: Pool, values: Mapping[str, Any]) -> list[Node]:
    rack = values.get("rack_size")
    found = []
    for number in range(1, values["nodes"] + 1):
        name = f"{pool.id}-{number:05d}"
        found.append(
            Node(
                id=NodeId(name),
                pool=pool.id,
                devices=tuple(f"sim:{name}:{i}" for i in range(values["devices_per_node"])),
                cpu_milli=values.get("cpu_milli"),
                memory_bytes=values["memory_mib"] << 20 if "memory_mib" in values else None,
                rack=f"{pool.id}-rack-{(number - 1) // rack + 1}" if rack else None,
            )
        )
    return found
