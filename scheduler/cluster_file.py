"""Clusters file: the existing clusters that a zone runs on, as YAML; what they have becomes pools by itself.

clusters: [{name, backend: kubernetes | ray, provider, site, region, prices: {MODEL: fen_per_device_hour}, options: {…}}].
provider: its unified social credit code; it and the site are enrolled in the zone by whoever enrols providers. A model
without a price is not leased. options: of a backend, see OPTIONS.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adapters.catalog import load_catalog
from adapters.kubernetes_names import Plugin

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
CODE = re.compile(r"[0-9A-HJ-NPQRTUWXY]{18}")  # GB 32100-2015: 18 of these letters and digits
TAKEN = ("local", "simulated")
FEN_MAX = 100_000_000  # per device hour; as in the route that adds a pool
TEXTS = ("site", "region")
KEYS = ("name", "backend", "provider", *TEXTS, "prices", "options")


class ClusterFileError(ValueError):
    """A clusters file that cannot be read: the field, the value, and the nearest valid spelling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One existing cluster. name: of its backend in the zone. prices: fen per device hour by the catalogue's model.

    options: what the backend's class takes beside the name.
    """

    name: str
    backend: str
    provider: str
    site: str
    region: str
    prices: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> str:
        """Whether members run container images there (`scheduler.node.Images`): only containers start on Kubernetes."""
        if self.backend != "kubernetes":
            return "none"
        return "either" if self.options.get("image") else "required"

    def pool_of(self, model: str) -> str:
        """The id of the cluster's pool of a model."""
        return f"{self.name}-{model.lower()}"

    def node_of(self, node: str) -> str:
        """The id in the zone of a node of the cluster."""
        return f"{self.name}.{node}"


def read_cluster_file(path: Path) -> tuple[Cluster, ...]:
    """All clusters of a file; ClusterFileError (or OSError) if it cannot be read."""
    return parse_clusters(path.read_text(encoding="utf-8"))


def parse_clusters(text: str) -> tuple[Cluster, ...]:
    """The clusters in the file's order. ClusterFileError names the field, the value and the nearest valid one."""
    try:
        body = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as problem:
        raise ClusterFileError(f"not YAML: {problem}") from None
    if not isinstance(body, dict) or set(body) != {"clusters"} or not isinstance(body["clusters"], list):
        raise ClusterFileError("a clusters file is a mapping with the one key `clusters`, a list")
    found: dict[str, Cluster] = {}
    for index, entry in enumerate(body["clusters"]):
        cluster = _cluster(entry, f"/clusters/{index}")
        if cluster.name in found:
            raise ClusterFileError(f"/clusters/{index}/name: {cluster.name!r} stands twice")
        found[cluster.name] = cluster
    return tuple(found.values())


def _cluster(entry: Any, at: str) -> Cluster:
    entry = _mapping(entry, KEYS, at)
    for key in KEYS:
        if key not in entry and key != "options":
            raise ClusterFileError(f"{at}/{key}: is required")
    backend = _choice(entry["backend"], tuple(OPTIONS), f"{at}/backend")
    texts = {key: _text(entry[key], f"{at}/{key}") for key in TEXTS}
    return Cluster(
        name=_name(entry["name"], f"{at}/name"),
        backend=backend,
        provider=_code(entry["provider"], f"{at}/provider"),
        prices=_prices(entry["prices"], f"{at}/prices"),
        options=_options(entry.get("options", {}), backend, f"{at}/options"),
        **texts,
    )


def _options(value: Any, backend: str, at: str) -> Mapping[str, Any]:
    known = OPTIONS[backend]
    found = {key: known[key](one, f"{at}/{key}") for key, one in _mapping(value, tuple(known), at).items()}
    for key in REQUIRED.get(backend, ()):
        if key not in found:
            raise ClusterFileError(f"{at}/{key}: is required")
    return found


def _mapping(value: Any, known: tuple[str, ...], at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ClusterFileError(f"{at}: must be a mapping, not {value!r}")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise ClusterFileError(f"{at}/{key}: unknown key; nearest: {near}")
    return dict(value)


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ClusterFileError(f"{at}: must be a text, not {value!r}")
    return value


def _choice(value: Any, known: tuple[str, ...], at: str) -> str:
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.0)[0]
        raise ClusterFileError(f"{at}: {value!r} is none of {', '.join(known)}; nearest: {near}")
    return str(value)


