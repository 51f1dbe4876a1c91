"""Every registered rule: named, pure, indifferent to the company it is in; and one more is one more class."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.case import settle_document
from metering.entry import Rooms, UsageEntry
from metering.rule import Bound, Context, Exclusion, Rate, Rule
from tests.metering.cases import REGISTRY, RULES, case, cases, entry

ROOT = Path(__file__).parents[2]


def settled(found: dict[str, Any], rules: Iterable[Rule]) -> dict[str, Any]:
    return settle_document(json.dumps(found), REGISTRY, tuple(rules))


def test_the_registered_rules_are_the_ones_the_project_declares() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = table["project"]["entry-points"]["yisuan.rules"]

    assert sorted(declared) == [rule.name for rule in RULES]
    files = {path.stem for path in (ROOT / "metering" / "rules").glob("*.py")} - {"__init__"}
    assert files == set(declared), "one file a rule, each with its line"


@settings(max_examples=30)
@given(found=cases(), order=st.permutations(RULES))
def test_the_order_of_the_rules_does_not_matter(found: dict[str, Any], order: list[Rule]) -> None:
    assert settled(found, RULES) == settled(found, order)


class Frozen(Rule):
    """A rule as another package might add it: some leases are frozen, some have half the rate."""

    name = "frozen"

    def exclusions(self, entry: UsageEntry, at: datetime, context: Context) -> Iterable[Exclusion]:
        return [Exclusion("LEASE_FROZEN", "4.4")] if entry.lease == "frozen" else []

    def rate(self, entry: UsageEntry, at: datetime, context: Context) -> Rate | None:
        return Rate(2000, ("4.4",)) if entry.lease == "half" else None

    def bounds(self, year: int, rooms: Rooms, context: Context) -> Iterable[Bound]:
        return [Bound("A_NEW_LIMIT", 450)]


def test_one_more_rule_is_heard_after_the_policy_s_own_reasons() -> None:
    """An exclusion, a lower rate and a tighter bound, with reasons and clauses settle never heard of."""
    usage = [
        entry(lease="frozen"),
        entry(lease="half"),
        entry(lease="whole"),
        entry(lease="frozen", site="s"),
    ]
    found = case(*usage, sites={"s": {"eligible": []}})
    out = settled(found, (Frozen(), *RULES))

    frozen, half, whole, both = out["lines"]
    assert (frozen["rate_bp"], frozen["reasons"], frozen["clauses"]) == (0, ["LEASE_FROZEN"], ["4.4"])
    assert (half["rate_bp"], half["deduction_fen"], half["clauses"]) == (2000, 150, ["4.4"])
    assert (whole["rate_bp"], whole["deduction_fen"], whole["reasons"]) == (4000, 300, ["A_NEW_LIMIT"])
    assert (both["reasons"], both["clauses"]) == (["SITE_NOT_ELIGIBLE", "LEASE_FROZEN"], ["4.2", "4.4"])
    assert (out["totals"]["ceiling_fen"], out["totals"]["deduction_fen"]) == (600, 450)


def test_no_rule_at_all_grants_nothing_and_excludes_nobody() -> None:
    (line,) = settled(case(entry()), ())["lines"]

    assert (
        line["fee_fen"], line["rate_bp"], line["payable_fen"], line["reasons"], line["clauses"]
    ) == (1000, 0, 1000, [], [])  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_registered_rule_is_a_named_value_without_state(rule: Rule) -> None:
    assert isinstance(rule.name, str)
    assert vars(rule) == {}
    assert rule.__doc__
    assert rule.__doc__ != Rule.__doc__
