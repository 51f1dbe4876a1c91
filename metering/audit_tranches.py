"""Audit of a year's money: where each appropriation is, tranches as they were issued, caps that linked firms share."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, select

from metering.ledger import (
    PROGRAMME,
    Code,
    Phase,
    firm_room,
    link_source,
    pool_room,
    pool_spent,
    shared_room,
    tranche_room,
)
from metering.schema import accounts, cap_subjects, tranche_uses, tranches, transfers
from scheduler.journal import rows

Broken = tuple[str, str]
MOVED = (Phase.POSTED.value, Phase.POST.value)


def laws(tx: Connection) -> list[tuple[str, Callable[[], Broken | None]]]:
    """Each law by name; its check gives the first broken record, or None."""
    return [
        ("each appropriation is in its pool, in tranches, held, spent or lapsed", lambda: _appropriations(tx)),
        ("tranches moved what they say, and are used when their transfers say", lambda: _tranches(tx)),
        ("linked firms have one cap between them", lambda: _shared(tx)),
    ]


def _appropriations(tx: Connection) -> Broken | None:
    """Appropriation = pool + tranches (what is held still in either) + spent + lapsed, for every year of the voucher."""
    given: dict[str, int] = {}
    gone: dict[str, int] = {}
    for row in rows(tx, transfers):
        if row["phase"] not in MOVED:
            continue
        for account, sign in ((row["debit"], 1), (row["credit"], -1)):
            if not account.startswith(f"pool:{PROGRAMME}:"):
                continue
            year = account.rsplit(":", 1)[1]
            if row["code"] == Code.APPROPRIATE.value:
                given[year] = given.get(year, 0) - sign * row["amount_fen"]
            elif row["code"] in (Code.LAPSE.value, Code.REISSUE.value):
                gone[year] = gone.get(year, 0) + sign * row["amount_fen"]
    stored = {
        row["id"]: row["credits_posted"] - row["debits_posted"] for row in tx.execute(select(accounts)).mappings()
    }
    for year in sorted({*given, *gone}):
        issued = {
            a: fen for a, fen in stored.items() if a.startswith("tranche:") and a.endswith(f":{PROGRAMME}:{year}")
        }
        parts = {
            "pool": stored.get(pool_room(year), 0),
            "tranches": sum(issued.values()),
            "spent": stored.get(pool_spent(year), 0),
            "lapsed": gone.get(year, 0),
        }
        if sum(parts.values()) != given.get(year, 0) or min(parts.values()) < 0:
            told = ", ".join(f"{name} {fen}" for name, fen in parts.items())
            return f"accounts:{pool_room(year)}", f"{given.get(year, 0)} fen were appropriated: {told}"
    return None


def _tranches(tx: Connection) -> Broken | None:
    moved: dict[str, tuple[str, str, int]] = {}
    used: dict[str, int] = {}
    for row in rows(tx, transfers):
        if row["code"] == Code.TRANCHE.value:
            moved[row["id"]] = (row["debit"], row["credit"], row["amount_fen"])
        used |= {name: row["effective_at_ms"] for name in (row["debit"], row["credit"]) if name.startswith("tranche:")}
    numbers: dict[tuple[str, int], int] = {}
    for row in rows(tx, tranches):
        name, key = f"tranches:{row['seq']}", (row["firm"], row["year"])
        numbers[key] = numbers.get(key, 0) + 1
        if row["number"] != numbers[key]:
            return name, f"number {row['number']} where {numbers[key]} is due"
        expected = (pool_room(row["year"]), tranche_room(row["firm"], row["year"]), row["amount_fen"])
        found = moved.pop(f"tranche:{row['id']}", None)
        if found != expected or not 0 < row["amount_fen"] <= row["size_fen"]:
            return name, f"says {row['amount_fen']} fen of {row['size_fen']}, its transfer says {found}"
    if moved:
        return min(moved), "money left the pool for a tranche that is not on record"
    stored = {row.account: row.used_at_ms for row in tx.execute(select(tranche_uses))}
    for account in sorted({*used, *stored}):
        if used.get(account) != stored.get(account):
            return f"tranche_uses:{account}", f"says {stored.get(account)}, its transfers say {used.get(account)}"
    return None


def _shared(tx: Connection) -> Broken | None:
    """Of what members were given as caps all but the largest one was given up, or the shared room is empty."""
    opened: dict[str, int] = {}
    for row in rows(tx, transfers):
        if row["code"] == Code.OPEN_ROOM.value:
            opened[row["credit"]] = opened.get(row["credit"], 0) + row["amount_fen"]
    stored = {
        row["id"]: row["credits_posted"] - row["debits_posted"] for row in tx.execute(select(accounts)).mappings()
    }
    groups: dict[tuple[int, str], list[str]] = {}
    for member in tx.execute(select(cap_subjects)):
        groups.setdefault((member.year, member.subject), []).append(member.firm)
    for (year, subject), members in sorted(groups.items()):
        name = f"cap_subjects:{subject}:{year}"
        if subject != min(members) or len(members) < 2:
            return name, f"{subject} is not the least of {', '.join(sorted(members))}"
        caps = [opened.get(firm_room(member, year), 0) for member in members]
        up, left = stored.get(link_source(subject, year), 0), stored.get(shared_room(subject, year), 0)
        due = sum(caps) - max(caps)
        if not 0 <= up <= due or (up < due and left > 0):
            return name, f"{up} of {due} fen of caps given up while {left} are left to share"
    known = {shared_room(subject, year) for year, subject in groups}
    for account, fen in sorted(stored.items()):
        if account.startswith("room:linked:") and fen and account not in known:
            return f"accounts:{account}", f"{fen} fen are shared by nobody"
    return None
