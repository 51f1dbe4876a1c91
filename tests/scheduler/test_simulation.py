"""The simulator: the same planner on a virtual clock; every figure can be recomputed from the decisions it writes."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.backends.simulated import EPOCH
from scheduler.cluster import ClusterError, parse_cluster
from scheduler.engine import Change, State, step
from scheduler.job import JobId
from scheduler.lease import LeaseId
from scheduler.netcost import profiles_of
from scheduler.plan import Migration, Plan, Preempt
from scheduler.policies.fifo import Fifo
from scheduler.policies.net_cost import NetCost
from scheduler.policy import Policy
from scheduler.simulation import duration_on, mix_of, simulate
from scheduler.snapshot import Throughput
from scheduler.trace import TraceError, parse_throughputs, parse_trace

CLUSTER = """
pools:
  - {name: a, provider: p, site: s, region: r, model: Ascend910B3, nodes: 2, devices_per_node: 8, price_fen_per_device_hour: 1200}
  - {name: h, provider: p, site: s, region: r, model: H800, nodes: 1, devices_per_node: 8, price_fen_per_device_hour: 2400}
"""
TABLE = (
    Throughput(workload="bert", model="H800", devices=8, steps_per_ks=10_000),
    Throughput(workload="bert", model="Ascend910B3", devices=8, steps_per_ks=4000),
)
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
        (HEADER + "x,f,q,0,1,-1,H800,5\n", "line 2: devices_per_node"),
        (HEADER + "x,f,q,0,0,1,H800,5\n", "line 2: nodes"),
        (HEADER + "x,f,q,0,1,1,H800,\n", "line 2: duration_s: is required"),
        (HEADER + "x,f,q,0,1,8,H800,5\nx,f,q,0,1,8,H800,5\n", "line 3: job 'x' stands twice"),
        (
            "job,submit_s,nodes,devices_per_node,duration_s,share_permille\nx,0,1,2,5,500\n",
            "line 2: share_permille: a share is of one device",
        ),
        ("job,submit_s,nodes,devices_per_node,duration_s,share_permille\nx,0,1,1,5,1001\n", "nearest: 1000"),
        ("job,submit_s,nodes,devices_per_node,duration_s,cpu_milli\nx,0,1,1,5,-1\n", "line 2: cpu_milli"),
        ("job,submit_s,nodes,devices_per_node\nx,0,1,1\n", "'duration_s' is required, or 'workload' and 'steps'"),
        ("job,submit_s,nodes,devices_per_node,duration_s,priority\nx,0,1,1,5,hgh\n", "nearest: high"),
        ("job,submit_s,nodes,devices_per_node,workload,steps\nx,0,1,1,bret,9\n", "workload: 'bret'.*nearest: bert"),
        ("job,submit_s,nodes,devices_per_node,workload,steps\nx,0,1,1,bert,0\n", "line 2: steps"),
    ],
)
def test_a_malformed_trace_is_refused_by_line(text: str, says: str) -> None:
    with pytest.raises(TraceError, match=says):
        parse_trace(text, parse_cluster(CLUSTER), TABLE)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a throughput table begins with a header"),
        ("workload,model,devices\n", "'steps_per_s' is required"),
        ("workload,model,devices,steps_per_sec\n", "nearest: steps_per_s"),
        ("workload,model,devices,steps_per_s\nw,H800,8,0\n", "line 2: steps_per_s: '0'.*leave out"),
        ("workload,model,devices,steps_per_s\nw,H800,8,nan\n", "line 2: steps_per_s"),
        ("workload,model,devices,steps_per_s\nw,H800,0,1\n", "line 2: devices"),
        ("workload,model,devices,steps_per_s\nw,,8,1\n", "line 2: model"),
        ("workload,model,devices,steps_per_s\nw,H800,8,1\nw,H800,8,2\n", "line 3: w/H800/8 stands twice"),
    ],
)
def test_a_malformed_throughput_table_is_refused_by_line(text: str, says: str) -> None:
    with pytest.raises(TraceError, match=says):
        parse_throughputs(text)


# --- shares, processors, steps ----------------------------------------------------------------------------------------


def test_two_halves_of_one_firm_share_a_device_and_another_firm_waits() -> None:
    """One device: halves of f run together, g comes after them; a half is billed as half."""
    cluster = parse_cluster(
        "pools: [{name: g, model: H800, nodes: 1, devices_per_node: 1, price_fen_per_device_hour: 3600}]"
    )
    rows = "a,f,0,1,1,500,100\nb,f,0,1,1,500,60\nc,g,0,1,1,500,10\n"
    trace = parse_trace("job,firm,submit_s,nodes,devices_per_node,share_permille,duration_s\n" + rows, cluster)
    document = simulate(cluster, trace, Fifo()).document()

    assert (document["makespan_s"], document["device_s"], document["gross_fen"]) == (110.0, 85.0, 85)
    assert document["queue_mean_s"] == pytest.approx(100 / 3)


def test_processors_and_memory_bound_what_runs_together_and_a_job_may_want_no_device() -> None:
    """8 processors: two jobs of 3 run, the third waits; the one without devices has the 2 that are left at once."""
    cluster = parse_cluster(
        "pools: [{name: g, model: H800, nodes: 1, devices_per_node: 8, cpu_milli: 8000, memory_mib: 1024}]"
    )
    rows = "".join(f"j{i},{i},1,1,3000,100,50\n" for i in range(3)) + "k,0,1,0,2000,100,5\n"
    trace = parse_trace("job,submit_s,nodes,devices_per_node,cpu_milli,memory_mib,duration_s\n" + rows, cluster)
    runs = {run.job.id: run for run in simulate(cluster, trace, NetCost()).runs}

    assert {name: run.start_ms for name, run in runs.items()} == {"j0": 0, "j1": 1000, "j2": 50_000, "k": 0}
    assert runs["k"].launch.placement.device_count == 0


def test_steps_take_what_the_throughput_table_says() -> None:
    """1,000 steps at 10 a second on 8 H800, at 4 on 8 Ascend910B3; durations scale by the same table."""
    cluster = parse_cluster(CLUSTER)
    head = "job,submit_s,nodes,devices_per_node,models,workload,steps,duration_s\n"
    trace = parse_trace(head + "a,0,1,8,H800|Ascend910B3,bert,1000,\nb,0,1,8,H800,bert,,100\n", cluster, TABLE)
    profiles = profiles_of(TABLE)

    assert [duration_on(trace[0], model, profiles) for model in ("H800", "Ascend910B3")] == [100_000, 250_000]
    assert [duration_on(trace[1], model, profiles) for model in ("H800", "Ascend910B3")] == [100_000, 250_000]
    document = simulate(cluster, trace[:1], NetCost(), throughputs=TABLE).document()
    assert document["jct_mean_s"] in (100.0, 250.0)


def test_the_mix_weighs_members_by_shape() -> None:
    cluster = parse_cluster(CLUSTER)
    trace = parse_trace(HEADER + "x,f,q,0,2,8,H800,1\ny,f,q,0,1,8,H800,1\nz,f,q,0,1,4,,1\n", cluster)

    assert {(one.count, one.models): one.weight for one in mix_of(trace, cluster)} == {(8, ("H800",)): 3, (4, ()): 1}


# --- what a plan may say beside launches ------------------------------------------------------------------------------


def scripted(monkeypatch: pytest.MonkeyPatch, at_ms: int, **more: object) -> None:
    """The first plan of that instant also says this; everything else is the planner's own."""
    said: list[int] = []

    def told(state: State, changes: Sequence[Change], policy: Policy) -> tuple[State, Plan]:
        after, plan = step(state, changes, policy)
        if (after.now - EPOCH) / timedelta(milliseconds=1) == at_ms and not said:
            said.append(at_ms)
            plan = replace(plan, **more)  # type: ignore[arg-type]
        return after, plan

    monkeypatch.setattr("scheduler.playback.step", told)


