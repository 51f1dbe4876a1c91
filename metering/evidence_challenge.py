"""Evidence challenge: the platform asks nodes by itself, at times that it draws, and lowers who does not answer.

    ask(node)    at a heartbeat: what the node is to answer now, or nothing
    begin, judge, finish    the challenge kernel on one idle device, timed by the platform from `begin` to the answer
    watch        what ran out unanswered lapses, and a person is told

The statement that a node answers with is judged in evidence.answer_challenge. Each next challenge is drawn when the one before is
issued: no sooner than `hours` after it and no later than twice that, so that nobody on the node can tell when. A node's first is
due at once, and after an unanswered one the next is brought forward, for until it answers its devices show little. Every draw is
kept with what it decided. Random numbers are an argument: draw(n) is in [0, n), as secrets.randbelow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import uuid_utils
from sqlalchemy import Connection, RowMapping, insert, or_, select, update

from adapters.accelerator import Source
from adapters.bench.question import Challenge, Verdict
from adapters.catalog import Catalog
from adapters.chain import canonical, timestamp
from metering import evidence, store
from metering.event_schema import agent_keys
from metering.evidence_level import verdict_at
from metering.evidence_schema import node_challenges
from scheduler.clock import from_ms, to_ms
from scheduler.refusal import Refusal
from scheduler.schema import devices, lease_devices

PARTS = 1_000_000  # a wait is drawn to a millionth of the hours
RETRY = timedelta(minutes=10)  # after an unanswered challenge
KERNEL_LASTS = timedelta(minutes=10)  # to begin and answer: a large library is first read from a cold disk
KERNEL_ONE_IN = 4  # so many challenges ask for a kernel too
KERNEL_SIZE, KERNEL_DEPTH = 2048, 8  # 137 GFLOP: below a second on any accelerator of the catalogue
BY = "platform"
UNANSWERED, KERNEL_FAILED = "CHALLENGE_UNANSWERED", "KERNEL_FAILED"  # review items, by node and by device

Draw = Callable[[int], int]


def due_after(issued_ms: int, hours: int, part: int) -> int:
    """When the challenge after one issued at issued_ms is due: hours later and as many millionths of hours more. Pure."""
    wait = hours * 3_600_000
    return issued_ms + wait + wait * part // PARTS


# --- asking ---------------------------------------------------------------------------------------


def ask(tx: Connection, node: str, *, hours: int, draw: Draw, now: datetime) -> dict[str, Any] | None:
    """{id, nonce, expires_at, kernel} that the node is to answer, issued now if one is due; None where nothing is asked.

    nonce: None when only the kernel, {id, device, expires_at}, is open. hours: between two challenges at least, 0 = nobody is asked.
    Only a node with an enrolled key and a real device is asked. A challenge that is open is told until it is answered.
    """
    watch(tx, now, node)
    if _open(tx, node, "statement") is None and hours:
        drawn = _drawn(tx, node)
        if (drawn is None or drawn["due_at_ms"] <= to_ms(now)) and _can_answer(tx, node, now):
            identity = drawn["id"] if drawn is not None else _plan(tx, node, to_ms(now), {})
            _issue(tx, node, identity, hours, draw, now)
    statement, kernel = _open(tx, node, "statement"), _open(tx, node, "kernel")
    if kernel is not None and kernel["begun_at_ms"] is not None:
        kernel = None
    if statement is None and kernel is None:
        return None
    first = statement or kernel
    assert first is not None
    return {
        "id": first["id"],
        "nonce": None if statement is None else statement["nonce"],
        "expires_at": timestamp(from_ms(first["expires_at_ms"])),
        "kernel": None if kernel is None else {"id": kernel["id"], "device": kernel["device"]},
    }


def _issue(tx: Connection, node: str, identity: str, hours: int, draw: Draw, now: datetime) -> None:
    got = evidence.issue_challenge(tx, node=node, by=BY, now=now)
    assert isinstance(got, dict), "the node was heard from"
    expires = to_ms(now + evidence.CHALLENGE_LASTS)
    values = {"nonce": got["nonce"], "issued_at_ms": to_ms(now), "expires_at_ms": expires}
    tx.execute(update(node_challenges).where(node_challenges.c.id == identity).values(**values))
    part = draw(PARTS)
    _plan(tx, node, due_after(to_ms(now), hours, part), {"wait": part, "wait_of": PARTS, "hours": hours})
    lot = draw(KERNEL_ONE_IN)
    idle = _idle(tx, node) if lot == 0 and _open(tx, node, "kernel") is None else []
    if idle:
        place = draw(len(idle))
        draws = {"kernel": lot, "kernel_of": KERNEL_ONE_IN, "place": place, "place_of": len(idle)}
        _plan(
            tx, node, to_ms(now), draws, kind="kernel", issued_at_ms=to_ms(now), device=idle[place],
            expires_at_ms=to_ms(now + KERNEL_LASTS), size=KERNEL_SIZE, depth=KERNEL_DEPTH,
        )  # fmt: skip


def _plan(
    tx: Connection, node: str, due_ms: int, draws: Mapping[str, int], *, kind: str = "statement", **more: Any
) -> str:
    identity = f"challenge_{uuid_utils.uuid7()}"
    values = {"id": identity, "node": node, "kind": kind, "due_at_ms": due_ms, "draws": canonical(dict(draws)).decode()}
    tx.execute(insert(node_challenges).values(**values, **more))
    return identity


def _open(tx: Connection, node: str, kind: str) -> RowMapping | None:
    c = node_challenges.c
    query = select(node_challenges).where(c.node == node, c.kind == kind, c.ended_at_ms.is_(None))
    return tx.execute(query.where(c.issued_at_ms.is_not(None)).order_by(c.issued_at_ms)).mappings().first()


def _drawn(tx: Connection, node: str) -> RowMapping | None:
    c = node_challenges.c
    query = select(node_challenges).where(c.node == node, c.ended_at_ms.is_(None), c.issued_at_ms.is_(None))
    return tx.execute(query.order_by(c.due_at_ms)).mappings().first()


def _can_answer(tx: Connection, node: str, now: datetime) -> bool:
    k = agent_keys.c
    believed = or_(k.revoked_from_ms.is_(None), k.revoked_from_ms > to_ms(now))
    keyed = tx.execute(select(k.id).where(k.node == node, believed).limit(1)).first()
    return keyed is not None and bool(_real(tx, node))


def _real(tx: Connection, node: str) -> list[str]:
    d = devices.c
    query = select(d.uuid).where(d.node == node, d.source != Source.SIMULATED.value).order_by(d.uuid)
    return list(tx.execute(query).scalars())


def _idle(tx: Connection, node: str) -> list[str]:
    """Whole real devices of the node that no lease holds and that did not fail, in order of uuid."""
    d, held = devices.c, select(lease_devices.c.device).where(lease_devices.c.released == 0)
    whole = (d.partition.is_(None), d.leasable == 1, d.health != "failed", d.source != Source.SIMULATED.value)
    return list(
        tx.execute(select(d.uuid).where(d.node == node, *whole, d.uuid.not_in(held)).order_by(d.uuid)).scalars()
    )


# --- the kernel -----------------------------------------------------------------------------------


def begin(tx: Connection, *, node: str, challenge: str, nonce: str, now: datetime) -> dict[str, Any] | Refusal:
    """{id, device, nonce, size, depth}: the kernel's time runs from now. nonce: fresh, 64 hexadecimal digits.

    Refusals: CHALLENGE_UNKNOWN, CHALLENGE_USED, CHALLENGE_EXPIRED, DEVICE_IN_USE.
    """
    row = _kernel(tx, node, challenge, now)
    if isinstance(row, Refusal):
        return row
    if row["begun_at_ms"] is not None:
        return Refusal(code="CHALLENGE_USED", facts={"node": node, "used_at": timestamp(from_ms(row["begun_at_ms"]))})
    if row["device"] not in _idle(tx, node):
        return Refusal(code="DEVICE_IN_USE", facts={"device": row["device"]})
    asked = Challenge(nonce=nonce, size=row["size"], depth=row["depth"])
    values = {"nonce": asked.nonce, "begun_at_ms": to_ms(now)}
    tx.execute(update(node_challenges).where(node_challenges.c.id == challenge).values(**values))
    return {"id": challenge, "device": row["device"], "nonce": nonce, "size": asked.size, "depth": asked.depth}


def judge(
    tx: Connection, catalog: Catalog, *, node: str, challenge: str, given: Mapping[str, Any], draw: Draw, now: datetime
) -> Verdict | Refusal:
    """What the platform makes of the kernel's answer; reads only. The rows that are checked are drawn now.

    Costs a part of a second of a processor: call it outside of a write.
    """
    from adapters.bench import challenge as kernel  # numpy is loaded by who judges, not by who only lists

    row = _kernel(tx, node, challenge, now)
    if isinstance(row, Refusal):
        return row
    if row["begun_at_ms"] is None:
        return Refusal(code="CHALLENGE_UNKNOWN", facts={"node": node})
    device = tx.execute(select(devices.c.model).where(devices.c.uuid == row["device"])).first()
    chip = catalog.get((device.model if device else None) or "")
    return kernel.judge(
        Challenge(nonce=row["nonce"], size=row["size"], depth=row["depth"]),
        given,
        elapsed_s=(to_ms(now) - row["begun_at_ms"]) / 1000,
        rows=kernel.chosen_rows(row["size"], draw),
        peak_tflops=chip.fp16_tflops / chip.dies if chip and chip.fp16_tflops else None,
    )


def finish(
    tx: Connection, *, node: str, challenge: str, verdict: Verdict | None, reason: str | None, by: str, now: datetime
) -> dict[str, Any] | Refusal:
    """The kernel is over, and what it showed is on record: {id, device, code, level}. verdict None: the node could not run it,
    for `reason`, which shows nothing either way. One that failed holds the device at L1, and a person is told.

    Refusals: CHALLENGE_UNKNOWN, CHALLENGE_USED, CHALLENGE_EXPIRED.
    """
    row = _kernel(tx, node, challenge, now)
    if isinstance(row, Refusal):
        return row
    facts: dict[str, Any] = {"reason": (reason or "")[:400]} if verdict is None else dict(verdict.facts)
    code = "UNABLE" if verdict is None else verdict.code
    _end(tx, row, code, None if verdict is None else verdict.ok, facts, now, by)
    steps = evidence.courses(tx, [row["device"]]).get(row["device"])
    level = None if steps is None else int(verdict_at(steps, to_ms(now)).level)
    return {"id": challenge, "device": row["device"], "code": code, "level": level}


def _kernel(tx: Connection, node: str, challenge: str, now: datetime) -> RowMapping | Refusal:
    c = node_challenges.c
    query = select(node_challenges).where(c.id == challenge, c.node == node, c.kind == "kernel")
    row = tx.execute(query).mappings().first()
    if row is None:
        return Refusal(code="CHALLENGE_UNKNOWN", facts={"node": node})
    if row["ended_at_ms"] is not None:
        return Refusal(code="CHALLENGE_USED", facts={"node": node, "used_at": timestamp(from_ms(row["ended_at_ms"]))})
    if row["expires_at_ms"] <= to_ms(now):
        ended = timestamp(from_ms(row["expires_at_ms"]))
        return Refusal(code="CHALLENGE_EXPIRED", facts={"node": node, "expired_at": ended})
    return row


def _end(
    tx: Connection, row: RowMapping, code: str, ok: bool | None, facts: Mapping[str, Any], now: datetime, by: str
) -> None:
    told = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in facts.items()}
    values = {"outcome": code, "ended_at_ms": to_ms(now), "facts": canonical(told).decode()}
    tx.execute(update(node_challenges).where(node_challenges.c.id == row["id"]).values(**values))
    if ok is None:
        return
    record = {"ok": ok, "code": code, "challenge": row["id"], **told}
    evidence.record_kernel(tx, row["device"], row["node"], record, now=now, by=by)
    if not ok:
        shown = {"device": row["device"], "node": row["node"], "verdict": code}
        store.open_review(tx, code=KERNEL_FAILED, subject=row["device"], facts=shown, now=now)


# --- what nobody answered -------------------------------------------------------------------------


def watch(tx: Connection, now: datetime, node: str | None = None) -> int:
    """Every challenge whose time is over is ended, of all nodes or of one; how many.

    An unanswered statement: from its deadline on, what the node swore of its devices before no longer counts. An unanswered kernel
    fails, unless a lease took the device before it began.
    """
    c = node_challenges.c
    query = select(node_challenges).where(c.ended_at_ms.is_(None), c.expires_at_ms <= to_ms(now))
    if node is not None:
        query = query.where(c.node == node)
    rows = list(tx.execute(query.order_by(c.expires_at_ms, c.id)).mappings())
    for row in rows:
        if row["kind"] == "statement":
            _lapse(tx, row, now)
        elif row["begun_at_ms"] is None and row["device"] not in _idle(tx, row["node"]):
            _end(tx, row, "UNABLE", None, {"reason": "a lease holds the device"}, now, BY)
        else:
            _end(tx, row, "UNANSWERED", False, {}, now, BY)
    return len(rows)


def _lapse(tx: Connection, row: RowMapping, now: datetime) -> None:
    node, expired = row["node"], from_ms(row["expires_at_ms"])
    values = {"outcome": "UNANSWERED", "ended_at_ms": to_ms(now)}
    tx.execute(update(node_challenges).where(node_challenges.c.id == row["id"]).values(**values))
    for device in _real(tx, node):
        evidence.lapse(tx, device, node, challenge=row["id"], start=expired, now=now, by=BY)
    facts = {"node": node, "expired_at": timestamp(expired)}
    store.open_review(tx, code=UNANSWERED, subject=node, facts=facts, now=now)
    drawn = _drawn(tx, node)
    sooner = to_ms(now + RETRY)
    if drawn is not None and drawn["due_at_ms"] > sooner:
        draws = canonical({**json.loads(drawn["draws"]), "brought_forward_from": drawn["due_at_ms"]}).decode()
        values = {"due_at_ms": sooner, "draws": draws}
        tx.execute(update(node_challenges).where(node_challenges.c.id == drawn["id"]).values(**values))


def history(tx: Connection, nodes: Sequence[str]) -> list[dict[str, Any]]:
    """What was asked of these nodes and what came of it, newest first, without what is only drawn yet: a node must not know it."""
    c = node_challenges.c
    query = select(node_challenges).where(c.node.in_(nodes), c.issued_at_ms.is_not(None))
    return [
        {
            **{name: row[name] for name in ("id", "node", "kind", "device", "outcome")},
            "issued_at": timestamp(from_ms(row["issued_at_ms"])),
            "expires_at": timestamp(from_ms(row["expires_at_ms"])),
            "ended_at": None if row["ended_at_ms"] is None else timestamp(from_ms(row["ended_at_ms"])),
            "draws": json.loads(row["draws"]),
            "facts": json.loads(row["facts"] or "{}"),
        }
        for row in tx.execute(query.order_by(c.issued_at_ms.desc(), c.id)).mappings()
    ]
