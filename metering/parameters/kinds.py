"""Kinds: the parameter keys that rules know, each with its unit and what a value of it may be.

A new number or date is data; a new key is a line here, together with the rule that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adapters.accelerator import EvidenceLevel
from metering.amount import BASIS_POINTS
from metering.parameters import document
from metering.parameters.document import ParameterError
from metering.parameters.policy import (
    CAP_SUBJECT,
    CLAIM_MODE,
    EVIDENCE_LASTS,
    FINGERPRINT_HIGHEST,
    FINGERPRINT_LOWEST,
    FIRM_CAP,
    IN_FORCE,
    LEVEL_FOR_RATE,
    LEVEL_FOR_SUBSIDY,
    LEVEL_TO_LIST,
    POOL,
    RATE_DOMESTIC,
    RATE_FOREIGN,
    REFILL,
    TRANCHE_IDLE,
    TRANCHE_SIZE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """unit: said in the file and checked.

    yearly: rows are whole local years. options: for values that are words; words beside the numbers of another unit.
    least: the smallest number of fen, days or percent that makes sense.
    """

    unit: str
    yearly: bool = False
    options: tuple[str, ...] = ()
    least: int = 0


PERMILLE = 1000
HIGHEST_LEVEL = max(EvidenceLevel).value

_RATE = Kind(unit="basis_point")
_FEN = Kind(unit="fen")
_FEN_PER_YEAR = Kind(unit="fen_per_year", yearly=True)
_LEVEL = Kind(unit="evidence_level")

KEYS: Mapping[str, Kind] = MappingProxyType(
    {
        IN_FORCE: Kind(unit="boolean"),
        RATE_DOMESTIC: _RATE,
        RATE_FOREIGN: _RATE,
        POOL: _FEN_PER_YEAR,
        FIRM_CAP: _FEN_PER_YEAR,
        CLAIM_MODE: Kind(unit="word", options=("draw_right", "tranche")),
        TRANCHE_SIZE: Kind(unit="fen", least=1),
        TRANCHE_IDLE: Kind(unit="day", least=1),
        "compute_voucher.review_required": Kind(unit="boolean"),
        CAP_SUBJECT: Kind(unit="word", options=("credit_code", "linked_firms")),
        REFILL: Kind(unit="word", options=("reissue", "lapse")),
        "compute_voucher.tail_settlement_days": Kind(unit="day", options=("without_limit",)),
        "server_subsidy.rate_ceiling": _RATE,
        "server_subsidy.project_cap": _FEN,
        "server_subsidy.listing_required": Kind(unit="boolean"),
        "model_voucher.rate": _RATE,
        "model_voucher.pool": _FEN_PER_YEAR,
        "model_voucher.firm_cap": _FEN,
        "model_voucher.firm_cap_period": Kind(unit="word", options=("open", "year", "term")),
        "eligibility.clean_record": Kind(unit="year"),
        "alert.room_drawn.first": _RATE,
        "alert.room_drawn.second": _RATE,
        "review.sampling": Kind(unit="permille"),
        LEVEL_TO_LIST: _LEVEL,
        LEVEL_FOR_RATE: _LEVEL,
        LEVEL_FOR_SUBSIDY: _LEVEL,
        EVIDENCE_LASTS: Kind(unit="day", least=1),
        FINGERPRINT_LOWEST: Kind(unit="percent_of_peak"),
        FINGERPRINT_HIGHEST: Kind(unit="percent_of_peak", least=1),
    }
)


def check_value(file: Path, where: str, value: Any, kind: Kind) -> int | bool | str:
    """The value, when it is one that its unit allows; ParameterError otherwise."""
    if isinstance(value, str) and value in kind.options:
        return value
    match kind.unit:
        case "boolean":
            if value is not True and value is not False:
                raise ParameterError(file, where, f"{value!r} is not true or false")
            return bool(value)
        case "word":
            return document.choice(file, where, value, kind.options)
        case "basis_point":
            return document.whole(file, where, value, largest=BASIS_POINTS)
        case "permille":
            return document.whole(file, where, value, largest=PERMILLE)
        case "evidence_level":
            return document.whole(file, where, value, largest=HIGHEST_LEVEL)
        case _:
            found = document.whole(file, where, value)
            if found < kind.least:
                raise ParameterError(file, where, f"{found} is below {kind.least}")
            return found
