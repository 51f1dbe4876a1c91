"""Linking: under `cap_subject: linked_firms` two credit codes that are one firm (merged, renamed) share one cap a year.

A link is a dated fact between two codes with its evidence. From its start on, what the codes have left of a year is one shared
room under the least of them; what each drew before counts. With more drawn than one cap, nothing is left until so much came
back. When a link ends each code has its own cap again, less what it drew itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import uuid_utils
from sqlalchemy import Connection, delete, insert, select

from adapters.chain import timestamp
from metering import acts, store
from metering.facts import Interval, holds_at
from metering.ledger import (
    PROGRAMME,
    AccountId,
    Code,
    Phase,
    Transfer,
    firm_room,
    firm_spent,
    link_source,
    shared_room,
)
from metering.parameters import Policy
from metering.parameters.policy import CAP_SUBJECT
from metering.schema import cap_subjects, facts, firms
from metering.year import year_start
from scheduler.clock import from_ms
from scheduler.refusal import Refusal

MODE = "linked_firms"
KIND, FACT = "link", "linked"

Groups = Mapping[str, tuple[str, ...]]  # subject → members, the subject among them


def pair(one: str, other: str) -> str:
    """The subject of facts about two codes, the same in either order."""
    return "|".join(sorted((one, other)))


def link(
    tx: Connection,
    policy: Policy,
    *,
    codes: Sequence[str],
    start: datetime,
    end: datetime | None,
    evidence: Mapping[str, Any],
    by: str,
    now: datetime,
    withdraws: int | None = None,
) -> dict[str, Any] | Refusal:
    """The link is on record over [start, end), and rooms follow at once where the policy counts linked firms together.

    withdraws: the number of an earlier link of the same two that this one replaces; end = start says that there was none.
    """
    if len(codes) != 2 or codes[0] == codes[1]:
        return Refusal(code="LINK_NEEDS_TWO", facts={"codes": list(codes)})
    if end is not None and (end < start or (end == start and withdraws is None)):
        return Refusal(code="TERM_EMPTY", facts={"from": timestamp(start), "to": timestamp(end)})
    for code in sorted(codes):
        if tx.execute(select(firms.c.id).where(firms.c.id == code)).first() is None:
            return Refusal(code="FIRM_UNKNOWN", facts={"firm": code})
    subject = pair(codes[0], codes[1])
    if withdraws is not None:
        cited = tx.execute(select(facts).where(facts.c.seq == withdraws)).mappings().first()
        if cited is None or (cited["subject_kind"], cited["subject"]) != (KIND, subject):
            return Refusal(code="LINK_UNKNOWN", facts={"withdraws": withdraws})
    seq = store.record_fact(
        tx, subject_kind=KIND, subject=subject, fact=FACT, start=start, end=end, evidence=evidence, by=by, now=now,
        withdraws=withdraws,
    )  # fmt: skip
    regroup(tx, policy, now)
    return {"seq": seq, "codes": sorted(codes), "subjects": subjects_of(tx, min(codes))}


def links(tx: Connection) -> list[dict[str, Any]]:
    """Every link on record, the withdrawn ones said to be: {seq, codes, from, to, evidence, withdrawn}."""
    rows = list(tx.execute(select(facts).where(facts.c.subject_kind == KIND).order_by(facts.c.seq)).mappings())
    gone = {row["withdraws_seq"] for row in rows}
    return [
        {
            "seq": row["seq"],
            "codes": row["subject"].split("|"),
            "from": timestamp(from_ms(row["from_ms"])),
            "to": None if row["to_ms"] is None else timestamp(from_ms(row["to_ms"])),
            "evidence": store.evidence_of(dict(row)),
            "withdrawn": row["seq"] in gone,
        }
        for row in rows
    ]


def subjects_of(tx: Connection, firm: str) -> dict[str, str]:
    """The subject under which the firm's rooms are shared now, by year; {} where it stands alone."""
    return {str(year): subject for year, subject in sorted(store.subjects_of(tx, firm).items())}


def groups_at(links: Iterable[tuple[str, str, Interval]], at: datetime) -> dict[str, tuple[str, ...]]:
    """Codes joined by links that hold at the instant, directly or through others; a code alone is in none. Pure."""
    parent: dict[str, str] = {}

    def root(code: str) -> str:
        while parent.setdefault(code, code) != code:
            code = parent[code]
        return code

    for one, other, interval in links:
        if holds_at([interval], at):
            low, high = sorted((root(one), root(other)))
            parent[high] = low
    found: dict[str, list[str]] = {}
    for code in sorted(parent):
        found.setdefault(root(code), []).append(code)
    return {subject: tuple(members) for subject, members in found.items()}


