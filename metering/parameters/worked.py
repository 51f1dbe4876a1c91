"""Worked cases: examples beside the values, on both sides of every threshold and date, that must come out as written.

`cases.yaml` of a policy's folder. They are no part of what settles: the bundle's hash does not cover them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metering.parameters import document
from metering.parameters.document import ParameterError

FILE = "cases.yaml"
EXPECTED = ("fee_fen", "ceiling_fen", "deduction_fen", "payable_fen")
LINE = ("start", "end", "year", "device_ms", "fee_fen", "rate_bp", "deduction_fen", "payable_fen", "reasons", "clauses")
_PARTS = ("firm", "sites", "rooms", "usage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """One example. case: of `yisuan settle`, complete. Of the output, `lines` and what else is named must be equal."""

    name: str
    why: str
    case: Mapping[str, Any]
    totals: Mapping[str, int]
    lines: tuple[Mapping[str, Any], ...]
    notices: tuple[str, ...] | None


def load_worked(folder: Path, policy: str) -> tuple[Worked, ...]:
    """The examples in the folder of a policy, in order; none without the file. Raises ParameterError."""
    file = folder / FILE
    if not file.is_file():
        return ()
    head = document.mapping(file, "", document.read(file), required=("eligible", "cases"))
    found: list[Worked] = []
    for index, item in enumerate(document.sequence(file, "cases", head["cases"])):
        one = _worked(file, f"cases[{index}]", item, policy, head["eligible"])
        if any(other.name == one.name for other in found):
            raise ParameterError(file, f"cases[{index}].name", f"{one.name!r} is there twice")
        found.append(one)
    return tuple(found)


def _worked(file: Path, where: str, item: Any, policy: str, eligible: Any) -> Worked:
    document.mapping(file, where, item, required=("name", "why", "usage", "totals", "lines"),
                     optional=("firm", "sites", "rooms", "notices"))  # fmt: skip
    totals = document.mapping(file, f"{where}.totals", item["totals"], required=(), optional=EXPECTED)
    lines = item["lines"]
    if not isinstance(lines, list):
        raise ParameterError(file, f"{where}.lines", f"{lines!r} is not a list")
    case = {
        "version": 1,
        "policy": policy,
        "firm": {"id": "91110302MA01A2B3C4", "eligible": eligible},
        **{part: item[part] for part in _PARTS if part in item},
    }
    notices = item.get("notices")
    return Worked(
        name=document.text(file, f"{where}.name", item["name"]),
        why=document.text(file, f"{where}.why", item["why"]),
        case=case,
        totals={name: document.whole(file, f"{where}.totals.{name}", value) for name, value in totals.items()},
        lines=tuple(
            document.mapping(file, f"{where}.lines[{i}]", line, required=(), optional=LINE)
            for i, line in enumerate(lines)
        ),
        notices=None if notices is None else tuple(notices),
    )
