"""Explain clearing: refunds, a batch's items, totals and payments, and clawbacks, each from the records before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import select

from metering import explain_tree as tree
from metering.clawback import LET_GO, RECOVERED
from metering.explain_papers import invoice
from metering.explain_past import (
    ITEM,
    Key,
    Row,
    act_leaves,
    cases_before,
    cleared_before,
    last,
    owed_fen,
    posted,
    reckon,
    room_before,
    steps,
    subsidies_of,
    taken_out,
    told,
    transfer_leaves,
    until,
)
from metering.explain_records import TRANSFER, Reader
from metering.explain_settlement import DEEP, Story, read_story
from metering.explain_tree import Node
from metering.ledger import Code, clearing_room, spent_of
from metering.programme_schema import clearing_items, payments, states
from metering.programme_schema import refunds as refund_rows
from metering.refund import Billed, Returned
from metering.refunding import classes_of, shares_of
from metering.schema import transfers

REFUND = ("amount_fen", "returned_fen", "firm_fen", "voucher_fen")
ITEM_FIELDS = ("fee_fen", "deduction_fen", "payable_fen")
BATCH = (*ITEM_FIELDS, "approved_fen", "paid_fen", "left_fen")
REFUNDED = ("id", "job", "kind", "amount_fen", "reason", "cites", "recorded_at_ms", "recorded_by")
PAID = ("id", "batch", "amount_fen", "reference", "returns", "recorded_at_ms", "recorded_by")


# --- what refunds leave -------------------------------------------------------------------------------------------


def classes(story: Story) -> list[Billed]:
    """The settlement's classes per provider from its recomputed lines. ValueError where nothing can be recomputed."""
    if story.worked is None or len(story.worked.items) != len(story.lines):
        raise ValueError(f"{story.row['id']}: cannot be recomputed")
    pairs = zip(story.lines, story.worked.items, story.worked.deductions, strict=True)
    return classes_of([{**line, "fee_fen": item.fee_fen, "deduction_fen": taken} for line, item, taken in pairs])


def refunds_of(reader: Reader, job: str) -> list[Row]:
    query = select(refund_rows).where(refund_rows.c.job == job).order_by(refund_rows.c.seq)
    return list(reader.tx.execute(query).mappings())


def gone_back(story: Story, rows: Sequence[Row]) -> tuple[Returned, ...]:
    """What has gone back of each class by these refunds (design §5 rule 6)."""
    found = classes(story)
    return shares_of(found, [row["amount_fen"] for row in rows]) if rows else shares_of(found, [])


def _pro_rata(story: Story, rows: Sequence[Row]) -> list[Node]:
    """How the refunds fall on the classes, and what of each is the voucher's: D − ⌊D × F' ÷ F⌋."""
    found, left = [], [item.fee_fen for item in classes(story)]
    for count in range(1, len(rows) + 1):
        before, left = left, [part.billed.fee_fen - part.fee_fen for part in gone_back(story, rows[:count])]
        amount = sum(before) - sum(left)
        found += [tree.share_of("refund_share", amount, before, index) for index in range(len(before)) if amount]
    for part in gone_back(story, rows):
        whole, kept = part.billed, part.billed.fee_fen - part.fee_fen
        if whole.fee_fen:
            text = f"{whole.deduction_fen} - floor({whole.deduction_fen} × {kept} / {whole.fee_fen})"
            found.append(tree.arithmetic("refund_pro_rata", text, part.voucher_fen))
    return found


def refund_leaves(reader: Reader, rows: Sequence[Row]) -> list[Node]:
    return reader.records(refund_rows, rows, REFUNDED)


# --- a refund -----------------------------------------------------------------------------------------------------


def refund_row(reader: Reader, identity: str) -> Row | None:
    return reader.tx.execute(select(refund_rows).where(refund_rows.c.id == identity)).mappings().first()


def refund(reader: Reader, row: Row, name: str) -> Node:
    """amount_fen: what this refund returned of the fee. The others: what has gone back of the job with it, by the books."""
    rows = refunds_of(reader, row["job"])
    number = next((at for at, each in enumerate(rows, start=1) if each["seq"] == row["seq"]), 0)
    moved = _refund_moves(reader, row["job"], f"refund:{row['cites']}:{number}:")
    shown = _by_the_books(moved)
    shown["amount_fen"] = row["amount_fen"]

    def work(found: list[Node]) -> int | None:
        found += refund_leaves(reader, rows[:number])
        found += transfer_leaves(reader, moved)
        story = read_story(reader, row["cites"])
        if story is None:
            return None
        found += [story.total("fee_fen", deep=False), story.total("deduction_fen", deep=False)]
        found[:0] = _pro_rata(story, rows[:number])
        parts, before = gone_back(story, rows[:number]), gone_back(story, rows[: number - 1])
        voucher, returned = sum(part.voucher_fen for part in parts), sum(part.fee_fen for part in parts)
        if name == "amount_fen":
            found.insert(0, tree.difference("refunded_now", returned, sum(part.fee_fen for part in before)))
            return returned - sum(part.fee_fen for part in before)
        if name == "firm_fen":
            found.insert(0, tree.difference("refund_to_firm", returned, voucher))
            return returned - voucher
        chosen = [part.voucher_fen if name == "voucher_fen" else part.fee_fen for part in parts]
        found.insert(0, tree.total("sum_of_classes", chosen))
        return voucher if name == "voucher_fen" else returned

    return reckon(f"{row['id']}#{name}", shown[name], work)


