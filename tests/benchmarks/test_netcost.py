"""The netcost benchmark: its bound, its figures from its own decisions, and that only the planner places."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import netcost
from benchmarks.netcost_lp import least_net_fen
from benchmarks.netcost_zone import NO_CAP_FEN, year
from scheduler.engine import Change, State, apply
from scheduler.plan import Plan
from scheduler.policy import Policy


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, str]]]:
    document, rows = netcost.measure(seed=4, caps="tight", firms=1)
    return document, [{key: str(value) for key, value in row.items()} for row in rows]


def test_the_same_seed_is_the_same_year_and_another_is_not() -> None:
    assert year(1, "tight", 2) == year(1, "tight", 2)
    assert year(1, "tight", 2).jobs != year(2, "tight", 2).jobs


def test_caps_change_rooms_and_nothing_else() -> None:
    tight, none = year(3, "tight", 2), year(3, "none", 2)
    assert tight.jobs == none.jobs
    assert tight.firm_room_fen == 2_000_000_000  # the notice's ¥20M a firm and year
    assert none.firm_room_fen == none.pool_room_fen == NO_CAP_FEN


def test_the_bound_without_caps_is_each_jobs_least_net() -> None:
    one = year(5, "none", 1)
    least = sum(min(one.run(job, pool).net_fen for pool in one.ways(job)) for job in one.jobs)
    assert least_net_fen(one) == pytest.approx(least, rel=1e-6)


@pytest.mark.parametrize(("caps", "firms"), [("most", 1), ("tight", 0)])
def test_a_bad_argument_is_named(caps: str, firms: int) -> None:
    with pytest.raises(ValueError, match=r"caps|firms"):
        year(1, caps, firms)


def test_every_policy_does_all_the_work_and_none_beats_the_bound(
    tight: tuple[dict[str, Any], list[dict[str, str]]],
) -> None:
    document, _ = tight
    assert set(document["placed"].values()) == {document["jobs"]}
    assert min(document["net_fen"].values()) == document["net_fen"]["lp"]
    assert document["share_of_lp_saving"]["price_blind"] == 0


def test_the_figures_follow_from_the_decisions(tight: tuple[dict[str, Any], list[dict[str, str]]]) -> None:
    document, rows = tight
    for name in ("ours", "price_blind"):
        mine = [row for row in rows if row["policy"] == name]
        gross = sum(int(row["gross_fen"]) for row in mine)
        drawn = sum(int(row["draw_fen"]) for row in mine)
        assert gross - drawn == document["net_fen"][name]
        assert drawn == document["drawn_fen"][name] <= document["firm_room_fen"]
        work = sum(float(row["work"]) for row in mine)
        assert document["net_yuan_per_unit"][name] == pytest.approx((gross - drawn) / 100 / work, abs=1e-6)


def test_with_an_empty_plan_nothing_is_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(state: State, changes: Sequence[Change], policy: Policy) -> tuple[State, Plan]:
        after = apply(state, changes)
        return after, Plan(based_on=after.version, now=after.now, policy=policy.name)

    monkeypatch.setattr(netcost, "decide", nothing)
    document, rows = netcost.measure(seed=1, caps="tight", firms=1)
    assert rows == []
    assert set(document["placed"].values()) == {0}
    assert set(document["share_of_lp_saving"].values()) == {None}


def test_the_command_prints_one_document_and_writes_every_placement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "decisions.csv"
    assert netcost.main(["--seed", "4", "--firms", "1", "--caps", "none", "-o", "json", "--decisions", str(path)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    document = json.loads(line)
    assert document["firm_room_fen"] is None
    with path.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == sum(document["placed"].values())
    assert all(row["start"] < row["end"] for row in rows)


@pytest.mark.parametrize("bad", [["--firms", "0"], ["--seed", "-1"], ["--caps", "huge"]])
def test_bad_arguments_end_with_two(bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        netcost.main(bad)
    assert ended.value.code == 2
    assert bad[0] in capsys.readouterr().err


def test_without_caps_the_planner_finds_the_bound() -> None:
    document, _ = netcost.measure(seed=3, caps="none", firms=1)
    assert document["share_of_lp_saving"]["ours"] == pytest.approx(1, abs=1e-4)  # but for whole fen


def test_shadow_prices_keep_room_for_where_it_is_worth_most() -> None:
    document, _ = netcost.measure(seed=5, caps="tight", firms=1)
    share = document["share_of_lp_saving"]
    assert share["ours"] > 0.9 > share["myopic"] > share["cheapest_gross"]