def _name(value: Any, at: str) -> str:
    text = _text(value, at)
    if not NAME.fullmatch(text) or text in TAKEN:
        near = re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-") or "cluster"
        near = f"{near}-1" if near in TAKEN else near
        raise ClusterFileError(f"{at}: {text!r} is not up to 40 of a-z, 0-9 and dashes, or taken; nearest: {near!r}")
    return text


def _code(value: Any, at: str) -> str:
    text = _text(value, at)
    if not CODE.fullmatch(text):
        near = "; nearest: " + repr(text.strip().upper()) if CODE.fullmatch(text.strip().upper()) else ""
        raise ClusterFileError(f"{at}: {text!r} is no unified social credit code (18 letters and digits){near}")
    return text


def _model(value: Any, at: str) -> str:
    catalog, text = load_catalog(), _text(value, at)
    keys = catalog.resolve(text)
    if len(keys) == 1:
        return keys[0]
    if keys:
        raise ClusterFileError(f"{at}: {text!r} is a family, not a model; one of {', '.join(keys)}")
    raise ClusterFileError(f"{at}: model {text!r} is not known; nearest: {catalog.nearest(text)}")


def _prices(value: Any, at: str) -> Mapping[str, int]:
    if not isinstance(value, dict):
        raise ClusterFileError(f"{at}: must be a mapping of models to fen per device hour, not {value!r}")
    found: dict[str, int] = {}
    for key, fen in value.items():
        model = _model(key, f"{at}/{key}")
        if model in found:
            raise ClusterFileError(f"{at}/{key}: {model} stands twice")
        found[model] = _number(0, FEN_MAX)(fen, f"{at}/{key}")
    return found


def _number(low: int, high: int) -> Callable[[Any, str], int]:
    def read(value: Any, at: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            near = max(low, min(high, value)) if isinstance(value, int) else low
            raise ClusterFileError(f"{at}: must be a whole number from {low} to {high}, not {value!r}; nearest: {near}")
        return value

    return read


def _seconds(value: Any, at: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 3600:
        raise ClusterFileError(f"{at}: must be seconds above 0 up to 3600, not {value!r}")
    return float(value)


def _plugin(value: Any, at: str) -> str:
    return _choice(value, tuple(plugin.value for plugin in Plugin), at)


def _models(value: Any, at: str) -> Mapping[str, str]:
    """The cluster's word -> model."""
    if not isinstance(value, dict):
        raise ClusterFileError(f"{at}: must be a mapping of the cluster's words to models, not {value!r}")
    return {_text(key, at): _model(one, f"{at}/{key}") for key, one in value.items()}


def _resources(value: Any, at: str) -> Mapping[str, str]:
    """Model -> resource name."""
    if not isinstance(value, dict):
        raise ClusterFileError(f"{at}: must be a mapping of models to resource names, not {value!r}")
    return {_model(key, f"{at}/{key}"): _text(one, f"{at}/{key}") for key, one in value.items()}


DAY_S = 86_400
# What each backend may be told; the words are arguments of its class (kubernetes_objects.Settings, ray.RayBackend).
OPTIONS: Mapping[str, Mapping[str, Callable[[Any, str], Any]]] = {
    "kubernetes": {
        "kubeconfig": _text,
        "context": _text,
        "namespace": _text,
        "plugin": _plugin,
        "image": _text,
        "pull_secret": _text,
        "run_as": _number(1, 2**31 - 1),
        "work_claim": _text,
        "kueue_queue": _text,
        "cpu_milli": _number(1, 1_000_000),
        "memory_mib": _number(1, 1 << 30),
        "allowance_s": _number(0, 7 * DAY_S),
        "start_limit_s": _number(1, 7 * DAY_S),
        "lost_after_s": _number(0, DAY_S),
        "keep_s": _number(60, 30 * DAY_S),
        "slots": _number(1, 1000),
        "resources": _resources,
        "models": _models,
    },
    "ray": {
        "address": _text,
        "owner": _text,
        "models": _models,
        "python": _text,
        "work": _text,
        "path": _text,
        "token_file": _text,
        "ca_file": _text,
        "start_timeout_ms": _number(1000, DAY_S * 1000),
        "timeout_s": _seconds,
    },
}
REQUIRED: Mapping[str, tuple[str, ...]] = {"ray": ("address",)}