def _refund_moves(reader: Reader, job: str, prefix: str) -> list[Row]:
    """The job's refund transfers up to the last one of this refund."""
    codes = (Code.REFUND_DRAW.value, Code.REFUND_FEE.value, Code.REFUND_SUBSIDY.value)
    query = select(transfers).where(transfers.c.job == job, transfers.c.code.in_(codes)).order_by(transfers.c.seq)
    rows = list(reader.tx.execute(query).mappings())
    end = max((row["seq"] for row in rows if row["id"].startswith(prefix)), default=0)
    return [row for row in rows if row["seq"] <= end]


def _by_the_books(rows: Sequence[Row]) -> dict[str, int]:
    def net(code: Code) -> int:
        mine = [row for row in rows if row["code"] == code.value]
        return sum(row["amount_fen"] * (1 if row["debit"].startswith("provider:") else -1) for row in mine)

    firm, voucher = net(Code.REFUND_FEE), net(Code.REFUND_SUBSIDY)
    return {"firm_fen": firm, "voucher_fen": voucher, "returned_fen": firm + voucher}


# --- a batch's item -----------------------------------------------------------------------------------------------


def item_rows(reader: Reader, batch: str) -> list[Row]:
    """Everything a batch took up, those withdrawn later included, in order."""
    query = select(clearing_items).where(clearing_items.c.batch == batch).order_by(clearing_items.c.seq)
    return list(reader.tx.execute(query).mappings())


def item(reader: Reader, row: Row, place: int, name: str, *, deep: bool = True) -> Node:
    """fee_fen and payable_fen: the provider's part of the settlement less refunds. deduction_fen: what of its year's part
    no other batch had taken up (clause 2.1.1). place: from 1; not deep: without the settlement's lines."""
    key: Key = (row["provider"], row["year"])

    def work(found: list[Node]) -> int | None:
        found.append(reader.record(clearing_items, row, ITEM))
        submitted = last(reader, "clearing", row["batch"], "submit")
        found += act_leaves(reader, [submitted])
        if deep:
            found += [invoice(reader, row["invoice"], each) for each in ("net_fen", "paid_fen")]
        story = read_story(reader, row["settlement"])
        if story is None or submitted is None:
            return None
        earlier = cleared_before(reader, row["job"], key, submitted["seq"], row["seq"])
        back = cases_before(reader, row["job"], key, submitted["seq"], RECOVERED)
        found += reader.records(clearing_items, earlier, ITEM)
        found += act_leaves(reader, back)
        cleared: list[int] = [each["deduction_fen"] for each in earlier]
        came_back: list[int] = [told(each)["amount_fen"] for each in back]

        def come_to(rows: Sequence[Row]) -> int:
            parts = [part for part in gone_back(story, rows) if part.billed.provider == row["provider"]]
            fee = sum(part.billed.fee_fen - part.fee_fen for part in parts)
            left = {part: part.billed.deduction_fen - part.voucher_fen for part in parts}
            if name == "deduction_fen":
                due = sum(fen for part, fen in left.items() if part.billed.year == row["year"])
                return int(due - sum(cleared) + sum(came_back))
            return fee if name == "fee_fen" else fee - sum(left.values())

        rows = until(refunds_of(reader, row["job"]), submitted["at_ms"], come_to, row[name])
        found += refund_leaves(reader, rows)
        wanted = {
            "deduction_fen": ("deduction_fen",),
            "fee_fen": ("fee_fen",),
            "payable_fen": ("fee_fen", "deduction_fen"),
        }
        found += [story.total(each, deep=deep) for each in wanted[name]]
        value = come_to(rows)
        found[:0] = [
            *_item_arithmetic(story, row, rows, name, cleared, came_back),
            *(_pro_rata(story, rows) if rows else []),
        ]
        return value

    return reckon(f"{row['batch']}/{place}#{name}", row[name], work)


