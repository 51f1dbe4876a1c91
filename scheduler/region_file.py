"""Region file: what electricity costs and emits in each region, as YAML, every figure with the document it was read from.

regions: [{region, price_micro_yuan_per_kwh: [24 values], price_source, carbon_mg_per_kwh, carbon_source, pue_permille}]
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from scheduler.regions import RegionFacts

TEXTS = ("region", "price_source", "carbon_source")
NUMBERS = ("carbon_mg_per_kwh", "pue_permille")
PRICES = "price_micro_yuan_per_kwh"
KEYS = (*TEXTS, *NUMBERS, PRICES)


class RegionFileError(ValueError):
    """A region file that cannot be read: the field, the value, and the nearest valid spelling."""


def read_regions(path: Path) -> dict[str, RegionFacts]:
    """The facts of a file by region; RegionFileError (or OSError) if it cannot be read."""
    return parse_regions(path.read_text(encoding="utf-8"))


def parse_regions(text: str) -> dict[str, RegionFacts]:
    """A figure that is not given is unknown; a price has one value for each hour of the day, UTC+8."""
    try:
        body = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as problem:
        raise RegionFileError(f"not YAML: {problem}") from None
    if not isinstance(body, dict) or set(body) != {"regions"} or not isinstance(body["regions"], list):
        raise RegionFileError("a region file has one key, `regions`, with a list")
    found: dict[str, RegionFacts] = {}
    for index, entry in enumerate(body["regions"]):
        facts = _facts(entry, f"/regions/{index}")
        if facts.region in found:
            raise RegionFileError(f"/regions/{index}/region: {facts.region!r} stands twice")
        found[facts.region] = facts
    return found


def _facts(entry: Any, at: str) -> RegionFacts:
    if not isinstance(entry, dict):
        raise RegionFileError(f"{at}: must be a mapping, not {entry!r}")
    for key in entry:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.0)[0]
            raise RegionFileError(f"{at}/{key}: unknown key; nearest: {near}")
    if "region" not in entry:
        raise RegionFileError(f"{at}/region: is required")
    for key in TEXTS:
        if key in entry and (not isinstance(entry[key], str) or not entry[key].strip()):
            raise RegionFileError(f"{at}/{key}: must be a text, not {entry[key]!r}")
    prices = entry.get(PRICES, [])
    if not isinstance(prices, list):
        raise RegionFileError(f"{at}/{PRICES}: must be a list of 24 numbers, not {prices!r}")
    for key, value in [*((k, entry[k]) for k in NUMBERS if k in entry), *((PRICES, one) for one in prices)]:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1 << 40:
            raise RegionFileError(f"{at}/{key}: must be a whole number from 0, not {value!r}")
    try:
        return RegionFacts(
            region=entry["region"],
            price_micro_yuan_per_kwh=tuple(prices),
            price_source=entry.get("price_source", ""),
            carbon_mg_per_kwh=entry.get("carbon_mg_per_kwh"),
            carbon_source=entry.get("carbon_source", ""),
            pue_permille=entry.get("pue_permille", 1000),
        )
    except ValueError as problem:
        raise RegionFileError(f"{at}: {problem}") from None
