"""What clusters have becomes pools, nodes and places to lease, and follows what is found."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from adapters.accelerator import Source
from scheduler.cluster_file import Cluster
from scheduler.discovery import FoundNode, Recorded, record
from scheduler.schema import devices, lease_devices, leases, nodes, pools
from scheduler.store import version
from tests.platform import PROVIDER, Platform, job_text, make_platform

EAST = Cluster(
    name="east",
    backend="kubernetes",
    provider=PROVIDER,
    site="bj1",
    region="beijing",
    prices={"H800": 1800, "Ascend910B3": 2000},
    options={"image": "zone/any"},
)
G1 = FoundNode(name="g1", vendor="nvidia", model="H800", devices=8, cpu_milli=64_000, memory_bytes=1 << 39, rack="r1")
A1 = FoundNode(name="a1", vendor="ascend", model="Ascend910B3", devices=8)


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return make_platform(tmp_path)


def see(platform: Platform, *found: FoundNode) -> Recorded:
    with platform.database.write() as tx:
        return record(tx, EAST, found, platform.clock.now())


def rows(platform: Platform, table: Any) -> dict[str, Any]:
    key = "uuid" if table is devices else "id"
    mine = [row for row in platform.rows(table) if str(row[key]).startswith("east")]
    return {row[key]: row for row in mine}


def leasable(platform: Platform) -> list[str]:
    return sorted(uuid for uuid, row in rows(platform, devices).items() if row["leasable"])


def hold(platform: Platform, *places: str) -> None:
    """An open lease on these places."""
    job = platform.submit("held", job_text("held"))
    with platform.database.write() as tx:
        row: dict[str, Any] = {
            column.name: 1 for column in leases.c if not column.nullable and column.server_default is None
        }
        row |= {column.name: "x" for column in leases.c if not column.nullable and "VARCHAR" in str(column.type)}
        row |= {"id": f"{job}.1", "job": job, "pool": "east-h800"}
        tx.execute(insert(leases).values(**row))
        for place in places:
            values = {"lease": f"{job}.1", "device": place, "node": "east.g1", "rank": 0, "idx": 0}
            tx.execute(insert(lease_devices).values(**values))


def test_nodes_become_pools_by_model_with_places_to_lease(platform: Platform) -> None:
    done = see(platform, G1, A1)

    found = rows(platform, pools)
    assert done.pools == ("east-ascend910b3", "east-h800")
    assert {(p["backend"], p["source"], p["provider"]) for p in found.values()} == {("east", "engine", PROVIDER)}
    assert found["east-h800"]["price_fen_per_device_hour"] == 1800
    node = rows(platform, nodes)["east.g1"]
    assert (node["pool"], node["cpu_milli"], node["rack"], node["schedulable"]) == ("east-h800", 64_000, "r1", 1)
    assert len(leasable(platform)) == 16
    assert leasable(platform)[8] == "east/g1/0"


def test_looking_again_writes_nothing_but_that_the_nodes_were_heard(platform: Platform) -> None:
    see(platform, G1, A1)
    with platform.database.read() as tx:
        before = version(tx)
    platform.clock.advance(30)
    done = see(platform, A1, G1)

    with platform.database.read() as tx:
        assert version(tx) == before
    assert (done.written, done.pools) == (0, ())
    heard = {row["heartbeat_at_ms"] for row in rows(platform, nodes).values()}
    assert heard == {round(platform.clock.now().timestamp() * 1000)}


def test_a_node_that_is_closed_or_gone_takes_no_jobs_and_is_not_forgotten(platform: Platform) -> None:
    see(platform, G1, A1)
    see(platform, replace(G1, schedulable=False, why="cordoned"))
    assert {id_: row["schedulable"] for id_, row in rows(platform, nodes).items()} == {"east.g1": 0, "east.a1": 0}

    see(platform, G1, A1)
    assert {row["schedulable"] for row in rows(platform, nodes).values()} == {1}
    other = {row["id"] for row in platform.rows(nodes)} - {"east.g1", "east.a1"}
    assert all(row["schedulable"] for row in platform.rows(nodes) if row["id"] in other)


def test_a_model_without_a_price_has_no_pool_and_says_so(platform: Platform) -> None:
    done = see(platform, G1, replace(G1, name="g2", model="H100"), replace(G1, name="g3", model="H100"))

    assert [(r.code, r.facts) for r in done.refused] == [("PRICE_MISSING", {"cluster": "east", "model": "H100"})]
    assert set(rows(platform, nodes)) == {"east.g1"}


def test_a_node_with_other_chips_than_before_is_left_out(platform: Platform) -> None:
    see(platform, G1)
    done = see(platform, replace(A1, name="g1"))

    assert [r.code for r in done.refused] == ["NODE_CHANGED_MODEL"]
    assert rows(platform, nodes)["east.g1"]["schedulable"] == 0


def test_places_that_others_hold_are_not_leased_and_held_ones_stay(platform: Platform) -> None:
    see(platform, G1)
    hold(platform, "east/g1/6", "east/g1/7")
    see(platform, replace(G1, devices=5))
    assert leasable(platform) == ["east/g1/0", "east/g1/1", "east/g1/2", "east/g1/6", "east/g1/7"]

    see(platform, G1)
    assert len(leasable(platform)) == 8


def test_devices_that_an_agent_named_take_the_places_of_counted_ones(platform: Platform) -> None:
    see(platform, G1)
    hold(platform, "east/g1/0")
    with platform.database.write() as tx:
        row = dict(tx.execute(select(devices).where(devices.c.uuid == "east/g1/1")).mappings().one())
        for index in range(8):
            named = row | {"uuid": f"GPU-{index}", "idx": index, "source": Source.LIBRARY.value}
            tx.execute(insert(devices).values(**named))
    see(platform, G1)

    usable = [row["uuid"] for row in platform.rows(devices) if row["node"] == "east.g1" and row["leasable"]]
    assert sorted(usable) == [f"GPU-{index}" for index in range(7)]


def test_jobs_start_on_what_was_found(platform: Platform) -> None:
    with platform.database.write() as tx:
        tx.execute(update(nodes).values(schedulable=0))
    see(platform, G1)
    platform.loop.dispatch.backends = {"east": platform.backend}
    job = platform.submit("first", job_text("first", accelerators="H800:8"))
    platform.loop.tick()

    (lease,) = platform.rows(leases)
    assert (lease["job"], lease["pool"], lease["source"]) == (job, "east-h800", "engine")
    platform.clock.advance(1)
    with platform.database.read() as tx:
        assert version(tx) > 0


def test_a_node_unheard_for_a_minute_is_not_leased(platform: Platform) -> None:
    with platform.database.write() as tx:
        tx.execute(update(nodes).values(schedulable=0))
    see(platform, G1)
    platform.loop.dispatch.backends = {"east": platform.backend}
    platform.clock.advance(timedelta(minutes=2).total_seconds())
    platform.submit("late", job_text("late", accelerators="H800:8"))
    platform.loop.tick()
    assert platform.rows(leases) == []


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=6), held=st.sets(st.integers(0, 5), max_size=4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_as_many_places_as_were_found_are_leased_and_held_ones_first(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], held: set[int]
) -> None:
    platform = make_platform(tmp_path_factory.mktemp("zone"))
    see(platform, replace(G1, devices=6))
    hold(platform, *(f"east/g1/{index}" for index in held))
    for count in counts:
        see(platform, replace(G1, devices=count))
    usable = {int(uuid.rsplit("/", 1)[1]) for uuid in leasable(platform)}

    assert len(usable) == counts[-1]
    assert usable <= held or held <= usable
    platform.database.close()
