"""Hash chain: each record's hash covers the one before it, so an edit, a hole or a cut shows.

Hashes are SHA-256 over RFC 8785 canonical JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import rfc8785

GENESIS = "0" * 64


def canonical(body: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """The one byte form of a JSON value (RFC 8785). Integers beyond 2^53 are refused with ValueError."""
    return rfc8785.dumps(body)


def digest(body: Mapping[str, Any] | Sequence[Any]) -> str:
    """SHA-256 of the canonical form, in hex."""
    return hashlib.sha256(canonical(body)).hexdigest()


def link(previous: str, body: Mapping[str, Any]) -> str:
    """The hash of a record that follows `previous` (GENESIS for the first)."""
    return hashlib.sha256(previous.encode() + canonical(body)).hexdigest()


def timestamp(at: datetime) -> str:
    """UTC with milliseconds and Z, the one spelling of an instant in every record and output."""
    if at.tzinfo is None:
        raise ValueError(f"time without offset: {at.isoformat()}; every instant is aware")
    utc = at.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"


def instant(text: str) -> datetime:
    """The aware UTC datetime that `timestamp` wrote."""
    return datetime.fromisoformat(text).astimezone(UTC)