ONE_NODE = "pools: [{name: g, model: H800, nodes: 1, devices_per_node: 8, price_fen_per_device_hour: 3600}]"


def test_a_preempted_job_waits_again_and_does_the_rest_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """x (100 s) is stopped after 40; it came first and has the node again at once: 5 s of restart and its other 60."""
    cluster = parse_cluster(ONE_NODE)
    trace = parse_trace(HEADER + "x,f,q,1,1,8,H800,100\ny,f,q,0,1,8,H800,1\nz,f,q,41,1,8,H800,10\n", cluster)
    scripted(monkeypatch, 41_000, preempts=(Preempt(lease=LeaseId("x.1"), job=JobId("x"), code="PRIORITY"),))
    result = simulate(cluster, trace, Fifo(), restart_ms=5000)

    told = [(run.launch.lease, run.start_ms, run.end_ms, run.ended) for run in result.runs]
    assert told == [
        ("y.1", 0, 1000, "done"),
        ("x.1", 1000, 41_000, "preempted"),
        ("x.2", 41_000, 106_000, "done"),
        ("z.1", 106_000, 116_000, "done"),
    ]
    document = result.document()
    assert (document["unfinished"], document["restarts"]) == (0, 1)
    assert document["jct_mean_s"] == pytest.approx((1 + 105 + 75) / 3)
    assert document["queue_mean_s"] == pytest.approx(65 / 3)


