"""Data, electricity and carbon of regions, and what a choice saved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.regions import Option, RegionFacts, carbon_g, energy_fen, finish_ms, order, saved, transfer
from scheduler.snapshot import Link

HOUR = 3_600_000
GIB = 1 << 30
MIDNIGHT = datetime(2026, 11, 23, 16, tzinfo=UTC)  # 00:00 of the 24th at UTC+8
FACTOR = "公告 2024年第33号"
LINKS = (
    Link(a="hebei", b="beijing", megabit_per_s=10_000, price_fen_per_gib=5),
    Link(a="beijing", b="ningxia", megabit_per_s=1_000, price_fen_per_gib=20),
    Link(a="beijing", b="tianjin", megabit_per_s=0),
)


def facts(region: str = "hebei", **rest: Any) -> RegionFacts:
    return RegionFacts(region=region, price_source="tariff of the test", carbon_source=FACTOR, **rest)


def option(region: str, net: int, **rest: Any) -> Option:
    base: dict[str, Any] = {"transfer_ms": 0, "transfer_fen": 0, "start_ms": 0, "duration_ms": HOUR}
    return Option(region=region, pool=f"{region}-p", net_fen=net, **(base | rest))


def test_moving_inputs() -> None:
    data = {"beijing": 100 * GIB, "hebei": 10 * GIB}
    assert transfer(data, "hebei", LINKS) == (85_900, 500)  # 100 GiB x 8 / 10 Gbit/s = 85,899.3 ms
    assert transfer({"beijing": 10 * GIB}, "ningxia", LINKS) == (85_900, 200)
    assert transfer({"hebei": 5}, "hebei", ()) == (0, 0)
    assert transfer({}, "hebei", ()) == (0, 0)


def test_no_way_for_the_data() -> None:
    assert transfer({"hebei": 1}, "ningxia", LINKS) is None
    assert transfer({"beijing": 1}, "tianjin", LINKS) is None  # a link that carries nothing
    assert transfer({"hebei": 0}, "ningxia", LINKS) == (0, 0)
    with pytest.raises(ValueError, match="data/hebei: -1 bytes is below 0; nearest: 0"):
        transfer({"hebei": -1}, "beijing", LINKS)


def test_links_carry_at_once_and_the_fastest_of_two_counts() -> None:
    data = {"hebei": GIB, "ningxia": GIB}
    slow = transfer({"ningxia": GIB}, "beijing", LINKS)
    both = transfer(data, "beijing", LINKS)
    assert slow is not None
    assert both == transfer(dict(reversed(data.items())), "beijing", LINKS) == (slow[0], 25)
    faster = (*LINKS, Link(a="ningxia", b="beijing", megabit_per_s=2_000, price_fen_per_gib=30))
    assert transfer({"ningxia": GIB}, "beijing", faster) == (4295, 30)


@given(st.integers(0, 10**15), st.integers(1, 10**6), st.integers(0, 1000))
def test_moving_is_the_same_both_ways_and_never_quicker_than_the_link(size: int, speed: int, price: int) -> None:
    link = Link(a="a", b="b", megabit_per_s=speed, price_fen_per_gib=price)
    there = transfer({"a": size}, "b", [link])
    assert there == transfer({"b": size}, "a", [link])
    assert there is not None
    assert 0 <= there[0] - Fraction(size * 8, speed * 1000) < 1
    assert abs(there[1] - Fraction(size * price, GIB)) <= Fraction(1, 2)


def test_carbon_of_a_day_in_hebei() -> None:
    hebei = facts(carbon_mg_per_kwh=725_200)  # 0.7252 kg/kWh
    assert carbon_g(1000, 24 * HOUR, hebei) == 17_405  # 24 kWh x 725.2 g = 17,404.8
    assert carbon_g(1000, 24 * HOUR, facts(carbon_mg_per_kwh=725_200, pue_permille=1250)) == 21_756
    assert carbon_g(None, HOUR, hebei) is carbon_g(1000, HOUR, None) is carbon_g(1000, HOUR, facts()) is None


def test_electricity_by_hour_at_utc_plus_8() -> None:
    night = facts(price_micro_yuan_per_kwh=(300_000,) * 8 + (900_000,) * 16)
    assert energy_fen(10_000, MIDNIGHT, 8 * HOUR, night) == 2400  # 80 kWh at 0.30 yuan
    assert energy_fen(10_000, MIDNIGHT + timedelta(hours=8), 8 * HOUR, night) == 7200
    assert energy_fen(10_000, MIDNIGHT + timedelta(hours=7, minutes=30), HOUR, night) == 600
    assert energy_fen(10_000, MIDNIGHT, 24 * HOUR, night) == 16_800
    assert energy_fen(None, MIDNIGHT, HOUR, night) is energy_fen(1, MIDNIGHT, HOUR, None) is None
    assert energy_fen(1, MIDNIGHT, HOUR, facts()) is None


@given(
    st.lists(st.integers(0, 2_000_000), min_size=24, max_size=24),
    st.integers(0, 48 * HOUR), st.integers(0, 80), st.integers(0, HOUR - 1), st.integers(1, 50_000),
)  # fmt: skip
def test_electricity_is_the_sum_of_its_parts(prices: list[int], after: int, hours: int, rest: int, watts: int) -> None:
    zone, start = facts(price_micro_yuan_per_kwh=tuple(prices)), MIDNIGHT + timedelta(milliseconds=after)
    whole = energy_fen(watts, start, hours * HOUR + rest, zone)
    first = energy_fen(watts, start, hours * HOUR, zone)
    second = energy_fen(watts, start + timedelta(hours=hours), rest, zone)
    assert whole is not None
    assert first is not None
    assert second is not None
    assert abs(whole - first - second) <= 1
    flat = facts(price_micro_yuan_per_kwh=(prices[0],) * 24)
    kwh = Fraction(watts * (hours * HOUR + rest), HOUR * 1000)
    assert abs((energy_fen(watts, start, hours * HOUR + rest, flat) or 0) - kwh * prices[0] / 10_000) <= Fraction(1, 2)


def test_the_cheapest_after_moving_then_the_soonest_then_the_cleanest() -> None:
    near = option("beijing", 1000)
    far = option("ningxia", 900, transfer_fen=200, transfer_ms=HOUR)
    assert [o.region for o in order([far, near])] == ["beijing", "ningxia"]
    late = option("hebei", 1000, start_ms=1)
    assert [o.region for o in order([late, near])] == ["beijing", "hebei"]
    clean = option("ahead", 1000, carbon_g=5)
    dirty = option("aback", 1000, carbon_g=9)
    assert [o.region for o in order([dirty, clean])] == ["ahead", "aback"]


def test_a_price_on_carbon_and_carbon_that_is_not_known() -> None:
    clean, dirty = option("a", 1000, carbon_g=100_000), option("b", 990, carbon_g=300_000)
    assert [o.region for o in order([clean, dirty])] == ["b", "a"]
    assert [o.region for o in order([clean, dirty], 10_000)] == ["a", "b"]  # 0.2 t x 100 yuan
    unknown = option("c", 990)
    assert [o.region for o in order([clean, dirty, unknown], 10_000)] == ["a", "b", "c"]


def test_devices_are_held_while_the_data_comes() -> None:
    assert finish_ms(option("a", 1, transfer_ms=500, start_ms=100)) == 600 + HOUR


def test_what_the_choice_saved() -> None:
    chosen = option("ningxia", 900, transfer_fen=50, transfer_ms=HOUR, carbon_g=400)
    options = [option("beijing", 1000, carbon_g=700), option("hebei", 1100, carbon_g=None), chosen]
    found = saved(chosen, options)
    assert found is not None
    assert (found.against, found.pool, found.fen, found.ms, found.carbon_g) == ("beijing", "beijing-p", 50, -HOUR, 300)
    against_hebei = saved(chosen, options[1:])
    assert against_hebei is not None
    assert (against_hebei.fen, against_hebei.carbon_g) == (150, None)
    assert saved(chosen, [chosen]) is None


def test_another_region_stands_before_another_pool_of_the_same() -> None:
    chosen = option("beijing", 1000)
    beside = Option(
        region="beijing", pool="b2", net_fen=1001, transfer_ms=0, transfer_fen=0, start_ms=0, duration_ms=HOUR
    )
    found = saved(chosen, [chosen, beside, option("hebei", 1300)])
    assert found is not None
    assert (found.against, found.fen) == ("hebei", 300)
    within = saved(chosen, [chosen, beside])
    assert within is not None
    assert (within.against, within.pool, within.fen) == ("beijing", "b2", 1)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"price_micro_yuan_per_kwh": (1, 2), "price_source": "x"}, "regions/r/price_micro_yuan_per_kwh: 2 values"),
        ({"price_micro_yuan_per_kwh": (1,) * 24}, "regions/r/price_source: '' for a price"),
        ({"carbon_mg_per_kwh": 5}, "regions/r/carbon_source: '' for a factor"),
        ({"carbon_mg_per_kwh": -5, "carbon_source": "x"}, "carbon_mg_per_kwh: -5 is below 0; nearest: 0"),
        ({"pue_permille": 900}, "regions/r/pue_permille: 900 is below 1000"),
    ],
)
def test_facts_that_cannot_be(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RegionFacts(region="r", **values)
