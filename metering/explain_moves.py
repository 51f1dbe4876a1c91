"""Explain moves: what a transfer of the programmes moved, from the record that made it: a refund, a slip, a batch, a grant, a
clawback, a room's cap. What moves between rooms is metering/explain_rooms.py, draws and fees are metering/explain_books.py."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select

from metering import explain_rooms as rooms
from metering import explain_tree as tree
from metering.explain_clearing import (
    clawback,
    gone_back,
    item,
    item_rows,
    payment,
    payment_row,
    refund_leaves,
    refunds_of,
)
from metering.explain_grants import MODEL_CAP, MODEL_POOL, SERVER_CAP, application, current_policy, project
from metering.explain_papers import contract_leaf, contract_row, slip_leaves, slip_row
from metering.explain_past import Row, act_leaves, last, told, transfer_leaves
from metering.explain_records import Reader, ruled
from metering.explain_settlement import DEEP, read_story
from metering.explain_tree import Node
from metering.ledger import (
    Code,
    contract_room,
    firm_room,
    pool_room,
    provider_revenue,
    treasury_committed,
)
from metering.refund import Returned
from metering.schema import transfers
from metering.year import year_start
from scheduler.clock import from_ms

Found = tuple[int | None, list[Node]]
REFUNDS = (Code.REFUND_DRAW.value, Code.REFUND_FEE.value, Code.REFUND_SUBSIDY.value)


def moved(reader: Reader, row: Row) -> Found | None:
    """What the transfer's amount comes to again, and from what; None for a code that is explained elsewhere."""
    by_code: dict[str, Callable[[Reader, Row], Found]] = {
        **dict.fromkeys(REFUNDS, _refunded),
        Code.FIRM_PAYS.value: _slip,
        Code.OPEN_ROOM.value: _room,
        Code.APPROPRIATE.value: _room,
        Code.LAPSE.value: rooms.lapse,
        Code.TRANCHE.value: rooms.tranche,
        Code.TRANCHE_BACK.value: rooms.tranche_back,
        Code.LINK.value: rooms.link,
        Code.SHARE.value: rooms.share,
        **dict.fromkeys((Code.PAY.value, Code.PAYMENT_RETURNED.value), _payment),
        **dict.fromkeys((Code.APPROVE.value, Code.WITHDRAW.value, Code.GRANT.value), _case),
        **dict.fromkeys((Code.CLAW_BACK.value, Code.RECOVER.value), _case),
    }
    explained = by_code.get(row["code"])
    if explained is None:
        return None
    try:
        return explained(reader, row)
    except (LookupError, ValueError, TypeError, AttributeError, AssertionError):
        return None, [tree.note("explain.not_recomputed")]


def _of(node: Node) -> Found:
    """The amount of another number that this transfer carries out."""
    value = node.facts["recomputed"]
    return (int(value) if value is not None else None), [node]


# --- refunds and slips --------------------------------------------------------------------------------------------


def _refunded(reader: Reader, row: Row) -> Found:
    """What all the job's refunds so far return along this pair, less what was moved along it before."""
    number = int(row["id"].removeprefix(f"refund:{row['settlement']}:").split(":")[0])
    story = read_story(reader, row["settlement"])
    if story is None:
        return rooms.unknown()
    rows = refunds_of(reader, row["job"])[:number]
    outward = "spent:" if row["code"] == Code.REFUND_DRAW.value else "provider:"
    ends = (row["debit"], row["credit"])
    pair = ends if ends[0].startswith(outward) else (ends[1], ends[0])
    terms = [_share(part, row["code"], story.row["firm"], pair) for part in gone_back(story, rows)]
    query = select(transfers).where(
        transfers.c.job == row["job"], transfers.c.code == row["code"], transfers.c.seq < row["seq"]
    )
    earlier = [
        each
        for each in reader.tx.execute(query.order_by(transfers.c.seq)).mappings()
        if {each["debit"], each["credit"]} == set(pair)
    ]
    before = sum(each["amount_fen"] * (1 if each["debit"] == pair[0] else -1) for each in earlier)
    target = tree.total("sum_of_classes", terms)
    due = tree.difference("not_posted_yet", int(target.facts["result"]), before)
    totals = [story.total(name, deep=False) for name in ("fee_fen", "deduction_fen")]
    leaves = [*refund_leaves(reader, rows), *transfer_leaves(reader, earlier)]
    return abs(int(due.facts["result"])), [due, target, *totals, *leaves]


