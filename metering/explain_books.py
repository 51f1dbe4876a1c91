"""Explain books: accounts, transfers, holds, prices and net prices, from the records that made them. Reads only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select

from adapters.accelerator import Origin, Source
from adapters.catalog import load_catalog
from metering import benchmark
from metering import explain_tree as tree
from metering.evidence_pools import levels_of_pools
from metering.explain_moves import moved
from metering.explain_records import TRANSFER, Reader, ruled
from metering.explain_records import clause as clause_node
from metering.explain_settlement import Story, read_story
from metering.explain_tree import Node
from metering.facts import holds_at
from metering.ledger import AccountId, Code, Phase, bounded, provider_revenue, spent_of
from metering.offer_evidence import evidence_of
from metering.parameters import OriginRegister, Policy
from metering.parameters.policy import FIRM_CAP, POOL
from metering.schema import accounts, holds, platform, prices, transfers
from metering.standing import eligible_intervals
from metering.year import year_start
from scheduler.clock import to_ms
from scheduler.schema import job_events, pools

COUNTERS = ("debits_posted", "debits_pending", "credits_posted", "credits_pending")
ACCOUNT = ("available", *COUNTERS)
LISTING = ("net_fen_per_device_hour", "price_fen_per_device_hour", "rate_bp")
CAPS = {Code.APPROPRIATE.value: POOL, Code.OPEN_ROOM.value: FIRM_CAP}
BACK = {Code.DRAW: Code.REVERSE_DRAW, Code.FEE: Code.REVERSE_FEE, Code.SUBSIDY: Code.REVERSE_SUBSIDY}
MOVED = (Phase.POSTED.value, Phase.POST.value)


# --- accounts -----------------------------------------------------------------------------------------------------


def account_fields(account: str) -> tuple[str, ...]:
    """What is shown of an account: its counters, and for a room what is available."""
    return ACCOUNT if bounded(AccountId(account)) else COUNTERS


def account(reader: Reader, row: Mapping[Any, Any], name: str) -> Node:
    """A counter of an account, or what a room still gives, replayed from every transfer that touched it."""
    identity = row["id"]
    query = select(transfers).where(or_(transfers.c.debit == identity, transfers.c.credit == identity))
    rows = list(reader.tx.execute(query.order_by(transfers.c.seq)).mappings())
    terms = _terms(rows, identity)
    counted = {each: sum(amount for amount in terms[each]) for each in COUNTERS}
    leaves = reader.records(transfers, rows, (*TRANSFER, "pending_id", "job"))
    if name == "available":
        text = f"{counted['credits_posted']} - {counted['debits_posted']} - {counted['debits_pending']}"
        result = counted["credits_posted"] - counted["debits_posted"] - counted["debits_pending"]
        shown = row["credits_posted"] - row["debits_posted"] - row["debits_pending"]
        worked = [
            tree.arithmetic("available", text, result),
            *(tree.total(each, terms[each]) for each in ("credits_posted", "debits_posted", "debits_pending")),
        ]
        return tree.amount(f"{identity}#{name}", shown, result, [*worked, *_opened(reader, rows, identity), *leaves])
    children = [tree.total(name, terms[name]), *leaves]
    return tree.amount(f"{identity}#{name}", row[name], counted[name], children)


def _terms(rows: Sequence[Mapping[Any, Any]], identity: str) -> dict[str, list[int]]:
    """What each transfer adds to each counter of the account (metering/ledger.py effect), without the zeros."""
    held = {row["id"]: row["amount_fen"] for row in rows if row["phase"] == Phase.PENDING.value}
    found: dict[str, list[int]] = {name: [] for name in COUNTERS}
    for row in rows:
        for side, own in (("debits", row["debit"]), ("credits", row["credit"])):
            if own != identity:
                continue
            posted = row["amount_fen"] if row["phase"] in MOVED else 0
            pending = row["amount_fen"] if row["phase"] == Phase.PENDING.value else -held.get(row["pending_id"], 0)
            if posted:
                found[f"{side}_posted"].append(posted)
            if row["phase"] != Phase.POSTED.value and pending:
                found[f"{side}_pending"].append(pending)
    return found


def _opened(reader: Reader, rows: Sequence[Mapping[Any, Any]], identity: str) -> list[Node]:
    """The parameters that gave the room its size."""
    opening = [row for row in rows if row["code"] in CAPS and row["credit"] == identity]
    return [node for row in opening for node in _cap(reader, row)[1]]


def _cap(reader: Reader, row: Mapping[Any, Any]) -> tuple[int | None, list[Node]]:
    """The parameter behind an appropriation or a room's opening: appropriate:POLICY:YEAR, open_room:FIRM:POLICY:YEAR."""
    parts = row["id"].split(":")
    policy = reader.policy(parts[-2]) if len(parts) >= 3 else None
    key = CAPS[row["code"]]
    if policy is None or not parts[-1].isdecimal() or ":compute_voucher:" not in row["credit"]:
        return None, []
    dated = policy.parameters[key].row_at(year_start(int(parts[-1]), policy.zone))
    return None if dated is None else int(dated.value), ruled(policy, key, dated)


