"""Regions in the plan: distance and electricity enter the choice, and the plan says what the choice saved."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.codec import parse_snapshot, plan_document, snapshot_document
from scheduler.engine import EMPTY, Remove, Set, apply, changes_of, step
from scheduler.job import Money, Objective
from scheduler.netcost import Regions, candidate, watts
from scheduler.node import Pool
from scheduler.plan import Launch, Pending, Plan
from scheduler.planner import plan
from scheduler.policies.net_cost import NetCost
from scheduler.quote import quote
from scheduler.regions import Network, RegionFacts, transfer
from scheduler.snapshot import Link, RunningLease, Snapshot, Throughput
from tests.builders import NOW
from tests.scheduler.test_quote import asks, job, lease, nodes, pool

GIB = 1 << 30
HOUR = 3_600_000
MIDNIGHT = datetime(2026, 6, 1, 16, tzinfo=UTC)  # 00:00 at UTC+8
WIRES = (
    Link(a="beijing", b="hebei", megabit_per_s=10_000, price_fen_per_gib=5),
    Link(a="beijing", b="ningxia", megabit_per_s=1_000, price_fen_per_gib=20),
)
REGIONS = ("beijing", "hebei", "ningxia")


def facts(region: str, night: int, day: int, grams: int = 500_000, **rest: Any) -> RegionFacts:
    """Electricity at `night` until 08:00, then at `day`."""
    return RegionFacts(
        region=region, price_micro_yuan_per_kwh=(night,) * 8 + (day,) * 16, price_source="tariff of the test",
        carbon_mg_per_kwh=grams, carbon_source="notice of the test", **rest,
    )  # fmt: skip


def zone(prices: dict[str, int] | None = None, **parts: Any) -> Snapshot:
    """One H800 node of eight in each region, by default at one price."""
    given = prices or dict.fromkeys(REGIONS, 1000)
    pools = tuple(pool(name, "H800", region=name, price=price) for name, price in given.items())
    found = tuple(node for one in pools for node in nodes(str(one.id), 1))
    return Snapshot(version=1, now=NOW, pools=pools, nodes=found, **({"links": WIRES} | parts))


def only(found: Plan) -> Launch:
    (launch,) = found.launches
    return launch


def reason(found: Plan) -> Pending:
    (wait,) = found.waits
    return wait.pending


# --- data -------------------------------------------------------------------------------------------------------------


def test_a_job_runs_where_its_data_lie_and_the_plan_says_what_that_saved() -> None:
    """1,024 GiB: to Hebei 5,120 fen and 14.7 min, to Ningxia 20,480 fen; at home nothing, for 8 x 10 yuan an hour."""
    asked = job("n", asks("H800"), data={"beijing": 1024 * GIB})
    launch = only(plan(zone(jobs=(asked,)), NetCost()))

    assert launch.chosen.region == "beijing"
    assert (launch.chosen.transfer_ms, launch.chosen.transfer_fen) == (0, 0)
    assert [one.region for one in launch.rejected] == ["hebei", "ningxia"]
    assert launch.rejected[0].effective_fen == 8000 + 5120
    assert launch.saved is not None
    assert (launch.saved.against, launch.saved.fen, launch.saved.ms) == ("hebei", 5120, 879_610)
    assert launch.saved.carbon_g is None


def test_a_cheap_region_is_worth_the_way_until_the_data_are_too_much() -> None:
    """Ningxia is 800 fen an hour cheaper; the link takes 20 fen a GiB: 39 GiB are worth it, 41 are not."""
    prices = {"beijing": 1000, "ningxia": 900}
    for size, where, saved in ((39, "ningxia", 20), (41, "beijing", 20)):
        asked = job("n", asks("H800"), data={"beijing": size * GIB})
        launch = only(plan(zone(prices, jobs=(asked,)), NetCost()))
        assert (launch.chosen.region, launch.saved and launch.saved.fen) == (where, saved), size


def test_devices_are_held_while_inputs_come_and_that_time_is_paid_for() -> None:
    """An hour's work, and 450 GiB over 1,000 Mbit/s take 64.4 minutes more on eight devices at 9 yuan."""
    told = (Throughput(workload="w", model="H800", devices=8, steps_per_ks=1000),)
    asked = job("n", asks("H800"), hours=3, data={"beijing": 450 * GIB}, workload="w", remaining_steps=3600)
    launch = only(plan(zone({"beijing": 1000, "ningxia": 900}, jobs=(asked,), throughputs=told), NetCost()))
    (away,) = launch.rejected

    moving = 450 * GIB * 8 // 1_000_000 + 1
    assert launch.chosen.region == "beijing"
    assert (away.transfer_ms, away.predicted_ms) == (moving, HOUR + moving)
    assert away.expected_fen == round(8 * 900 * (HOUR + moving) / HOUR)
    assert away.effective_fen == away.expected_fen + 450 * 20
    assert launch.saved is not None
    assert launch.saved.ms == moving
    assert launch.saved.fen == away.expected_fen + 9000 - 8000


