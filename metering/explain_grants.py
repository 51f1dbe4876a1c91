"""Explain grants: the server subsidy (clause 2.1.2), the model voucher (clause 2.4.7), and the choice of the best support
(clause 4.4), each from the papers on record when it was decided. A second derivation beside metering/support.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from metering import explain_papers as papers
from metering import explain_tree as tree
from metering.exclusion import CLAUSE, OURS
from metering.explain_clearing import gone_back, refunds_of
from metering.explain_past import (
    Row,
    act_leaves,
    last,
    posted,
    reckon,
    room_before,
    steps,
    told,
    transfer_leaves,
    until,
)
from metering.explain_records import Reader, ruled
from metering.explain_records import clause as clause_node
from metering.explain_settlement import latest, story_of
from metering.explain_tree import Node
from metering.ledger import Programme, project_room
from metering.parameters import Policy
from metering.programme_schema import contracts, invoice_jobs, invoices, other_supports, states
from metering.schema import platform
from scheduler.clock import from_ms, to_ms

SERVER, MODEL = Programme.SERVER_SUBSIDY.value, Programme.MODEL_VOUCHER.value
SERVER_RATE, SERVER_CAP = "server_subsidy.rate_ceiling", "server_subsidy.project_cap"
MODEL_RATE, MODEL_CAP, MODEL_POOL = "model_voucher.rate", "model_voucher.firm_cap", "model_voucher.pool"
SUPPORT = ("ours_fen", "best_other_fen", "given_fen")
OTHER = ("id", "firm", "project", "instrument", "amount_fen", "cumulative", "evidence", "recorded_at_ms", "recorded_by")


def current_policy(reader: Reader) -> Policy | None:
    """The policy this ledger was opened under."""
    identity = reader.tx.execute(select(platform.c.value).where(platform.c.key == "policy")).scalar()
    return reader.policy(str(identity)) if identity is not None else None


def _ruled(policy: Policy, keys: Sequence[str], at: datetime) -> list[Node]:
    return [node for key in keys for node in ruled(policy, key, policy.parameters[key].row_at(at))]


def _available(rows: Sequence[Row], room: str) -> int:
    """What a room that holds nothing pending gives after these transfers."""
    return sum(row["amount_fen"] * (1 if row["credit"] == room else -1) for row in rows)


# --- the server subsidy -------------------------------------------------------------------------------------------


def project_steps(reader: Reader, identity: str) -> list[Row]:
    return steps(reader, "project", identity.removeprefix("project:")) if identity.startswith("project:") else []


@dataclass(frozen=True)
class Assessed:
    """When a project was assessed, under which policy, and what was found then; at `now` and empty for one that was not."""

    at: datetime
    row: Row | None
    body: dict[str, Any]

    def step(self, contract: str, name: str) -> int | None:
        """A number of the computation sheet kept with the assessment."""
        sheet = self.body.get("computation", [])
        starts = [at for at, each in enumerate(sheet) if each["step"] == "contract_amount"]
        for start in starts:
            if sheet[start]["source"] == f"contract:{contract}":
                return next((int(each["value"]) for each in sheet[start : start + 9] if each["step"] == name), None)
        return None


def project(reader: Reader, identity: str, now: datetime, shown: int | None = None) -> Node:
    """What a server project is granted: per contract at most the rate of the domestic part bought, within the project's room.

    shown: the document's number for a project not assessed yet, which changes with its papers.
    """
    name = identity.removeprefix("project:")
    story = project_steps(reader, identity)
    granted = last(reader, "project", name, "assess")
    body = told(granted)
    when = Assessed(from_ms(granted["at_ms"]) if granted is not None else now, granted, body)
    opened = last(reader, "project", name, "draft")

    def work(found: list[Node]) -> int | None:
        found += act_leaves(reader, story)
        policy = current_policy(reader)
        if policy is None or opened is None:
            return None
        found[:0] = [
            *_ruled(policy, [SERVER_RATE], when.at),
            *_ruled(policy, [SERVER_CAP], from_ms(opened["at_ms"])),
        ]
        move = posted(reader, f"project:{name}:assess:0")
        room = project_room(name)
        before = room_before(reader, room, move["seq"] if move is not None else None)
        found += transfer_leaves(reader, [*before, *([move] if move is not None else [])])
        rate, left = int(policy.value_at(SERVER_RATE, when.at) or 0), _available(before, room)
        amounts: list[int] = []
        provider = told(opened)["provider"]
        for row in papers.project_contracts(reader, name, provider, SERVER):
            tied = row["recorded_at_ms"] == to_ms(when.at) and when.step(row["id"], "amount") is None
            if when.row is not None and (row["recorded_at_ms"] > to_ms(when.at) or tied):
                continue
            amounts.append(_bought(reader, row, when, rate, left - sum(amounts), found))
        summed = tree.total("sum_of_contracts", amounts)
        found.insert(0, summed)
        found += _beside(reader, provider, name, int(summed.facts["result"]))
        return int(summed.facts["result"])

    value = int(body.get("amount_fen", 0)) if granted is not None else int(shown or 0)
    return reckon(f"{identity}#amount_fen", value, work)


def _bought(reader: Reader, row: Row, when: Assessed, rate_bp: int, room: int, found: list[Node]) -> int:
    """One contract's grant, with its arithmetic and papers."""
    known = papers.papers_of(reader, row["id"])
    bills, paid = [each for each in known if "number" in each], [each for each in known if "reference" in each]
    if when.row is not None:
        bills = until(bills, when.row["at_ms"], papers.invoiced_fen, when.step(row["id"], "invoiced"))
        paid = until(paid, when.row["at_ms"], papers.paid_fen, when.step(row["id"], "paid"))
    total, domestic = papers.domestic_part(row)
    invoiced = tree.total("sum_of_invoices", [each["amount_fen"] for each in bills])
    slips = tree.total("sum_of_slips", [each["amount_fen"] for each in paid])
    bounds = {"invoiced": int(invoiced.facts["result"]), "paid": int(slips.facts["result"]), "contract": total}
    bought = tree.least("bought", bounds)
    least = int(bought.facts["result"])
    base = domestic * least // total if total else 0
    ceiling = tree.ceiling(base, rate_bp)
    amount = tree.least("granted", {"ceiling": int(ceiling.facts["result"]), "project_room": room})
    text = f"floor({domestic} × {least} / {total})" if total else "0"
    found += [amount, ceiling, tree.arithmetic("domestic_bought", text, base), bought, invoiced, slips]
    found += [papers.contract_leaf(reader, row), *papers.paper_leaves(reader, [*bills, *paid])]
    return int(amount.facts["result"])


