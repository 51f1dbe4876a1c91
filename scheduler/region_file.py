"""Region file: what electricity costs and emits in each region, as YAML, every figure with the document it was read from;
the links between regions; and where the inputs of jobs lie.

regions: [{region, price_micro_yuan_per_kwh: [24 values], price_source, carbon_mg_per_kwh, carbon_source, pue_permille,
energy_weight_permille, carbon_fen_per_t}]; links: [{a, b, megabit_per_s, price_fen_per_gib}]; data: [{uri, region, mib}], each
for all inputs whose address begins with the uri. Any of the three may be left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scheduler.regions import RegionFacts
from scheduler.snapshot import Link

TEXTS = ("region", "price_source", "carbon_source")
NUMBERS = ("carbon_mg_per_kwh", "pue_permille", "energy_weight_permille", "carbon_fen_per_t")
PRICES = "price_micro_yuan_per_kwh"
KEYS = (*TEXTS, *NUMBERS, PRICES)
LINK = {"a": str, "b": str, "megabit_per_s": int, "price_fen_per_gib": int}
DATA = {"uri": str, "region": str, "mib": int}
OPTIONAL = {"price_fen_per_gib"}
MIB = 1 << 20


class RegionFileError(ValueError):
    """A region file that cannot be read: the field, the value, and the nearest valid spelling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """So many bytes lie in the region under every address that begins with uri."""

    uri: str
    region: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionFile:
    """What a file says."""

    facts: Mapping[str, RegionFacts] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    data: tuple[Place, ...] = ()

    def data_of(self, inputs: Mapping[str, str]) -> dict[str, int]:
        """Bytes by region of a job's inputs (path -> address), by the longest uri; an input nobody recorded is not counted."""
        found: dict[str, int] = {}
        for address in sorted(set(inputs.values())):
            places = [one for one in self.data if address.startswith(one.uri)]
            if places:
                place = max(places, key=lambda one: len(one.uri))
                found[place.region] = found.get(place.region, 0) + place.size
        return found


def read_region_file(path: Path) -> RegionFile:
    """All of a file; RegionFileError (or OSError) if it cannot be read."""
    return parse_region_file(path.read_text(encoding="utf-8"))


def read_regions(path: Path) -> dict[str, RegionFacts]:
    """The facts of a file by region; RegionFileError (or OSError) if it cannot be read."""
    return parse_regions(path.read_text(encoding="utf-8"))


def parse_regions(text: str) -> dict[str, RegionFacts]:
    """A figure that is not given is unknown; a price has one value for each hour of the day, UTC+8."""
    return dict(parse_region_file(text).facts)


def parse_region_file(text: str) -> RegionFile:
    """Of two links between the same regions, and of two uris alike, the file is refused."""
    try:
        body = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as problem:
        raise RegionFileError(f"not YAML: {problem}") from None
    if not isinstance(body, dict) or not body or not set(body) <= {"regions", "links", "data"}:
        raise RegionFileError("a region file has no other keys than `regions`, `links` and `data`, and one of them")
    for key, value in body.items():
        if not isinstance(value, list):
            raise RegionFileError(f"/{key}: must be a list, not {value!r}")
    found: dict[str, RegionFacts] = {}
    for index, entry in enumerate(body.get("regions", [])):
        facts = _facts(entry, f"/regions/{index}")
        if facts.region in found:
            raise RegionFileError(f"/regions/{index}/region: {facts.region!r} stands twice")
        found[facts.region] = facts
    links: dict[frozenset[str], Link] = {}
    for index, entry in enumerate(body.get("links", [])):
        values = _fields(entry, LINK, f"/links/{index}")
        ends = frozenset((values["a"], values["b"]))
        if ends in links or len(ends) < 2:
            raise RegionFileError(f"/links/{index}: {values['a']!r} to {values['b']!r} stands twice, or is no link")
        links[ends] = Link(**values)
    data: dict[str, Place] = {}
    for index, entry in enumerate(body.get("data", [])):
        values = _fields(entry, DATA, f"/data/{index}")
        if values["uri"] in data:
            raise RegionFileError(f"/data/{index}/uri: {values['uri']!r} stands twice")
        data[values["uri"]] = Place(uri=values["uri"], region=values["region"], size=values["mib"] * MIB)
    return RegionFile(facts=found, links=tuple(links.values()), data=tuple(data.values()))


def _fields(entry: Any, wanted: Mapping[str, type], at: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise RegionFileError(f"{at}: must be a mapping, not {entry!r}")
    for key in entry:
        if key not in wanted:
            near = difflib.get_close_matches(str(key), wanted, n=1, cutoff=0.0)[0]
            raise RegionFileError(f"{at}/{key}: unknown key; nearest: {near}")
    for key, kind in wanted.items():
        if key not in entry:
            if key in OPTIONAL:
                continue
            raise RegionFileError(f"{at}/{key}: is required")
        value = entry[key]
        if kind is str and (not isinstance(value, str) or not value.strip()):
            raise RegionFileError(f"{at}/{key}: must be a text, not {value!r}")
        if kind is int and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1 << 40):
            raise RegionFileError(f"{at}/{key}: must be a whole number from 0, not {value!r}")
    return dict(entry)


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
            energy_weight_permille=entry.get("energy_weight_permille", 0),
            carbon_fen_per_t=entry.get("carbon_fen_per_t", 0),
        )
    except ValueError as problem:
        raise RegionFileError(f"{at}: {problem}") from None
