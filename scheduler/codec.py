"""Codec: Snapshot ⇄ JSON and Plan → JSON, format version 1. What is unknown or malformed is refused by name.

The field names are those of the dataclasses; instants are RFC 3339 with milliseconds.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from adapters.chain import instant, timestamp
from scheduler.plan import Pending, Plan
from scheduler.snapshot import Snapshot

VERSION = 1


class SnapshotError(ValueError):
    """A snapshot that cannot be read: the field, the value, what is wrong and the nearest valid spelling."""

    def __init__(self, field: str, value: Any, message: str, nearest: str | None = None) -> None:
        self.field, self.value, self.message, self.nearest = field, value, message, nearest
        hint = f"; nearest: {nearest}" if nearest else ""
        super().__init__(f"{field or '/'}: {message}, not {json.dumps(value, default=str)[:80]}{hint}")


def encode(value: Any) -> Any:
    """JSON values of a dataclass, enum, datetime, tuple or mapping."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [encode(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    return value


def snapshot_document(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as JSON values: {version: 1, based_on, now, pools, nodes, jobs, leases, terms, queues}."""
    body = encode(snapshot)
    based_on = body.pop("version")
    return {"version": VERSION, "based_on": based_on, **body}


def parse_snapshot(text: str | bytes) -> Snapshot:
    """The snapshot of a document; SnapshotError names what cannot be read."""
    try:
        body = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as problem:
        raise SnapshotError("", None, f"must be JSON ({problem})") from None
    if not isinstance(body, dict):
        raise SnapshotError("", body, "must be an object")
    if body.get("version") != VERSION:
        raise SnapshotError("/version", body.get("version"), "must be 1")
    rest = {k: v for k, v in body.items() if k not in ("version", "based_on")}
    if "based_on" not in body:
        raise SnapshotError("/based_on", None, "is required")
    found: Snapshot = _decode(Snapshot, {"version": body["based_on"], **rest}, "")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a number here")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


@cache
def _hints(kind: type[Any]) -> Mapping[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, value: Any, at: str) -> Any:
    origin = typing.get_origin(kind)
    if hasattr(kind, "__supertype__"):
        return _decode(kind.__supertype__, value, at)
    if origin in (types.UnionType, typing.Union):
        inner = [k for k in typing.get_args(kind) if k is not type(None)]
        return None if value is None else _decode(inner[0], value, at)
    if origin is tuple:
        if not isinstance(value, list):
            raise SnapshotError(at, value, "must be a list")
        (item, *_) = typing.get_args(kind)
        return tuple(_decode(item, v, f"{at}/{i}") for i, v in enumerate(value))
    if dataclasses.is_dataclass(kind):
        return _decode_object(kind, value, at)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        words = [str(member.value) for member in kind]
        if value not in words:
            near = difflib.get_close_matches(str(value), words, n=1, cutoff=0.0)
            raise SnapshotError(at, value, f"must be one of {', '.join(words)}", near[0] if near else None)
        return kind(value)
    if kind is datetime:
        return _decode_time(value, at)
    if kind is bool and not isinstance(value, bool):
        raise SnapshotError(at, value, "must be true or false")
    if kind is int and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise SnapshotError(at, value, "must be a whole number from 0")
    if kind is str and not isinstance(value, str):
        raise SnapshotError(at, value, "must be a text")
    return value


def _decode_object(kind: Any, value: Any, at: str) -> Any:
    if not isinstance(value, dict):
        raise SnapshotError(at, value, "must be an object")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in value:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.0)
            raise SnapshotError(f"{at}/{key}", value[key], "unknown key", near[0] if near else None)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise SnapshotError(f"{at}/{name}", None, "is required")
    hints = _hints(kind)
    values = {key: _decode(hints[key], inner, f"{at}/{key}") for key, inner in value.items()}
    try:
        return kind(**values)
    except ValueError as wrong:  # figures that each can be and together cannot
        raise SnapshotError(at, None, f"must agree ({wrong})") from None


def _decode_time(value: Any, at: str) -> datetime:
    try:
        found = instant(value)
    except (TypeError, ValueError, OverflowError):
        raise SnapshotError(at, value, "must be a time with an offset, such as 2026-01-01T00:00:00.000Z") from None
    if datetime.fromisoformat(value).tzinfo is None:
        raise SnapshotError(at, value, "must have an offset")
    return found


def pending_document(pending: Pending) -> dict[str, Any]:
    """The pending record as JSON values."""
    body: dict[str, Any] = encode(pending)
    return body


def plan_document(plan: Plan) -> dict[str, Any]:
    """{version, based_on, now, policy, launches, waits}: one entry with its reason per waiting job."""
    body = encode(plan)
    for entry, launch in zip(body["launches"], plan.launches, strict=True):
        entry["saved"] = encode(launch.saved)
    return {"version": VERSION, **body}
