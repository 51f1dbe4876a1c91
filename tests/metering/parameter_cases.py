"""A copy of the parameter files to change, and what settles under it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import metering.parameters
from metering.case import settle_document
from metering.parameters import (
    Registry,
)
from tests.metering.cases import POLICY, RULES

SHIPPED = Path(metering.parameters.__file__).parent


MID_2025 = datetime(2025, 6, 1, tzinfo=UTC)


VOUCHER = f"{POLICY}/compute_voucher.yaml"


TERM, HEAD, ANSWERS = (f"{POLICY}/{name}.yaml" for name in ("term", "policy", "interpretations"))


def edit(directory: Path, file: str, old: str, new: str) -> Path:
    path = directory / file
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{old!r} is not in {file}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return directory


def settled(found: dict[str, Any], registry: Registry) -> dict[str, Any]:
    return settle_document(json.dumps(found), registry, RULES)


WHOLE = "  - valid_from: 2024-03-28\n    valid_to: 2027-04-01\n    value: 4000\n"
