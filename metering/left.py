"""Left: what rooms hold now, and who may draw of them, read for many firms at once: the statements do not grow with the firms."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, TextClause, select, text

from metering.ledger import PROGRAMME, shared_room
from metering.schema import accounts, cap_subjects, rights

Apart = dict[str, dict[str, dict[int, int]]]  # firm → kind → year → fen
Subjects = dict[str, dict[int, str]]  # firm → year → subject
_AT_ONCE = 100  # firms a statement: SQLite takes an expression of at most 1000 terms


def rights_of(tx: Connection, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Each firm's right to draw; without those that did not claim."""
    kept = ("id", "firm", "programme", "policy", "claimed_at_ms", "claimed_by")
    query = select(*(rights.c[k] for k in kept)).where(rights.c.firm.in_(names), rights.c.programme == PROGRAMME)
    return {row[1]: dict(zip(kept, row, strict=True)) for row in tx.execute(query.order_by(rights.c.seq))}


def rooms_apart(tx: Connection, names: Sequence[str]) -> tuple[Apart, Subjects]:
    """What is left of the pool and each firm's rooms, what it shares apart; and under which subjects it shares rooms."""
    pool: dict[int, int] = {}
    found: Apart = {firm: {"pool": pool, "firm": {}, "tranche": {}, "shared": {}} for firm in names}
    for some in (names[first : first + _AT_ONCE] for first in range(0, max(len(names), 1), _AT_ONCE)):
        into = {f"pool:{PROGRAMME}:": pool}
        for firm in some:
            into[f"room:{firm}:{PROGRAMME}:"] = found[firm]["firm"]
            into[f"tranche:{firm}:{PROGRAMME}:"] = found[firm]["tranche"]
        for name, fen in tx.execute(_rooms_of(len(into)), {f"p{n}": prefix for n, prefix in enumerate(into)}):
            prefix, year = name[:-4], name[-4:]
            if prefix in into and year.isdigit():  # a database that sorts punctuation its own way may give others too
                into[prefix][int(year)] = int(fen)
    subjects = subjects_of(tx, names)
    joint = {shared_room(subject, year) for each in subjects.values() for year, subject in each.items()}
    held = availables(tx, sorted(joint)) if joint else {}
    for firm, each in subjects.items():
        found[firm]["shared"] = {year: held.get(shared_room(one, year), 0) for year, one in sorted(each.items())}
    return found, subjects


def subjects_of(tx: Connection, names: Sequence[str]) -> Subjects:
    """The subject under which each firm shares its room of a year with firms linked to it; {} for one that stands alone."""
    found: Subjects = {firm: {} for firm in names}
    query = select(cap_subjects.c.firm, cap_subjects.c.year, cap_subjects.c.subject)
    for firm, year, subject in tx.execute(query.where(cap_subjects.c.firm.in_(names))):
        found[firm][int(year)] = str(subject)
    return found


@functools.lru_cache(maxsize=64)
def _rooms_of(count: int) -> TextClause:
    """Account and what is available of each whose id is one of `count` prefixes and a year."""
    places = " OR ".join(f"id BETWEEN :p{n} || '0000' AND :p{n} || '9999'" for n in range(count))
    left = "credits_posted - debits_posted - debits_pending"
    return text(f"SELECT id, {left} FROM accounts WHERE {places} ORDER BY id")  # noqa: S608 - no value is in it


def availables(tx: Connection, names: Sequence[str]) -> dict[str, int]:
    """What each of these rooms can still give; without those that no transfer has touched."""
    left = accounts.c.credits_posted - accounts.c.debits_posted - accounts.c.debits_pending
    return {row[0]: int(row[1]) for row in tx.execute(select(accounts.c.id, left).where(accounts.c.id.in_(names)))}