def test_a_region_from_which_the_data_come_too_late_comes_last() -> None:
    asked = job("n", asks("H800"), hours=0.5, data={"beijing": 300 * GIB})  # 43 minutes over the line
    launch = only(plan(zone({"beijing": 9000, "ningxia": 1}, jobs=(asked,)), NetCost()))
    assert launch.chosen.region == "beijing"
    assert [one.exceeds_limit for one in (launch.chosen, *launch.rejected)] == [False, True]


@pytest.mark.parametrize(("objective", "where"), [(Objective.START_TIME, "hebei"), (Objective.GROSS_COST, "ningxia")])
def test_each_objective_counts_the_way(objective: Objective, where: str) -> None:
    """Beijing is full. 10 GiB: 8.6 s and 50 fen to Hebei, 85.9 s and 200 fen to Ningxia, which is 200 x 8 fen cheaper."""
    known = zone({"beijing": 1, "hebei": 1000, "ningxia": 800})
    busy = lease("x", known.nodes[0], 4)
    asked = replace(job("n", asks("H800"), data={"beijing": 10 * GIB}), money=Money(objective=objective))
    launch = only(plan(replace(known, jobs=(asked,), leases=(busy,)), NetCost()))
    assert launch.chosen.region == where


def test_without_a_link_a_pool_is_out_and_without_any_the_job_waits_and_says_so() -> None:
    asked = job("n", asks("H800"), data={"shanghai": GIB, "beijing": 0})
    found = plan(zone(jobs=(asked,)), NetCost())
    assert not found.launches
    pending = reason(found)
    assert (pending.code, pending.kind.value) == ("NO_LINK", "policy")
    assert [(one.code, dict(one.facts)) for one in pending.remedies] == [("ADD_LINK", {"regions": "shanghai"})]

    state, first = step(EMPTY, changes_of(zone(jobs=(asked,))), NetCost())
    assert not first.launches
    link = Link(a="shanghai", b="hebei", megabit_per_s=100)
    state, then = step(state, [Set(link)], NetCost())
    assert only(then).chosen.region == "hebei", "a link that comes is an answer"
    _, gone = step(state, [Remove(Link, ("hebei", "shanghai"))], NetCost())
    assert reason(gone).code == "NO_LINK"


def test_a_job_nothing_brings_the_data_of_keeps_nobody_waiting() -> None:
    first = job("a", asks("H800"), data={"shanghai": GIB})
    later = [job(f"b{i:02}", asks("H800"), at=1 + i) for i in range(3)]
    found = plan(zone(jobs=(first, *later)), NetCost())
    assert [launch.job for launch in found.launches] == ["b00", "b01", "b02"]


