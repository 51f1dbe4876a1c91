"""Store of the money side: parties, dated facts, rights, prices and the ledger. Every function takes an open transaction.

Three walls keep a room from going below zero: the guarded update here, the CHECK in the schema, the nightly replay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    RowMapping,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from adapters.chain import canonical, digest
from metering import acts, left
from metering.ledger import (
    PROGRAMME,
    AccountId,
    Balance,
    Code,
    Phase,
    Transfer,
    authority,
    bounded,
    cap_source,
    effect,
    firm_room,
    ledger_of,
    pool_room,
)
from metering.schema import (
    accounts,
    facts,
    firms,
    holds,
    platform,
    prices,
    providers,
    reviews,
    rights,
    sites,
    tranche_uses,
    transfers,
)
from metering.standing import eligible_intervals
from scheduler import journal
from scheduler.clock import to_ms
from scheduler.refusal import Refusal
from scheduler.schema import pools


class RoomExceeded(Exception):
    """A transfer would take more than a room holds. Nothing of it is stored."""

    def __init__(self, account: str, amount_fen: int) -> None:
        self.account, self.amount_fen = account, amount_fen
        super().__init__(f"{account} holds less than {amount_fen} fen")


class TransferConflict(Exception):
    """A transfer id came back with another body: two different movements claim to be one."""


class AlreadyResolved(TransferConflict):
    """A hold is posted, voided or expired exactly once."""


# --- the ledger ---------------------------------------------------------------------------------------------------


def post(tx: Connection, transfer: Transfer, now: datetime) -> None:
    """The transfer is in the books afterwards, once, however often it is posted; RoomExceeded if a room is too small."""
    post_all(tx, [transfer], now)


def post_all(tx: Connection, batch: Sequence[Transfer], now: datetime) -> None:
    """All transfers are in the books afterwards, in their order, each once; or none, and the exception names the first.

    RoomExceeded: it would take a room below zero. TransferConflict: its id exists with another body. AlreadyResolved: what
    it resolves was resolved before. Writers are serial, so what is read here cannot change before it is written; the
    guarded update and the CHECK still stand behind it. The number of statements does not grow with the batch.
    """
    fresh = _fresh(tx, batch)
    if not fresh:
        return
    held = _held(tx, fresh)
    names = sorted({name for transfer, _ in fresh for name in (transfer.debit, transfer.credit)}, key=_pools_last)
    stored = left.availables(tx, names)
    room = {name: stored.get(name, 0) for name in names}
    limited = {name for name in names if bounded(name)}
    moved = {name: [0, 0, 0, 0] for name in names}
    for transfer, _ in fresh:
        change = effect(transfer, held.get(transfer.pending_id) if transfer.pending_id is not None else None)
        debit, credit, posted, pending = transfer.debit, transfer.credit, change.posted, change.pending
        moved[debit][0] += posted
        moved[debit][1] += pending
        moved[credit][2] += posted
        moved[credit][3] += pending
        room[debit] -= posted + pending
        room[credit] += posted
        if room[debit] < 0 and debit in limited:
            raise RoomExceeded(debit, posted + pending)
    new = [name for name in names if name not in stored]
    if new:
        rows = [{"id": name, "ledger": ledger_of(AccountId(name)), "bounded": int(name in limited)} for name in new]
        tx.execute(insert(accounts), rows)
    done = tx.execute(_MOVE, [dict(zip(_MOVED, (name, *moved[name]), strict=True)) for name in names])
    if done.rowcount != len(names):
        raise RoomExceeded(names[-1], 0)
    times = {"effective_at_ms": to_ms(now), "recorded_at_ms": to_ms(now)}
    journal.append_all(tx, transfers, [{**body, **times} for _, body in fresh])
    _used(tx, [name for name in names if name.startswith("tranche:")], to_ms(now))


def _used(tx: Connection, names: Sequence[str], at_ms: int) -> None:
    """Tranche rooms know when they were last touched."""
    if names:
        tx.execute(delete(tranche_uses).where(tranche_uses.c.account.in_(names)))
        tx.execute(insert(tranche_uses), [{"account": name, "used_at_ms": at_ms} for name in names])


_MOVED = ("id_", "dp", "dn", "cp", "cn")
_MOVE = (
    update(accounts)
    .where(
        accounts.c.id == bindparam("id_"),
        (accounts.c.bounded == 0)
        | (
            accounts.c.credits_posted + bindparam("cp", type_=BigInteger)
            >= accounts.c.debits_posted
            + accounts.c.debits_pending
            + bindparam("dp", type_=BigInteger)
            + bindparam("dn", type_=BigInteger)
        ),
    )
    .values(
        debits_posted=accounts.c.debits_posted + bindparam("dp", type_=BigInteger),
        debits_pending=accounts.c.debits_pending + bindparam("dn", type_=BigInteger),
        credits_posted=accounts.c.credits_posted + bindparam("cp", type_=BigInteger),
        credits_pending=accounts.c.credits_pending + bindparam("cn", type_=BigInteger),
    )
)


def _pools_last(name: str) -> tuple[bool, str]:
    """Firms by id, the pools last: the hottest rows are locked for the shortest time."""
    return name.startswith("pool:"), name


def _fresh(tx: Connection, batch: Sequence[Transfer]) -> list[tuple[Transfer, dict[str, Any]]]:
    """The transfers that are not in the books yet, each with its body and the body's hash."""
    query = select(transfers.c.id, transfers.c.body_sha256).where(transfers.c.id.in_([t.id for t in batch]))
    known = {row[0]: row[1] for row in tx.execute(query)}
    fresh = []
    for transfer in batch:
        body = transfer.body()
        own = digest(body)
        if transfer.id not in known:
            known[transfer.id] = own
            body["body_sha256"] = own
            fresh.append((transfer, body))
        elif known[transfer.id] != own:
            raise TransferConflict(f"transfer {transfer.id} exists with another body")
    return fresh


