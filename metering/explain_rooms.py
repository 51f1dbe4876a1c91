"""Explain rooms: what moved between rooms before anything was drawn: a tranche and its return, a cap that linked firms share,
and what lapsed. Each from the transfers before it, as metering/tranche.py, metering/linking.py and metering/rooms.py moved it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import combinations

from sqlalchemy import select

from metering import explain_tree as tree
from metering.explain_grants import current_policy
from metering.explain_past import MOVED, Row, act_leaves, last, posted, room_before, transfer_leaves
from metering.explain_records import Reader, ruled
from metering.explain_tree import Node
from metering.facts import Interval
from metering.ledger import (
    PROGRAMME,
    Phase,
    firm_room,
    firm_spent,
    link_source,
    pool_room,
    shared_room,
)
from metering.linking import KIND, groups_at, pair
from metering.parameters import Policy
from metering.parameters import Row as Dated
from metering.parameters.policy import FIRM_CAP, TRANCHE_IDLE, TRANCHE_SIZE
from metering.schema import facts, tranches
from metering.tranche import PREFIX
from metering.year import year_start
from scheduler.clock import from_ms, to_ms

Found = tuple[int | None, list[Node]]
ISSUED = ("id", "firm", "year", "number", "size_fen", "amount_fen", "policy", "issued_at_ms", "issued_by")


def unknown() -> Found:
    """Nothing here recomputes the amount."""
    return None, [tree.note("explain.not_recomputed")]


# --- tranches -----------------------------------------------------------------------------------------------------


def tranche(reader: Reader, row: Row) -> Found:
    """Clause 2.1.1, claim mode tranche: min(size, pool room, firm room left), the firm's with what it shares.

    Of the pool only its sum is shown: its transfers are other firms' too.
    """
    query = select(tranches).where(tranches.c.id == row["id"].removeprefix(PREFIX))
    record = reader.tx.execute(query).mappings().first()
    policy = reader.policy(record["policy"]) if record is not None else None
    if record is None or policy is None:
        return unknown()
    firm, year, at = record["firm"], record["year"], from_ms(row["effective_at_ms"])
    leaf = reader.record(tranches, record, ISSUED)
    size = _answered(policy, TRANCHE_SIZE, at)
    if size is None:
        return None, [tree.note("explain.not_recomputed"), leaf]
    pool = _left(room_before(reader, pool_room(year), row["seq"]), pool_room(year))
    own, mine = _own(reader, row, firm, year)
    bounds = {"size": int(size.value), "pool": int(pool.facts["result"])}
    bounds["firm"] = sum(int(each.facts["result"]) for each in own)
    least = tree.least("tranche", bounds)
    children = [least, *ruled(policy, TRANCHE_SIZE, size), pool, *own, leaf, *transfer_leaves(reader, mine)]
    return int(least.facts["result"]), children


def _own(reader: Reader, row: Row, firm: str, year: int) -> tuple[list[Node], list[Row]]:
    """What the firm's own room of the year gives before this transfer, and the one it shares; with their transfers."""
    rooms = [firm_room(firm, year)]
    for groups in _groups(reader, row, year):
        rooms += [shared_room(subject, year) for subject, members in groups.items() if firm in members]
        break
    rows = [room_before(reader, room, row["seq"]) for room in rooms]
    return [_left(each, room) for each, room in zip(rows, rooms, strict=True)], [one for each in rows for one in each]


def tranche_back(reader: Reader, row: Row) -> Found:
    """Everything the tranche had left, when it had been idle for too long or its year was closed."""
    room, year = row["debit"], int(row["debit"].rpartition(":")[2])
    rows = room_before(reader, room, row["seq"])
    left = _left(rows, room)
    closed = last(reader, "year", f"{PROGRAMME}:{year}", "close")
    policy = current_policy(reader)
    why: list[Node] = []
    if closed is not None and closed["at_ms"] <= row["effective_at_ms"]:
        why = act_leaves(reader, [closed])
    elif policy is not None:
        why = ruled(policy, TRANCHE_IDLE, _answered(policy, TRANCHE_IDLE, from_ms(row["effective_at_ms"])))
    return int(left.facts["result"]), [left, *why, *transfer_leaves(reader, rows)]


def _answered(policy: Policy, key: str, at: datetime) -> Dated | None:
    """The row that `Policy.answer_at` reads."""
    parameter = policy.parameters.get(key)
    begun = [row for row in parameter.rows if row.start <= at] if parameter is not None else []
    return begun[-1] if begun else None


# --- linked firms -------------------------------------------------------------------------------------------------


