"""Tranche: under `claim_mode: tranche` a claim takes a small amount from the pool for one firm and year; idle ones go back.

A right to draw locks nothing, five claims of a firm's yearly cap would exhaust a year (clause 2.1.1); a tranche is between the
two (research: R24, T3, T14). One is open per firm and year. What is drawn of it counts as spent of the pool.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import uuid_utils
from sqlalchemy import Connection, func, select

from adapters.chain import timestamp
from metering import acts, store
from metering.facts import holds_at
from metering.ledger import PROGRAMME, AccountId, Code, Phase, Transfer, pool_room, tranche_room
from metering.parameters import Policy
from metering.parameters.policy import CLAIM_MODE, TRANCHE_IDLE, TRANCHE_SIZE
from metering.schema import accounts, firms, tranche_uses, tranches, transfers
from metering.standing import eligible_intervals
from metering.year import local_year, year_start
from scheduler import journal
from scheduler.clock import from_ms, to_ms
from scheduler.refusal import Refusal

MODE = "tranche"
PREFIX = "tranche:"


def in_use(policy: Policy, year: int, at: datetime) -> bool:
    """True where draws of the year go through tranches: as answered at the instant, or at the year's end once it is over."""
    asked = policy.parameters.get(CLAIM_MODE)
    if asked is None or all(row.value != MODE for row in asked.rows):
        return False
    last = year_start(year + 1, policy.zone) - timedelta(milliseconds=1)
    return policy.answer_at(CLAIM_MODE, min(at, last)) == MODE


def issue(
    tx: Connection,
    policy: Policy,
    *,
    id: str,  # noqa: A002 - the word of the format
    firm: str,
    by: str,
    now: datetime,
    year: int | None = None,
) -> dict[str, Any] | Refusal:
    """min(size, pool room, firm room left) has moved from the pool to the firm's tranche room of the year.

    id: chosen by the claimant; the same id again gives the same tranche and moves nothing. year: a local year in force, the
    one of `now` without it. Refused while an earlier one has anything left, without standing now (clause 4.1), and when
    there is nothing to issue. Raises ValueError where the policy has no size.
    """
    found = tx.execute(select(tranches).where(tranches.c.id == id)).mappings().first()
    year = local_year(now, policy.zone) if year is None and found is None else year
    if found is not None:
        if found["firm"] != firm or year not in (None, found["year"]):
            return Refusal(code="TRANCHE_ID_TAKEN", facts={"id": id})
        return {name: found[name] for name in SHOWN}
    assert year is not None, "given, or that of now"
    refusal = _obstacle(tx, policy, firm, year, now)
    if refusal is not None:
        return refusal
    size = policy.answer_at(TRANCHE_SIZE, now)
    if type(size) is not int or size <= 0:
        raise ValueError(f"{TRANCHE_SIZE}: {size!r} at {timestamp(now)}; a tranche needs a size of at least 1 fen")
    give_back_idle(tx, policy, now, firm=firm)
    mine = tranche_room(firm, year)
    room = store.balance(tx, mine)
    if room.available:
        facts = {"firm": firm, "year": year, "left_fen": room.available, "held_fen": room.debits_pending}
        return Refusal(code="TRANCHE_OPEN", facts=facts)
    left = store.rooms(tx, firm)
    pool, own = left["pool"].get(year, 0), left["firm"].get(year, 0)
    if min(pool, own) <= 0:
        code = "TRANCHE_CAP_REACHED" if own <= 0 else "TRANCHE_POOL_EMPTY"
        return Refusal(code=code, facts={"firm": firm, "year": year})
    amount = min(size, pool, own)
    count = select(func.count()).select_from(tranches)
    number = tx.execute(count.where(tranches.c.firm == firm, tranches.c.year == year)).scalar_one() + 1
    row = {
        "id": id,
        "firm": firm,
        "programme": PROGRAMME,
        "year": year,
        "number": number,
        "size_fen": size,
        "amount_fen": amount,
        "policy": policy.id,
        "issued_at_ms": to_ms(now),
        "issued_by": by,
    }
    journal.append(tx, tranches, row)
    moved = Transfer(
        id=f"{PREFIX}{id}", phase=Phase.POSTED, code=Code.TRANCHE, debit=pool_room(year), credit=mine, amount_fen=amount
    )
    store.post(tx, moved, now)
    return {name: row[name] for name in SHOWN}


SHOWN = ("id", "firm", "year", "number", "size_fen", "amount_fen", "issued_at_ms")