# --- the model voucher --------------------------------------------------------------------------------------------


def application_steps(reader: Reader, identity: str) -> list[Row]:
    name = identity.removeprefix("application:")
    return steps(reader, "application", name) if identity.startswith("application:") else []


def application_fields(reader: Reader, identity: str) -> tuple[str, ...]:
    """What an application shows: amount_fen only once it was granted."""
    granted = last(reader, "application", identity.removeprefix("application:"), "approve")
    return ("amount_fen", "completed_fen") if granted is not None else ("completed_fen",)


def application(reader: Reader, identity: str, name: str) -> Node:
    """amount_fen: half of what was completed, of an appliance of its model part, within both rooms. completed_fen: now."""
    key = identity.removeprefix("application:")
    asked = last(reader, "application", key, "submit")
    contract = papers.contract_row(reader, str(told(asked).get("contract")))
    known = papers.papers_of(reader, contract["id"]) if contract is not None else []
    granted = last(reader, "application", key, "approve")
    completed = papers.completed_fen(known)

    def work(found: list[Node]) -> int | None:
        found += act_leaves(reader, application_steps(reader, identity))
        if contract is None:
            return None
        found.append(papers.contract_leaf(reader, contract))
        if name == "completed_fen" or granted is None:
            found[:0] = _completed(known)
            found += papers.paper_leaves(reader, known)
            return completed
        return _half(reader, key, contract, known, told(asked), granted, found)

    shown = completed if name == "completed_fen" else int(told(granted).get("amount_fen", 0))
    return reckon(f"{identity}#{name}", shown, work)