def link(reader: Reader, row: Row) -> Found:
    """Clause 2.1.1, cap subject linked_firms: caps beyond the first are given up, the rest is shared; and back again."""
    year = int(row["debit"].rpartition(":")[2])
    if row["credit"].startswith("capsrc:"):
        return _given_up(reader, row, year)
    if not row["debit"].startswith(("capsrc:", "room:linked:")):
        rows = room_before(reader, row["debit"], row["seq"])
        left = _left(rows, row["debit"])
        return int(left.facts["result"]), [left, *transfer_leaves(reader, rows)]
    return _parted(reader, row, year)


def _given_up(reader: Reader, row: Row, year: int) -> Found:
    """min(what the room has left, caps of all members less one cap less what was given up before)."""
    subject = row["credit"].removeprefix("capsrc:linked:").removesuffix(f":{PROGRAMME}:{year}")
    policy = current_policy(reader)
    if policy is None:
        return unknown()
    room, source = row["debit"], link_source(subject, year)
    own, gone = room_before(reader, room, row["seq"]), room_before(reader, source, row["seq"])
    left, before = _left(own, room), _left(gone, source)
    found: Found | None = None
    for groups in _groups(reader, row, year):
        members = groups.get(subject, ())
        opened = [each for member in members if (each := _opening(reader, policy, member, year, row)) is not None]
        cap, up = policy.firm_cap_fen[year], int(before.facts["result"])
        caps = cap * len(opened)
        owed = tree.arithmetic("caps_beyond_one", f"max(0, {caps} - {cap}) - {up}", max(0, caps - cap) - up)
        least = tree.least("given_up", {"left": int(left.facts["result"]), "owed": max(0, int(owed.facts["result"]))})
        leaves = [*_cap(policy, year), *_papers(reader, members), *transfer_leaves(reader, [*opened, *own, *gone])]
        tried = int(least.facts["result"]), [least, owed, before, left, *leaves]
        if tried[0] == row["amount_fen"]:
            return tried
        found = found or tried
    return found or unknown()


def _parted(reader: Reader, row: Row, year: int) -> Found:
    """What the member's own cap lacks, less what it drew and holds itself: from the shared room as far as it goes."""
    policy = current_policy(reader)
    member = row["credit"].removeprefix("room:").removesuffix(f":{PROGRAMME}:{year}")
    if policy is None:
        return unknown()
    opening = _opening(reader, policy, member, year, row)
    own, spent = (room_before(reader, name(member, year), row["seq"]) for name in (firm_room, firm_spent))
    mine, used = _left(own, firm_room(member, year)), _used(spent, firm_spent(member, year))
    cap = policy.firm_cap_fen[year] if opening is not None else 0
    drew, has = int(used.facts["result"]), int(mine.facts["result"])
    lacks = tree.arithmetic("cap_lacks", f"{cap} - {drew} - {has}", cap - drew - has)
    children, value = [lacks, used, mine], int(lacks.facts["result"])
    rows = [opening, *own, *spent]
    if row["debit"].startswith("room:linked:"):
        shared = room_before(reader, row["debit"], row["seq"])
        left = _left(shared, row["debit"])
        least = tree.least("within_shared", {"lacks": value, "shared": int(left.facts["result"])})
        children, value, rows = [least, left, *children], int(least.facts["result"]), [*rows, *shared]
    return value, [*children, *_cap(policy, year), *transfer_leaves(reader, rows)]


def share(reader: Reader, row: Row) -> Found:
    """What the firm's own room lacks for the hold or the draw that follows comes from the room it shares."""
    key, _, year = row["id"].rpartition(":share:")
    wanted = posted(reader, f"{key}:{year}:1:firm" if key.startswith("hold:") else f"{key}:draw:{year}:firm")
    if wanted is None:
        return unknown()
    rows = room_before(reader, row["credit"], row["seq"])
    left = _left(rows, row["credit"])
    lacks = tree.difference("lacks", wanted["amount_fen"], int(left.facts["result"]))
    return int(lacks.facts["result"]), [lacks, left, *transfer_leaves(reader, [*rows, wanted])]


def _opening(reader: Reader, policy: Policy, firm: str, year: int, row: Row) -> Row | None:
    """The transfer that opened the firm's room, where that was before."""
    found = posted(reader, f"open_room:{firm}:{policy.id}:{year}")
    return found if found is not None and found["seq"] < row["seq"] else None


def _cap(policy: Policy, year: int) -> list[Node]:
    return ruled(policy, FIRM_CAP, policy.parameters[FIRM_CAP].row_at(year_start(year, policy.zone)))


