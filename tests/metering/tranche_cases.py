"""What tests of tranches do in one word each."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from metering import correction, store, tranche
from metering.case import settle_document
from metering.ledger import (
    Code,
    Phase,
    Transfer,
    pool_room,
    spent_of,
)
from metering.rule import load_rules
from metering.statement import lines_of
from scheduler.refusal import Refusal
from tests.metering.office import OPERATOR, Office
from tests.platform import FIRM

POOL, CAP = 10_000_000_000, 2_000_000_000
YEAR = 2026
NEW_YEAR = datetime(2026, 12, 31, 16, tzinfo=UTC)
DAY = 86_400


def claim(office: Office, name: str = "t1", firm: str = FIRM, year: int | None = None) -> Any:
    return office.call(tranche.issue, office.platform.budget.policy, id=name, firm=firm, by="key", year=year)


def shown(office: Office, firm: str = FIRM) -> dict[str, Any]:
    with office.platform.database.read() as tx:
        (found,) = tranche.shown(tx, office.platform.budget.policy, firm)
    return {name: found[name] for name in ("issued_fen", "drawn_fen", "held_fen", "left_fen", "given_back_fen")}


def reasons(office: Office, job: str) -> list[str]:
    with office.platform.database.read() as tx:
        lines = lines_of(tx, office.settlement(job)["id"])
    return sorted({reason for line in lines for reason in line["reasons"]})


def offline(office: Office, settlement: dict[str, Any]) -> dict[str, int]:
    """The totals that `yisuan settle` gives for the stored case."""
    budget = office.platform.budget
    found = settle_document(settlement["case_json"], budget.registry, load_rules())["totals"]
    return {name: found[name] for name in ("fee_fen", "deduction_fen", "payable_fen")}


def spend_all_but(office: Office, fen: int, room: Any = None) -> None:
    """Others have drawn all but so much of the year's pool (or of another room)."""
    room = room or pool_room(YEAR)
    with office.platform.database.write() as tx:
        left = store.balance(tx, room).available - fen
        spent = spent_of(room)
        store.post(
            tx,
            Transfer(
                id=f"others:{room}", phase=Phase.POSTED, code=Code.DRAW, debit=room, credit=spent, amount_fen=left
            ),
            office.now,
        )


def mistake(office: Office, job: str, at: datetime) -> int:
    """A correction that takes the job's voucher back; the number of the fact it rests on."""
    number: int = office.call(
        store.record_fact, subject_kind="firm", subject=FIRM, fact="suspended", start=at, end=None, evidence={}, by="op"
    )
    got = office.call(correction.correct, office.platform.budget, job, OPERATOR, "suspended, it seemed")
    assert not isinstance(got, Refusal), got
    return number


def put_right(office: Office, job: str, number: int, at: datetime) -> Any:
    """The fact is withdrawn and the job settled again."""
    office.call(
        store.record_fact, subject_kind="firm", subject=FIRM, fact="suspended", start=at, end=at, evidence={}, by="op",
        withdraws=number,
    )  # fmt: skip
    return office.call(correction.correct, office.platform.budget, job, OPERATOR, "it was not")