def _held(tx: Connection, fresh: Sequence[tuple[Transfer, dict[str, Any]]]) -> dict[str, int]:
    """The pending amounts that the transfers resolve; AlreadyResolved where one was resolved before."""
    wanted = [transfer.pending_id for transfer, _ in fresh if transfer.pending_id is not None]
    if not wanted:
        return {}
    twice = tx.execute(select(transfers.c.pending_id).where(transfers.c.pending_id.in_(wanted))).scalars().first()
    if twice is not None or len(set(wanted)) != len(wanted):
        raise AlreadyResolved(f"transfer {twice or wanted[0]} was posted, voided or expired before")
    query = select(transfers.c.id, transfers.c.amount_fen).where(transfers.c.id.in_(wanted))
    found = {row.id: int(row.amount_fen) for row in tx.execute(query)}
    found |= {t.id: t.amount_fen for t, _ in fresh if t.phase is Phase.PENDING and t.id not in found}
    return found


def posted(tx: Connection, identity: str) -> bool:
    """True when a transfer of this id is in the books."""
    return tx.execute(select(transfers.c.id).where(transfers.c.id == identity)).first() is not None


def signed(
    key: str,
    code: Code,
    back: Code,
    pair: tuple[AccountId, AccountId],
    amount: int,
    job: str,
    settlement: str,
) -> list[Transfer]:
    """The transfer of an amount along the pair; of a negative one, a correction that moves it back; of 0, none."""
    if amount == 0:
        return []
    debit, credit = pair if amount > 0 else (pair[1], pair[0])
    return [
        Transfer(
            id=key,
            phase=Phase.POSTED,
            code=code if amount > 0 else back,
            debit=debit,
            credit=credit,
            amount_fen=abs(amount),
            job=job,
            settlement=settlement,
            cites=None if amount > 0 else job,
        )
    ]


def balance(tx: Connection, account: AccountId) -> Balance:
    """An account's counters; zeros for one that no transfer has touched."""
    row = tx.execute(select(accounts).where(accounts.c.id == account)).mappings().first()
    return _balance(row) if row else Balance()


def _balance(row: RowMapping) -> Balance:
    names = ("debits_posted", "debits_pending", "credits_posted", "credits_pending")
    return Balance(**{name: int(row[name]) for name in names})


Moved = Mapping[tuple[AccountId, AccountId], int]


def posted_of_job(tx: Connection, job: str, codes: Sequence[Code], reverse: Sequence[Code]) -> Moved:
    """What a job's transfers of these codes have moved so far, net of their reversals, per (debit, credit)."""
    return net_of(movements_of(tx, job), codes, reverse)


