"""openb: figures follow from the decisions written, the bound is above every placement, moves keep every constraint."""

from __future__ import annotations

import csv
import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.openb import MARKS, main, measure_trace, read_nodes, read_pods
from benchmarks.openb_bound import Bound, NodeClass, PodType, bounds


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of 36 nodes of two models and 192 pods, laid out as the published one."""
    folder = tmp_path_factory.mktemp("openb")
    rng = random.Random(5)
    with (folder / "openb_node_list_gpu_node.csv").open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["sn", "cpu_milli", "memory_mib", "gpu", "model"])
        for i in range(36):
            rows.writerow(
                [f"n{i:02d}", 32_000, 131_072, 4, "G2"] if i < 24 else [f"n{i:02d}", 48_000, 131_072, 2, "T4"]
            )
    with (folder / "openb_pod_list_small.csv").open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec"])
        for i in range(190):
            share = rng.choice([320, 470, 470, 650, 810, 1000, 1000])
            rows.writerow(
                [f"p{i:03d}", rng.choice([2_000, 4_000, 9_000]), 4_096, 1, share, rng.choice(["", "", "G2", "T4"])]
            )
        rows.writerow(["big0", 16_000, 4_096, 4, 1000, ""])
        rows.writerow(["cpu0", 8_000, 4_096, 0, 0, ""])
    return folder


@pytest.fixture(scope="module")
def measured(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    path = tmp_path_factory.mktemp("out") / "decisions.csv"
    return measure_trace(data, "small", [1, 2], migrations=40, also=[0], decisions=path), path


def seeds_of(path: Path) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    with path.open(newline="") as rows:
        for row in csv.DictReader(rows):
            if row["seed_event"].startswith("seed "):
                here = found[row["seed_event"].removeprefix("seed ")] = []
            else:
                here.append(row)
    return found


def test_every_figure_and_constraint_can_be_recomputed_from_the_decisions(
    data: Path, measured: tuple[dict[str, Any], Path]
) -> None:
    """Carried out event by event: no device above 1000, no node above its CPU, models as asked, and the same alloc."""
    document, path = measured
    nodes = {row["sn"]: row for row in read_nodes(data)}
    pods = {pod.name: pod for pod in read_pods(data, "small")}
    capacity = 1000 * sum(int(row["gpu"]) for row in nodes.values())
    for seed, rows in seeds_of(path).items():
        where: dict[str, tuple[str, list[str], int]] = {}
        arrived = placed = moves = 0
        at: dict[int, list[int]] = {}
        for _, group in itertools.groupby(rows, key=lambda row: row["seed_event"]):
            event = list(group)
            for row in event:
                if row["action"] == "move":
                    moves += 1
                    assert row["pod"] in where
                if row["action"] != "drop":
                    devices = row["devices"].split("|") if row["devices"] else []
                    where[row["pod"]] = (row["node"].split("/")[1], devices, int(row["share_permille"]))
            last = pods[event[-1]["pod"].split("/")[1]]
            arrived += last.demand
            placed += last.demand * (event[-1]["action"] == "place")
            assert sum(pods[p.split("/")[1]].demand for p in where) == placed
            check(where, nodes, pods)
            at.setdefault(round(100 * arrived / capacity), []).append(placed)
        assert moves == document["migrations"]["used"][seed]
        for mark in MARKS:
            mean = round(100 * sum(at[mark]) / len(at[mark]) / capacity, 4) if mark in at else None
            assert document["alloc_by_seed"][seed][str(mark)] == mean


def check(where: dict[str, tuple[str, list[str], int]], nodes: Any, pods: Any) -> None:
    device: Counter[str] = Counter()
    cpu: Counter[str] = Counter()
    for name, (node, devices, share) in where.items():
        pod = pods[name.split("/")[1]]
        assert len(set(devices)) == pod.devices
        assert all(d.startswith(f"{node}/") for d in devices)
        assert not pod.models or nodes[node]["model"] in pod.models
        cpu[node] += pod.cpu_milli
        device.update(dict.fromkeys(devices, share))
    assert max(device.values(), default=0) <= 1000
    assert all(total <= int(nodes[node]["cpu_milli"]) for node, total in cpu.items())


def test_a_budget_is_kept_used_and_reported_beside_none(measured: tuple[dict[str, Any], Path]) -> None:
    moves = measured[0]["migrations"]
    assert moves["budget"] == 40
    assert set(moves["alloc"]) == {"0", "40"}
    assert all(0 < used <= 40 for used in moves["used"].values())
    assert set(moves["used_by_budget"]["0"].values()) == {0}
    assert moves["alloc"]["40"] == measured[0]["alloc"]
    assert moves["alloc"]["40"]["100"] > moves["alloc"]["0"]["100"]


def test_no_figure_is_above_its_bound(measured: tuple[dict[str, Any], Path]) -> None:
    document = measured[0]
    for seed, marks in document["alloc_by_seed"].items():
        for mark, found in marks.items():
            limit = document["bound_by_seed"][seed][mark]
            assert (found is None) == (limit is None)
            assert found is None or found <= limit <= 100


def test_a_budget_that_is_no_number_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for bad in ("x", "-1", "5,"):
        with pytest.raises(SystemExit):
            main(["--data", str(data), "--trace", "small", "--seeds", "1", f"--migrations={bad}"])
        assert "--migrations" in capsys.readouterr().err


# --- the bound ----------------------------------------------------------------------------------------------------------

SHARED, MODELS = (190, 320, 470, 500, 650, 810), ("a", "b")
POD = st.builds(
    lambda kind, cpu, memory, models: PodType(kind[0], kind[1], cpu, memory, models),
    st.sampled_from([(1, s) for s in SHARED] + [(1, 1000), (2, 1000), (0, 0)]),
    st.sampled_from([0, 2_000, 5_000]), st.sampled_from([0, 512]), st.sampled_from([(), ("a",), ("b",), ("a", "b")]),
)  # fmt: skip
NODE = st.builds(
    NodeClass, st.sampled_from(MODELS), st.integers(1, 3), st.sampled_from([4_000, 9_000]), st.sampled_from([512, 4096])
)


@given(nodes=st.lists(NODE, min_size=1, max_size=4), pods=st.lists(POD, max_size=25), seed=st.integers(0, 99))
def test_no_placement_passes_the_bound(nodes: list[NodeClass], pods: list[PodType], seed: int) -> None:
    """Placements at random, the large first or as they come, refusing some."""
    rng = random.Random(seed)
    most = Bound(Counter(nodes)).most(Counter(pods))
    assert most <= 1000 * sum(node.devices for node in nodes) + 1e-6
    assert most <= sum(pod.demand for pod in pods) + 1e-6
    for attempt in range(6):
        order = sorted(pods, key=lambda p: -p.demand) if attempt == 0 else rng.sample(pods, len(pods))
        assert place(nodes, order, rng) <= most + 1e-6


def place(nodes: list[NodeClass], pods: list[PodType], rng: random.Random) -> int:
    free = [[1000] * node.devices for node in nodes]
    cpu, memory, total = [n.cpu_milli for n in nodes], [n.memory_mib for n in nodes], 0
    for pod in pods:
        for i in rng.sample(range(len(nodes)), len(nodes)):
            able = [d for d, left in enumerate(free[i]) if left >= pod.milli]
            if (
                not nodes[i].holds(pod)
                or len(able) < pod.devices
                or cpu[i] < pod.cpu_milli
                or memory[i] < pod.memory_mib
            ):
                continue
            for d in sorted(able, key=lambda d: free[i][d])[: pod.devices]:
                free[i][d] -= pod.milli
            cpu[i], memory[i], total = cpu[i] - pod.cpu_milli, memory[i] - pod.memory_mib, total + pod.demand
            break
    return total


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([PodType(1, 810, 0, 0)] * 5, 2 * 810),  # one a device
        ([PodType(1, 470, 0, 0)] * 9, 4 * 470),  # two a device
        ([PodType(1, 1000, 3_000, 0)] * 2, 4_000 / 3),  # CPU for one and a third
        ([PodType(1, 1000, 0, 0, ("b",))] * 2, 0),  # no such model
        ([PodType(3, 1000, 0, 0)], 0),  # no such node
        ([PodType(1, 650, 0, 0), PodType(1, 320, 0, 0)], 970),  # all that came
        ([PodType(0, 0, 1_000, 0)], 0),
        ([], 0),
    ],
)
def test_worked_bounds(pods: list[PodType], expected: float) -> None:
    """A node of two devices and 4,000 milli-cores."""
    assert Bound({NodeClass("a", 2, 4_000, 1024): 1}).most(Counter(pods)) == pytest.approx(expected, abs=1e-3)


def test_the_bound_of_a_mark_is_the_mean_over_its_events() -> None:
    """100 devices of which each takes one 810: from 81 % on nothing more can be allocated."""
    found = bounds([NodeClass("a", 1, 0, 0)] * 100, [PodType(1, 810, 0, 0)] * 130, 100_000, (50, 95, 100, 500))
    assert found["95"] == pytest.approx(81.0, abs=1e-3)
    assert found["100"] == pytest.approx(81.0, abs=1e-3)
    assert found["50"] == pytest.approx(50.22, abs=1e-3)
    assert found["500"] is None
