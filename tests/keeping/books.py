"""The laws of the books on a whole database, as races and crashes must leave it."""

from __future__ import annotations

from sqlalchemy import select

from metering import store
from metering.ledger import AccountId, Balance, Code, Phase, Transfer, bounded, replay
from metering.schema import accounts, transfers
from scheduler import journal
from scheduler.database import Database


def check(database: Database) -> tuple[dict[AccountId, Balance], dict[str, int]]:
    """Chain whole, books balanced, counters = replay, no room below zero. Returns balances and amount per transfer id."""
    with database.read() as tx:
        assert journal.verify(tx, transfers) is None
        assert store.trial_balance(tx)["balanced"]
        rows = list(tx.execute(select(transfers).order_by(transfers.c.seq)).mappings())
        stored = {row["id"]: row for row in tx.execute(select(accounts)).mappings()}
    replayed = replay(
        Transfer(
            id=row["id"],
            phase=Phase(row["phase"]),
            code=Code(row["code"]),
            debit=AccountId(row["debit"]),
            credit=AccountId(row["credit"]),
            amount_fen=row["amount_fen"],
            pending_id=row["pending_id"],
        )
        for row in rows
    )
    assert set(stored) == set(replayed)
    for account, balance in replayed.items():
        for name in ("debits_posted", "debits_pending", "credits_posted", "credits_pending"):
            assert stored[account][name] == getattr(balance, name), (account, name)
        assert not bounded(account) or balance.available >= 0, account
    amounts = {row["id"]: int(row["amount_fen"]) for row in rows}
    assert len(amounts) == len(rows), "an id was applied twice"
    return replayed, amounts
