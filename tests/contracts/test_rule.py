"""What every registered voucher rule must keep: pure, named, and silent where it has no opinion."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.accelerator import Origin
from metering.entry import Rooms, UsageEntry
from metering.facts import Interval, timeline
from metering.parameters import load_policies
from metering.rule import Context, load_rules

pytestmark = pytest.mark.contract
RULES = load_rules()
POLICY = load_policies().policy("etown-2024-10")
INSTANTS = st.datetimes(datetime(2023, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda at: at.replace(microsecond=0)
)
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def entry(start: datetime, hours: int, origin: Origin) -> UsageEntry:
    return UsageEntry(
        lease="L",
        model="M",
        origin=origin,
        devices=1,
        start=start,
        end=start + timedelta(hours=hours),
        rate="r",
        site="s",
    )


def context(edge: datetime) -> Context:
    return Context(policy=POLICY, firm=timeline([Interval(start=edge)]), sites={"s": timeline([Interval(start=edge)])})


@every_rule
@given(start=INSTANTS, hours=st.integers(0, 20_000), edge=INSTANTS, origin=st.sampled_from(list(Origin)))
def test_verdicts_change_only_at_the_breakpoints_it_names(
    rule: object, start: datetime, hours: int, edge: datetime, origin: Origin
) -> None:
    """Between two breakpoints every instant has the verdict of the first one."""
    usage, known = entry(start, hours, origin), context(edge)
    kept = copy.deepcopy(usage)
    points = sorted(rule.breakpoints(usage, known))  # type: ignore[attr-defined]
    assert all(usage.start < at < usage.end for at in points)

    def verdict(at: datetime) -> object:
        return list(rule.exclusions(usage, at, known)), rule.rate(usage, at, known)  # type: ignore[attr-defined]

    edges = [usage.start, *points, usage.end]
    for low, high in zip(edges, edges[1:], strict=False):  # noqa: RUF007 - pairs of a list that may be empty
        middle = low + (high - low) / 2
        assert verdict(low) == verdict(middle)
    assert kept == usage


@every_rule
@given(pool=st.integers(0, 10**10), firm=st.integers(0, 10**10), tranche=st.none() | st.integers(0, 100))
def test_bounds_never_pass_a_room(rule: object, pool: int, firm: int, tranche: int | None) -> None:
    rooms = Rooms(pool={2026: pool}, firm={2026: firm}, tranche=tranche)
    bounds = list(rule.bounds(2026, rooms, context(datetime(2024, 1, 1, tzinfo=UTC))))  # type: ignore[attr-defined]

    assert all(bound.available_fen >= 0 and bound.reason for bound in bounds)


@every_rule
def test_every_clause_it_cites_is_a_clause_of_the_policy(rule: object) -> None:
    usage = entry(datetime(2022, 1, 1, tzinfo=UTC), 1, Origin.DOMESTIC)
    cited = {e.clause for e in rule.exclusions(usage, usage.start, context(datetime(2030, 1, 1, tzinfo=UTC)))}  # type: ignore[attr-defined]
    rate = rule.rate(entry(datetime(2026, 1, 1, tzinfo=UTC), 1, Origin.DOMESTIC), datetime(2026, 1, 1, tzinfo=UTC),
                     context(datetime(2024, 1, 1, tzinfo=UTC)))  # type: ignore[attr-defined]  # fmt: skip
    cited |= set(rate.clauses) if rate else set()

    assert cited <= set(POLICY.clauses)
