"""The ledger as a Beancount file: bean-check accepts it, and one fen less anywhere it does not."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from beancount import loader
from beancount.core.data import Balance, Note, Open, Transaction
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from metering.beancount import account_names, beancount_lines, quoted
from metering.schema import accounts, transfers
from tests.platform import FIRM, PROVIDER, job_text, make_platform

Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Transfers and accounts of a platform on which one job was settled and another still holds room."""
    platform = make_platform(tmp_path_factory.mktemp("books"))
    job = platform.submit("a", job_text("a"))
    platform.loop.tick()
    platform.clock.advance(3600)
    platform.beat()
    platform.backend.end(f"{job}.1", 0)
    platform.loop.tick()
    platform.submit("b", job_text("b", "H800:8"))
    platform.loop.tick()
    with platform.database.read() as tx:
        moved = [dict(row) for row in tx.execute(select(transfers).order_by(transfers.c.seq)).mappings()]
        held = [dict(row) for row in tx.execute(select(accounts).order_by(accounts.c.id)).mappings()]
    platform.database.close()
    return moved, held


def checked(text: str) -> tuple[list[Any], list[Any]]:
    entries, errors, _ = loader.load_string(text)
    return list(entries), list(errors)


def written(moved: list[dict[str, Any]], held: list[dict[str, Any]]) -> str:
    return "\n".join(beancount_lines(moved, held)) + "\n"


def test_bean_check_accepts_the_books_of_a_platform(books: Rows) -> None:
    moved, held = books
    entries, errors = checked(written(moved, held))

    assert errors == []
    kinds = {phase: sum(row["phase"] == phase for row in moved) for phase in ("posted", "post", "pending", "void")}
    assert min(kinds["posted"], kinds["post"], kinds["pending"]) > 0, "the books have every kind of phase"
    assert sum(isinstance(e, Transaction) for e in entries) == kinds["posted"] + kinds["post"]
    assert sum(isinstance(e, Note) for e in entries) == len(moved) - kinds["posted"] - kinds["post"]
    assert sum(isinstance(e, Open) for e in entries) == sum(isinstance(e, Balance) for e in entries) == len(held)
    payable = next(e for e in entries if isinstance(e, Balance) and e.account == f"Assets:Firm:{FIRM}:Payable")
    assert payable.amount.number == Decimal("96.00")
    assert any(isinstance(e, Open) and e.account == f"Liabilities:Provider:{PROVIDER}:Revenue" for e in entries)


def test_one_fen_more_or_less_in_any_transfer_that_moved_does_not_add_up(books: Rows) -> None:
    moved, held = books
    places = [i for i, row in enumerate(moved) if row["phase"] in ("posted", "post")]

    for place in places:
        for change in (1, -1):
            edited = [dict(row) for row in moved]
            edited[place]["amount_fen"] += change
            assert checked(written(edited, held))[1], moved[place]["id"]


def test_one_fen_in_the_file_itself_does_not_add_up(books: Rows) -> None:
    text = written(*books)
    wrong = text.replace("  96.00 CNY", "  96.01 CNY", 1)

    assert wrong != text
    assert checked(wrong)[1]


def test_a_removed_transfer_does_not_add_up(books: Rows) -> None:
    moved, held = books
    fee = next(i for i, row in enumerate(moved) if row["code"] == "fee")

    assert checked(written(moved[:fee] + moved[fee + 1 :], held))[1]


def test_empty_books_are_a_file_too() -> None:
    assert checked(written([], []))[1] == []


def test_a_transfer_of_an_account_that_is_not_there_is_named(books: Rows) -> None:
    moved, held = books
    without = [row for row in held if row["id"] != moved[0]["credit"]]

    with pytest.raises(ValueError, match=f"credit: transfer '{re.escape(moved[0]['id'])}' names"):
        written(moved, without)


IDENTITIES = st.lists(
    st.lists(st.text("aA1_-.火é ", max_size=6), min_size=1, max_size=4).map(":".join), max_size=12, unique=True
)


@given(identities=IDENTITIES)
def test_account_names_are_distinct_and_legal(identities: list[str]) -> None:
    named = account_names(identities)

    assert len(set(named.values())) == len(set(identities))
    text = "\n".join(f"1970-01-01 open {name} CNY" for name in named.values())
    assert checked(text + "\n")[1] == []


@given(text=st.text(max_size=40))
def test_any_text_is_one_string_of_the_file(text: str) -> None:
    """A job's name must not be able to add a transaction to the books."""
    entries, errors = checked(
        f"1970-01-01 open Assets:A CNY\n  id: {quoted(text)}\n1970-01-02 note Assets:A {quoted(text)}\n"
    )

    assert errors == []
    assert len(entries) == 2