def test_a_migrated_member_goes_on_elsewhere_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes; x (100 s) moves to the other one when y comes at 30 s, stands still for 5 s and ends at 105."""
    cluster = parse_cluster(ONE_NODE.replace("nodes: 1", "nodes: 2"))
    trace = parse_trace(HEADER + "x,f,q,0,1,4,H800,100\ny,f,q,30,9,8,H800,10\n", cluster)
    home = simulate(cluster, trace[:1], Fifo()).runs[0].launch.placement.members[0]
    away = next(node for node in cluster.nodes if node.id != home.node)
    to = replace(home, node=away.id, devices=away.devices[:4])
    scripted(monkeypatch, 30_000, migrations=(Migration(lease=LeaseId("x.1"), rank=0, to=to),))
    result = simulate(cluster, trace, Fifo(), restart_ms=5000)

    told = [(r.launch.placement.members[0].node, r.start_ms, r.end_ms, r.ended) for r in result.runs]
    assert told == [(home.node, 0, 30_000, "migrated"), (away.id, 30_000, 105_000, "done")]
    assert result.document()["jct_mean_s"] == 105.0


@given(rows=ROWS, stops=st.lists(st.integers(0, 600), max_size=4))
def test_every_stop_costs_only_a_restart(rows: list[tuple[int, int, int, str, int]], stops: list[int]) -> None:
    """However often jobs are stopped, each does all its work once: device time is work plus restarts."""
    cluster = parse_cluster("pools: [{name: h, model: H800, nodes: 3, devices_per_node: 8}]")
    text = HEADER + "".join(f"j{i},f,q,{s},{n},{d},H800,{t}\n" for i, (s, n, d, _, t) in enumerate(rows))
    trace = parse_trace(text, cluster)

    def told(state: State, changes: Sequence[Change], policy: Policy) -> tuple[State, Plan]:
        after, plan = step(state, changes, policy)
        if stops and after.leases:
            stop = stops.pop()
            victim = sorted(after.leases)[stop % len(after.leases)]
            one = Preempt(lease=victim, job=after.leases[victim].job, code="PRIORITY")
            plan = replace(plan, preempts=(one,))
        return after, plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scheduler.playback.step", told)
        result = simulate(cluster, trace, Fifo(), restart_ms=7000)

    work = {job.job: job.duration_ms or 0 for job in trace}
    for name, milliseconds in work.items():
        mine = [run for run in result.runs if run.job.id == name]
        assert mine, "on three nodes every job runs"
        ran = sum(run.end_ms - run.start_ms for run in mine)
        restarts = 7000 * (len(mine) - 1)
        assert milliseconds <= ran <= milliseconds + restarts
        assert [run.ended for run in mine].count("done") == 1


def test_a_family_in_a_trace_means_each_of_its_members() -> None:
    cluster = parse_cluster("pools: [{name: g, model: A100-80GB, nodes: 1, devices_per_node: 8}]")
    trace = parse_trace(HEADER + "x,f,q,0,1,8,A100,10\n", cluster)

    assert simulate(cluster, trace, NetCost()).document()["unfinished"] == 0


def test_names_that_only_the_cluster_knows_are_accepted(tmp_path: Path) -> None:
    """Public traces speak of P100 or G2; their durations do not scale, for want of a figure."""
    cluster = parse_cluster("pools: [{name: g, model: G2, nodes: 1, devices_per_node: 8}]")
    trace = parse_trace(HEADER + "x,f,q,0.5,1,8,G2,10\n", cluster)

    assert simulate(cluster, trace, NetCost()).document()["makespan_s"] == 10.0