# --- transfers ----------------------------------------------------------------------------------------------------


def transfer(reader: Reader, row: Mapping[Any, Any]) -> Node:
    """A transfer's amount: what its settlement asks for less what was moved before, or the parameter it carries out."""
    record = reader.record(transfers, row, (*TRANSFER, "pending_id", "job", "lease", "settlement", "cites"))
    value, children = _derived(reader, row)
    return tree.amount(row["id"], row["amount_fen"], value, [*children, record])


def _derived(reader: Reader, row: Mapping[Any, Any]) -> tuple[int | None, list[Node]]:
    if row["code"] in CAPS and ":compute_voucher:" in row["credit"]:
        return _cap(reader, row)
    if row["phase"] == Phase.PENDING.value:
        return _held(reader, row)
    if row["phase"] in (Phase.VOID.value, Phase.EXPIRE.value):
        pending = reader.transfer(row["pending_id"])
        return 0, [tree.note("explain.released"), *([pending[1]] if pending else [])]
    found = moved(reader, row)
    if found is not None:
        return found
    if row["code"] == Code.REISSUE.value:  # as much as the draw that follows takes from the same room
        row = {**row, "code": Code.DRAW.value, "debit": row["credit"], "credit": spent_of(row["credit"])}
    code = next((c for c, back in BACK.items() if row["code"] in (c.value, back.value)), None)
    story = read_story(reader, row["settlement"]) if row["settlement"] and code is not None else None
    if story is None or code is None or story.worked is None:
        return None, [tree.note("explain.not_recomputed")]
    return _asked(reader, row, code, story)


def _asked(reader: Reader, row: Mapping[Any, Any], code: Code, story: Story) -> tuple[int | None, list[Node]]:
    """Design §5 rule 5: settle(all so far) less what is posted already; of a hold no more than it holds."""
    assert story.worked is not None
    debit, credit = (row["debit"], row["credit"]) if row["code"] == code.value else (row["credit"], row["debit"])
    year = _year_of(row["id"]) if code is Code.DRAW else None
    numbers = []
    for index, line in enumerate(story.lines[: len(story.worked.items)]):
        taken = story.worked.deductions[index]
        if code is Code.DRAW and story.worked.items[index].year == year:
            numbers.append((index, "deduction_fen", taken))
        elif code is not Code.DRAW and provider_revenue(line["provider"]) == credit:
            if code is Code.FEE:
                numbers.append((index, "payable_fen", story.worked.items[index].fee_fen - taken))
            elif f":{story.worked.items[index].year}:" in debit:
                numbers.append((index, "deduction_fen", taken))
    query = select(transfers).where(transfers.c.job == row["job"], transfers.c.seq < row["seq"])
    query = query.where(transfers.c.phase.in_(MOVED), transfers.c.code.in_((code.value, BACK[code].value)))
    before, earlier = 0, []
    for one in reader.tx.execute(query.order_by(transfers.c.seq)).mappings():
        sign = 1 if one["code"] == code.value else -1
        pair = (one["debit"], one["credit"]) if sign > 0 else (one["credit"], one["debit"])
        same = pair[1] == credit if code is Code.DRAW else pair == (debit, credit)  # of the pool or of a tranche of it
        if same and (year is None or _year_of(one["id"]) == year):
            before += sign * one["amount_fen"]
            earlier.append(one)
    target = tree.total("sum_of_lines", [number for _, _, number in numbers])
    due = tree.difference("not_posted_yet", target.facts["result"], before)
    children = [target, due]
    value = abs(due.facts["result"])
    if row["pending_id"]:
        pending = reader.transfer(row["pending_id"])
        if pending is not None:
            bound = tree.least("within_hold", {"due": max(due.facts["result"], 0), "held": pending[0]["amount_fen"]})
            children += [bound, pending[1]]
            value = bound.facts["result"]
    children += [story.line(index, name) for index, name, _ in numbers]
    return value, [*children, *reader.records(transfers, earlier, TRANSFER)]


