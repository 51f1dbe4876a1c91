"""What a firm has paid: what is settled of an interval, less what came back of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from metering import refunding
from tests.metering.office import OPERATOR, SINCE, Office, make_office
from tests.platform import FIRM


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return make_office(tmp_path)


def spent(office: Office, hours: int | None = None, since: int | None = None) -> int:
    """Of the usage of the last so many hours, or of all."""
    start = SINCE if since is None else office.now - timedelta(hours=since)
    end = None if hours is None else start + timedelta(hours=hours)
    with office.platform.database.read() as tx:
        return office.platform.budget.expenditure.spent(tx, FIRM, start, end)


def refund(office: Office, job: str, fen: int) -> dict[str, int]:
    got: dict[str, int] = office.call(
        refunding.refund, job=job, amount_fen=fen, kind="refund", reason="idle", actor=OPERATOR
    )
    return got


def test_what_a_refund_gives_back_to_the_firm_is_not_spent(office: Office) -> None:
    job = office.run()
    before = spent(office)
    assert before == office.settlement(job)["payable_fen"] > 0

    got = refund(office, job, 5_000)
    assert got["firm_fen"] > 0
    assert spent(office) == before - got["firm_fen"]
    again = refund(office, job, office.settlement(job)["fee_fen"] - 5_000)
    assert again["firm_fen"] == before, "all refunds so far"
    assert spent(office) == 0


def test_a_refund_counts_in_the_interval_of_the_usage_it_is_of(office: Office) -> None:
    """Half of the hour lies before the edge: half of what the firm still pays counts on either side, rounded up."""
    first = office.run()
    office.platform.clock.advance(7200)
    second = office.run()
    whole = spent(office)
    got = refund(office, first, 5_001)

    assert spent(office) == whole - got["firm_fen"]
    assert spent(office, since=2) == office.settlement(second)["payable_fen"]
    kept = office.settlement(first)["payable_fen"] - got["firm_fen"]
    start = office.now - timedelta(hours=4)
    with office.platform.database.read() as tx:
        halves = [
            office.platform.budget.expenditure.spent(tx, FIRM, low, high)
            for low, high in (
                (start, start + timedelta(minutes=30)),
                (start + timedelta(minutes=30), start + timedelta(hours=1)),
            )
        ]
    assert halves == [-(-kept // 2)] * 2


def test_refunds_in_several_portions_leave_what_is_still_paid(office: Office) -> None:
    job = office.run(seconds=1800)
    for fen in (1, 2_999, 1_000):
        got = refund(office, job, fen)
        assert spent(office) == office.settlement(job)["payable_fen"] - got["firm_fen"]
