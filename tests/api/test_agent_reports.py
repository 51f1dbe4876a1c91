"""What an agent reports reaches the platform whole: readings, parts of devices, events; and an outage costs nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from adapters.accelerator import Accelerator, Health, Partition, PartitionKind
from adapters.agent import Agent, Refused
from adapters.assignment import Assignment, write_assignment
from adapters.backlog import Backlog
from adapters.device_event import DeviceEvent, Severity
from adapters.reading import reading_document, sample_document
from adapters.sample import Sample
from adapters.vendors.simulated import Declaration, Simulated
from adapters.witness import Host, Witness
from api.commands.agent import enrol_key, keep_in
from api.push import HttpPush, PushRefused
from metering import audit_events
from metering.events import metered_of
from scheduler.schema import devices, samples
from tests.api.service import Service
from tests.api.test_signing_agents import push_of
from tests.api.test_usage_events import NODE, devices_of, issue
from tests.fakes import simulated_device


def inventory(**changes: Any) -> list[Accelerator]:
    """The node's eight devices, the first of them changed."""
    found = [simulated_device(NODE, index) for index in range(8)]
    return [replace(found[0], **changes), *found[1:]]


def shown(service: Service, uuid: str) -> dict[str, Any]:
    nodes = service.get("operator", "/v1/nodes").json()["items"]
    return next(device for node in nodes for device in node["devices"] if device["uuid"] == uuid)


def free(service: Service) -> int:
    listings = service.get(None, "/v1/listings").json()["items"]
    return int(next(item["devices_free"] for item in listings if item["id"] == "ascend"))


FULL: dict[str, Any] = {
    "utilisation_ratio": 0.5, "utilisation_semantics": "AI cores", "memory_used_bytes": 5, "power_watts": 310.5,
    "energy_joules_total": 9.25, "temperature_celsius": 41.0, "memory_bandwidth_ratio": 0.25,
    "memory_temperature_celsius": 44.0, "core_clock_mhz": 1500.0, "memory_clock_mhz": 1600.0, "ecc_corrected_total": 0,
    "ecc_uncorrected_total": 1, "retired_pages": 2, "link_errors_total": 3, "throttled": (), "health": Health.DEGRADED,
    "health_code": "0x1", "last_error": "XID 63", "raw_error": "hot",
}  # fmt: skip


def test_every_reading_is_kept_and_what_is_unknown_is_not(service: Service) -> None:
    push, at = push_of(service), service.clock.now()
    given = [Sample(uuid=f"sim:{NODE}:0", at=at, **FULL), Sample(uuid=f"sim:{NODE}:1", at=at)]
    push.samples(NODE, given)
    push.samples(NODE, given)  # the same report again, as after a kill

    with service.services.database.read() as tx:
        full, empty = tx.execute(select(samples).order_by(samples.c.device)).mappings().all()
    kept = {**{k: v for k, v in full.items() if k in FULL}, **json.loads(full["more"])}
    assert kept == {k: v for k, v in sample_document(given[0]).items() if k not in ("uuid", "at")}
    assert [value for name, value in empty.items() if name not in ("device", "at_ms")] == [None] * (len(empty) - 2)


def test_a_fatal_event_takes_the_device_out_of_placement_with_its_code_shown(service: Service) -> None:
    push, at, uuid = push_of(service), service.clock.now(), f"sim:{NODE}:0"
    before = free(service)
    fatal = DeviceEvent(uuid=uuid, at=at, code="XID 79", severity=Severity.FATAL)
    warning = DeviceEvent(uuid=f"sim:{NODE}:1", at=at, code="XID 63", severity=Severity.WARNING, text="row")
    push.samples(NODE, [], [fatal, warning])
    push.samples(NODE, [], [fatal])

    assert (shown(service, uuid)["health"], shown(service, uuid)["health_code"]) == ("failed", "XID 79")
    assert shown(service, f"sim:{NODE}:1")["health"] == "degraded"
    assert free(service) == before - 1
    assert uuid not in devices_of(service)
    assert f"sim:{NODE}:1" in devices_of(service), "a degraded device may still be used"
    told = service.get("auditor", f"/v1/device-events?node={NODE}").json()["items"]
    assert [(item["device"], item["code"], item["severity"]) for item in told] == [
        (uuid, "XID 79", "fatal"),
        (f"sim:{NODE}:1", "XID 63", "warning"),
    ]
    push.heartbeat(NODE, inventory(), at)
    assert shown(service, uuid)["health"] == "ok", "its node says that it was seen to"


def test_events_of_devices_that_are_not_the_nodes_change_nothing(service: Service) -> None:
    other = DeviceEvent(uuid="sim:h800-1:0", at=service.clock.now(), code="XID 79", severity=Severity.FATAL)
    push_of(service).samples(NODE, [], [other, replace(other, uuid="nobody's")])

    assert shown(service, "sim:h800-1:0")["health"] == "ok"
    assert service.get("auditor", "/v1/device-events").json()["items"] == []