def _item_arithmetic(
    story: Story, row: Row, rows: Sequence[Row], name: str, cleared: Sequence[int], came_back: Sequence[int]
) -> list[Node]:
    parts = [part for part in gone_back(story, rows) if part.billed.provider == row["provider"]]
    fees = tree.total("sum_of_classes", [part.billed.fee_fen - part.fee_fen for part in parts])
    left = [
        part.billed.deduction_fen - part.voucher_fen
        for part in parts
        if name != "deduction_fen" or part.billed.year == row["year"]
    ]
    due = tree.total("sum_of_classes", left)
    if name == "fee_fen":
        return [fees]
    if name == "payable_fen":
        return [tree.difference("payable", fees.facts["result"], due.facts["result"]), fees, due]
    text = f"{due.facts['result']} - {sum(cleared)} + {sum(came_back)}"
    result = due.facts["result"] - sum(cleared) + sum(came_back)
    return [tree.arithmetic("left_to_clear", text, result), due]


def known(reader: Reader) -> Iterator[str]:
    """Ids of the newest batches, their items, payments and clawbacks."""
    newest = select(states.c.subject, states.c.kind).where(states.c.kind.in_(("clearing", "clawback")))
    for row in reader.tx.execute(newest.order_by(states.c.act_seq.desc()).limit(200)):
        yield row.subject
    paid = select(payments.c.id).order_by(payments.c.seq.desc()).limit(200)
    yield from reader.tx.execute(paid).scalars()


# --- a batch ------------------------------------------------------------------------------------------------------


def batch_known(reader: Reader, identity: str) -> bool:
    return bool(steps(reader, "clearing", identity)) if identity.startswith("batch_") else False


def batch(reader: Reader, identity: str, name: str) -> Node:
    """A batch's totals over the items it still has; approved_fen and paid_fen by the books; left_fen: still to be paid."""
    rows, gone = item_rows(reader, identity), taken_out(reader, identity)
    kept = [(at, row) for at, row in enumerate(rows, start=1) if row["settlement"] not in gone]
    room = clearing_room(identity)
    moves = room_before(reader, room, None)
    spent = [row for row in moves if row["credit"] == spent_of(room) or row["debit"] == spent_of(room)]
    shown = {each: sum(row[each] for _, row in kept) for each in ITEM_FIELDS}
    shown["approved_fen"] = _signed(moves, {Code.OPEN_ROOM: 1, Code.WITHDRAW: -1})
    shown["paid_fen"] = _signed(spent, {Code.PAY: 1, Code.PAYMENT_RETURNED: -1})
    shown["left_fen"] = sum(row["amount_fen"] * (1 if row["credit"] == room else -1) for row in moves)

    def work(found: list[Node]) -> int | None:
        column = name if name in ITEM_FIELDS else "deduction_fen"
        under = (
            [item(reader, row, at, column, deep=len(kept) <= DEEP) for at, row in kept] if name != "paid_fen" else []
        )
        found += [*under, *act_leaves(reader, steps(reader, "clearing", identity))]
        found += transfer_leaves(reader, moves if name not in ITEM_FIELDS else [])
        totals = [node.facts["recomputed"] for node in under]
        if any(value is None for value in totals):
            return None
        summed = tree.total("sum_of_items", totals)
        if name in ITEM_FIELDS:
            found.insert(0, summed)
            return int(summed.facts["result"])
        paid = _paid(reader, identity, found)
        approved = summed.facts["result"] if last(reader, "clearing", identity, "approve") is not None else 0
        if name == "paid_fen":
            found.insert(0, tree.total("sum_of_payments", paid))
            return sum(paid)
        if name == "approved_fen":
            found.insert(0, summed)
            return int(approved)
        offsets = _offsets(reader, identity, found)
        text = f"{approved} - {sum(paid)} - {sum(offsets)}"
        found.insert(0, tree.arithmetic("left_to_pay", text, approved - sum(paid) - sum(offsets)))
        return int(approved - sum(paid) - sum(offsets))

    return reckon(f"{identity}#{name}", shown[name], work)


def _signed(rows: Sequence[Row], signs: Mapping[Code, int]) -> int:
    return sum(row["amount_fen"] * signs[Code(row["code"])] for row in rows if row["code"] in signs)


def _paid(reader: Reader, identity: str, found: list[Node]) -> list[int]:
    """The batch's payments and, below zero, those the bank sent back."""
    query = select(payments).where(payments.c.batch == identity).order_by(payments.c.seq)
    rows = list(reader.tx.execute(query).mappings())
    found += reader.records(payments, rows, PAID)
    return [row["amount_fen"] * (1 if row["returns"] is None else -1) for row in rows]


