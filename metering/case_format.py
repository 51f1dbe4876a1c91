"""Case format: the JSON Schemas of what `yisuan settle` reads and writes, also kept in docs/schemas/. Pure.

A schema cannot say everything: times must exist on the calendar, intervals end after they start, sites be
described, keys be unique. metering/case.py checks all of it.
"""

from __future__ import annotations

from typing import Any

from adapters.accelerator import Origin

VERSION = 1
LARGEST = 2**53 - 1  # integers stay exact in every JSON reader up to here (RFC 8259 §6, RFC 7493 §2.2)

_TIME = {
    "type": "string",
    "description": "RFC 3339 with an offset; seconds optional; at most milliseconds",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}"
    r"(:[0-9]{2}(\.[0-9]{1,3}0*)?)?([Zz]|[+-][0-9]{2}:[0-9]{2})$",
}
_FEN = {"type": "integer", "minimum": 0, "maximum": LARGEST}
_ORIGIN = {"enum": [origin.value for origin in Origin]}
_ELIGIBLE = {
    "type": "array",
    "description": "united; [] = never",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["from"],
        "properties": {
            "from": _TIME,
            "to": {"description": "exclusive; null or absent = open", "anyOf": [_TIME, {"type": "null"}]},
        },
    },
}
_BY_YEAR = {
    "type": "object",
    "description": "fen by local year; a year not given has the policy's cap",
    "propertyNames": {"pattern": "^[0-9]{4}$"},
    "additionalProperties": _FEN,
}

CASE: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "yisuan settle: a case",
    "type": "object",
    "additionalProperties": False,
    "required": ["version", "policy", "firm", "usage"],
    "properties": {
        "version": {"const": VERSION},
        "policy": {"type": "string", "description": "an active policy, such as etown-2024-10"},
        "firm": {
            "type": "object",
            "additionalProperties": False,
            "required": ["id", "eligible"],
            "properties": {"id": {"type": "string"}, "eligible": _ELIGIBLE},
        },
        "sites": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["eligible"],
                "properties": {"eligible": _ELIGIBLE},
            },
        },
        "rooms": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"pool": _BY_YEAR, "firm": _BY_YEAR, "contract": _FEN, "tranche": _FEN},
        },
        "usage": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": [
                    "lease",
                    "model",
                    "origin",
                    "devices",
                    "start",
                    "end",
                    "price_fen_per_device_hour",
                ],
                "properties": {
                    "lease": {"type": "string"},
                    "model": {"type": "string"},
                    "origin": _ORIGIN,
                    "devices": {"type": "integer", "minimum": 1, "maximum": LARGEST},
                    "share_permille": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1000},
                    "site": {
                        "type": "string",
                        "description": "a key of sites; absent = its papers are not checked",
                    },
                    "start": _TIME,
                    "end": _TIME,
                    "price_fen_per_device_hour": _FEN,
                },
            },
        },
    },
}

_PRINTED = {
    "type": "string",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$",
}
_SUM = {"type": "integer", "minimum": 0}
_ROOMS_BY_YEAR = {"type": "object", "propertyNames": {"pattern": "^[0-9]{4}$"}, "additionalProperties": _SUM}


def _closed(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


_LINE = _closed(
    {
        "lease": {"type": "string"},
        "model": {"type": "string"},
        "origin": _ORIGIN,
        "start": _PRINTED,
        "end": _PRINTED,
        "year": {"type": "integer", "description": "local year of the start"},
        "device_ms": _SUM,
        "fee_fen": _SUM,
        "rate_bp": {
            "type": "integer",
            "minimum": 0,
            "maximum": 10_000,
            "description": "applied; 0 when excluded",
        },
        "deduction_fen": _SUM,
        "payable_fen": _SUM,
        "reasons": {"type": "array", "items": {"type": "string"}},
        "clauses": {"type": "array", "items": {"type": "string"}},
    }
)
_ERROR = _closed(
    {
        "version": {"const": VERSION},
        "error": _closed({"code": {"type": "string"}, "facts": {"type": "object"}}),
    }
)

OUTPUT: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "yisuan settle: one line of output",
    "anyOf": [
        _closed(
            {
                "version": {"const": VERSION},
                "policy": {"type": "string"},
                "bundle_sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                "notices": {"type": "array", "items": {"type": "string"}},
                "lines": {"type": "array", "items": _LINE},
                "totals": _closed(dict.fromkeys(("fee_fen", "ceiling_fen", "deduction_fen", "payable_fen"), _SUM)),
                "rooms_after": _closed(
                    {"pool": _ROOMS_BY_YEAR, "firm": _ROOMS_BY_YEAR, "contract": _SUM, "tranche": _SUM},
                    "contract",
                    "tranche",
                ),
            }
        ),
        _ERROR,
    ],
}