Movements = Sequence[tuple[Code, AccountId, AccountId, int]]


def movements_of(tx: Connection, job: str) -> Movements:
    """A job's transfers that moved money: (code, debit, credit, fen)."""
    return movements_of_jobs(tx, [job]).get(job, [])


def movements_of_jobs(tx: Connection, names: Sequence[str]) -> dict[str, Movements]:
    """The same for many jobs, by id."""
    columns = (transfers.c.job, transfers.c.code, transfers.c.debit, transfers.c.credit, transfers.c.amount_fen)
    moved = (Phase.POSTED.value, Phase.POST.value)
    found: dict[str, list[tuple[Code, AccountId, AccountId, int]]] = {}
    query = select(*columns).where(transfers.c.job.in_(names), transfers.c.phase.in_(moved)).order_by(transfers.c.seq)
    for job, code, debit, credit, fen in tx.execute(query):
        found.setdefault(job, []).append((Code(code), AccountId(debit), AccountId(credit), int(fen)))
    return dict(found)


def net_of(movements: Movements, codes: Sequence[Code], reverse: Sequence[Code]) -> Moved:
    """The movements of these codes per (debit, credit), less those of their reversals."""
    found: dict[tuple[AccountId, AccountId], int] = {}
    for code, debit, credit, fen in movements:
        if code in codes:
            found[debit, credit] = found.get((debit, credit), 0) + fen
        elif code in reverse:
            found[credit, debit] = found.get((credit, debit), 0) - fen
    return found


def trial_balance(tx: Connection) -> dict[str, Any]:
    """Every account with its counters, and per ledger Σ debits = Σ credits, posted and pending."""
    rows = [dict(row) for row in tx.execute(select(accounts).order_by(accounts.c.ledger, accounts.c.id)).mappings()]
    totals: dict[str, dict[str, int]] = {}
    for row in rows:
        total = totals.setdefault(row["ledger"], {})
        for name in ("debits_posted", "debits_pending", "credits_posted", "credits_pending"):
            total[name] = total.get(name, 0) + int(row[name])
    balanced = all(
        t["debits_posted"] == t["credits_posted"] and t["debits_pending"] == t["credits_pending"]
        for t in totals.values()
    )
    return {
        "accounts": [{**{k: row[k] for k in row if k != "bounded"}, "available_fen": _available(row)} for row in rows],
        "totals": totals,
        "balanced": balanced,
    }


def _available(row: Mapping[str, Any]) -> int | None:
    return int(row["credits_posted"] - row["debits_posted"] - row["debits_pending"]) if row["bounded"] else None


# --- the zone -----------------------------------------------------------------------------------------------------


def open_ledger(
    tx: Connection, *, mark: str, policy: str, pool_fen: Mapping[int, int], now: datetime
) -> Refusal | None:
    """The database's ledger is marked demo or live, for good, and each year's appropriation is in its pool.

    pool_fen: the policy's row per year (clause 2.1.1). Opening again adds years that are new and changes nothing else.
    """
    marked = ledger_mark(tx)
    if marked is None:
        tx.execute(insert(platform).values(key="ledger", value=mark))
        tx.execute(insert(platform).values(key="policy", value=policy))
    elif marked != mark:
        return Refusal(code="LEDGER_MARK", facts={"is": marked, "asked": mark})
    for year, fen in sorted(pool_fen.items()):
        transfer = Transfer(
            id=f"appropriate:{policy}:{year}",
            phase=Phase.POSTED,
            code=Code.APPROPRIATE,
            debit=authority(year),
            credit=pool_room(year),
            amount_fen=fen,
        )
        post(tx, transfer, now)
    return None


def ledger_mark(tx: Connection) -> str | None:
    """demo or live; None before the ledger is opened."""
    value = tx.execute(select(platform.c.value).where(platform.c.key == "ledger")).scalar()
    return str(value) if value is not None else None


def enrol_provider(tx: Connection, *, id: str, name: str, now: datetime) -> Refusal | None:  # noqa: A002
    """The provider is known under its unified social credit code."""
    return _enrol(tx, providers, {"id": id, "name": name}, now)


