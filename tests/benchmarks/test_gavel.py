"""The gavel benchmark: its formats, its simulator, its baselines, its bounds, and that only the planner places."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import gavel, gavel_state
from benchmarks.gavel_baselines import BASELINES, significant
from benchmarks.gavel_bounds import makespan_s, mean_jct_s
from benchmarks.gavel_simulation import ROUND_S, Active, simulate
from benchmarks.gavel_solver import solve
from benchmarks.gavel_state import Planned
from benchmarks.gavel_trace import MODELS, Ints, Trace, fields_of, read_table, read_trace
from scheduler import engine
from scheduler.engine import Change, State
from scheduler.plan import Plan
from scheduler.policies.rounds import Rounds

RATES = {
    "('A', 1)": (10.0, 5.0, 1.0),
    "('A', 2)": (18.0, 9.0, 0.0),
    "('B', 1)": (4.0, 8.0, 2.0),
    "('C', 16)": (0, 0, 0),
}
TEN = "{kind}\tpython3 main.py\tdir\t--num_steps\t1\t{steps}\t{gang}\t1\t-1.000000\t{arrival}"
SEVEN = "{kind}\tpython3 main.py\t-n\t1\t{steps}\t{arrival}\t{gang}"
ROWS = (("A", 9_000, 1, 0), ("B", 40_000, 1, 0), ("A", 60_000, 2, 100), ("C", 5, 16, 120), ("B", 7_000, 1, 4000.5))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = {model: {key: {"null": rates[m]} for key, rates in RATES.items()} for m, model in enumerate(MODELS)}
    (tmp_path / "simulation_throughputs.json.gz").write_bytes(gzip.compress(json.dumps(table).encode()))
    for name, form in (("ten.trace", TEN), ("seven.trace", SEVEN)):
        lines = [form.format(kind=k, steps=s, gang=g, arrival=a) for k, s, g, a in ROWS]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    (tmp_path / "seven.trace.gz").write_bytes(gzip.compress((tmp_path / "seven.trace").read_bytes()))
    return tmp_path


def read(folder: Path, name: str = "ten.trace", limit: int | None = None) -> Trace:
    return read_trace(folder / name, read_table(folder / "simulation_throughputs.json.gz"), limit)


def jobs(*rows: tuple[int, int, float, tuple[float, float, float]]) -> Trace:
    """(gang, steps, arrival, rates)."""
    return Trace(
        row=np.arange(len(rows)), workload=tuple(f"A{i}" for i in range(len(rows))), gang=np.array([row[0] for row in rows]),
        steps=np.array([row[1] for row in rows]), arrival_s=np.array([row[2] for row in rows], dtype=float),
        rate=np.array([row[3] for row in rows], dtype=float), dropped=0,
    )  # fmt: skip


def devices(*counts: int) -> Ints:
    return np.array(counts, dtype=np.int64)


def test_both_forms_zipped_or_not_are_the_same_trace(folder: Path) -> None:
    ten, seven, zipped = read(folder), read(folder, "seven.trace"), read(folder, "seven.trace.gz")
    for trace in (ten, seven, zipped):
        assert trace.row.tolist() == [0, 1, 2, 4]
        assert trace.dropped == 1
        assert trace.workload == ("A", "B", "A", "B")
        assert trace.gang.tolist() == [1, 1, 2, 1]
        assert trace.steps.tolist() == [9_000, 40_000, 60_000, 7_000]
        assert trace.arrival_s.tolist() == [0, 0, 100, 4000.5]
        assert trace.rate[2].tolist() == [18, 9, 0]


def test_the_limit_counts_rows_before_any_is_dropped(folder: Path) -> None:
    assert read(folder, limit=4).row.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("A\tx\ty", "line 3: 3 tab-separated columns"),
        (SEVEN.format(kind="A", steps="many", gang=1, arrival=0), "line 3: steps 'many'"),
        (SEVEN.format(kind="A", steps=0, gang=1, arrival=0), "line 3: steps 0"),
        (SEVEN.format(kind="A", steps=5, gang=-1, arrival=0), "gang -1"),
        (SEVEN.format(kind="A", steps=5, gang=1, arrival="nan"), "arrival nan"),
    ],
)
def test_a_malformed_line_is_named(line: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fields_of(line, 2)


def first_fit(active: Active) -> Ints:
    free, choice = active.capacity.copy(), np.full(len(active.rows), -1, dtype=np.int64)
    for i in range(len(active.rows)):
        for m in range(len(free)):
            if active.rate[i, m] > 0 and active.gang[i] <= free[m] and choice[i] < 0:
                choice[i] = m
                free[m] -= active.gang[i]
    return choice


def test_a_job_finishes_inside_a_round_and_the_next_waits_for_its_end() -> None:
    # 5,000 steps at 10/s = one round of 3,600 steps and 140 s; the second comes at 10 s, starts at 360 s on the free model
    trace = jobs((1, 5_000, 0, (10, 0, 0)), (1, 1_000, 10, (0, 10, 0)))
    run = simulate(trace, devices(1, 1, 0), first_fit)
    assert run.finish_s.tolist() == [500, 460]
    assert run.jct_h.tolist() == pytest.approx([500 / 3600, 450 / 3600])
    assert run.busy_device_s == pytest.approx(600)
    assert [len(run.intervals), run.restarts] == [3, 2]


def test_a_restart_costs_the_start_of_a_round_and_staying_costs_nothing() -> None:
    run = simulate(jobs((1, 5_000, 0, (10, 0, 0))), devices(1, 0, 0), first_fit, restart_s=30)
    assert run.finish_s.tolist() == [360 + 170]  # 330 s of work, then 1,700 steps


def test_what_the_policy_is_told_is_off_by_the_factor_and_the_work_is_not() -> None:
    told: list[float] = []

    def listen(active: Active) -> Ints:
        told.append(float(active.remaining[0]))
        return first_fit(active)

    run = simulate(jobs((1, 5_000, 0, (10, 0, 0))), devices(1, 0, 0), listen, factor=np.array([2.0]))
    assert told == [10_000, 2_800]
    assert run.finish_s.tolist() == [500]


@pytest.mark.parametrize("choice", [[0, 0], [1, -1]])
def test_a_decision_that_cannot_be_is_refused(choice: list[int]) -> None:
    trace = jobs((1, 50, 0, (10, 0, 0)), (1, 50, 0, (10, 0, 0)))
    with pytest.raises(ValueError, match="the decision"):
        simulate(trace, devices(1, 1, 0), lambda _: np.array(choice))


def empty_plan(state: State, policy: Any) -> Plan:
    return Plan(based_on=state.version, now=state.now, policy=policy.name)


def test_with_the_planner_replaced_by_an_empty_plan_nothing_is_placed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "decide", empty_plan)
    trace = read(folder)
    with pytest.raises(ValueError, match="none has run"):
        simulate(trace, devices(2, 2, 2), Planned(trace, devices(2, 2, 2), Rounds()))


def test_every_placement_is_in_a_plan_of_the_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []
    step = engine.step

    def listen(state: State, changes: list[Change], policy: Any) -> tuple[State, Plan]:
        after, plan = step(state, changes, policy)
        plans.append(plan)
        return after, plan

    monkeypatch.setattr(gavel_state, "step", listen)
    trace = read(folder)
    run = simulate(trace, devices(2, 2, 2), Planned(trace, devices(2, 2, 2), Rounds(restart_ms=0)))
    assert run.restarts == sum(len(plan.launches) for plan in plans) >= len(trace)
    assert {one.model for one in run.intervals} == {
        MODELS.index(launch.placement.pool) for plan in plans for launch in plan.launches
    }
    assert all(stop.code == "ROUND" for plan in plans for stop in plan.preempts)


def test_a_stopped_job_waits_again_and_goes_on_where_it_was_left() -> None:
    # two jobs of an hour share one device; short ones keep coming, so that the long ones are stopped and come back
    rows = [(1, 36_000, 0.0, (10.0, 0.0, 0.0))] * 2
    rows += [(1, 3_000, 1000.0 * i, (10.0, 0.0, 0.0)) for i in range(1, 6)]
    trace = jobs(*rows)
    planned = Planned(trace, devices(1, 0, 0), Rounds(restart_ms=0))
    run = simulate(trace, devices(1, 0, 0), planned)
    assert run.restarts > len(trace)
    assert [sum(one.steps for one in run.intervals if one.row == row) for row in range(len(trace))] == list(trace.steps)
    assert planned.waiting == {}


def test_a_model_without_devices_is_left_out() -> None:
    trace = jobs((1, 50, 0, (10, 10, 0)))
    run = simulate(trace, devices(0, 1, 0), Planned(trace, devices(0, 1, 0), Rounds()))
    assert [one.model for one in run.intervals] == [1]


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        rates = draw(
            st.tuples(*[st.sampled_from([0.0, 0.002, 0.7, 5.0, 40.0])] * 3).filter(lambda found: max(found) > 0.1)
        )
        rows.append((draw(st.sampled_from([1, 2])), draw(st.integers(1, 30_000)), draw(st.integers(0, 9_000)), rates))
    return jobs(*sorted(rows, key=lambda row: row[2]))


@given(traces(), st.sampled_from([0.0, 30.0]), st.sampled_from(["rounds", *BASELINES]))
@settings(max_examples=40, deadline=None)
def test_all_work_is_done_once_within_devices_and_never_before_the_bounds(
    trace: Trace, restart: float, name: str
) -> None:
    capacity = devices(2, 3, 2)
    made = Planned(trace, capacity, Rounds()) if name == "rounds" else BASELINES[name]()
    run = simulate(trace, capacity, made, restart_s=restart)
    done = np.zeros(len(trace), dtype=np.int64)
    for one in run.intervals:
        done[one.row] += one.steps
        assert trace.arrival_s[one.row] <= one.start_s < one.end_s <= one.start_s + ROUND_S + 1e-6
    assert (done == trace.steps).all()
    for model in range(3):
        starts = {one.start_s for one in run.intervals if one.model == model}
        for at in starts:
            assert (
                sum(one.devices for one in run.intervals if one.model == model and one.start_s == at) <= capacity[model]
            )
    least = makespan_s(trace, capacity)
    assert run.finish_s.max() - trace.arrival_s[0] >= least * (1 - 1e-6)
    assert run.jct_h.mean() * 3600 >= mean_jct_s(trace, capacity, 1.5 * least) * (1 - 1e-6)


def test_bounds_by_hand() -> None:
    # three equal jobs of an hour on one device: 3 h at best; at 0 they take 1, 2 and 3 hours
    trace = jobs(*[(1, 36_000, 0, (10, 0, 0))] * 3)
    assert makespan_s(trace, devices(1, 0, 0)) == pytest.approx(3 * 3600)
    assert 1.5 * 3600 < mean_jct_s(trace, devices(1, 0, 0), 4 * 3600) <= 2 * 3600
    # one comes after all the others are done
    late = jobs((1, 36_000, 0, (10, 0, 0)), (1, 36_000, 50_000, (10, 0, 0)))
    assert makespan_s(late, devices(1, 0, 0)) == pytest.approx(53_600)


def test_the_solver_stops_within_its_tolerance_inside_the_face_of_optima() -> None:
    # max x + y, x + y <= 1, both at least 0: every point of the edge is optimal; equal ones get an equal part
    rows = np.array([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    found = solve(np.array([-1.0, -1.0]), rows, np.array([1.0, 0.0, 0.0]))
    assert found is not None
    assert found == pytest.approx([0.5, 0.5], abs=1e-4)


def test_rows_that_contradict_each_other_have_no_solution() -> None:
    rows = np.array([[1.0], [-1.0]])
    assert solve(np.zeros(1), rows, np.array([1.0, -2.0])) is None
    inside = solve(np.zeros(1), rows, np.array([2.0, -1.0]))
    assert inside is not None
    assert 1 < inside[0] < 2


@given(st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_solver_finds_what_a_simplex_finds(count: int, seed: int) -> None:
    from scipy.optimize import linprog

    random = np.random.default_rng(seed)
    a = np.vstack([random.uniform(0.1, 2, (count, count)), -np.eye(count)])
    b = np.append(random.uniform(0.5, 3, count), np.zeros(count))
    cost = -random.uniform(0.1, 1, count)
    found = solve(cost, a, b)
    assert found is not None
    assert (a @ found <= b + 1e-6).all()
    assert cost @ found == pytest.approx(linprog(cost, A_ub=a[:count], b_ub=b[:count]).fun, abs=1e-5)


def test_targets_are_kept_to_six_digits_and_noise_below_does_not_count() -> None:
    assert significant(np.array([0.1234567891, 1.23456789e-9, -1e-12, 0.0])).tolist() == [0.123457, 1.23457e-9, 0, 0]


def run_main(folder: Path, capfd: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    arguments = ["--data", str(folder), "--trace", "ten.trace", "--cluster", "2:2:2", "-o", "json", *more]
    assert gavel.main(arguments) == 0
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


@pytest.mark.parametrize("policy", ["rounds", "las_perf", "min_total_duration_perf"])
def test_the_figures_follow_from_the_decisions(folder: Path, capfd: pytest.CaptureFixture[str], policy: str) -> None:
    out = folder / "decisions.csv"
    document = run_main(folder, capfd, "--policy", policy, "--decisions", str(out))
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    ends: dict[str, float] = {}
    for row in rows:
        ends[row["row"]] = max(ends.get(row["row"], 0), float(row["end_s"]))
    arrival = {row["row"]: float(row["arrival_s"]) for row in rows}
    jct = [(ends[row] - arrival[row]) / 3600 for row in ends]
    assert document["jobs"] == len(ends) == 4
    assert document["dropped"] == 1
    assert document["jct_mean_h"] == pytest.approx(np.mean(jct), abs=1e-4)
    assert document["jct_p99_h"] == pytest.approx(np.percentile(jct, 99), abs=1e-4)
    assert document["makespan_h"] == pytest.approx(max(ends.values()) / 3600, abs=1e-4)
    assert document["bound"]["makespan_h"] <= document["makespan_h"]
    assert {"mean", "p99", "max"} == set(document["decision_ms"])


def test_the_same_seed_gives_the_same_figures(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = run_main(folder, capfd, "--noise", "0.5", "--restart-s", "30", "--seed", "3", "--sweep")
    second = run_main(folder, capfd, "--noise", "0.5", "--restart-s", "30", "--seed", "3", "--sweep")
    for document in (first, second, *first["sweep"], *second["sweep"]):
        del document["decision_ms"]
    assert first == second
    assert [row["tail"] for row in first["sweep"]] == [0, 0.25, 0.5, 1, 2, 4]


@pytest.mark.parametrize("more", [["--trace", "none.trace"], ["--cluster", "0:0:1"]])
def test_what_cannot_run_is_said_in_one_line(folder: Path, capfd: pytest.CaptureFixture[str], more: list[str]) -> None:
    arguments = ["--data", str(folder), "--trace", "ten.trace", "--cluster", "2:2:2", *more]
    assert gavel.main(arguments) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("gavel: ")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("text", ["8:16", "a:b:c", "0:0:0", "1:-1:2"])
def test_a_malformed_cluster_is_refused(folder: Path, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gavel.main(["--data", str(folder), "--trace", "ten.trace", "--cluster", text])
    assert "8:16:24" in capfd.readouterr().err