def _obstacle(tx: Connection, policy: Policy, firm: str, year: int, now: datetime) -> Refusal | None:
    if tx.execute(select(firms.c.id).where(firms.c.id == firm)).first() is None:
        return Refusal(code="FIRM_UNKNOWN", facts={"firm": firm})
    if year not in policy.years:
        return Refusal(code="YEAR_NOT_IN_FORCE", facts={"year": year, "years": list(policy.years)})
    if not in_use(policy, year, now):
        return Refusal(code="TRANCHES_NOT_IN_USE", facts={"year": year})
    if acts.state_of(tx, "year", f"{PROGRAMME}:{year}") == "closed":
        return Refusal(code="YEAR_CLOSED", facts={"year": year})
    right = acts.state_of(tx, "right", f"{PROGRAMME}:{firm}")
    if right != "active":
        return Refusal(code="RIGHT_NOT_ACTIVE", facts={"firm": firm, "state": right})
    if acts.state_of(tx, "programme", PROGRAMME) == "frozen":
        return Refusal(code="PROGRAMME_FROZEN", facts={"programme": PROGRAMME})
    if not holds_at(eligible_intervals(tx, "firm", firm), now):
        return Refusal(code="FIRM_NOT_ELIGIBLE", facts={"firm": firm, "clause": "4.1"})
    return None


def give_back_idle(tx: Connection, policy: Policy, now: datetime, *, firm: str | None = None) -> int:
    """Tranches with nothing held and nothing drawn, held or issued for the idle time are in the pool of their year again.

    firm: only its own. Returns how many.
    """
    idle = policy.answer_at(TRANCHE_IDLE, now)
    if type(idle) is not int:
        return 0
    used = select(accounts.c.id).join(tranche_uses, tranche_uses.c.account == accounts.c.id)
    query = used.where(
        accounts.c.debits_pending == 0,
        accounts.c.credits_posted > accounts.c.debits_posted,
        tranche_uses.c.used_at_ms <= to_ms(_earlier(now, idle)),
    )
    mine = None if firm is None else tranche_room(firm, "")
    found = [name for name in sorted(tx.execute(query).scalars()) if mine is None or name.startswith(mine)]
    for name in found:
        _give_back(tx, AccountId(name), now)
    return len(found)


def give_back_year(tx: Connection, year: int, now: datetime) -> int:
    """Whatever tranches of the year have left is in its pool again; returns how many fen."""
    total = 0
    ending = accounts.c.id.endswith(f":{PROGRAMME}:{year}", autoescape=True)
    for name in sorted(tx.execute(select(accounts.c.id).where(accounts.c.id.startswith(PREFIX), ending)).scalars()):
        total += _give_back(tx, AccountId(name), now)
    return total


def _earlier(now: datetime, days: int) -> datetime:
    try:
        return now - timedelta(days=days)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC) + timedelta(days=1)


def _give_back(tx: Connection, account: AccountId, now: datetime) -> int:
    left = store.balance(tx, account).available
    if not left:
        return 0
    back = Transfer(
        id=f"tranche_back:{account}:{uuid_utils.uuid7()}",
        phase=Phase.POSTED,
        code=Code.TRANCHE_BACK,
        debit=account,
        credit=pool_room(account.rsplit(":", 1)[1]),
        amount_fen=left,
    )
    store.post(tx, back, now)
    return left


def shown(tx: Connection, policy: Policy, firm: str) -> list[dict[str, Any]]:
    """The firm's tranches by year: issued = drawn + held + left + given back, in fen, with each one that was issued.

    idle_from: when what is left goes back unless it is used before; None while something is held or nothing is left.
    """
    rows = list(
        tx.execute(
            select(tranches).where(tranches.c.firm == firm).order_by(tranches.c.year, tranches.c.number)
        ).mappings()
    )
    found = []
    for year in sorted({row["year"] for row in rows}):
        account = tranche_room(firm, year)
        balance = store.balance(tx, account)
        key = f"tranche_back:{account}:"
        sent = select(func.coalesce(func.sum(transfers.c.amount_fen), 0))
        back = int(tx.execute(sent.where(transfers.c.id.between(key, f"{key}~"))).scalar_one())
        used = tx.execute(select(tranche_uses.c.used_at_ms).where(tranche_uses.c.account == account)).scalar_one()
        idle = policy.answer_at(TRANCHE_IDLE, from_ms(used))
        ends = type(idle) is int and balance.available > 0 and balance.debits_pending == 0
        found.append(
            {
                "year": year,
                "issued_fen": balance.credits_posted,
                "drawn_fen": balance.debits_posted - back,
                "held_fen": balance.debits_pending,
                "left_fen": balance.available,
                "given_back_fen": back,
                "idle_from": timestamp(from_ms(used) + timedelta(days=int(idle))) if ends and idle else None,
                "issued": [
                    {
                        "id": row["id"],
                        "number": row["number"],
                        "amount_fen": row["amount_fen"],
                        "at": timestamp(from_ms(row["issued_at_ms"])),
                    }
                    for row in rows
                    if row["year"] == year
                ],
            }
        )
    return found
