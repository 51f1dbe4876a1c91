"""Tranches and refunds after a year was closed: what was drawn by mistake is put right, and nothing else comes back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from metering import correction, refunding, rooms, store
from metering.ledger import (
    firm_room,
    lapsed,
    pool_room,
    pool_spent,
)
from metering.parameters.policy import CLAIM_MODE
from tests.metering.answers import answer, answered, in_tranches
from tests.metering.office import FINANCE, OPERATOR, Office, audited_office, make_office
from tests.metering.tranche_cases import NEW_YEAR, POOL, YEAR, claim, mistake, offline, put_right
from tests.platform import FIRM, POLICY


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with audited_office(tmp_path, in_tranches) as made:
        yield made


# --- corrections after the year was closed ----------------------------------------------------------------------------


@pytest.fixture(params=["draw_right", "tranche"])
def closed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Office, str, datetime]]:
    """A job of 2026 (6,400 fen of voucher) whose year is closed; and when it began."""
    office = make_office(tmp_path)
    if request.param == "tranche":
        in_tranches(office)
        claim(office)
    began = office.now
    job = office.run()
    office.platform.clock.advance((NEW_YEAR - office.now).total_seconds())
    done = office.call(rooms.close_year, office.platform.budget.policy, YEAR, FINANCE, "over")
    assert done["lapsed_fen"] == POOL - 6_400
    yield office, job, began
    office.audit()
    office.platform.database.close()


@pytest.mark.parametrize(("refill", "again"), [("reissue", 6_400), ("lapse", 0)])
def test_a_mistaken_correction_after_the_close_is_put_right_where_returned_amounts_are_issued_again(
    closed: tuple[Office, str, datetime], refill: str, again: int
) -> None:
    office, job, began = closed
    answer(office, refill=refill)
    before = office.balance(lapsed(YEAR))
    number = mistake(office, job, began)
    gone = office.balance(lapsed(YEAR))
    assert office.settlement(job)["deduction_fen"] == 0
    assert gone.credits_posted - before.credits_posted == 2 * 6_400, "of the pool and of the firm's room"
    assert office.balance(pool_room(YEAR)).available == 0, "a closed year's pool is not opened again"

    put_right(office, job, number, began)
    assert office.settlement(job)["deduction_fen"] == again
    assert offline(office, office.settlement(job))["deduction_fen"] == again
    assert office.balance(pool_room(YEAR)).available == office.balance(firm_room(FIRM, YEAR)).available == 0
    left = office.balance(lapsed(YEAR))
    assert left.credits_posted - left.debits_posted == before.credits_posted + 2 * (6_400 - again)


def test_back_and_forth_after_the_close_leaves_the_firm_with_the_same_voucher(
    closed: tuple[Office, str, datetime],
) -> None:
    office, job, began = closed
    for _ in range(3):
        number = mistake(office, job, began)
        put_right(office, job, number, began)
        assert office.settlement(job)["deduction_fen"] == 6_400
    number = mistake(office, job, began + timedelta(minutes=15))
    assert office.settlement(job)["deduction_fen"] == 1_600
    put_right(office, job, number, began)
    assert office.settlement(job)["deduction_fen"] == 6_400


def test_another_job_draws_nothing_of_what_lapsed_of_this_one(tmp_path: Path) -> None:
    """Two jobs of one firm; the second was settled at nothing and could now draw, if the year had anything."""
    office = make_office(tmp_path)
    began = office.now
    first = office.run()
    hole = office.call(
        store.record_fact,
        subject_kind="firm",
        subject=FIRM,
        fact="suspended",
        start=office.now,
        end=None,
        evidence={},
        by="o",
    )
    middle = office.now
    second = office.run()
    assert office.settlement(second)["deduction_fen"] == 0
    office.platform.clock.advance((NEW_YEAR - office.now).total_seconds())
    office.call(rooms.close_year, office.platform.budget.policy, YEAR, FINANCE, "over")
    number = mistake(office, first, began)
    office.call(
        store.record_fact, subject_kind="firm", subject=FIRM, fact="suspended", start=middle, end=middle, evidence={},
        by="op", withdraws=hole,
    )  # fmt: skip
    put_right(office, second, number, began)
    assert office.settlement(second)["deduction_fen"] == 0, "its year was closed with nothing of its own in it"
    office.call(correction.correct, office.platform.budget, first, OPERATOR, "it was not")
    assert office.settlement(first)["deduction_fen"] == 6_400
    office.audit()
    office.platform.database.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_refunded_job_is_put_right_within_what_it_had_net(closed: tuple[Office, str, datetime], when: str) -> None:
    office, job, began = closed
    if when == "before":
        office.call(refunding.refund, job=job, amount_fen=8_000, kind="refund", reason="idle", actor=OPERATOR)
    number = mistake(office, job, began)
    if when == "after":
        office.call(refunding.refund, job=job, amount_fen=8_000, kind="refund", reason="idle", actor=OPERATOR)
    put_right(office, job, number, began)
    assert office.settlement(job)["deduction_fen"] == 6_400
    spent = office.balance(pool_spent(YEAR))
    assert spent.credits_posted - spent.debits_posted == 3_200, "half of it was refunded"
    assert office.balance(pool_room(YEAR)).available == 0


def test_before_the_close_a_correction_returns_to_the_pool_and_draws_of_it_again(tmp_path: Path) -> None:
    office = make_office(tmp_path)
    began = office.now
    job = office.run()
    number = mistake(office, job, began)
    assert office.balance(pool_room(YEAR)).available == POOL
    assert office.balance(lapsed(YEAR)).credits_posted == 0
    put_right(office, job, number, began)
    assert office.balance(pool_room(YEAR)).available == POOL - 6_400
    office.audit()
    office.platform.database.close()


def test_parameters_of_tranches_are_at_least_one(tmp_path: Path) -> None:
    from shutil import copytree

    from metering.parameters import HERE, ParameterError, load_policies

    copied = copytree(HERE, tmp_path / "p")
    file = copied / POLICY / "compute_voucher.yaml"
    whole = file.read_text(encoding="utf-8")
    for old, new in (("value: 50_000_000", "value: 0"), ("value: 30\n", "value: 0\n"), ("value: 30\n", "value: x\n")):
        assert old in whole
        file.write_text(whole.replace(old, new), encoding="utf-8")
        with pytest.raises(ParameterError, match="tranche_"):
            load_policies(copied)
    assert answered(load_policies().policy(POLICY), claim_mode="tranche").answer_at(CLAIM_MODE, NEW_YEAR) == "tranche"