def _completed(rows: Sequence[Row]) -> list[Node]:
    """Per invoice the lesser of what it comes to and what was paid of it, and their sum."""
    parts = []
    for bill in (row for row in rows if "number" in row and row["corrects"] is None):
        mine = [row for row in rows if row.get("corrects") == bill["number"] or row.get("invoice") == bill["number"]]
        net = int(bill["amount_fen"]) + papers.invoiced_fen(mine)
        parts.append(tree.least("completed_of_invoice", {"invoiced": net, "paid": papers.paid_fen(mine)}))
    return [tree.total("completed", [int(part.facts["result"]) for part in parts]), *parts]


def _half(
    reader: Reader,
    key: str,
    contract: Row,
    known: Sequence[Row],
    asked: dict[str, Any],
    granted: Row,
    found: list[Node],
) -> int | None:
    policy, at = current_policy(reader), from_ms(granted["at_ms"])
    sheet = {step["step"]: int(step["value"]) for step in told(granted)["computation"]}
    mine, pool = (posted(reader, f"application:{key}:approve:{index}") for index in range(2))
    if policy is None or mine is None or pool is None:
        return None
    rows = until(known, granted["at_ms"], papers.completed_fen, sheet.get("completed"))
    completed, whole = papers.completed_fen(rows), int(contract["amount_fen"])
    part = whole if asked["model_part_fen"] is None else int(asked["model_part_fen"])
    base = part * min(completed, whole) // whole if whole else 0
    rate = int(policy.value_at(MODEL_RATE, at) or 0)
    ceiling = tree.ceiling(base, rate)
    rooms = {move["debit"]: room_before(reader, move["debit"], move["seq"]) for move in (mine, pool)}
    bounds = {
        "ceiling": int(ceiling.facts["result"]),
        "firm_room": _available(rooms[mine["debit"]], mine["debit"]),
        "pool_room": _available(rooms[pool["debit"]], pool["debit"]),
    }
    amount = tree.least("granted", bounds)
    text = f"floor({part} × {min(completed, whole)} / {whole})" if whole else "0"
    found[:0] = [
        *_ruled(policy, [MODEL_RATE, MODEL_CAP, MODEL_POOL], at),
        amount,
        ceiling,
        tree.arithmetic("model_part_completed", text, base),
        *_completed(rows),
    ]
    found += papers.paper_leaves(reader, rows)
    # Of the pool, what it was given; what others drew of it is theirs.
    opening = [row for row in rooms[pool["debit"]] if row["credit"] == pool["debit"] and row["code"] == "appropriate"]
    found += transfer_leaves(reader, [*rooms[mine["debit"]], *opening, mine, pool])
    found += _beside(reader, asked["firm"], contract["id"], int(amount.facts["result"]))
    return int(amount.facts["result"])


# --- ids ----------------------------------------------------------------------------------------------------------


def granted(reader: Reader, identity: str) -> bool:
    """Whether the project was assessed."""
    return last(reader, "project", identity.removeprefix("project:"), "assess") is not None


def known(reader: Reader, firm: str | None) -> Iterator[str]:
    """Ids of the newest grants and supports that this firm (None: anybody) may see."""
    newest = select(states.c.kind, states.c.subject).where(states.c.kind.in_(("project", "application")))
    for row in reader.tx.execute(newest.order_by(states.c.act_seq.desc()).limit(200)):
        if firm is None or (row.kind == "application" and _asked_by(reader, row.subject) == firm):
            yield f"{row.kind}:{row.subject}"
    query = select(other_supports).order_by(other_supports.c.seq.desc()).limit(200)
    for each in reader.tx.execute(query).mappings():
        if firm in (None, each["firm"]):
            yield f"support:{each['firm']}:{each['project']}"
            yield each["id"]


