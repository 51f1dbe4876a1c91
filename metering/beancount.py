"""Beancount: the ledger's transfers as a plain-text double-entry file that any bookkeeper's tools can add up again.

    beancount_lines(transfers, accounts) -> lines of a file that bean-check accepts

A debit is positive, a credit negative, in yuan with two decimals. Posted value is a transaction; a hold, and a hold that
ended without moving anything, is a note, since Beancount has no pending phase. The file ends with a balance assertion
per account, to the fen, taken from the accounts table and not from the transfers: one edited fen and it does not add up.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from metering.focus import yuan
from scheduler.clock import from_ms

ZONE = ZoneInfo("Asia/Shanghai")  # a transfer is of its local day, as the policy counts years
CURRENCY = "CNY"
MOVES = ("posted", "post")  # phases that move value; pending, void and expire do not
ROOTS = {"firm": "Assets", "treasury": "Assets", "provider": "Liabilities"}  # who owes, who is owed; the rest is Equity
FIRST = date(1970, 1, 1)
Row = Mapping[str, Any]


def beancount_lines(
    transfers: Iterable[Row], accounts: Sequence[Row], *, title: str = "yisuan", mark: str = "demo"
) -> Iterator[str]:
    """The file line by line, without line ends. Rows are those of the tables `transfers` (in chain order) and `accounts`.

    Raises ValueError for a transfer between accounts that the accounts table does not have.
    """
    named = account_names([row["id"] for row in accounts])
    yield from (f'option "title" {quoted(title)}', f'option "operating_currency" "{CURRENCY}"', "")
    yield f"; ledger: {mark}"
    for row in accounts:
        yield f"{FIRST} open {named[row['id']]} {CURRENCY}"
        yield f"  id: {quoted(row['id'])}"
        yield f"  ledger: {quoted(row['ledger'])}"
    last = FIRST
    for row in transfers:
        day = from_ms(row["effective_at_ms"]).astimezone(ZONE).date()
        last = max(last, day)
        for side in ("debit", "credit"):
            if row[side] not in named:
                raise ValueError(f"{side}: transfer {row['id']!r} names {row[side]!r}, which is no account")
        yield ""
        yield from _transaction(row, day, named) if row["phase"] in MOVES else _note(row, day, named)
    yield ""
    for row in accounts:
        posted = row["debits_posted"] - row["credits_posted"]
        # `~ 0`: without it Beancount forgives a cent in an assertion with two decimals.
        yield f"{last + timedelta(days=1)} balance {named[row['id']]} {yuan(posted)} ~ 0 {CURRENCY}"
        yield f"  pending-debits: {quoted(yuan(row['debits_pending']))}"
        yield f"  pending-credits: {quoted(yuan(row['credits_pending']))}"


def _transaction(row: Row, day: date, named: Mapping[str, str]) -> Iterator[str]:
    yield f"{day} * {quoted(row['code'])} {quoted(row['job'] or '')}"
    for key, column in (("transfer", "id"), ("phase", "phase"), ("pending", "pending_id"), ("lease", "lease"),
                        ("settlement", "settlement"), ("cites", "cites"), ("chain-hash", "hash")):  # fmt: skip
        if row.get(column) is not None:
            yield f"  {key}: {quoted(str(row[column]))}"
    yield f"  {named[row['debit']]}  {yuan(row['amount_fen'])} {CURRENCY}"
    yield f"  {named[row['credit']]}  {yuan(-row['amount_fen'])} {CURRENCY}"


def _note(row: Row, day: date, named: Mapping[str, str]) -> Iterator[str]:
    told = f"{row['phase']} {row['code']} {yuan(row['amount_fen'])} {CURRENCY} to {row['credit']}: {row['id']}"
    yield f"{day} note {named[row['debit']]} {quoted(told)}"


def account_names(identities: Iterable[str]) -> dict[str, str]:
    """A legal and distinct Beancount name for every account id: `firm:X:payable` is `Assets:Firm:X:Payable`.

    Parts keep letters, digits and dashes and begin with a capital or a digit. Where two ids would read alike, or a part
    has nothing legal in it, the name ends with the first eight hex digits of the id's SHA-256.
    """
    plain = {identity: _plain(identity) for identity in identities}
    count: dict[str, int] = {}
    for name in plain.values():
        count[name] = count.get(name, 0) + 1
    return {
        identity: name if count[name] == 1 and _readable(identity) else f"{name}:{_short(identity)}"
        for identity, name in plain.items()
    }


def _plain(identity: str) -> str:
    parts = identity.split(":")
    return ":".join((ROOTS.get(parts[0], "Equity"), *(_part(part) for part in parts)))


def _part(part: str) -> str:
    kept = re.sub("[^A-Za-z0-9]+", "-", part).strip("-")
    return kept[:1].upper() + kept[1:] if kept else "X"


def _readable(identity: str) -> bool:
    return all(re.search("[A-Za-z0-9]", part) for part in identity.split(":"))


def _short(identity: str) -> str:
    return "H" + hashlib.sha256(identity.encode()).hexdigest()[:8]


def quoted(text: str) -> str:
    """A Beancount string: quotes and backslashes escaped, no line ends or other control characters."""
    calm = "".join(sign if sign.isprintable() else " " for sign in text)
    return '"' + calm.replace("\\", "\\\\").replace('"', '\\"') + '"'