def _year_of(identity: str) -> int | None:
    """The year in `…:draw:YEAR:KIND`, `hold:LEASE:YEAR:GENERATION:KIND:post` or `…:reissue:ROOM`."""
    parts = identity.split(":")
    if "reissue" in parts:
        return int(parts[-1]) if parts[-1].isdecimal() else None
    text = parts[-2] if "draw" in parts else parts[-4] if parts[0] == "hold" and len(parts) >= 6 else ""
    return int(text) if text.isdecimal() else None


# --- holds --------------------------------------------------------------------------------------------------------


def hold(reader: Reader, row: Mapping[Any, Any]) -> Node:
    """What a lease holds of a year's rooms: the reservation's amount, or what the generation before left unused."""
    identity = f"hold:{row['lease']}:{row['year']}:{row['generation']}"
    query = select(transfers).where(
        transfers.c.lease == row["lease"], transfers.c.id.startswith(f"{identity}:", autoescape=True)
    )
    found = list(reader.tx.execute(query.order_by(transfers.c.seq)).mappings())
    value, children = _hold_amount(reader, row)
    pending = [one for one in found if one["phase"] == Phase.PENDING.value]
    held = {one["amount_fen"] for one in pending}
    if value is None and len(held) == 1:
        value = held.pop()
    leaves = reader.records(transfers, found, (*TRANSFER, "pending_id"))
    state = tree.note("explain.hold", {"state": row["state"], "expires_at_ms": row["expires_at_ms"]})
    return tree.amount(identity, row["amount_fen"], value, [*children, state, *leaves])


def _hold_amount(reader: Reader, row: Mapping[Any, Any]) -> tuple[int | None, list[Node]]:
    if row["generation"] > 1:
        before = f"hold:{row['lease']}:{row['year']}:{row['generation'] - 1}:firm"
        pending, post = reader.transfer(before), reader.transfer(f"{before}:{Phase.POST.value}")
        if pending is None or post is None:
            return None, []
        left = tree.difference("left_of_hold", pending[0]["amount_fen"], post[0]["amount_fen"])
        return int(left.facts["result"]), [left, pending[1], post[1]]
    query = select(job_events).where(job_events.c.lease == row["lease"], job_events.c.event == "reserved")
    event = reader.tx.execute(query).mappings().first()
    if event is None:
        return None, []
    leaf = reader.record(job_events, event, ("job", "lease", "at_ms", "event", "facts"))
    try:
        value = json.loads(event["facts"])["hold_fen"].get(str(row["year"]))
    except (ValueError, KeyError, AttributeError):
        value = None
    return (int(value) if isinstance(value, int) else None), [leaf]


def _held(reader: Reader, row: Mapping[Any, Any]) -> tuple[int | None, list[Node]]:
    parts = row["id"].split(":")
    if parts[0] != "hold" or len(parts) < 5 or not (parts[-3].isdecimal() and parts[-2].isdecimal()):
        return None, [tree.note("explain.not_recomputed")]
    key = {"lease": row["lease"], "year": int(parts[-3]), "generation": int(parts[-2])}
    return _hold_amount(reader, key)


# --- prices -------------------------------------------------------------------------------------------------------

PRICE = ("pool", "model", "fen_per_device_hour", "from_ms", "recorded_at_ms", "recorded_by")


def price(reader: Reader, pool: Mapping[Any, Any], now: datetime) -> Node:
    """A pool's price per device-hour: the newest of its price records in force at `now`."""
    found = _price_in_force(reader, pool["id"], now)
    shown = pool["price_fen_per_device_hour"]
    if found is None:
        return tree.amount(f"price:{pool['id']}", shown, None, (tree.note("explain.not_recomputed"),), PER_HOUR)
    leaf = reader.record(prices, found, PRICE)
    return tree.amount(f"price:{pool['id']}", shown, found["fen_per_device_hour"], (leaf,), PER_HOUR)


PER_HOUR = "fen_per_device_hour"


def _price_in_force(reader: Reader, pool: str, now: datetime) -> Mapping[Any, Any] | None:
    query = select(prices).where(prices.c.pool == pool, prices.c.from_ms <= to_ms(now))
    return reader.tx.execute(query.order_by(prices.c.from_ms.desc(), prices.c.seq.desc())).mappings().first()