def _papers(reader: Reader, members: Sequence[str]) -> list[Node]:
    """The facts that join the members."""
    return [leaf for one, other in combinations(members, 2) for leaf in reader.evidence(KIND, pair(one, other))]


def _groups(reader: Reader, row: Row, year: int) -> Iterator[dict[str, tuple[str, ...]]]:
    """The groups of a year as they may have stood at the transfer, the likeliest first.

    Facts carry milliseconds: of those in the transfer's own any first few may have come before it (explain_past.until). And
    rooms follow the links at every sweep, so that groups may be those before the last start or end of a link.
    """
    policy = current_policy(reader)
    if policy is None:
        return
    at_ms = int(row["effective_at_ms"])
    end = year_start(year + 1, policy.zone) - timedelta(milliseconds=1)
    query = select(facts).where(facts.c.subject_kind == KIND, facts.c.recorded_at_ms <= at_ms)
    told = list(reader.tx.execute(query.order_by(facts.c.seq)).mappings())
    sure = sum(1 for each in told if each["recorded_at_ms"] < at_ms)
    instants = {at_ms, *(each[name] for each in told for name in ("from_ms", "to_ms") if each[name] is not None)}
    instants |= {instant - 1 for instant in instants if instant != at_ms}
    for count in range(len(told), sure - 1, -1):
        gone = {each["withdraws_seq"] for each in told[:count]}
        known = [_joined(each) for each in told[:count] if each["seq"] not in gone]
        for instant in sorted((each for each in instants if each <= at_ms), reverse=True):
            yield groups_at(known, from_ms(min(instant, to_ms(end))))


def _joined(row: Row) -> tuple[str, str, Interval]:
    one, _, other = row["subject"].partition("|")
    end = from_ms(row["to_ms"]) if row["to_ms"] is not None else None
    return one, other, Interval(start=from_ms(row["from_ms"]), end=end)


# --- what lapsed --------------------------------------------------------------------------------------------------


def lapse(reader: Reader, row: Row) -> Found:
    """What a room still gave when its year had been closed; of a job, what its settlement brought back to one, net."""
    room, rows = row["debit"], room_before(reader, row["debit"], row["seq"])
    closed = last(reader, "year", ":".join(room.split(":")[-2:]), "close")
    if row["job"] is not None:
        rows = [each for each in rows if (each["job"], each["settlement"]) == (row["job"], row["settlement"])]
        rows = [each for each in rows if each["phase"] in MOVED]
        worked = tree.total("returned_to_closed", [each["amount_fen"] * _sign(each, room) for each in rows])
        value = int(worked.facts["result"])
    else:
        value = int(_left(rows, room).facts["result"])
        came = sum(each["amount_fen"] for each in rows if each["credit"] == room and each["phase"] in MOVED)
        worked = tree.difference("lapsed", came, came - value)
    return value, [worked, *act_leaves(reader, [closed]), *transfer_leaves(reader, rows)]


# --- arithmetic ---------------------------------------------------------------------------------------------------


def _sign(row: Row, room: str) -> int:
    return 1 if row["credit"] == room else -1


def _left(rows: Sequence[Row], room: str) -> Node:
    """What the transfers leave of an account: credits posted, less debits posted and pending (Balance.available)."""
    came = sum(each["amount_fen"] for each in rows if each["credit"] == room and each["phase"] in MOVED)
    went = sum(each["amount_fen"] for each in rows if each["debit"] == room and each["phase"] in MOVED)
    waiting = _waiting(each for each in rows if each["debit"] == room)
    return tree.arithmetic("available", f"{came} - {went} - {waiting}", came - went - waiting)


def _used(rows: Sequence[Row], spent: str) -> Node:
    """What was drawn along a spent account, and what is held for it."""
    came = sum(each["amount_fen"] for each in rows if each["credit"] == spent and each["phase"] in MOVED)
    back = sum(each["amount_fen"] for each in rows if each["debit"] == spent and each["phase"] in MOVED)
    waiting = _waiting(each for each in rows if each["credit"] == spent)
    return tree.arithmetic("drawn_and_held", f"{came} - {back} + {waiting}", came - back + waiting)


def _waiting(rows: Iterator[Row]) -> int:
    held: dict[str, int] = {}
    for row in rows:
        if row["phase"] == Phase.PENDING.value:
            held[row["id"]] = row["amount_fen"]
        elif row["pending_id"] is not None:
            held.pop(row["pending_id"], None)
    return sum(held.values())
