"""Laws 5, 6 and 8 on the real ledger: books balance, holds resolve once, repeating changes nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from metering import store
from metering.ledger import Code, Phase, Transfer, firm_room, firm_spent, replay
from metering.schema import accounts, transfers
from metering.store import RoomExceeded
from scheduler.database import Database
from scheduler.schema import metadata
from tests.fakes import NOON

YEAR = 2026
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["hold", "post", "void", "expire", "draw", "again"]), st.integers(0, 9), st.integers(0, 120)
    ),
    max_size=40,
)


@given(acts=ACTS)
def test_books_balance_and_rooms_stay_above_zero_whatever_is_tried(acts: list[tuple[str, int, int]]) -> None:
    """Law 5 and 6, against a model of two numbers: what is left in the room, and what each hold reserves."""
    with tempfile.TemporaryDirectory() as directory:
        database = Database(f"sqlite:///{Path(directory) / 'l.db'}")
        metadata.create_all(database.engine)
        left, held, resolved, done = 300, {}, set(), []
        with database.write() as tx:
            store.post(tx, _transfer("open", Phase.POSTED, Code.OPEN_ROOM, 300), NOON)
        for number, (act, slot, amount) in enumerate(acts):
            transfer = _act(act, slot, amount, number, done)
            expected = _model(act, slot, transfer, left, held, resolved)
            if expected is None:
                continue
            if expected is RoomExceeded:
                with pytest.raises(RoomExceeded), database.write() as tx:
                    store.post(tx, transfer, NOON)
                continue
            with database.write() as tx:
                store.post(tx, transfer, NOON)
            left = expected
            done.append(transfer)
            with database.read() as tx:
                assert left == store.balance(tx, firm_room("f", YEAR)).available
                assert store.trial_balance(tx)["balanced"]
        _agree_with_replay(database)
        database.close()


def _transfer(name: str, phase: Phase, code: Code, amount: int, pending: str | None = None) -> Transfer:
    debit, credit = firm_room("f", YEAR), firm_spent("f", YEAR)
    if code is Code.OPEN_ROOM:
        from metering.ledger import cap_source

        debit, credit = cap_source(), firm_room("f", YEAR)
    return Transfer(id=name, phase=phase, code=code, debit=debit, credit=credit, amount_fen=amount, pending_id=pending)


def _act(act: str, slot: int, amount: int, number: int, done: list[Transfer]) -> Transfer:
    match act:
        case "hold":
            return _transfer(f"hold{slot}", Phase.PENDING, Code.HOLD, 10 * slot + 5)
        case "draw":
            return _transfer(f"draw{number}", Phase.POSTED, Code.DRAW, amount)
        case "again":
            return done[slot % len(done)] if done else _transfer("open", Phase.POSTED, Code.OPEN_ROOM, 300)
        case "post":
            return _transfer(f"post{slot}", Phase.POST, Code.DRAW, min(amount, 10 * slot + 5), f"hold{slot}")
        case _:
            return _transfer(f"{act}{slot}", Phase(act), Code.DRAW, 0, f"hold{slot}")


def _model(
    act: str, slot: int, transfer: Transfer, left: int, held: dict[int, int], resolved: set[int]
) -> int | type[RoomExceeded] | None:
    """What the room holds afterwards; RoomExceeded if it must refuse; None if the act makes no sense here."""
    match act:
        case "again":
            return left
        case "hold":
            if slot in held or slot in resolved:
                return None
            if transfer.amount_fen > left:
                return RoomExceeded
            held[slot] = transfer.amount_fen
            return left - transfer.amount_fen
        case "draw":
            return left - transfer.amount_fen if transfer.amount_fen <= left else RoomExceeded
        case _:
            if slot not in held:
                return None
            amount = held.pop(slot)
            resolved.add(slot)
            return left + amount - transfer.amount_fen


def _agree_with_replay(database: Database) -> None:
    with database.read() as tx:
        rows = list(tx.execute(select(transfers).order_by(transfers.c.seq)).mappings())
        replayed = replay(
            Transfer(
                id=r["id"],
                phase=Phase(r["phase"]),
                code=Code(r["code"]),
                debit=r["debit"],
                credit=r["credit"],
                amount_fen=r["amount_fen"],
                pending_id=r["pending_id"],
            )
            for r in rows
        )
        stored = {row["id"]: store._balance(row) for row in tx.execute(select(accounts)).mappings()}
    assert replayed == stored


def test_a_hold_is_resolved_exactly_once() -> None:
    """Law 6: the second resolution is refused by name, and by the database itself if the code above it ever slept."""
    from sqlalchemy import insert, select
    from sqlalchemy.exc import IntegrityError

    with tempfile.TemporaryDirectory() as directory:
        database = Database(f"sqlite:///{Path(directory) / 'l.db'}")
        metadata.create_all(database.engine)
        with database.write() as tx:
            store.post(tx, _transfer("open", Phase.POSTED, Code.OPEN_ROOM, 300), NOON)
            store.post(tx, _transfer("h", Phase.PENDING, Code.HOLD, 100), NOON)
            store.post(tx, _transfer("p", Phase.POST, Code.DRAW, 60, "h"), NOON)

        with pytest.raises(store.AlreadyResolved, match="h was posted, voided or expired"), database.write() as tx:
            store.post(tx, _transfer("v", Phase.VOID, Code.DRAW, 0, "h"), NOON)
        with database.read() as tx:
            row = dict(tx.execute(select(transfers).where(transfers.c.id == "p")).mappings().one())
        with pytest.raises(IntegrityError, match="pending_id"), database.write() as tx:
            tx.execute(insert(transfers).values({**row, "id": "v", "seq": row["seq"] + 1}))
        database.close()


def test_the_same_id_with_another_body_is_a_conflict() -> None:
    with tempfile.TemporaryDirectory() as directory:
        database = Database(f"sqlite:///{Path(directory) / 'l.db'}")
        metadata.create_all(database.engine)
        with database.write() as tx:
            store.post(tx, _transfer("open", Phase.POSTED, Code.OPEN_ROOM, 300), NOON)
            store.post(tx, _transfer("open", Phase.POSTED, Code.OPEN_ROOM, 300), NOON)
        with pytest.raises(store.TransferConflict), database.write() as tx:
            store.post(tx, _transfer("open", Phase.POSTED, Code.OPEN_ROOM, 301), NOON)
        with database.read() as tx:
            assert store.count_transfers(tx) == 1
        database.close()