def _offsets(reader: Reader, identity: str, found: list[Node]) -> list[int]:
    """Clawbacks that this batch's payee settled by being paid so much less."""
    room = clearing_room(identity)
    amounts = []
    for move in room_before(reader, room, None):
        if move["code"] == Code.RECOVER.value and move["cites"]:
            opened, taken = (last(reader, "clawback", move["cites"], name) for name in ("open", "offset"))
            found += act_leaves(reader, [opened, taken])
            amounts.append(int(told(opened)["amount_fen"]) if told(taken).get("reference") == identity else 0)
    return amounts


# --- payments -----------------------------------------------------------------------------------------------------


def payment_row(reader: Reader, identity: str) -> Row | None:
    return reader.tx.execute(select(payments).where(payments.c.id == identity)).mappings().first()


def payment(reader: Reader, row: Row) -> Node:
    """What the treasury paid of a batch: what was asked for, within what was left; of one sent back, what was paid."""

    def work(found: list[Node]) -> int | None:
        found.append(reader.record(payments, row, PAID))
        moves = [posted(reader, f"{row['id']}:{index}") for index in range(2)]
        found += transfer_leaves(reader, moves)
        if row["returns"] is not None:
            paid = payment_row(reader, row["returns"])
            asked = [each for each in steps(reader, "clearing", row["batch"]) if each["act"] == "payment_returned"]
            mine = [each for each in asked if told(each).get("payment") == row["returns"]]
            found += act_leaves(reader, mine)
            if paid is None:
                return None
            found.append(reader.record(payments, paid, PAID))
            return int(paid["amount_fen"]) if mine else None
        asked = [each for each in steps(reader, "clearing", row["batch"]) if each["act"] in ("pay", "pay_part")]
        mine = [each for each in asked if told(each).get("reference") == row["reference"]]
        found += act_leaves(reader, mine)
        if not mine or moves[0] is None:
            return None
        room = clearing_room(row["batch"])
        before = room_before(reader, room, moves[0]["seq"])
        found += transfer_leaves(reader, before)
        left = sum(each["amount_fen"] * (1 if each["credit"] == room else -1) for each in before)
        bound = tree.least("within_left", {"asked": int(told(mine[0])["amount_fen"]), "left": left})
        found.insert(0, bound)
        return int(bound.facts["result"])

    return reckon(row["id"], row["amount_fen"], work)


# --- clawbacks ----------------------------------------------------------------------------------------------------


def clawback_steps(reader: Reader, identity: str) -> list[Row]:
    return steps(reader, "clawback", identity) if identity.startswith("clawback:") else []


def clawback(reader: Reader, identity: str) -> Node:
    """What has to come back: what batches took up beyond what is due, less what other cases speak for; of a grant, all."""
    story = clawback_steps(reader, identity)
    body = told(story[0])

    def work(found: list[Node]) -> int | None:
        found += act_leaves(reader, story)
        moves = select(transfers).where(transfers.c.cites == identity).order_by(transfers.c.seq)
        found += reader.records(transfers, list(reader.tx.execute(moves).mappings()), TRANSFER)
        for kind, name, of in (
            ("project", "assess", body.get("project")),
            ("application", "approve", body.get("application")),
        ):
            if of is not None:
                granted = last(reader, kind, of, name, story[0]["seq"])
                found += act_leaves(reader, [granted])
                return int(told(granted)["amount_fen"])
        return _excess(reader, story[0], body, found)

    return reckon(identity, int(body.get("amount_fen", 0)), work)


def _excess(reader: Reader, opened: Row, body: Mapping[str, Any], found: list[Node]) -> int:
    job, key = body["job"], (body["party"], body["year"])
    items = cleared_before(reader, job, key, opened["seq"])
    spoken = cases_before(reader, job, key, opened["seq"], (*RECOVERED, *LET_GO))
    found += reader.records(clearing_items, items, ITEM)
    found += act_leaves(reader, spoken)
    cleared = tree.total("cleared_so_far", [row["deduction_fen"] for row in items])
    settled = tree.total("spoken_for", [told(row)["amount_fen"] for row in spoken])
    taken, less = int(cleared.facts["result"]), int(settled.facts["result"])

    def come_to(rows: Sequence[Row]) -> int:
        return max(0, taken - max(owed_fen(rows), 0) - less)

    rows = until(subsidies_of(reader, job, key), opened["at_ms"], come_to, int(body["amount_fen"]))
    due = owed_fen(rows)
    found[:0] = [
        tree.arithmetic("clawback", f"max(0, {taken} - max({due}, 0) - {less})", come_to(rows)),
        cleared,
        tree.total("due_by_the_books", [owed_fen([row]) for row in rows]),
        settled,
    ]
    found += transfer_leaves(reader, rows)
    return come_to(rows)