def _share(part: Returned, code: str, firm: str, pair: tuple[str, str]) -> int:
    """What of a class's refund goes along a pair of accounts."""
    year, revenue = part.billed.year, provider_revenue(part.billed.provider)
    if code == Code.REFUND_DRAW.value:
        mine = pair[1] in (firm_room(firm, year), pool_room(year)) or pair[1].startswith(contract_room(""))
        return part.voucher_fen if mine else 0
    if pair[0] != revenue:
        return 0
    if code == Code.REFUND_FEE.value:
        return part.firm_fen
    return part.voucher_fen if pair[1] == treasury_committed(year) else 0


def _slip(reader: Reader, row: Row) -> Found:
    found = slip_row(reader, row["id"].removeprefix("slip:"))
    return rooms.unknown() if found is None else (int(found["amount_fen"]), slip_leaves(reader, [found]))


# --- rooms --------------------------------------------------------------------------------------------------------


def _room(reader: Reader, row: Row) -> Found:
    """A room's size: the cap in force when it was opened, a contract's support cap, or a batch's approved sum."""
    parts = row["id"].split(":")
    if row["cites"] and row["id"] == f"{row['cites']}:room":
        return _of(_approved(reader, row["cites"]))
    if parts[0] == "open_room" and parts[1] == "contract":
        agreed = contract_row(reader, row["id"].removeprefix("open_room:contract:"))
        return rooms.unknown() if agreed is None else (int(agreed["support_cap_fen"]), [contract_leaf(reader, agreed)])
    key, at = MODEL_CAP, from_ms(row["effective_at_ms"])
    if parts[0] == "open_room" and parts[1] == "project":
        key = SERVER_CAP
        opened = last(reader, "project", row["id"].removeprefix("open_room:project:"), "draft")
        policy = reader.policy(str(told(opened).get("policy")))
    else:
        policy = reader.policy(parts[-3])
        if parts[0] == "appropriate" and policy is not None:
            key, at = MODEL_POOL, year_start(int(parts[-1]), policy.zone)
    policy = policy or current_policy(reader)
    if policy is None:
        return rooms.unknown()
    dated = policy.parameters[key].row_at(at)
    return rooms.unknown() if dated is None else (int(dated.value), ruled(policy, key, dated))


# --- batches, grants, clawbacks -----------------------------------------------------------------------------------


def _payment(reader: Reader, row: Row) -> Found:
    """A part of a payment: of a batch its record's amount, of a grant what was granted."""
    found = payment_row(reader, row["id"].rpartition(":")[0])
    return _of(payment(reader, found)) if found is not None else _case(reader, row)


def _case(reader: Reader, row: Row) -> Found:
    """What was approved, granted, withdrawn or clawed back is the amount of the case that the transfer cites."""
    cited = str(row["cites"])
    if cited.startswith("clawback:"):
        return _of(clawback(reader, cited))
    if row["id"].startswith("application:"):
        return _of(application(reader, f"application:{cited}", "amount_fen"))
    if row["id"].startswith("project:"):
        return _of(project(reader, f"project:{cited}", from_ms(row["effective_at_ms"])))
    if row["id"] == f"{cited}:approve":
        return _of(_approved(reader, cited))
    settlement = row["id"].removeprefix(f"{cited}:withdraw:").rpartition(":")[0]
    places = enumerate(item_rows(reader, cited), start=1)
    found = next(((at, each) for at, each in places if each["settlement"] == settlement), None)
    return rooms.unknown() if found is None else _of(item(reader, found[1], found[0], "deduction_fen"))


def _approved(reader: Reader, identity: str) -> Node:
    """The sum of what a batch had when it was approved."""
    rows = list(enumerate(item_rows(reader, identity), start=1))
    under = [item(reader, row, at, "deduction_fen", deep=len(rows) <= DEEP) for at, row in rows]
    totals = [node.facts["recomputed"] for node in under]
    shown = sum(row["deduction_fen"] for _, row in rows)
    approved = act_leaves(reader, [last(reader, "clearing", identity, "approve")])
    if any(value is None for value in totals):
        return tree.amount(f"{identity}#approved_fen", shown, None, [tree.note("explain.not_recomputed"), *under])
    summed = tree.total("sum_of_items", totals)
    return tree.amount(f"{identity}#approved_fen", shown, int(summed.facts["result"]), [summed, *under, *approved])