def listing(reader: Reader, pool: Mapping[Any, Any], name: str, register: OriginRegister, now: datetime) -> Node:
    """A listing's number as metering/offer.py publishes it: price less ⌊price × rate⌋ where the voucher applies."""
    identity = f"listing:{pool['id']}#{name}"
    if name == "price_fen_per_device_hour":
        return tree.amount(identity, pool[name], price(reader, pool, now).facts["recomputed"],
                           price(reader, pool, now).children, PER_HOUR)  # fmt: skip
    rate, rests = _listed_rate(reader, pool, register, now)
    if name == "rate_bp":
        return tree.amount(identity, rate, rate, rests, "basis_point")
    found = _price_in_force(reader, pool["id"], now)
    shown = pool["price_fen_per_device_hour"]
    listed = found["fen_per_device_hour"] if found is not None else shown
    off = tree.ceiling(listed, rate)
    net = tree.difference("net_price", listed, off.facts["result"])
    shown_net = shown - shown * rate // 10_000
    return tree.amount(identity, shown_net, net.facts["result"], [net, off, *rests, price(reader, pool, now)], PER_HOUR)


def _listed_rate(
    reader: Reader, pool: Mapping[Any, Any], register: OriginRegister, now: datetime
) -> tuple[int, list[Node]]:
    policy = _current(reader)
    origin, row = register.origin(pool["vendor"], pool["model"], now)
    verdict: dict[str, Any] = {"origin": origin.value, "vendor": pool["vendor"], "model": pool["model"]}
    if row is not None:
        verdict |= {"basis_type": row.basis_type, "basis": row.basis, "determined_by": row.determined_by}
    found = [Node(kind="evidence", title="origin_register", facts={"evidence": verdict})]
    if policy is None:
        return 0, [*found, tree.note("explain.not_recomputed")]
    levels = levels_of_pools(reader.tx, now).get(pool["id"], ())
    shown = evidence_of(pool, levels, policy, register, now)
    found.append(_evidence_leaf(pool, shown))
    if shown["billed_as"] != origin.value:
        origin = Origin(shown["billed_as"])
        found.append(tree.note("explain.evidence_below", {"level": shown["level"], **shown["asked"]}))
    found += _measured_leaf(reader, pool)
    dated = policy.rate_rows(origin)
    papers = holds_at(eligible_intervals(reader.tx, "site", pool["site"]), now)
    found += ruled(policy, dated.key, dated.row_at(now))
    found.append(clause_node(policy, "4.2", reader.evidence("site", pool["site"])))
    if not papers:
        found.append(tree.note("SITE_NOT_ELIGIBLE", {"site": pool["site"]}))
    if not policy.in_force_at(now):
        found.append(tree.note("POLICY_NOT_IN_FORCE"))
    rate = (policy.rate_bp(origin, now) or 0) if papers and policy.in_force_at(now) else 0
    return rate, found


def _evidence_leaf(pool: Mapping[Any, Any], shown: Mapping[str, Any]) -> Node:
    """How well the pool's devices are shown, what is asked for, and what it allows."""
    told = {name: shown[name] for name in ("level", "devices_by_level", "asked", "allows", "billed_as")}
    return Node(kind="evidence", title="evidence_level", facts={"evidence": {"pool": pool["id"], **told}})


def _measured_leaf(reader: Reader, pool: Mapping[Any, Any]) -> list[Node]:
    """What was measured beside the maker's figures; nothing of a pool that was never measured."""
    catalog = load_catalog()
    mine = [one for one in benchmark.latest(reader.tx) if one["pool"] == pool["id"]]
    found = benchmark.measured(mine, catalog).get(pool["id"])
    if found is None:
        return []
    beside = benchmark.beside(catalog.get(pool["model"]), found, whole=pool["source"] == Source.SIMULATED.value)
    return [Node(kind="evidence", title="benchmark", facts={"evidence": beside})]


def _current(reader: Reader) -> Policy | None:
    """The policy this ledger was opened under."""
    identity = reader.tx.execute(select(platform.c.value).where(platform.c.key == "policy")).scalar()
    return reader.policy(str(identity)) if identity is not None else None


# --- reading by id ------------------------------------------------------------------------------------------------


def account_row(reader: Reader, identity: str) -> Mapping[Any, Any] | None:
    return reader.tx.execute(select(accounts).where(accounts.c.id == identity)).mappings().first()


def pool_row(reader: Reader, identity: str) -> Mapping[Any, Any] | None:
    return reader.tx.execute(select(pools).where(pools.c.id == identity)).mappings().first()


def hold_row(reader: Reader, identity: str) -> Mapping[Any, Any] | None:
    """The hold of `hold:LEASE:YEAR:GENERATION`; None for any other text."""
    parts = identity.split(":")
    if len(parts) != 4 or parts[0] != "hold" or not (parts[2].isdecimal() and parts[3].isdecimal()):
        return None
    key = (holds.c.lease == parts[1], holds.c.year == int(parts[2]), holds.c.generation == int(parts[3]))
    return reader.tx.execute(select(holds).where(*key)).mappings().first()
