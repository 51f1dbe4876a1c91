"""Tranches: a claim takes a little of the pool for one firm and year; what is idle goes back to the pool of its own year."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import acts, correction, refunding, rooms, store
from metering.audit import audit_connection
from metering.ledger import (
    authority,
    contract_room,
    firm_room,
    lapsed,
    pool_room,
    pool_spent,
    tranche_room,
)
from metering.parameters.policy import CLAIM_MODE, TRANCHE_SIZE
from metering.rule import load_rules
from metering.schema import holds, settlements, tranche_uses, tranches
from metering.statement import lines_of
from tests.metering.answers import OTHER, answer, end, enrol, in_tranches, start
from tests.metering.office import FINANCE, OPERATOR, REVIEWER, Office, audited_office, code, make_office
from tests.metering.tranche_cases import (
    CAP,
    DAY,
    NEW_YEAR,
    POOL,
    YEAR,
    claim,
    offline,
    reasons,
    shown,
    spend_all_but,
)
from tests.platform import FIRM


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with audited_office(tmp_path, in_tranches) as made:
        yield made


# --- claims -----------------------------------------------------------------------------------------------------------


def test_the_shipped_answer_is_a_right_to_draw_and_its_claims_take_no_tranche(tmp_path: Path) -> None:
    office = make_office(tmp_path)
    policy = office.platform.budget.policy
    assert policy.value_at(CLAIM_MODE, office.now) == "draw_right"
    assert policy.value_at(TRANCHE_SIZE, office.now) == 50_000_000
    assert code(claim(office)) == "TRANCHES_NOT_IN_USE"
    office.run()
    assert office.platform.rows(tranches) == office.platform.rows(tranche_uses) == []
    office.platform.database.close()


def test_a_claim_moves_one_tranche_from_the_pool_once(office: Office) -> None:
    first = claim(office)
    assert (first["amount_fen"], first["year"], first["number"]) == (10_000, YEAR, 1)
    assert claim(office) == first, "the same id is the same tranche"
    assert office.balance(pool_room(YEAR)).available == POOL - 10_000
    assert office.balance(tranche_room(FIRM, YEAR)).available == 10_000
    assert office.balance(firm_room(FIRM, YEAR)).available == CAP, (
        "a tranche is the pool's; the cap is drawn when it is drawn"
    )
    assert shown(office) == {
        "issued_fen": 10_000,
        "drawn_fen": 0,
        "held_fen": 0,
        "left_fen": 10_000,
        "given_back_fen": 0,
    }


@pytest.mark.parametrize(
    ("pool", "firm", "issued"),
    [
        (10_001, None, 10_000),
        (10_000, None, 10_000),
        (9_999, None, 9_999),
        (None, 9_999, 9_999),
        (1, 2, 1),
        (0, None, "TRANCHE_POOL_EMPTY"),
        (None, 0, "TRANCHE_CAP_REACHED"),
    ],
)
def test_a_tranche_is_the_least_of_its_size_the_pool_and_what_the_firm_may_still_draw(
    office: Office, pool: int | None, firm: int | None, issued: int | str
) -> None:
    if pool is not None:
        spend_all_but(office, pool)
    if firm is not None:
        spend_all_but(office, firm, firm_room(FIRM, YEAR))
    got = claim(office)
    assert (code(got) if isinstance(issued, str) else got["amount_fen"]) == issued


@pytest.mark.parametrize("drawn", [0, 6_400])
def test_another_is_issued_only_when_nothing_is_left_of_the_first(office: Office, drawn: int) -> None:
    claim(office)
    if drawn:
        end(office, start(office, FIRM, "a"))
    refused = claim(office, "t2")
    assert code(refused) == "TRANCHE_OPEN"
    assert refused.facts["left_fen"] == 10_000 - drawn
    assert len(office.platform.rows(tranches)) == 1


def test_a_tranche_that_is_used_up_is_followed_by_another(office: Office) -> None:
    in_tranches(office, size=6_400)
    claim(office)
    end(office, start(office, FIRM, "a"))
    second = claim(office, "t2")
    assert (second["number"], second["amount_fen"]) == (2, 6_400)
    assert shown(office) == {
        "issued_fen": 12_800, "drawn_fen": 6_400, "held_fen": 0, "left_fen": 6_400, "given_back_fen": 0
    }  # fmt: skip


def test_every_firm_has_its_own_and_none_takes_anothers_id(office: Office) -> None:
    enrol(office, OTHER)
    assert claim(office)["amount_fen"] == 10_000
    assert code(claim(office, firm=OTHER)) == "TRANCHE_ID_TAKEN"
    assert code(claim(office, year=2027)) == "TRANCHE_ID_TAKEN"
    assert claim(office, "t2", firm=OTHER)["amount_fen"] == 10_000
    assert claim(office, "t3", year=2027)["year"] == 2027, "another year is another tranche"
    assert office.balance(pool_room(YEAR)).available == POOL - 20_000


@pytest.mark.parametrize("year", [2023, 2028, 1, 9999])
def test_a_year_that_the_policy_does_not_have_is_refused(office: Office, year: int) -> None:
    refused = claim(office, year=year)
    assert code(refused) == "YEAR_NOT_IN_FORCE"
    assert refused.facts["years"] == [2024, 2025, 2026, 2027]


def test_who_may_not_draw_gets_no_tranche(office: Office) -> None:
    enrol(office, OTHER, claim=False)
    assert code(claim(office, firm="91110302MA0000099X")) == "FIRM_UNKNOWN"
    assert code(claim(office, firm=OTHER)) == "RIGHT_NOT_ACTIVE"
    office.call(acts.act, "right", f"compute_voucher:{FIRM}", "freeze", OPERATOR, reason="r")
    assert code(claim(office)) == "RIGHT_NOT_ACTIVE"
    office.call(acts.act, "right", f"compute_voucher:{FIRM}", "unfreeze", REVIEWER, reason="r")
    office.call(acts.act, "programme", "compute_voucher", "freeze", OPERATOR, reason="r")
    assert code(claim(office)) == "PROGRAMME_FROZEN"
    office.call(acts.act, "programme", "compute_voucher", "unfreeze", REVIEWER, reason="r")
    office.call(
        store.record_fact,
        subject_kind="firm",
        subject=FIRM,
        fact="suspended",
        start=office.now,
        end=None,
        evidence={},
        by="o",
    )
    assert code(claim(office)) == "FIRM_NOT_ELIGIBLE"
    assert office.balance(pool_room(YEAR)).available == POOL


@pytest.mark.parametrize("size", [0, -1, "much", None])
def test_a_size_that_is_none_is_an_error_and_moves_nothing(office: Office, size: Any) -> None:
    answer(office, tranche_size=size)
    with pytest.raises(ValueError, match="tranche_size"):
        claim(office)
    assert office.balance(pool_room(YEAR)).available == POOL


# --- holds and settlements --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "deduction", "why"),
    [(6_401, 6_400, []), (6_400, 6_400, []), (6_399, 6_399, ["TRANCHE_EXHAUSTED"]), (1, 1, ["TRANCHE_EXHAUSTED"])],
)
def test_a_job_holds_and_draws_of_the_tranche_and_never_more(
    office: Office, size: int, deduction: int, why: list[str]
) -> None:
    in_tranches(office, size=size)
    claim(office)
    job = start(office, FIRM, "a")
    held = office.balance(tranche_room(FIRM, YEAR))
    assert (held.debits_pending, held.available) == (deduction, size - deduction)
    assert office.balance(pool_room(YEAR)).available == POOL - size, "the pool gave it already"
    got = end(office, job)

    assert got["deduction_fen"] == deduction
    assert reasons(office, job) == why
    assert offline(office, got)["deduction_fen"] == deduction
    assert office.balance(pool_spent(YEAR)).credits_posted == deduction
    assert office.balance(firm_room(FIRM, YEAR)).available == CAP - deduction
    assert shown(office) == {
        "issued_fen": size, "drawn_fen": deduction, "held_fen": 0, "left_fen": size - deduction, "given_back_fen": 0
    }  # fmt: skip


def test_without_a_tranche_nothing_is_drawn_though_the_pool_is_full(office: Office) -> None:
    job = start(office, FIRM, "a")
    got = end(office, job)
    assert (got["deduction_fen"], reasons(office, job)) == (0, ["TRANCHE_EXHAUSTED"])
    assert office.balance(pool_room(YEAR)).available == POOL


def test_firm_and_contract_bound_a_tranche_too(office: Office) -> None:
    claim(office)
    spend_all_but(office, 100, firm_room(FIRM, YEAR))
    job = start(office, FIRM, "a")
    assert (end(office, job)["deduction_fen"], reasons(office, job)) == (100, ["FIRM_CAP_REACHED"])


def test_a_contract_s_room_bounds_a_tranche(office: Office) -> None:
    claim(office)
    office.agree("C-small", amount_fen=10**9, support_cap_fen=300)
    job = office.run(extra="money: {contract: C-small}\n")
    assert (office.settlement(job)["deduction_fen"], reasons(office, job)) == (300, ["CONTRACT_CAP_REACHED"])
    assert office.balance(contract_room("C-small")).available == 0
    assert shown(office)["drawn_fen"] == 300


def test_daily_settlements_draw_the_tranche_as_one_settlement_would(office: Office) -> None:
    in_tranches(office, size=150_000)
    claim(office)
    job = start(office, FIRM, "long", limit="30h")
    for _ in range(29):
        office.platform.clock.advance(3600)
        office.platform.beat()
        office.platform.loop.tick()
    got = end(office, job)
    assert got["number"] > 1
    assert got["deduction_fen"] == 150_000, "of 30 × 6,400"
    assert reasons(office, job) == ["TRANCHE_EXHAUSTED"]
    assert shown(office)["held_fen"] == 0


def test_usage_over_new_year_draws_each_years_own_tranche(office: Office) -> None:
    office.platform.clock.advance((NEW_YEAR - office.now).total_seconds() - 3600)
    in_tranches(office, size=5_000)
    claim(office, "t26", year=2026)
    in_tranches(office, size=7_000)
    claim(office, "t27", year=2027)
    got = end(office, start(office, FIRM, "a", limit="2h"), 7200)
    with office.platform.database.read() as tx:
        drawn = {line["year"]: line["deduction_fen"] for line in lines_of(tx, got["id"])}
    assert drawn == {2026: 5_000, 2027: 6_400}
    assert offline(office, got)["deduction_fen"] == 11_400
    assert office.balance(tranche_room(FIRM, 2027)).available == 600


def test_a_hold_taken_before_tranches_is_drawn_from_where_it_was_taken(office: Office) -> None:
    answer(office, claim_mode="draw_right")
    job = start(office, FIRM, "a")
    assert office.balance(pool_room(YEAR)).debits_pending == 6_400
    in_tranches(office, size=1_000)
    claim(office)
    got = end(office, job)
    assert got["deduction_fen"] == 6_400
    assert office.balance(pool_room(YEAR)).available == POOL - 6_400 - 1_000
    assert shown(office)["drawn_fen"] == 0


def test_what_two_jobs_hold_together_is_within_the_tranche(office: Office) -> None:
    first, second = start(office, FIRM, "a"), start(office, FIRM, "b")
    assert [row["amount_fen"] for row in office.platform.rows(holds)] == [0, 0]
    end(office, first)
    end(office, second, 0)
    claim(office)
    first, second = start(office, FIRM, "c"), start(office, FIRM, "d")
    assert [row["amount_fen"] for row in office.platform.rows(holds)][2:] == [6_400, 3_600]
    assert claim(office, "t2")["number"] == 2, "all of it is held: nothing is left of it"
    end(office, first)
    assert end(office, second, 0)["deduction_fen"] == 6_400, "the rest of the draw is of the second tranche"


# --- back to the pool -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "left"), [(30 * DAY - 0.001, 10_000), (30 * DAY, 0)])
def test_an_idle_tranche_goes_back_to_its_pool(office: Office, seconds: float, left: int) -> None:
    claim(office)
    office.platform.clock.advance(seconds)
    office.platform.loop.tick()
    assert office.balance(tranche_room(FIRM, YEAR)).available == left
    assert office.balance(pool_room(YEAR)).available == POOL - left
    office.platform.loop.tick()
    assert office.balance(pool_room(YEAR)).available == POOL - left, "once"


def test_a_draw_begins_the_idle_time_again_and_a_hold_stops_it(office: Office) -> None:
    in_tranches(office, size=1_000_000)
    claim(office)
    office.platform.clock.advance(29 * DAY)
    job = start(office, FIRM, "a", limit="50h")
    office.platform.clock.advance(2 * DAY)
    office.platform.beat()
    office.platform.loop.tick()
    assert office.balance(tranche_room(FIRM, YEAR)).debits_pending > 0, "31 days old and in use"
    end(office, job, 0)
    left = shown(office)["left_fen"]
    office.platform.clock.advance(30 * DAY - 1)
    office.platform.loop.tick()
    assert shown(office)["left_fen"] == left
    office.platform.clock.advance(1)
    office.platform.loop.tick()
    assert shown(office)["left_fen"] == 0
    assert shown(office)["given_back_fen"] == left


def test_a_claim_finds_an_idle_tranche_given_back(office: Office) -> None:
    """Claim hoarding: five firms cannot lock the pool, for what they do not use is there again."""
    claim(office)
    office.platform.clock.advance(30 * DAY)
    assert claim(office, "t2")["number"] == 2
    assert office.balance(pool_room(YEAR)).available == POOL - 10_000


def test_the_last_of_a_pool_goes_to_the_next_when_the_first_leaves_it_idle(office: Office) -> None:
    enrol(office, OTHER)
    spend_all_but(office, 10_000)
    claim(office)
    assert code(claim(office, "t2", firm=OTHER)) == "TRANCHE_POOL_EMPTY"
    office.platform.clock.advance(30 * DAY)
    office.platform.loop.tick()
    assert claim(office, "t2", firm=OTHER)["amount_fen"] == 10_000


def test_a_refund_and_a_correction_return_to_the_pool_of_the_year_not_to_the_tranche(office: Office) -> None:
    claim(office)
    job = office.run()
    office.call(refunding.refund, job=job, amount_fen=8_000, kind="refund", reason="idle", actor=OPERATOR)
    assert office.balance(pool_room(YEAR)).available == POOL - 10_000 + 3_200
    assert shown(office)["left_fen"] == 3_600
    second = start(office, FIRM, "b")
    end(office, second)
    office.call(
        store.record_fact, subject_kind="relation", subject=f"{FIRM}|911100006000373415", fact="related",
        start=office.now - timedelta(days=1), end=None, evidence={}, by="op",
    )  # fmt: skip
    office.call(correction.correct, office.platform.budget, second, OPERATOR, "related")
    assert office.settlement(second)["deduction_fen"] == 0
    assert office.balance(pool_room(YEAR)).available == POOL - 10_000 + 3_200 + 3_600
    assert shown(office)["left_fen"] == 0


def test_a_year_closes_with_what_its_tranches_had_left(office: Office) -> None:
    claim(office)
    office.run()
    office.platform.clock.advance((NEW_YEAR - office.now).total_seconds())
    in_tranches(office, idle=10_000)
    done = office.call(rooms.close_year, office.platform.budget.policy, YEAR, FINANCE, "over")
    assert done["lapsed_fen"] == POOL - 6_400
    assert office.balance(tranche_room(FIRM, YEAR)).available == office.balance(pool_room(YEAR)).available == 0
    assert code(claim(office, "t2", year=YEAR)) == "YEAR_CLOSED"
    assert office.balance(lapsed(YEAR)).credits_posted == POOL + CAP - 2 * 6_400


def test_alerts_count_what_went_out_and_came_back_once(office: Office) -> None:
    in_tranches(office, size=CAP // 2)
    for number in range(12):
        claim(office, f"t{number}")
        office.platform.clock.advance(30 * DAY // 12)
        in_tranches(office, size=CAP // 2, idle=1)
        office.platform.loop.tick()
    assert office.call(rooms.raise_alerts, office.platform.budget.policy) == 0
    spend_all_but(office, POOL // 10)
    assert office.call(rooms.raise_alerts, office.platform.budget.policy) == 1


# --- laws -------------------------------------------------------------------------------------------------------------


def appropriated(office: Office, year: int) -> tuple[int, int]:
    """(appropriation, pool + tranches + held + spent), from balances alone."""
    names = [pool_room(year), tranche_room(FIRM, year), tranche_room(OTHER, year)]
    balances = [office.balance(name) for name in names]
    assert min(b.available for b in balances) >= 0
    given = office.balance(authority(year)).debits_posted
    return given, sum(b.available + b.debits_pending for b in balances) + office.balance(
        pool_spent(year)
    ).credits_posted - (office.balance(pool_spent(year)).debits_posted)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.sampled_from([FIRM, OTHER]), st.integers(1, 20_000)),
        st.tuples(st.just("run"), st.sampled_from([FIRM, OTHER]), st.integers(1, 7_200)),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 20)),
        st.tuples(st.just("refund"), st.just(""), st.integers(1, 16_000)),
    ),
    min_size=1,
    max_size=7,
)


@settings(max_examples=12, deadline=None)
@given(steps=STEPS, pool=st.integers(0, 30_000))
def test_whatever_happens_the_appropriation_is_in_its_places(
    steps: list[tuple[str, str, int]], pool: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    office = make_office(tmp_path_factory.mktemp("law"))
    enrol(office, OTHER)
    spend_all_but(office, pool)
    ran: list[str] = []
    for number, (act, firm, amount) in enumerate(steps):
        if act == "claim":
            in_tranches(office, size=amount, idle=15)
            claim(office, f"t{number}", firm=firm)
        elif act == "run":
            in_tranches(office, idle=15)
            job = start(office, firm, f"j{number}", limit="2h")
            end(office, job, amount)
            ran.append(job)
        elif act == "wait":
            office.platform.clock.advance(amount * DAY)
            office.platform.loop.tick()
        elif ran:
            office.call(refunding.refund, job=ran[-1], amount_fen=amount, kind="refund", reason="r", actor=OPERATOR)
        given, found = appropriated(office, YEAR)
        assert given == found == POOL
    for row in office.platform.rows(settlements):
        assert offline(office, row)["deduction_fen"] == row["deduction_fen"]
    office.audit()
    office.platform.database.close()


BROKEN = [
    ("UPDATE tranche_uses SET used_at_ms = used_at_ms + 1", "tranches moved what they say"),
    ("UPDATE tranches SET amount_fen = amount_fen + 1", "tranches moved what they say"),
    ("UPDATE tranches SET number = 2", "tranches moved what they say"),
    ("DELETE FROM tranches", "tranches moved what they say"),
    ("UPDATE accounts SET debits_posted = debits_posted - 1 WHERE id LIKE 'pool:%:2026'", "each appropriation is"),
    ("UPDATE accounts SET credits_posted = credits_posted + 1 WHERE id LIKE 'tranche:%'", "each appropriation is"),
]


@pytest.mark.parametrize(("statement", "law"), BROKEN)
def test_the_audit_names_a_tranche_that_was_changed(tmp_path: Path, statement: str, law: str) -> None:
    office = make_office(tmp_path)
    in_tranches(office)
    claim(office)
    office.run()
    office.audit()
    with office.platform.database.write() as tx:
        tx.exec_driver_sql(statement)
    with office.platform.database.read() as tx:
        report = audit_connection(tx, [], office.platform.budget.registry, load_rules())
    assert any(finding.law.startswith(law) and not finding.ok for finding in report.laws)
    office.platform.database.close()