def enrol_firm(tx: Connection, *, id: str, name: str, now: datetime) -> Refusal | None:  # noqa: A002
    """The firm is known under its unified social credit code."""
    return _enrol(tx, firms, {"id": id, "name": name}, now)


def enrol_site(tx: Connection, *, id: str, provider: str, name: str, region: str, now: datetime) -> Refusal | None:  # noqa: A002
    """The provider's data centre is known; its energy papers are facts of their own."""
    if tx.execute(select(providers.c.id).where(providers.c.id == provider)).first() is None:
        return Refusal(code="PROVIDER_UNKNOWN", facts={"provider": provider})
    return _enrol(tx, sites, {"id": id, "provider": provider, "name": name, "region": region}, now)


def known(tx: Connection, table: Any, identity: str) -> RowMapping | None:
    """The party's or site's row; None if it was never enrolled."""
    return tx.execute(select(table).where(table.c.id == identity)).mappings().first()


def _enrol(tx: Connection, table: Any, values: Mapping[str, Any], now: datetime) -> Refusal | None:
    row = tx.execute(select(table).where(table.c.id == values["id"])).mappings().first()
    if row is None:
        tx.execute(insert(table).values(**values, created_at_ms=to_ms(now)))
        return None
    different = sorted(k for k, v in values.items() if row[k] != v)
    return Refusal(code="ALREADY_ENROLLED", facts={"id": values["id"], "different": different}) if different else None


def record_fact(
    tx: Connection,
    *,
    subject_kind: str,
    subject: str,
    fact: str,
    start: datetime,
    end: datetime | None,
    evidence: Mapping[str, Any],
    by: str,
    now: datetime,
    withdraws: int | None = None,
) -> int:
    """A dated fact with its evidence is on record; `withdraws` cites the fact this one replaces. Returns its number."""
    return journal.append(
        tx,
        facts,
        {
            "subject_kind": subject_kind,
            "subject": subject,
            "fact": fact,
            "from_ms": to_ms(start),
            "to_ms": to_ms(end) if end else None,
            "evidence": canonical(dict(evidence)).decode(),
            "withdraws_seq": withdraws,
            "recorded_at_ms": to_ms(now),
            "recorded_by": by,
        },
    )


def claim(
    tx: Connection, *, firm: str, by: str, policy: str, caps: Mapping[int, int], now: datetime
) -> dict[str, Any] | Refusal:
    """The firm has a right to draw (申领): instant, idempotent; one room per year in force, nothing taken from the pool.

    caps: the policy's firm cap per year (clause 2.1.1). A firm with no eligibility fact is refused (clause 4.1).
    """
    if tx.execute(select(firms.c.id).where(firms.c.id == firm)).first() is None:
        return Refusal(code="FIRM_UNKNOWN", facts={"firm": firm})
    if not eligible_intervals(tx, "firm", firm):
        return Refusal(code="FIRM_NOT_ELIGIBLE", facts={"firm": firm, "clause": "4.1"})
    if right_of(tx, firm) is None:
        values = {
            "id": f"right:{firm}:{PROGRAMME}",
            "firm": firm,
            "programme": PROGRAMME,
            "policy": policy,
            "claimed_at_ms": to_ms(now),
            "claimed_by": by,
        }
        journal.append(tx, rights, values)
        acts.must(tx, "right", f"{PROGRAMME}:{firm}", "claim", now, body={"policy": policy, "by": by})
        for year, cap in sorted(caps.items()):
            if acts.state_of(tx, "year", f"{PROGRAMME}:{year}") == "closed":
                continue
            transfer = Transfer(
                id=f"open_room:{firm}:{policy}:{year}",
                phase=Phase.POSTED,
                code=Code.OPEN_ROOM,
                debit=cap_source(),
                credit=firm_room(firm, year),
                amount_fen=cap,
            )
            post(tx, transfer, now)
    found = right_of(tx, firm)
    assert found is not None, "just written"
    return {**found, "rooms": rooms(tx, firm)}


def right_of(tx: Connection, firm: str) -> dict[str, Any] | None:
    """The firm's right to draw, None before it claimed."""
    return left.rights_of(tx, [firm]).get(firm)


