"""The region file: what is read, and what is refused by field."""

from __future__ import annotations

import pytest

from scheduler.region_file import RegionFileError, parse_region_file, parse_regions
from scheduler.regions import RegionFacts

HOURS = "[" + ", ".join(str(600_000 + h) for h in range(24)) + "]"


def test_figures_come_with_their_sources_and_the_rest_is_unknown() -> None:
    found = parse_regions(
        f"regions: [{{region: hebei, price_micro_yuan_per_kwh: {HOURS}, price_source: tariff, pue_permille: 1200}},"
        " {region: tianjin, carbon_mg_per_kwh: 704100, carbon_source: notice}]"
    )

    assert found["hebei"].price_micro_yuan_per_kwh[23] == 600_023
    assert (found["hebei"].carbon_mg_per_kwh, found["hebei"].pue_permille) == (None, 1200)
    assert found["tianjin"] == RegionFacts(region="tianjin", carbon_mg_per_kwh=704_100, carbon_source="notice")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("regions: {", "not YAML"),
        ("region: []", "no other keys than"),
        ("regions: [x]", "/regions/0: must be a mapping"),
        ("regions: [{carbon_mg_per_kwh: 1}]", "/regions/0/region: is required"),
        ("regions: [{region: a, carbon: 1}]", "/regions/0/carbon: unknown key; nearest: carbon_"),
        ("regions: [{region: a, carbon_mg_per_kwh: 0.7, carbon_source: x}]", "whole number"),
        ("regions: [{region: a, carbon_mg_per_kwh: true, carbon_source: x}]", "whole number"),
        ("regions: [{region: a, carbon_mg_per_kwh: 7}]", "carbon_source"),
        ("regions: [{region: a, price_micro_yuan_per_kwh: [1], price_source: x}]", "nearest: 24"),
        ("regions: [{region: a, price_micro_yuan_per_kwh: 5}]", "must be a list of 24 numbers"),
        ("regions: [{region: a, pue_permille: 900}]", "nearest: 1000"),
        ("regions: [{region: a}, {region: a}]", "/regions/1/region: 'a' stands twice"),
        ("{}", "no other keys than"),
        ("links: 7", "/links: must be a list"),
        ("links: [{a: x, b: y}]", "/links/0/megabit_per_s: is required"),
        ("links: [{a: x, b: y, megabit: 1}]", "/links/0/megabit: unknown key; nearest: megabit_per_s"),
        ("links: [{a: x, b: y, megabit_per_s: -1}]", "/links/0/megabit_per_s: must be a whole number"),
        ("links: [{a: x, b: x, megabit_per_s: 1}]", "/links/0: 'x' to 'x' stands twice, or is no link"),
        (
            "links: [{a: x, b: y, megabit_per_s: 1}, {a: y, b: x, megabit_per_s: 2}]",
            "/links/1: 'y' to 'x' stands twice",
        ),
        ("data: [{uri: 's3://b/', region: '', mib: 1}]", "/data/0/region: must be a text"),
        ("data: [{uri: u, region: a, mib: 1}, {uri: u, region: b, mib: 1}]", "/data/1/uri: 'u' stands twice"),
        ("regions: [{region: a, energy_weight_permille: 1001}]", "nearest: 1000"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(RegionFileError, match=says):
        parse_regions(text)


def test_links_and_where_inputs_lie() -> None:
    found = parse_region_file(
        "links: [{a: beijing, b: hebei, megabit_per_s: 10000, price_fen_per_gib: 5}, {a: hebei, b: ningxia, megabit_per_s: 1}]\n"
        "data: [{uri: 'oss://b/', region: hebei, mib: 10}, {uri: 'oss://b/large/', region: ningxia, mib: 1024}]\n"
    )
    assert [(one.a, one.b, one.megabit_per_s, one.price_fen_per_gib) for one in found.links] == [
        ("beijing", "hebei", 10_000, 5), ("hebei", "ningxia", 1, 0),
    ]  # fmt: skip
    inputs = {"/a": "oss://b/small", "/b": "oss://b/large/x", "/c": "oss://b/large/x", "/d": "https://elsewhere"}
    assert found.data_of(inputs) == {"hebei": 10 << 20, "ningxia": 1 << 30}, "one address comes once"
    assert found.data_of({}) == {}
