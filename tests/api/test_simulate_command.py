"""`yisuan simulate`: a trace with everything in it, and a saved snapshot with other nodes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.cli import main
from scheduler.codec import snapshot_document
from scheduler.snapshot import Snapshot
from tests.scheduler.test_quote import NOW, asks, job, lease, nodes, pool

CLUSTER = """
pools:
  - {name: a, model: Ascend910B3, nodes: 2, devices_per_node: 8, price_fen_per_device_hour: 3600}
  - {name: h, model: H800, nodes: 1, devices_per_node: 8, cpu_milli: 64000, memory_mib: 4096, price_fen_per_device_hour: 7200}
"""
TRACE = """job,firm,submit_s,nodes,devices_per_node,share_permille,cpu_milli,memory_mib,models,duration_s,workload,steps
x,f,0,1,1,500,100,10,H800,100,,
y,f,0,1,8,1000,0,0,Ascend910B3,,bert,1000
z,g,0,1,0,1000,1000,1,H800,5,,
"""


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "c.yaml").write_text(CLUSTER)
    (tmp_path / "t.csv").write_text(TRACE)
    (tmp_path / "p.csv").write_text("workload,model,devices,steps_per_s\nbert,Ascend910B3,8,4\n")
    h = nodes("h", 2)
    known = Snapshot(
        version=1,
        now=NOW,
        pools=(pool("h", "H800"),),
        nodes=tuple(replace(node, cpu_milli=64_000) for node in h),
        leases=(lease("x", h[0], 4), lease("y", h[1], 2)),
        jobs=(job("a", asks("H800"), hours=3, at=-9), job("b", asks("H800"), hours=1, at=-5)),
    )
    (tmp_path / "s.json").write_text(json.dumps(snapshot_document(known)))
    return tmp_path


def test_every_figure_of_a_mixed_trace_is_recomputed_from_its_decisions(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A half of one device for 100 s, eight for 250 s (1,000 steps at 4), none for 5 s."""
    trace = ["--cluster", str(files / "c.yaml"), "--trace", str(files / "t.csv")]
    more = ["--throughputs", str(files / "p.csv"), "--restart-s", "30", "--mix", "all"]
    assert run("simulate", *trace, *more, "--decisions", str(files / "d.csv")) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    with (files / "d.csv").open() as stream:
        rows = list(csv.DictReader(stream))

    spans = {r["job"]: float(r["end_s"]) - float(r["start_s"]) for r in rows}
    held = {r["job"]: len([d for d in r["devices"].split("|") if d]) * int(r["share_permille"]) / 1000 for r in rows}
    assert spans == {"x": 100.0, "y": 250.0, "z": 5.0}
    assert held == {"x": 0.5, "y": 8.0, "z": 0.0}
    assert document["device_s"] == sum(held[name] * span for name, span in spans.items()) == 2050.0
    assert document["gross_fen"] == 100 + 8 * 250
    assert document["net_fen"] == 100 - 30 + 2000 - 800, "30% and 40% off"
    assert {r["ended"] for r in rows} == {"done"}


def test_steps_without_a_table_are_bad_input(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", "--cluster", str(files / "c.yaml"), "--trace", str(files / "t.csv"), "--lang", "en") == 2
    assert "give a throughput table" in capsys.readouterr().err


def test_a_snapshot_with_one_node_more(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", "--snapshot", str(files / "s.json"), "--policy", "fifo", "--add-nodes", "h=1") == 0
    document = json.loads(capsys.readouterr().out)

    assert (document["added"], document["removed"], document["earlier"], document["later"]) == ({"h": 1}, {}, 2, 0)
    assert [(one["job"], one["earlier_s"]) for one in document["jobs"]] == [("a", 7200.0), ("b", 7200.0)]


def test_a_snapshot_as_it_is(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", "--snapshot", str(files / "s.json"), "--policy", "fifo") == 0
    document = json.loads(capsys.readouterr().out)

    assert {one["job"]: one["start_before"] for one in document["jobs"]} == {
        "a": "2026-06-01T02:00:00.000Z",
        "b": "2026-06-01T04:00:00.000Z",
    }
    assert {one["earlier_s"] for one in document["jobs"]} == {0.0}


@pytest.mark.parametrize(
    "more",
    [
        ("--add-nodes", "h"),
        ("--add-nodes", "h=x"),
        ("--add-nodes", "g=1"),
        ("--remove-nodes", "h=3"),
        ("--trace", "t.csv"),
        ("--restart-s", "5"),
    ],
)
def test_a_change_that_cannot_be_made_is_bad_input(files: Path, more: tuple[str, ...]) -> None:
    assert run("simulate", "--snapshot", str(files / "s.json"), *more) == 2


def test_nodes_cannot_be_added_to_a_trace_s_cluster(files: Path) -> None:
    trace = ("--cluster", str(files / "c.yaml"), "--trace", str(files / "t.csv"))
    assert run("simulate", *trace, "--add-nodes", "h=1") == 2


def test_a_mix_is_none_all_or_a_number(files: Path) -> None:
    trace = ("--cluster", str(files / "c.yaml"), "--trace", str(files / "t.csv"), "--throughputs", str(files / "p.csv"))
    assert [run("simulate", *trace, "--mix", value) for value in ("2", "none", "some", "-1")] == [0, 0, 2, 2]
