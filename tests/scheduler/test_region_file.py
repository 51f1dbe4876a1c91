"""The region file: what is read, and what is refused by field."""

from __future__ import annotations

import pytest

from scheduler.region_file import RegionFileError, parse_regions
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
        ("region: []", "one key"),
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
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(RegionFileError, match=says):
        parse_regions(text)
