"""Snapshots as JSON: what was written is read; what is malformed is refused by field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from scheduler.codec import SnapshotError, parse_snapshot, plan_document, snapshot_document
from scheduler.planner import plan
from scheduler.policies.net_cost import NetCost
from scheduler.snapshot import Snapshot
from tests.builders import snapshots

EMPTY = {"version": 1, "based_on": 3, "now": "2026-06-01T00:00:00.000Z"}


@given(snapshot=snapshots())
def test_a_snapshot_written_and_read_is_itself(snapshot: Snapshot) -> None:
    text = json.dumps(snapshot_document(snapshot))

    assert snapshot == parse_snapshot(text)
    json.dumps(plan_document(plan(snapshot, NetCost())))


@pytest.mark.parametrize(
    ("change", "field", "nearest"),
    [
        ({"version": 2}, "/version", None),
        ({"based_on": -1}, "/version", None),
        ({"based_on": True}, "/version", None),
        ({"now": "2026-06-01T00:00:00"}, "/now", None),
        ({"now": 5}, "/now", None),
        ({"node": []}, "/node", "nodes"),
        ({"nodes": {}}, "/nodes", None),
        ({"nodes": [{"id": "n"}]}, "/nodes/0/pool", None),
        ({"nodes": [{"id": "n", "pool": "p", "devices": ["d"], "schedulable": 1}]}, "/nodes/0/schedulable", None),
        ({"nodes": [{"id": "n", "pool": "p", "devices": ["d"], "racks": "r"}]}, "/nodes/0/racks", "rack"),
        ({"queues": [{"name": "q", "nominal_devices": "8"}]}, "/queues/0/nominal_devices", None),
        ({"terms": [{"firm": "f", "pool": "p", "price_fen_per_device_hour": 1.5, "rate_bp": 0, "room_fen": 0}]},
         "/terms/0/price_fen_per_device_hour", None),
    ],
)  # fmt: skip
def test_a_malformed_snapshot_is_refused_by_field(change: dict[str, Any], field: str, nearest: str | None) -> None:
    with pytest.raises(SnapshotError) as caught:
        parse_snapshot(json.dumps({**EMPTY, **change}))

    assert (field, nearest) == (caught.value.field, caught.value.nearest)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": NaN}', '{"version": 1, "version": 1}', "[" * 100_000])
def test_what_is_no_snapshot_at_all_is_refused(text: str) -> None:
    with pytest.raises(SnapshotError):
        parse_snapshot(text)


def test_the_least_snapshot_is_enough() -> None:
    assert parse_snapshot(json.dumps(EMPTY)).version == 3