def _asked_by(reader: Reader, application: str) -> Any:
    return told(last(reader, "application", application, "submit")).get("firm")


# --- the best one -------------------------------------------------------------------------------------------------


def support_rows(reader: Reader, firm: str, project: str) -> list[Row]:
    """Everything on record about support of a project from elsewhere, in order."""
    query = select(other_supports).where(other_supports.c.firm == firm, other_supports.c.project == project)
    return list(reader.tx.execute(query.order_by(other_supports.c.seq)).mappings())


def other_row(reader: Reader, identity: str) -> Row | None:
    return reader.tx.execute(select(other_supports).where(other_supports.c.id == identity)).mappings().first()


def other(reader: Reader, row: Row) -> Node:
    """What another instrument gives, as it was recorded, and the choice it stands in."""
    rows = support_rows(reader, row["firm"], row["project"])
    leaf = reader.record(other_supports, row, OTHER)
    best = _best(rows)
    return tree.amount(row["id"], row["amount_fen"], row["amount_fen"], [leaf, *best[1], *_leaves(reader, rows)])


def support(reader: Reader, firm: str, project: str, name: str, shown: int) -> Node:
    """Ours against the best of the others (clause 4.4); given_fen: the greater of the two, the only one that is paid."""

    def work(found: list[Node]) -> int | None:
        rows = support_rows(reader, firm, project)
        best, nodes = _best(rows)
        ours, ours_nodes = _ours(reader, firm, project)
        found += [*nodes, *ours_nodes, *_leaves(reader, rows)]
        policy = current_policy(reader)
        found[:0] = [clause_node(policy, CLAUSE)] if policy is not None else []
        if name != "given_fen":
            return ours if name == "ours_fen" else best
        found.insert(0, tree.greatest("best_support", {OURS: ours, "other": best}))
        return max(ours, best)

    return reckon(f"support:{firm}:{project}#{name}", shown, work)


def _best(rows: Sequence[Row]) -> tuple[int, list[Node]]:
    """The best exclusive support: of each instrument the latest record counts."""
    newest = {row["instrument"]: row for row in rows}
    exclusive = {name: int(row["amount_fen"]) for name, row in newest.items() if not row["cumulative"]}
    if not exclusive:
        return 0, []
    return max(exclusive.values()), [tree.greatest("best_other", exclusive)]


def _leaves(reader: Reader, rows: Sequence[Row]) -> list[Node]:
    return reader.records(other_supports, rows, OTHER)


def _beside(reader: Reader, firm: str, project: str, ours: int) -> list[Node]:
    """The choice where another support of the project is on record: both amounts, and their records."""
    rows = support_rows(reader, firm, project)
    best, nodes = _best(rows)
    if not rows:
        return []
    return [tree.greatest("best_support", {OURS: ours, "other": best}), *nodes, *_leaves(reader, rows)]


def _ours(reader: Reader, firm: str, project: str) -> tuple[int, list[Node]]:
    """What the compute voucher gives the project: of every job its contracts' invoices bill, the deduction less refunds."""
    query = (
        select(invoice_jobs)
        .join(invoices, invoices.c.number == invoice_jobs.c.invoice)
        .join(contracts, contracts.c.id == invoices.c.contract)
        .where(contracts.c.buyer == firm, (contracts.c.id == project) | (contracts.c.project == project))
        .order_by(invoice_jobs.c.seq)
    )
    rows = list(reader.tx.execute(query).mappings())
    amounts, under = [], []
    for job in dict.fromkeys(row["job"] for row in rows):
        for settled in latest(reader, job=job):
            story = story_of(reader, settled)
            parts = gone_back(story, refunds_of(reader, job))
            amounts.append(sum(part.billed.deduction_fen - part.voucher_fen for part in parts))
            under.append(story.total("deduction_fen", deep=False))
    summed = tree.total("sum_of_jobs", amounts)
    return int(summed.facts["result"]), [summed, *under, *reader.records(invoice_jobs, rows, ("invoice", "job"))]