def rooms(tx: Connection, firm: str) -> dict[str, dict[int, int]]:
    """What is left, per year, of the pool and of the firm's rooms: {"pool": {year: fen}, "firm": {year: fen}}.

    The firm's is what it may still draw, of its own room and of one it shares; "tranche" too, once it was issued one.
    """
    found = rooms_apart(tx, firm)
    for year, fen in found.pop("shared").items():
        found["firm"][year] = found["firm"].get(year, 0) + fen
    if not found["tranche"]:
        del found["tranche"]
    return found


def rooms_apart(tx: Connection, firm: str) -> dict[str, dict[int, int]]:
    """The same with what it shares apart: {"pool", "firm", "shared", "tranche"}, each {year: fen}."""
    return left.rooms_apart(tx, [firm])[0][firm]


def subjects_of(tx: Connection, firm: str) -> dict[int, str]:
    """The subject under which the firm shares its room of a year with firms linked to it; {} for one that stands alone."""
    return left.subjects_of(tx, [firm])[firm]


def set_price(
    tx: Connection, *, pool: str, model: str, fen: int, start: datetime, by: str, now: datetime
) -> Refusal | None:
    """The pool's price from `start` (not before now: started prices are frozen); leases keep the price they began with."""
    if start < now:
        return Refusal(code="PRICE_STARTED", facts={"pool": pool, "from_ms": to_ms(start), "now_ms": to_ms(now)})
    values = {
        "pool": pool,
        "model": model,
        "fen_per_device_hour": fen,
        "from_ms": to_ms(start),
        "recorded_at_ms": to_ms(now),
        "recorded_by": by,
    }
    journal.append(tx, prices, values)
    if start <= now:
        tx.execute(update(pools).where(pools.c.id == pool).values(price_fen_per_device_hour=fen))
    return None


def apply_prices(tx: Connection, now: datetime) -> int:
    """Pools carry the price in force at `now`; returns how many changed."""
    changed = 0
    for row in tx.execute(select(pools.c.id, pools.c.price_fen_per_device_hour)).all():
        query = select(prices.c.fen_per_device_hour).where(prices.c.pool == row.id, prices.c.from_ms <= to_ms(now))
        fen = tx.execute(query.order_by(prices.c.from_ms.desc(), prices.c.seq.desc())).scalar()
        if fen is not None and fen != row.price_fen_per_device_hour:
            tx.execute(update(pools).where(pools.c.id == row.id).values(price_fen_per_device_hour=fen))
            changed += 1
    return changed


def open_review(
    tx: Connection, *, code: str, subject: str, facts: Mapping[str, Any], now: datetime, again: bool = True
) -> None:
    """Somebody has to look: one open item per (code, subject). again: a closed one is opened once more."""
    key = f"{code}:{subject}"
    text = canonical(dict(facts)).decode()
    row = tx.execute(select(reviews.c.closed_at_ms).where(reviews.c.id == key)).first()
    if row is None:
        tx.execute(insert(reviews).values(id=key, code=code, subject=subject, facts=text, opened_at_ms=to_ms(now)))
    elif row.closed_at_ms is not None and again:
        empty = {"closed_at_ms": None, "action": None, "reason": None, "closed_by": None}
        tx.execute(update(reviews).where(reviews.c.id == key).values(facts=text, opened_at_ms=to_ms(now), **empty))
    else:
        return
    acts.must(tx, "review", key, "open", now, body={"code": code, "subject": subject, "facts": dict(facts)})


def open_holds(tx: Connection, job: str) -> list[RowMapping]:
    """A job's holds that are not resolved yet."""
    return open_holds_of(tx, [job]).get(job, [])


def open_holds_of(tx: Connection, names: Sequence[str]) -> dict[str, list[RowMapping]]:
    """The same for many jobs, by id."""
    query = select(holds).where(holds.c.job.in_(names), holds.c.state == "held")
    found: dict[str, list[RowMapping]] = {}
    for row in tx.execute(query.order_by(holds.c.lease, holds.c.year, holds.c.generation)).mappings():
        found.setdefault(row["job"], []).append(row)
    return found


def count_transfers(tx: Connection) -> int:
    return int(tx.execute(select(func.count()).select_from(transfers)).scalar_one())


def evidence_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A fact's evidence as it was recorded."""
    return dict(json.loads(row["evidence"]))
