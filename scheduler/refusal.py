"""Refusal: an expected no, as a value. Text in zh or en is made at the edge from code and facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """code: a stable token such as NOT_SUPPORTED_YET; facts: JSON values that the text needs."""

    code: str
    facts: Mapping[str, Any] = field(default_factory=dict)
