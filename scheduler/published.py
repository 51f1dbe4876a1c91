"""Published: the JSON Schemas of the scheduler's public formats, made from the code that reads and writes them."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from adapters.accelerator import Origin
from scheduler import cluster, jobfile, trace
from scheduler.job import Objective, Priority
from scheduler.plan import Plan
from scheduler.regions import Saved
from scheduler.snapshot import Snapshot

DRAFT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


def snapshot_schema() -> Schema:
    """Input of `yisuan plan`, output of `yisuan snapshot`."""
    body = _object(Snapshot)
    body["properties"]["based_on"] = {"type": "integer", "minimum": 0}
    body["properties"]["version"] = {"const": 1}
    body["required"] = ["version", "based_on", "now"]
    return {"$schema": DRAFT, "title": "yisuan snapshot, version 1", **body}


def plan_schema() -> Schema:
    """Output of `yisuan plan`."""
    body = _object(Plan)
    body["properties"]["launches"]["items"]["properties"]["saved"] = {"anyOf": [_of(Saved), {"type": "null"}]}
    body["properties"]["version"] = {"const": 1}
    body["required"] = ["version", *body["required"]]
    return {"$schema": DRAFT, "title": "yisuan plan, version 1", **body}


def _object(kind: Any) -> Schema:
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    required = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    return {
        "type": "object",
        "properties": {f.name: _of(hints[f.name]) for f in fields},
        "required": required,
        "additionalProperties": False,
    }


def _of(kind: Any) -> Schema:
    origin = typing.get_origin(kind)
    if hasattr(kind, "__supertype__"):
        return _of(kind.__supertype__)
    if origin in (types.UnionType, typing.Union):
        inner = [k for k in typing.get_args(kind) if k is not type(None)]
        return {"anyOf": [_of(inner[0]), {"type": "null"}]}
    if origin in (tuple, Sequence):
        return {"type": "array", "items": _of(typing.get_args(kind)[0])}
    if dataclasses.is_dataclass(kind):
        return _object(kind)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [member.value for member in kind]}
    if kind is datetime:
        return {"type": "string", "format": "date-time"}
    simple = {bool: "boolean", int: "integer", str: "string", float: "number"}
    return {"type": simple[kind]} if kind in simple else {"type": "object"}


def job_schema() -> Schema:
    """A job file, version 1."""
    text = {"type": "string", "minLength": 1}
    duration = {"type": "string", "pattern": r"^(\d+(ms|[smhd]))+$"}
    size = {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(KiB|MiB|GiB|TiB)\+?$"}
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    term = {
        "anyOf": [
            {"type": "string", "pattern": "^.+:[0-9]{1,2}$"},
            _closed({"origin": {"enum": [Origin.DOMESTIC.value, Origin.FOREIGN.value]}, "memory": size, "model": text,
                     "count": _whole(1, 64)}, ["count"]),
        ]
    }  # fmt: skip
    terms = {"type": "array", "items": term, "minItems": 1}
    domain = {"enum": ["nvlink", "hccs", "node", "rack", "region"]}
    variant = _closed({"run": text, "image": text, "envs": texts})
    properties: Schema = {
        "name": {"type": "string", "pattern": f"^{jobfile.NAME.pattern}$"},
        "queue": text,
        "priority": {"enum": [p.value for p in Priority]},
        "nodes": _whole(1, 100_000),
        "time_limit": duration,
        "deadline": {"type": "string", "format": "date-time"},
        "resources": _closed(
            {
                "accelerators": {"anyOf": [term, _closed({"any_of": terms}, ["any_of"]), _closed({"ordered": terms}, ["ordered"])]},
                "share": {"anyOf": [{"const": "whole"}, _closed({"memory": size, "cores": {"type": "string", "pattern": "^[0-9]{1,3}%$"}})]},
                "topology": _closed({"required": domain, "preferred": domain}),
            },
            ["accelerators"],
        ),
        "gang": _closed({"min_nodes": _whole(1, 100_000)}),
        "variants": _closed(dict.fromkeys(jobfile.STACKS, variant)),
        "entrypoint": text,
        "setup": text,
        "envs": texts,
        "secrets": {"type": "array", "items": text},
        "workload": text,
        "inputs": texts,
        "checkpoint": _closed({"path": text, "interval": duration, "signal": {"enum": list(jobfile.SIGNALS)}, "grace": duration}, ["path"]),
        "retry": _closed({"on_events": {"type": "array", "items": {"enum": list(jobfile.EVENTS)}, "minItems": 1}, "limit": _whole(1, 100)},
                         ["on_events", "limit"]),
        "money": _closed({"voucher": {"enum": ["auto", "none"]}, "objective": {"enum": [o.value for o in Objective]},
                          "max_net_cost": {"type": "string", "pattern": r"^\d+(\.\d{1,2})?\s*CNY$"}, "contract": text}),
        "array": {"type": "string", "pattern": r"^\d{1,7}-\d{1,7}(%\d{1,7})?$"},
        "depends_on": {"type": "array", "items": _closed({"job": text, "when": {"enum": ["succeeded", "failed", "ended"]}}, ["job"])},
    }  # fmt: skip
    return {
        "$schema": DRAFT,
        "title": "yisuan job file, version 1",
        **_closed(properties, ["name", "time_limit", "resources"]),
    }


def cluster_schema() -> Schema:
    """A cluster file, and the columns of a trace file that goes with it."""
    properties = {
        key: _whole(*cluster.LIMITS[key]) if key in cluster.LIMITS else {"type": ["string", "number"]}
        for key in cluster.KEYS
    }
    pools = {"type": "array", "items": _closed(properties, list(cluster.REQUIRED)), "minItems": 1}
    body = _closed({"pools": pools}, ["pools"])
    columns = {"columns": list(trace.COLUMNS), "required": list(trace.REQUIRED)}
    return {"$schema": DRAFT, "title": "yisuan cluster file, version 1", "x-trace": columns, **body}


def _closed(properties: Schema, required: list[str] | None = None) -> Schema:
    body: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**body, "required": required} if required else body


def _whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


SCHEMAS = {"snapshot": snapshot_schema, "plan": plan_schema, "job": job_schema, "cluster": cluster_schema}
