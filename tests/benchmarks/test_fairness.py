"""The fairness benchmark: its reference shares, its figures from its own decisions, and that only the planner places."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks import fairness
from scheduler.engine import Change, State, apply
from scheduler.plan import Plan
from scheduler.policy import Policy


def shares(demand: list[list[float]], capacity: list[float], worth: list[float], weights: list[float]) -> list[float]:
    found = fairness.drf(np.array(demand), np.array(capacity), np.array(worth), np.array(weights))
    return [round(float(one), 9) for one in found]


def test_progressive_filling_by_hand() -> None:
    assert shares([[100], [100]], [100], [1], [1, 3]) == [0.25, 0.25], "25 and 75 of a hundred"
    assert shares([[10], [100]], [100], [1], [1, 1]) == [0.1, 0.9], "who wants little has it, the rest goes on"
    # 9 processors and 18 GB; A wants 1 and 4 a task, B 3 and 1: three tasks and two, two thirds each (the paper's example)
    assert shares([[1e3, 4e3], [3e3, 1e3]], [9, 18], [1, 1], [1, 1]) == [0.666666667, 0.666666667]
    assert shares([[0, 0], [0, 8]], [8, 16], [1, 0.5], [1, 2]) == [0.0, 0.125]


def test_a_class_that_is_full_stops_those_who_want_it_and_no_others() -> None:
    assert shares([[100, 0], [100, 0], [0, 100]], [100, 100], [1, 1], [1, 1, 1]) == [0.5, 0.5, 1.0]


def row(job: str, queue: str, devices: int, submit: float, start: float, end: float) -> dict[str, Any]:
    return {
        "job": job, "queue": queue, "model": "H800", "devices": devices, "submit_s": submit, "start_s": start, "end_s": end,
    }  # fmt: skip


def test_the_error_of_a_queue_that_waits_while_another_has_all() -> None:
    """a holds all 128 H800 for twenty minutes while b, of the same weight, wants as many: it lacks a half."""
    rows = [row("j1", "a", 128, 0, 0, 1200), row("j2", "b", 128, 0, 1200, 2400)]
    assert fairness.errors(rows) == [0.5, 0.5]
    half = [row("j1", "a", 64, 0, 0, 1200), row("j2", "b", 64, 0, 0, 1200), row("j3", "b", 64, 0, 1200, 2400)]
    assert fairness.errors(half) == [0.0, 0.0], "a is content with half, so is b"


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    path = tmp_path_factory.mktemp("fairness") / "decisions.csv"
    assert fairness.main(["--seed", "3", "--jobs", "60", "--decisions", str(path)]) == 0
    with path.open(encoding="utf-8") as found:
        rows: list[dict[str, Any]] = list(csv.DictReader(found))
    for one in rows:
        for key in ("devices", "lost_device_ms"):
            one[key] = int(one[key])
        for key in ("submit_s", "start_s", "end_s"):
            one[key] = float(one[key])
    return fairness.measure(3, 60), rows


def test_every_figure_follows_from_the_decisions(played: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    document, rows = played
    for name, one in document["policies"].items():
        mine = [found for found in rows if found["policy"] == name]
        errors = fairness.errors(mine)
        assert one["share_error"]["mean"] == round(float(np.mean(errors)), 4)
        ran = sum((found["end_s"] - found["start_s"]) * 1000 * found["devices"] for found in mine)
        assert one["run_device_ms"] == round(ran)
        assert one["lost_device_ms"] == sum(found["lost_device_ms"] for found in mine)
        assert one["done"] == len({found["job"] for found in mine if found["ended"] == "done"}) == document["jobs"]
        assert one["preempted"] == sum(found["ended"] == "preempted" for found in mine)


def test_no_more_runs_than_there_is(played: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    _, rows = played
    capacity = {model: nodes * fairness.PER_NODE for model, nodes, _ in fairness.CLASSES}
    for name in {one["policy"] for one in rows}:
        mine = [one for one in rows if one["policy"] == name]
        for at in {one["start_s"] for one in mine}:
            for model, most in capacity.items():
                here = [one for one in mine if one["model"] == model and one["start_s"] <= at < one["end_s"]]
                assert sum(one["devices"] for one in here) <= most


def test_an_empty_plan_places_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def idle(state: State, changes: Sequence[Change], policy: Policy) -> tuple[State, Plan]:
        after = apply(state, changes)
        return after, Plan(based_on=after.version, now=after.now, policy=policy.name)

    monkeypatch.setattr(fairness, "decide", idle)
    document = fairness.measure(3, 20)
    for one in document["policies"].values():
        assert (one["done"], one["never_started"], one["run_device_ms"]) == (0, 20, 0)


def test_bad_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fairness.main(["--jobs", "0"])
    assert "--jobs: at least 1" in capsys.readouterr().err
    assert json.dumps(fairness.measure(1, 1)), "one job is enough"