def test_the_way_counts_within_the_cap_on_what_a_job_may_cost() -> None:
    asked = replace(job("n", asks("H800"), data={"beijing": 10 * GIB}), money=Money(max_net_fen=8049))
    alone = {"hebei": 1000}
    found = plan(zone(alone, jobs=(asked,)), NetCost())
    assert reason(found).code == "MAX_NET_COST_TOO_LOW"
    assert dict(reason(found).remedies[0].facts)["to_fen"] == 8050
    allowed = replace(asked, money=Money(max_net_fen=8050))
    assert only(plan(zone(alone, jobs=(allowed,)), NetCost())).chosen.transfer_fen == 50


# --- electricity ------------------------------------------------------------------------------------------------------


def test_among_equals_the_hour_of_the_day_decides() -> None:
    """At midnight Hebei's night tariff is the cheaper one, at 08:00 Beijing's day tariff is."""
    told = (facts("beijing", 500_000, 600_000), facts("hebei", 300_000, 900_000))
    known = zone({"beijing": 1000, "hebei": 1000}, regions=told)
    where = {}
    for hour in (0, 8):
        now = MIDNIGHT + timedelta(hours=hour)
        launch = only(plan(replace(known, now=now, jobs=(job("n", asks("H800")),)), NetCost()))
        where[hour] = launch.chosen.region
        power = watts(known.pools[0], 8, 1000)
        assert power == 5600
        price = {0: 300_000, 8: 600_000}[hour]
        assert launch.chosen.energy_fen == round(power * price / 1000 / 10_000)
    assert where == {0: "hebei", 8: "beijing"}


def test_the_price_of_the_devices_comes_before_electricity_that_is_in_it() -> None:
    told = (facts("beijing", 500_000, 600_000), facts("hebei", 1, 1))
    launch = only(plan(zone({"beijing": 999, "hebei": 1000}, regions=told, jobs=(job("n", asks("H800")),)), NetCost()))
    assert launch.chosen.region == "beijing"


def test_weighed_electricity_and_carbon_turn_the_choice() -> None:
    """5.6 kWh in an hour: 560 fen at 1 yuan beside 8,000 for the devices; 2.8 kg at 500 g a kWh."""
    cheap, dear = {"beijing": 999, "hebei": 1000}, 1_000_000
    asked = job("n", asks("H800"))
    told = (
        facts("beijing", dear, dear, energy_weight_permille=1000),
        facts("hebei", 0, 0, energy_weight_permille=1000),
    )
    launch = only(plan(zone(cheap, regions=told, jobs=(asked,)), NetCost()))
    assert (launch.chosen.region, launch.rejected[0].effective_fen) == ("hebei", 8 * 999 + 560)
    told = (facts("beijing", 0, 0, carbon_fen_per_t=10_000), facts("hebei", 0, 0, 0, carbon_fen_per_t=10_000))
    launch = only(plan(zone(cheap, regions=told, jobs=(asked,)), NetCost()))
    assert (launch.chosen.region, launch.rejected[0].effective_fen) == ("hebei", 8 * 999 + 28)
    assert launch.saved is not None
    assert (launch.saved.fen, launch.saved.carbon_g) == (-8, 2800), "eight fen more, and 2.8 kg less"
    assert launch.chosen.net_fen == 8000, "no bill has it"


def test_a_region_whose_figures_nobody_knows_is_comes_after_those_that_are_known() -> None:
    told = (facts("hebei", 1, 1),)
    launch = only(plan(zone({"beijing": 1000, "hebei": 1000}, regions=told, jobs=(job("n", asks("H800")),)), NetCost()))
    assert (launch.chosen.region, launch.rejected[0].energy_fen) == ("hebei", None)


# --- laws -------------------------------------------------------------------------------------------------------------

SIZES = st.dictionaries(st.sampled_from([*REGIONS, "shanghai"]), st.integers(0, 200 * GIB), max_size=3)