def test_a_parent_with_parts_is_not_leased_and_counted_its_parts_are(service: Service) -> None:
    push, at = push_of(service), service.clock.now()
    parent, before = f"sim:{NODE}:0", free(service)
    parts = [
        replace(
            simulated_device(NODE, index),
            uuid=f"{parent}/mig{index}",
            visible_id=f"MIG-{index}",
            partition=Partition(kind=PartitionKind.MIG, parent_uuid=parent, profile="1g.10gb"),
        )
        for index in (1, 2)
    ]
    push.heartbeat(NODE, [*inventory(), *parts], at)

    assert parent not in devices_of(service)
    assert {part.uuid for part in parts} <= set(devices_of(service))
    assert free(service) == before - 1 + 2
    assert shown(service, parent)["leasable"] is False
    assert shown(service, parts[0].uuid)["partition"] == {
        "kind": "mig",
        "parent_uuid": parent,
        "profile": "1g.10gb",
    }
    push.heartbeat(NODE, inventory(), at)  # the split is undone
    assert parent in devices_of(service)
    assert not {part.uuid for part in parts} & set(devices_of(service))
    assert free(service) == before


def test_a_device_that_its_node_does_not_name_any_more_is_not_leased(service: Service) -> None:
    push, at = push_of(service), service.clock.now()
    push.heartbeat(NODE, inventory()[1:], at)
    assert f"sim:{NODE}:0" not in devices_of(service)
    push.heartbeat(NODE, [], at)
    assert len(devices_of(service)) == 7, "an inventory of nothing says that the node is alive"
    push.heartbeat(NODE, inventory(), at)
    assert f"sim:{NODE}:0" in devices_of(service)


def test_simulated_devices_never_come_to_a_ledger_that_is_not_demo(service: Service) -> None:
    object.__setattr__(service.services.settings, "ledger", "production")
    with pytest.raises(PushRefused, match="SIMULATED_NEEDS_DEMO_LEDGER"):
        push_of(service).heartbeat(NODE, inventory(memory_total_bytes=1), service.clock.now())

    assert shown(service, f"sim:{NODE}:0")["memory_total_bytes"] != 1


@pytest.mark.parametrize(
    "changes",
    [{"utilisation_ratio": 1.5}, {"power_watts": -1.0}, {"health": "fine"}, {"throttled": "thermal"}, {"at": "now"}],
)
def test_an_impossible_reading_is_refused_whole_and_for_good(service: Service, changes: dict[str, Any]) -> None:
    document = {**sample_document(Sample(uuid=f"sim:{NODE}:0", at=service.clock.now())), **changes}
    answer = service.post("agent", "/v1/agents/samples", {"node": NODE, "samples": [document]})
    assert answer.status_code == 422
    with pytest.raises(Refused) as refused:
        push_of(service)._post("/v1/agents/samples", {"node": NODE, "samples": [document]})
    assert refused.value.final


def test_a_refusal_of_the_moment_is_not_for_good(service: Service) -> None:
    with pytest.raises(PushRefused) as refused:
        push_of(service).heartbeat("nowhere", [], service.clock.now())
    assert not refused.value.final


def test_an_inventory_as_devices_prints_it_can_be_posted(service: Service) -> None:
    from adapters.adapter import Reading
    from adapters.catalog import load_catalog

    reading = Reading(devices=(replace(simulated_device("ascend-9", 0), health_code="x"),), samples=())
    document = reading_document(reading, load_catalog())
    answer = service.post("operator", "/v1/nodes", {"id": "ascend-9", "pool": "ascend", "devices": document["devices"]})
    assert answer.status_code == 201, answer.text
    with service.services.database.read() as tx:
        row = tx.execute(select(devices).where(devices.c.uuid == "sim:ascend-9:0")).mappings().one()
    assert (row["visible_id"], row["health_code"], row["partition"]) == ("0", "x", None)


class Line(HttpPush):
    """The way to the platform, which can be cut."""

    cut = False

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        if self.cut:
            raise ConnectionError("platform is away")
        return super()._post(path, body)


def test_an_hour_away_and_two_restarts_are_metered_to_the_millisecond(service: Service, tmp_path: Path) -> None:
    state, assignments, clock = tmp_path / "state", tmp_path / "assignments", service.clock
    enrol_key(NODE, state, issue(service).json()["code"], push_of(service, None))
    line = Line("http://testserver", None)
    line._http = push_of(service)._http
    held = tuple(devices_of(service)[:4])
    write_assignment(assignments, Assignment(allocation="job_a.1", devices=held))

    def opened() -> Agent:
        backlog, faults = keep_in(state)
        host = Host(boot="b-1", now=clock.now, boot_ms=clock.boot_ms)
        adapter = Simulated([Declaration(node=NODE, model="Ascend910B3", count=8)], clock=clock.now)
        witness = Witness(NODE, state, assignments, line.events, host)
        return Agent(NODE, [adapter], line, assignments, clock.now, backlog=backlog, faults=faults, witness=witness)

    agent = opened()
    for step in range(241):
        line.cut = 0 < step < 240
        if step in (80, 160):  # what the kernel does for a killed process: locks go, nothing is written
            assert agent._witness is not None
            agent._witness.spool.close()
            agent = opened()
        agent.beat(clock.now())
        agent.attest()
        agent.sample(clock.now())
        clock.advance(15)
    status = agent.status()
    agent.close()

    assert (status.waiting, status.events, status.problem, status.refused) == (0, 0, None, 0)
    with service.services.database.read() as tx:
        assert all(check() is None for _, check in audit_events.laws(tx))
        assert metered_of(tx, "job_a.1").device_ms == 4 * 241 * 15_000, "to the look at the end"
        assert len(tx.execute(select(samples)).all()) == 8 * 241
    assert service.get("auditor", "/v1/usage-events/quarantined").json()["items"] == []
    assert isinstance(Backlog(state / "telemetry").oldest(), type(None))
