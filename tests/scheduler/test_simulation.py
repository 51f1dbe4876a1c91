"""The simulator: the same planner on a virtual clock; every figure can be recomputed from the decisions it writes."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.cluster import ClusterError, parse_cluster
from scheduler.policies.fifo import Fifo
from scheduler.policies.net_cost import NetCost
from scheduler.simulation import duration_on, simulate
from scheduler.trace import TraceError, parse_trace

CLUSTER = """
pools:
  - {name: a, provider: p, site: s, region: r, model: Ascend910B3, nodes: 2, devices_per_node: 8, price_fen_per_device_hour: 1200}
  - {name: h, provider: p, site: s, region: r, model: H800, nodes: 1, devices_per_node: 8, price_fen_per_device_hour: 2400}
"""
HEADER = "job,firm,queue,submit_s,nodes,devices_per_node,models,duration_s\n"


def test_an_empty_trace_ends_with_nothing_done() -> None:
    document = simulate(parse_cluster(CLUSTER), (), NetCost()).document()

    assert (
        document["jobs"],
        document["unfinished"],
        document["jct_mean_s"],
        document["makespan_s"],
    ) == (0, 0, None, 0.0)


def test_jobs_queue_for_the_one_pool_they_may_use() -> None:
    """Two jobs want the only H800 node: the second waits for the first."""
    trace = parse_trace(HEADER + "x,f,q,0,1,8,H800,100\ny,f,q,10,1,8,H800,50\n", parse_cluster(CLUSTER))
    document = simulate(parse_cluster(CLUSTER), trace, Fifo()).document()

    assert document["makespan_s"] == 150.0
    assert document["jct_mean_s"] == (100 + 140) / 2
    assert document["queue_mean_s"] == 45.0
    assert document["device_s"] == 8 * 150.0
    assert 8 * 2400 * 100 // 3600 + round(8 * 2400 * 50 / 3600) == document["gross_fen"]


def test_a_duration_holds_on_the_first_model_and_scales_to_the_other_by_flops() -> None:
    """H800 989, Ascend910B3 313 TFLOPS dense FP16 in the catalogue."""
    (job,) = parse_trace(HEADER + "x,f,q,0,1,8,H800|Ascend910B3,313\n", parse_cluster(CLUSTER))

    assert duration_on(job, "H800") == 313_000
    assert duration_on(job, "Ascend910B3") == 989_000


def test_a_job_that_fits_nowhere_is_unfinished_and_blocks_nobody() -> None:
    trace = parse_trace(HEADER + "x,f,q,0,9,8,H800,100\ny,f,q,1,1,8,H800,50\n", parse_cluster(CLUSTER))
    document = simulate(parse_cluster(CLUSTER), trace, Fifo()).document()

    assert document["unfinished"] == 1
    assert document["makespan_s"] == 50.0


ROWS = st.lists(
    st.tuples(st.integers(0, 500), st.integers(1, 3), st.sampled_from([1, 2, 4, 8]),
              st.sampled_from(["", "H800", "Ascend910B3", "H800|Ascend910B3"]), st.integers(0, 300)),
    min_size=1,
    max_size=25,
)  # fmt: skip


@given(rows=ROWS)
def test_figures_are_recomputed_from_the_decisions_and_no_device_serves_two(
    rows: list[tuple[int, int, int, str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Somebody else, with the CSV alone, gets makespan, mean completion time, utilisation and gross."""
    cluster = parse_cluster(CLUSTER)
    text = HEADER + "".join(f"j{i},f,q,{s},{n},{d},{m},{t}\n" for i, (s, n, d, m, t) in enumerate(rows))
    result = simulate(cluster, parse_trace(text, cluster), NetCost())
    path = tmp_path_factory.mktemp("d") / "decisions.csv"
    result.write_decisions(path)
    with path.open() as stream:
        read = list(csv.DictReader(stream))
    document = result.document()

    leases = {r["lease"]: r for r in read}
    assert document["jobs"] - document["unfinished"] == len(leases)
    if leases:
        spans = [(float(r["submit_s"]), float(r["end_s"])) for r in leases.values()]
        assert document["makespan_s"] == pytest.approx(max(e for _, e in spans) - min(s for s, _ in spans))
        assert document["jct_mean_s"] == pytest.approx(sum(e - s for s, e in spans) / len(spans), abs=1e-3)
        busy = sum(len(r["devices"].split("|")) * (float(r["end_s"]) - float(r["start_s"])) for r in read)
        assert document["device_s"] == pytest.approx(busy)
    held: dict[str, list[tuple[float, float]]] = {}
    for row in read:
        for device in row["devices"].split("|"):
            held.setdefault(device, []).append((float(row["start_s"]), float(row["end_s"])))
    for spans in held.values():
        ordered = sorted(spans)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "one key"),
        ("pools: []", "one key"),
        ("pool: [{}]", "one key"),
        ("pools: [{name: a, model: H800, nodes: 1}]", "/pools/0/devices_per_node: is required"),
        ("pools: [{name: a, model: H800, nodes: 1, devices_per_nod: 8}]", "nearest: devices_per_node"),
        ("pools: [{name: a, model: H800, nodes: 0, devices_per_node: 8}]", "/pools/0/nodes"),
        ("pools: [{name: a, model: H800, nodes: true, devices_per_node: 8}]", "/pools/0/nodes"),
        ("pools: [{name: a, model: H800, nodes: 1.5, devices_per_node: 8}]", "/pools/0/nodes"),
        (
            "pools: [{name: a, model: H800, nodes: 1, devices_per_node: 8}, {name: a, model: T4, nodes: 1, devices_per_node: 1}]",
            "twice",
        ),
        ("pools: [{name: a, model: null, nodes: 1, devices_per_node: 8}]", "/pools/0/model"),
        ("pools: {", "not YAML"),
    ],
)
def test_a_malformed_cluster_is_refused_by_field(text: str, says: str) -> None:
    with pytest.raises(ClusterError, match=says):
        parse_cluster(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "header"),
        ("job,submit_s\n", "'nodes' is required"),
        (HEADER.replace("models", "model"), "nearest: models"),
        (HEADER + "x,f,q,0,1,8,H800\n", "line 2: 7 cells under 8 columns"),
        (HEADER + "x,f,q,-1,1,8,H800,5\n", "line 2: submit_s"),
        (HEADER + "x,f,q,nan,1,8,H800,5\n", "line 2: submit_s"),
        (HEADER + "x,f,q,0,1,8,H80,5\n", "line 2: models: 'H80'.*nearest: H800"),
        (HEADER + "x,f,q,0,1,0,H800,5\n", "NOT_SUPPORTED_YET"),
        (HEADER + "x,f,q,0,1,8,H800,5\nx,f,q,0,1,8,H800,5\n", "line 3: job 'x' stands twice"),
        (
            "job,submit_s,nodes,devices_per_node,duration_s,share_permille\nx,0,1,1,5,500\n",
            "share_permille.*NOT_SUPPORTED_YET",
        ),
        ("job,submit_s,nodes,devices_per_node,duration_s,priority\nx,0,1,1,5,hgh\n", "nearest: high"),
        ("job,submit_s,nodes,devices_per_node,duration_s,steps\nx,0,1,1,5,9\n", "steps: NOT_SUPPORTED_YET"),
    ],
)
def test_a_malformed_trace_is_refused_by_line(text: str, says: str) -> None:
    with pytest.raises(TraceError, match=says):
        parse_trace(text, parse_cluster(CLUSTER))


def test_a_family_in_a_trace_means_each_of_its_members() -> None:
    cluster = parse_cluster("pools: [{name: g, model: A100-80GB, nodes: 1, devices_per_node: 8}]")
    trace = parse_trace(HEADER + "x,f,q,0,1,8,A100,10\n", cluster)

    assert simulate(cluster, trace, NetCost()).document()["unfinished"] == 0


def test_names_that_only_the_cluster_knows_are_accepted(tmp_path: Path) -> None:
    """Public traces speak of P100 or G2; their durations do not scale, for want of a figure."""
    cluster = parse_cluster("pools: [{name: g, model: G2, nodes: 1, devices_per_node: 8}]")
    trace = parse_trace(HEADER + "x,f,q,0.5,1,8,G2,10\n", cluster)

    assert simulate(cluster, trace, NetCost()).document()["makespan_s"] == 10.0