@st.composite
def zones(draw: st.DrawFn) -> Snapshot:
    prices = {name: draw(st.integers(0, 2000)) for name in REGIONS}
    ends = st.sampled_from([*REGIONS, "shanghai"])
    links = {
        frozenset(pair): Link(
            a=pair[0], b=pair[1], megabit_per_s=draw(st.integers(0, 10_000)), price_fen_per_gib=draw(st.integers(0, 50))
        )
        for pair in draw(st.lists(st.tuples(ends, ends), max_size=6))
    }
    told = tuple(
        facts(
            name,
            draw(st.integers(0, 10**6)),
            draw(st.integers(0, 10**6)),
            energy_weight_permille=draw(st.sampled_from([0, 300])),
        )
        for name in REGIONS
        if draw(st.booleans())
    )
    asked = job("n", asks("H800", count=draw(st.integers(1, 8))), hours=2, data=draw(SIZES))
    known = zone(prices, links=tuple(links.values()), regions=told, jobs=(asked,))
    busy: list[RunningLease] = [lease(f"x{i}", node, 1) for i, node in enumerate(known.nodes) if draw(st.booleans())]
    return replace(known, leases=tuple(busy))


@given(zones())
def test_nothing_that_is_free_and_linked_costs_less_than_what_is_chosen(known: Snapshot) -> None:
    (asked,) = known.jobs
    taken = {one.pool for one in known.leases}
    near = Regions(network=Network(known.links), facts={one.region: one for one in known.regions}, now=known.now)

    def able(one: Pool) -> bool:
        return one.id not in taken and transfer(asked.data, one.region, known.links) is not None

    free = [candidate(asked, 0, one, None, {}, near) for one in known.pools if able(one)]
    found = plan(known, NetCost())
    if not free:
        assert not found.launches
        linked = any(transfer(asked.data, one.region, known.links) is not None for one in known.pools)
        assert (reason(found).code == "NO_LINK") == (not linked)
        return
    launch = only(found)
    offered = [launch.chosen, *launch.rejected]
    assert sorted(offered, key=lambda one: one.pool) == sorted(free, key=lambda one: one.pool)
    within = [one for one in free if one.exceeds_limit == launch.chosen.exceeds_limit]
    assert launch.chosen.exceeds_limit == all(one.exceeds_limit for one in free)
    assert launch.chosen.effective_fen == min(one.effective_fen for one in within)


@given(zones())
def test_the_quote_and_the_plan_agree_on_regions(known: Snapshot) -> None:
    (asked,) = known.jobs
    found = plan(known, NetCost())
    state = apply(EMPTY, changes_of(replace(known, jobs=())))
    told = quote(state, asked, NetCost())
    if not found.launches:
        assert told.pending is not None
        assert told.pending.code == reason(found).code
        return
    launch = only(found)
    assert told.best == launch.chosen.pool
    option = told.option(launch.chosen.pool)
    assert option is not None
    assert (option.transfer_ms, option.transfer_fen) == (launch.chosen.transfer_ms, launch.chosen.transfer_fen)
    assert (option.total_fen, option.energy_fen, option.carbon_g) == (
        launch.chosen.paid_fen, launch.chosen.energy_fen, launch.chosen.carbon_g,
    )  # fmt: skip


@given(zones())
def test_a_snapshot_with_regions_goes_through_the_file_and_the_plan_is_the_same(known: Snapshot) -> None:
    import json

    again = parse_snapshot(json.dumps(snapshot_document(known)))
    assert again == known
    document = plan_document(plan(known, NetCost()))
    assert document == plan_document(plan(again, NetCost()))
    for entry in document["launches"]:
        assert (entry["saved"] is None) == (entry["rejected"] == [])


def test_facts_that_cannot_be_are_refused_by_name_in_a_snapshot() -> None:
    import json

    body = snapshot_document(zone())
    body["regions"] = [{"region": "beijing", "pue_permille": 900}]
    with pytest.raises(ValueError, match=r"/regions/0: must agree \(regions/beijing/pue_permille: 900 is below 1000"):
        parse_snapshot(json.dumps(body))