def regroup(tx: Connection, policy: Policy, now: datetime) -> int:
    """Rooms of every open year are shared as the links say at `now`, or at the year's end once it is over.

    Returns for how many years the groups changed. Nothing is read of links where no year counts linked firms together.
    """
    stored: dict[int, dict[str, list[str]]] = {}
    query = select(cap_subjects).order_by(cap_subjects.c.year, cap_subjects.c.firm)
    for row in tx.execute(query).mappings():
        stored.setdefault(row["year"], {}).setdefault(row["subject"], []).append(row["firm"])
    until = {year: min(now, year_start(year + 1, policy.zone) - timedelta(milliseconds=1)) for year in policy.years}
    joined = {year for year, at in until.items() if policy.answer_at(CAP_SUBJECT, at) == MODE}
    if not joined and not stored:
        return 0
    known = [
        (*row["codes"], Interval(start=_instant(row["from"]), end=None if row["to"] is None else _instant(row["to"])))
        for row in links(tx)
        if not row["withdrawn"]
    ]
    changed = 0
    for year in policy.years:
        if acts.state_of(tx, "year", f"{PROGRAMME}:{year}") == "closed":
            continue
        wanted = groups_at(known, until[year]) if year in joined else {}
        present = {subject: tuple(members) for subject, members in stored.get(year, {}).items()}
        if wanted != present:
            changed += 1
            _regroup_year(tx, policy, year, present, wanted, now)
        for subject, members in wanted.items():
            gather(tx, policy, year, subject, members, now)
    return changed


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _regroup_year(tx: Connection, policy: Policy, year: int, present: Groups, wanted: Groups, now: datetime) -> None:
    for subject, members in sorted(present.items()):
        if wanted.get(subject) != members:
            _part(tx, policy, year, subject, members, now)
            key = (cap_subjects.c.year == year, cap_subjects.c.subject == subject)
            tx.execute(delete(cap_subjects).where(*key))
    for subject, members in sorted(wanted.items()):
        if present.get(subject) != members:
            rows = [{"firm": member, "year": year, "subject": subject} for member in members]
            tx.execute(insert(cap_subjects), rows)


def gather(tx: Connection, policy: Policy, year: int, subject: str, members: Sequence[str], now: datetime) -> None:
    """What the members have left of the year is in their shared room, together at most one cap.

    Caps beyond the first are given up out of what is left, and what could not be given up out of what comes back later.
    """
    shared, source = shared_room(subject, year), link_source(subject, year)
    opened = sum(_opened(tx, policy, member, year) for member in members)
    debt = max(0, opened - policy.firm_cap_fen[year]) - _given_up(tx, source)
    batch: list[Transfer] = []
    for room in (shared, *(firm_room(member, year) for member in members)):
        left = store.balance(tx, room).available
        owed = min(left, max(debt, 0))
        batch += _moves(Code.LINK, room, source, owed)
        debt -= owed
        if room != shared:
            batch += _moves(Code.LINK, room, shared, left - owed)
    store.post_all(tx, batch, now)


def gather_firm(tx: Connection, policy: Policy, firm: str, now: datetime) -> None:
    """The same for the groups that a firm is in; closed years stay as they are."""
    for year, subject in sorted(store.subjects_of(tx, firm).items()):
        if acts.state_of(tx, "year", f"{PROGRAMME}:{year}") != "closed":
            gather(tx, policy, year, subject, members_of(tx, year, subject), now)


def members_of(tx: Connection, year: int, subject: str) -> tuple[str, ...]:
    """The codes that share the subject's room, sorted."""
    query = select(cap_subjects.c.firm).where(cap_subjects.c.year == year, cap_subjects.c.subject == subject)
    return tuple(sorted(tx.execute(query).scalars()))


def _part(tx: Connection, policy: Policy, year: int, subject: str, members: Sequence[str], now: datetime) -> None:
    """Each member has its own cap again, less what it drew and holds itself."""
    shared, source = shared_room(subject, year), link_source(subject, year)
    left = store.balance(tx, shared).available
    batch: list[Transfer] = []
    for member in members:
        spent = store.balance(tx, firm_spent(member, year))
        used = spent.credits_posted - spent.debits_posted + spent.credits_pending
        missing = _opened(tx, policy, member, year) - used - store.balance(tx, firm_room(member, year)).available
        first = min(missing, left)
        batch += _moves(Code.LINK, shared, firm_room(member, year), first)
        batch += _moves(Code.LINK, source, firm_room(member, year), missing - first)
        left -= first
    store.post_all(tx, batch, now)


def _opened(tx: Connection, policy: Policy, firm: str, year: int) -> int:
    """The cap with which the firm's room was opened; 0 before it claimed."""
    return policy.firm_cap_fen[year] if store.posted(tx, f"open_room:{firm}:{policy.id}:{year}") else 0


def _given_up(tx: Connection, source: AccountId) -> int:
    balance = store.balance(tx, source)
    return balance.credits_posted - balance.debits_posted


def _moves(code: Code, debit: AccountId, credit: AccountId, fen: int) -> list[Transfer]:
    if not fen:
        return []
    identity = f"{code.value}:{uuid_utils.uuid7()}"
    return [Transfer(id=identity, phase=Phase.POSTED, code=code, debit=debit, credit=credit, amount_fen=fen)]
