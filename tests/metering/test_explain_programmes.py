"""Refunds, clearing, grants and clawbacks explain themselves: each comes out the same again from the records before it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, text

from metering import clawback, clearing, contracts, correction, exclusion, model_voucher, refunding, rooms, subsidy
from metering import explain_tree as tree
from metering.acts import subjects, told
from metering.explain import FORMS, explain
from metering.explain_clearing import BATCH, ITEM_FIELDS, REFUND
from metering.explain_papers import INVOICE
from metering.explain_tree import Node
from metering.parameters import load_policies
from metering.programme_schema import clearing_items, invoices, other_supports, payments, refunds
from metering.schema import accounts, settlements, transfers
from metering.subsidy_evidence import application_document
from scheduler.database import Database
from scheduler.refusal import Refusal
from tests.metering.office import FINANCE, OPERATOR, PROVIDER_USER, REVIEWER, Office, make_office
from tests.metering.test_support import apply, assessed, model_contract, move, other, step
from tests.platform import FIRM, PROVIDER

REGISTRY = load_policies()
OTHER_FIRM = "91110302MA0YDEMA99"


def refund(office: Office, job: str, amount: int) -> dict[str, Any]:
    done = office.call(refunding.refund, job=job, amount_fen=amount, kind="refund", reason="idle", actor=OPERATOR)
    assert not isinstance(done, Refusal), done
    return dict(done)


def proceed(office: Office, case: str, act: str, actor: Any, reference: str | None = None) -> None:
    done = office.call(clawback.proceed, case, act, actor, "a reason", reference=reference)
    assert not isinstance(done, Refusal), done


def pending(office: Office, job: str) -> str:
    with office.platform.database.read() as tx:
        found = [each["subject"] for each in subjects(tx, "clawback", "opened")]
    return next(str(each) for each in found if each.startswith(f"clawback:{job}:"))


def pay(office: Office, batch: str, fen: int, reference: str) -> None:
    done = office.call(clearing.pay, office.platform.budget, batch, amount_fen=fen, reference=reference, actor=FINANCE)
    assert not isinstance(done, Refusal), done


def everything(directory: Path) -> dict[str, dict[str, Any]]:
    """A platform on which every kind of money has moved; {id: what the platform said of it}."""
    office = make_office(directory)
    said: dict[str, dict[str, Any]] = {}
    with office.platform.database.write() as tx:
        model_voucher.open_pools(tx, office.platform.budget.policy, office.now)
    # refunded before and after it is cleared
    first, second = office.run(), office.run("H800:8", 1234.567)
    refund_of_first = refund(office, first, 1_001)
    said[refund_of_first["id"]] = refund_of_first
    number = office.bill(first, amount_fen=office.settlement(first)["fee_fen"] - 1_001)["number"]
    office.pay_share(number, office.settlement(first)["payable_fen"])
    office.verify(first)
    office.ready(second)
    office.clear()
    again = refund(office, first, 7_777)
    said[again["id"]] = again
    case = pending(office, first)
    proceed(office, case, "notice", OPERATOR)
    proceed(office, case, "confirm", REVIEWER)
    proceed(office, case, "repay", FINANCE, "BACK-1")
    said["second"] = refund(office, second, 500)
    owed = pending(office, second)
    proceed(office, owed, "notice", OPERATOR)
    proceed(office, owed, "confirm", REVIEWER)
    # a batch paid in parts, one of them sent back, one settlement taken out, the rest less what is owed back
    third, fourth = office.run(), office.run("Ascend910B3:3", 777)
    office.ready(third, fourth)
    batch = office.batch()
    office.call(clearing.approve, office.platform.budget, batch, REVIEWER)
    pay(office, batch, 1_000, "T-part")
    done = office.call(clearing.payment_returned, batch, reference="T-part", reason="wrong account", actor=FINANCE)
    assert not isinstance(done, Refusal), done
    done = office.call(clearing.withdraw_item, batch, office.settlement(fourth)["id"], OPERATOR, "price in question")
    if isinstance(done, Refusal):
        done = office.call(clearing.withdraw_item, batch, office.settlement(fourth)["id"], REVIEWER, "in question")
    assert not isinstance(done, Refusal), done
    proceed(office, owed, "offset", FINANCE, batch)
    pay(office, batch, 500, "T-more")
    # written off; gone by a correction
    fifth = office.run()
    office.ready(fifth)
    office.clear()
    refund(office, fifth, 3_000)
    gone = pending(office, fifth)
    refund(office, fifth, 1_000)  # another amount: the case gives way to another
    assert pending(office, fifth) != gone
    # grants
    said["project:P-1"] = assessed(office)
    assert not isinstance(step(office, "pay", FINANCE, "G-1"), Refusal)
    done = office.call(
        subsidy.draft, office.platform.budget.policy, project="P-2", provider=PROVIDER, name="n", actor=PROVIDER_USER
    )
    assert not isinstance(done, Refusal), done
    model_contract(office)
    apply(office)
    move(office, "verify", OPERATOR)
    other(office, 499_999, project="M-1")
    said["application:A-1"] = move(office, "approve", REVIEWER)
    move(office, "pay", FINANCE, "G-2")
    assert move(office, "claw_back", REVIEWER)["state"] == "clawed_back"
    other(office, 20_000)
    other(office, 900, instrument="city")
    other(office, 10**6, instrument="beside", cumulative=True)
    said["correction"] = office.call(correction.correct, office.platform.budget, first, OPERATOR, "an agreement")
    assert not isinstance(said["correction"], Refusal), said["correction"]
    office.call(rooms.close_year, office.platform.budget.policy, 2025, FINANCE, "over")
    office.audit()
    office.platform.database.close()
    return said


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    directory = tmp_path_factory.mktemp("programmes")
    return directory, everything(directory)


@pytest.fixture
def tx(moved: tuple[Path, Any], tmp_path: Path) -> Iterator[Connection]:
    """A copy that may be altered."""
    shutil.copytree(moved[0], tmp_path / "copy")
    database = Database(f"sqlite:///{tmp_path / 'copy' / 'yisuan.db'}")
    with database.write() as connection:
        for name in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
            connection.execute(text(f"DROP TRIGGER {name}"))
    with database.write() as connection:
        yield connection
    database.close()


def tree_of(tx: Connection, amount: str, **asked: Any) -> Node:
    found = explain(tx, amount, REGISTRY, **asked)
    assert isinstance(found, Node), (amount, found)
    return found


def programme_numbers(tx: Connection) -> dict[str, int]:
    """Every amount id of refunds, papers, clearing, grants and clawbacks with the number shown for it elsewhere."""
    found: dict[str, int] = {}
    for row in tx.execute(select(refunds)).mappings():
        found |= {f"{row['id']}#amount_fen": row["amount_fen"]}
    for row in tx.execute(select(invoices)).mappings():
        bill = contracts.invoice(tx, row["number"]) or {}
        found |= {f"invoice:{row['number']}#{name}": bill[name] for name in INVOICE}
    for case in subjects(tx, "clearing"):
        shown = clearing.batch_document(tx, case["subject"]) or {}
        found |= {f"{shown['id']}#{name}": fen for name, fen in shown["totals"].items()}
        found[f"{shown['id']}#left_fen"] = shown["left_fen"]
        returned = {each["returns"] for each in shown["payments"]}
        paid = sum(
            each["amount_fen"] for each in shown["payments"] if not each["returns"] and each["id"] not in returned
        )
        found[f"{shown['id']}#paid_fen"] = paid
        found[f"{shown['id']}#approved_fen"] = shown["totals"]["deduction_fen"]
        rows = tx.execute(
            select(clearing_items).where(clearing_items.c.batch == shown["id"]).order_by("seq")
        ).mappings()
        for place, row in enumerate(rows, start=1):
            found |= {f"{shown['id']}/{place}#{name}": row[name] for name in ITEM_FIELDS}
    for row in tx.execute(select(payments)).mappings():
        found[row["id"]] = row["amount_fen"]
    for case in subjects(tx, "clawback"):
        with_body = told(tx, "clawback", case["subject"], "open") or {}
        found[case["subject"]] = with_body["amount_fen"]
    for row in tx.execute(select(other_supports)).mappings():
        found[row["id"]] = row["amount_fen"]
        choice = exclusion.comparison(tx, row["firm"], row["project"])
        for name in ("ours_fen", "best_other_fen"):
            found[f"support:{row['firm']}:{row['project']}#{name}"] = choice[name]
    document = model_voucher.document(tx, "A-1") or {}
    found |= {f"application:A-1#{name}": document[name] for name in ("amount_fen", "completed_fen")}
    for name in ("P-1", "P-2"):
        shown = application_document(tx, name) or {}
        found[f"project:{name}#amount_fen"] = shown["amount_fen"]
    return found


# --- the law ----------------------------------------------------------------------------------------------------------


def test_every_number_of_the_programmes_is_recomputed_to_itself(tx: Connection) -> None:
    numbers = programme_numbers(tx)
    assert len(numbers) > 70
    for amount, value in numbers.items():
        node = tree_of(tx, amount)
        assert (node.kind, node.title, node.facts["value"]) == ("amount", amount, value)
        assert node.facts["recomputed"] == value, amount
        assert node.broken == (), amount
        assert any(leaf.kind == "record" for leaf in node.walk()), amount


def test_every_transfer_and_every_account_of_theirs_too(tx: Connection) -> None:
    codes = set()
    for row in tx.execute(select(transfers)).mappings():
        node = tree_of(tx, row["id"])
        assert (node.facts["value"], node.facts["recomputed"]) == (row["amount_fen"], row["amount_fen"]), row["id"]
        assert node.broken == (), row["id"]
        codes.add(row["code"])
    assert codes >= {"refund_fee", "refund_draw", "refund_subsidy", "firm_pays", "approve", "pay", "payment_returned", "grant",
                     "claw_back", "recover", "withdraw", "lapse", "open_room", "appropriate", "reverse_draw"}  # fmt: skip
    for row in tx.execute(select(accounts)).mappings():
        assert tree_of(tx, row["id"]).broken == (), row["id"]
    for row in tx.execute(select(settlements)).mappings():
        assert tree_of(tx, row["id"]).broken == (), row["id"]


def test_the_answer_to_a_refund_is_what_is_explained(tx: Connection, moved: tuple[Path, dict[str, Any]]) -> None:
    answers = [each for identity, each in moved[1].items() if identity.startswith("refund_")]
    assert len(answers) == 2
    for answer in answers:
        for name in ("returned_fen", "firm_fen", "voucher_fen"):
            node = tree_of(tx, f"{answer['id']}#{name}")
            assert (node.facts["value"], node.facts["recomputed"]) == (answer[name], answer[name])
    # 8 cards an hour at 20.00: D = 6,400 of F = 16,000; of 1,001 returned the voucher's part is rounded up.
    shown = tree_of(tx, f"{answers[0]['id']}#voucher_fen")
    texts = {node.facts["text"] for node in shown.walk() if node.title == "refund_pro_rata"}
    assert texts == {"6400 - floor(6400 × 14999 / 16000) = 401"}


def test_a_grant_is_told_from_the_clause_to_the_papers(tx: Connection) -> None:
    node = tree_of(tx, "project:P-1#amount_fen")
    titles = {each.title for each in node.walk()}
    texts = {each.facts["text"] for each in node.walk() if each.kind == "arithmetic"}

    assert {"2.1.2", "server_subsidy.rate_ceiling", "server_subsidy.project_cap", "ceiling", "granted"} <= titles
    assert "min(ceiling 1000000, project_room 1000000000) = 1000000" in texts
    assert {each.facts["stream"] for each in node.walk() if each.kind == "record"} >= {
        "acts", "contracts", "invoices", "slips", "transfers",
    }  # fmt: skip


def test_the_choice_shows_both_amounts(tx: Connection) -> None:
    node = tree_of(tx, "application:A-1#amount_fen")
    chosen = next(each for each in node.walk() if each.title == "best_support")
    assert chosen.facts["text"] == "max(ours 500000, other 499999) = 500000"

    given = tree_of(tx, f"support:{FIRM}:C-1#given_fen")
    assert given.facts["value"] == max(
        tree_of(tx, f"support:{FIRM}:C-1#{n}").facts["value"] for n in ("ours_fen", "best_other_fen")
    )
    assert "max(入区协议 20000, city 900) = 20000" in {e.facts["text"] for e in given.walk() if e.kind == "arithmetic"}
    assert any(each.kind == "clause" and each.title == "4.4" for each in given.walk())


def test_an_item_cleared_twice_subtracts_what_was_cleared(tx: Connection) -> None:
    texts = [
        each.facts["text"]
        for amount in programme_numbers(tx)
        if "/" in amount and amount.endswith("#deduction_fen")
        for each in tree_of(tx, amount).walk()
        if each.title == "left_to_clear"
    ]
    assert texts
    for shown in texts:
        left, _, right = shown.rpartition(" = ")
        assert eval(left) == int(right)  # noqa: S307 - our own text


# --- alterations ------------------------------------------------------------------------------------------------------

EDITS = {  # of each stream under these trees: a number or a text that a forger would change
    "refunds": "amount_fen = amount_fen + 1",
    "clearing_items": "deduction_fen = deduction_fen + 1",
    "payments": "amount_fen = amount_fen + 1",
    "invoices": "amount_fen = amount_fen + 1",
    "slips": "amount_fen = amount_fen + 1",
    "contracts": "support_cap_fen = support_cap_fen + 1",
    "other_supports": "amount_fen = amount_fen + 1",
    "acts": "body = replace(body, '0', '1') || ' '",
    "transfers": "amount_fen = amount_fen + 1",
    "settlements": "deduction_fen = deduction_fen + 1",
    "settlement_lines": "deduction_fen = deduction_fen + 1",
    "invoice_jobs": "hash = hash",
}
UNREADABLE = {"acts": "body = '{'", "contracts": "items = '['", "other_supports": "evidence = '{'"}


@pytest.mark.parametrize("edits", [EDITS, UNREADABLE], ids=["another number", "no JSON"])
def test_an_altered_record_says_so_at_its_leaf_and_no_other_leaf_does(tx: Connection, edits: dict[str, str]) -> None:
    """Under every number of the programmes, every fifth record, one at a time, each put back after."""
    seen = 0
    streams: set[str] = set()
    for amount in programme_numbers(tx):
        leaves = sorted({each.title for each in tree_of(tx, amount).walk() if each.kind == "record"})
        for title in leaves[seen % 5 :: 5]:
            stream, _, seq = title.rpartition(":")
            if stream not in edits or edits[stream] == "hash = hash":
                continue
            with tx.begin_nested() as savepoint:
                tx.execute(text(f"UPDATE {stream} SET {edits[stream]} WHERE seq = {seq}"))  # noqa: S608
                node = tree_of(tx, amount)
                false = {each.title for each in node.walk() if each.kind == "record" and each.verified is False}
                assert false == {title}, (amount, title)
                savepoint.rollback()
            seen, streams = seen + 1, streams | {stream}
    assert seen > 60 or edits is UNREADABLE
    assert streams >= ({"refunds", "clearing_items", "payments", "acts", "slips"} if edits is EDITS else {"acts"})


@pytest.mark.parametrize(
    ("statement", "amount"),
    [
        ("UPDATE clearing_items SET deduction_fen = deduction_fen + 1 WHERE seq = 1", "{batch}/1#deduction_fen"),
        ("UPDATE clearing_items SET fee_fen = fee_fen + 1 WHERE seq = 1", "{batch}#fee_fen"),
        ("UPDATE payments SET amount_fen = amount_fen + 1 WHERE seq = 1", "{payment}"),
        ("UPDATE refunds SET amount_fen = amount_fen + 1 WHERE seq = 1", "{refund}#returned_fen"),
        ("UPDATE acts SET body = replace(body, '\"amount_fen\":1000000', '\"amount_fen\":1000001')", "project:P-1#amount_fen"),
        ("UPDATE acts SET body = replace(body, '\"amount_fen\":500000', '\"amount_fen\":500001')", "application:A-1#amount_fen"),
        ("UPDATE transfers SET amount_fen = amount_fen + 1 WHERE code = 'approve'", "{batch}:approve"),
        ("UPDATE slips SET amount_fen = amount_fen - 1", "{slip}"),
    ],
)  # fmt: skip
def test_a_number_that_was_altered_is_a_mismatch(tx: Connection, statement: str, amount: str) -> None:
    named = {
        "batch": tx.execute(select(clearing_items.c.batch).order_by("seq")).scalars().first(),
        "payment": tx.execute(select(payments.c.id).order_by("seq")).scalars().first(),
        "refund": tx.execute(select(refunds.c.id).order_by("seq")).scalars().first(),
        "slip": tx.execute(select(transfers.c.id).where(transfers.c.code == "firm_pays")).scalars().first(),
    }
    before = tree_of(tx, amount.format(**named))
    assert not before.mismatch
    tx.exec_driver_sql(statement)
    after = tree_of(tx, amount.format(**named))

    assert after.mismatch, after.facts
    assert after in after.broken


# --- who may, and what is not an id -----------------------------------------------------------------------------------


def test_a_firm_explains_its_own_and_nothing_of_others(tx: Connection) -> None:
    own, kept = 0, ("batch_", "payment:", "project:")
    for amount in programme_numbers(tx):
        mine, theirs = explain(tx, amount, REGISTRY, firm=FIRM), explain(tx, amount, REGISTRY, firm=OTHER_FIRM)
        assert isinstance(theirs, Refusal), amount
        assert theirs.facts["nearest"] in FORMS.values()
        if amount.startswith(kept) or (amount.startswith(("clawback:", "invoice:")) and isinstance(mine, Refusal)):
            assert isinstance(mine, Refusal), amount
            continue
        assert isinstance(mine, Node), amount
        own += 1
    assert own > 15


def test_an_unknown_amount_names_the_nearest_known_one(tx: Connection) -> None:
    batch = tx.execute(select(clearing_items.c.batch).order_by("seq")).scalars().first()
    refunded = tx.execute(select(refunds.c.id).order_by("seq")).scalars().first()
    for asked, nearest in (
        (f"{batch}/99", batch),
        (f"{batch}/0", batch),
        (f"{batch}x", batch),
        (f"{refunded}x", refunded),
        ("batch_", FORMS["batch"]),
        ("refund_", FORMS["refund"]),
        ("other_", FORMS["other"]),
        ("project:P-11", "project:P-1"),
        ("application:", "application:A-1"),
        ("clawback:nothing", FORMS["clawback"]),
        ("invoice:", FORMS["invoice"]),
        ("support:x:y", FORMS["support"]),
        ("payment:nothing:1", FORMS["payment"]),
    ):
        found = explain(tx, asked, REGISTRY)
        assert isinstance(found, Refusal), asked
        assert found.code == "AMOUNT_UNKNOWN"
        assert found.facts["nearest"] == nearest, (asked, found.facts)
    for field, known in ((f"{batch}#total", BATCH), (f"{refunded}#total", REFUND)):
        found = explain(tx, field, REGISTRY)
        assert isinstance(found, Refusal)
        assert found.facts["known"] == list(known)


def test_the_greatest_of_named_amounts() -> None:
    node = tree.greatest("best_support", {"ours": 3, "other": 5})
    assert (node.facts["text"], node.facts["result"]) == ("max(ours 3, other 5) = 5", 5)
