"""Tranches, shared caps and what lapsed explain themselves: each transfer comes out the same again from those before it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sqlalchemy import Connection, select, text

from metering import linking, rooms, store, tranche
from metering.explain import FORMS, explain
from metering.explain_tree import Node
from metering.ledger import firm_room, shared_room, tranche_room
from metering.parameters.policy import Registry
from metering.schema import accounts, facts, settlements, tranches, transfers
from scheduler.database import Database
from scheduler.refusal import Refusal
from tests.metering.answers import OTHER, THIRD, answer, end, enrol, in_tranches, start
from tests.metering.office import FINANCE, Office, make_office
from tests.metering.story import small_rooms
from tests.metering.test_explain_programmes import refund
from tests.metering.tranche_cases import mistake, put_right
from tests.platform import FIRM, POLICY, PROVIDER

YEAR, DAY = 2026, 86_400
NEW_YEAR = datetime(2026, 12, 31, 16, tzinfo=UTC)
SUBJECT = min(FIRM, OTHER)
CAP = 9_000  # fen a year: an hour of eight cards draws 6,400 of it


@dataclass(frozen=True)
class Told:
    """A platform on which rooms have been issued, shared, parted and closed."""

    directory: Path
    registry: Registry


def claim(office: Office, name: str, firm: str = FIRM) -> dict[str, Any]:
    done = office.call(tranche.issue, office.platform.budget.policy, id=name, firm=firm, by="key")
    assert not isinstance(done, Refusal), done
    return dict(done)


def join(office: Office, one: str = FIRM, other: str = OTHER, **changes: Any) -> int:
    values: dict[str, Any] = {"start": office.now, "end": None, "evidence": {"document": "merger"}, "by": "op"}
    done = office.call(linking.link, office.platform.budget.policy, codes=(one, other), **{**values, **changes})
    assert not isinstance(done, Refusal), done
    return int(done["seq"])


def tick(office: Office, seconds: float) -> None:
    office.platform.clock.advance(seconds)
    office.platform.loop.tick()


def everything(directory: Path) -> Told:
    with mock.patch("tests.platform.load_policies", return_value=small_rooms(30_000, CAP)):
        office = make_office(directory)
    in_tranches(office)
    answer(office, cap_subject="linked_firms", refill="reissue")
    enrol(office, OTHER)
    # each draws 6,400 of a tranche bounded by its cap; linked, both caps' rests are given up
    assert claim(office, "a1")["amount_fen"] == CAP
    first = start(office, FIRM, "first", limit="1h")
    end(office, first)
    claim(office, "b1", OTHER)
    second = start(office, OTHER, "second", limit="1h")
    end(office, second)
    began = office.now
    link = join(office)
    # what comes back is given up until one cap is left, the rest is shared: by a hold, and by what is settled beyond it
    refund(office, second, 8_000)
    tick(office, 1)
    refund(office, second, 2_500)
    tick(office, 1)
    third = start(office, FIRM, "third", limit="1h")
    refund(office, second, 3_000)
    tick(office, 1)
    end(office, third)
    refund(office, second, 1_250)  # 500 to share
    tick(office, 1)
    # it ends, and each has its own cap again; what is idle goes back to the pool
    join(office, start=began, end=office.now, withdraws=link)
    tick(office, 31 * DAY)
    # one that is linked before it claims adds no cap; a third joins the two and never did
    # the year closes on a pair and on a tranche that is not used up
    enrol(office, THIRD, claim=False)
    pair = join(office, OTHER, THIRD)
    caps = office.platform.budget.policy.firm_cap_fen
    assert not isinstance(office.call(store.claim, firm=THIRD, by="key", policy=POLICY, caps=caps), Refusal)
    tick(office, 1)
    triple = join(office)
    join(office, start=office.now, end=office.now, withdraws=triple)
    assert pair < triple
    office.platform.clock.advance((NEW_YEAR - office.now).total_seconds() - 5 * DAY)
    claim(office, "c1", THIRD)
    office.platform.clock.advance(5 * DAY)
    done = office.call(rooms.close_year, office.platform.budget.policy, YEAR, FINANCE, "over")
    assert not isinstance(done, Refusal), done
    # a mistaken correction of the closed year, put right
    number = mistake(office, first, began.replace(month=1))
    put_right(office, first, number, began.replace(month=1))
    office.audit()
    budget = office.platform.budget
    office.platform.database.close()
    return Told(directory, replace(budget.registry, policies={**budget.registry.policies, POLICY: budget.policy}))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return everything(tmp_path_factory.mktemp("rooms"))


@pytest.fixture
def tx(told: Told, tmp_path: Path) -> Iterator[Connection]:
    """A copy that may be altered."""
    shutil.copytree(told.directory, tmp_path / "copy")
    database = Database(f"sqlite:///{tmp_path / 'copy' / 'yisuan.db'}")
    with database.write() as connection:
        for name in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
            connection.execute(text(f"DROP TRIGGER {name}"))
    with database.write() as connection:
        yield connection
    database.close()


def tree_of(tx: Connection, told: Told, amount: str) -> Node:
    found = explain(tx, amount, told.registry)
    assert isinstance(found, Node), (amount, found)
    return found


def of_code(tx: Connection, code: str) -> list[Any]:
    return list(tx.execute(select(transfers).where(transfers.c.code == code).order_by(transfers.c.seq)).mappings())


def kinds(row: Any) -> tuple[str, str]:
    """What a transfer moves between: shared, own or given up."""
    return tuple(  # type: ignore[return-value]
        "given up" if name.startswith("capsrc:") else "shared" if name.startswith("room:linked:") else "own"
        for name in (row["debit"], row["credit"])
    )


# --- the law ----------------------------------------------------------------------------------------------------------


def test_every_transfer_and_every_account_is_recomputed_to_itself(tx: Connection, told: Told) -> None:
    codes: set[str] = set()
    for row in tx.execute(select(transfers)).mappings():
        node = tree_of(tx, told, row["id"])
        assert (node.facts["value"], node.facts["recomputed"]) == (row["amount_fen"], row["amount_fen"]), row["id"]
        assert node.broken == (), row["id"]
        codes.add(row["code"])
    assert codes >= {
        "tranche",
        "tranche_back",
        "link",
        "share",
        "reissue",
        "lapse",
        "draw",
        "reverse_draw",
        "refund_draw",
    }
    for table in (accounts, settlements):
        for identity in tx.execute(select(table.c.id)).scalars():
            assert tree_of(tx, told, identity).broken == (), identity


def test_every_way_of_moving_between_rooms_is_among_them(tx: Connection) -> None:
    assert {kinds(row) for row in of_code(tx, "link")} == {
        ("own", "given up"), ("own", "shared"), ("shared", "own"), ("given up", "own"), ("shared", "given up"),
    }  # fmt: skip
    assert {row["id"].split(":")[0] for row in of_code(tx, "share")} == {"hold", "settlement"}
    assert {row["job"] is None for row in of_code(tx, "lapse")} == {True, False}
    assert any(row["debit"].startswith("tranche:") for row in of_code(tx, "draw"))
    closed = {row["effective_at_ms"] >= NEW_YEAR.timestamp() * 1000 for row in of_code(tx, "tranche_back")}
    assert closed == {True, False}


# --- worked cases -----------------------------------------------------------------------------------------------------


def texts(node: Node, title: str) -> list[str]:
    return [each.facts["text"] for each in node.walk() if each.kind == "arithmetic" and each.title == title]


def test_a_tranche_names_its_size_the_pool_and_the_firm_from_the_parameter_to_the_record(
    tx: Connection, told: Told
) -> None:
    node = tree_of(tx, told, "tranche:a1")
    assert texts(node, "tranche") == ["min(size 10000, pool 30000, firm 9000) = 9000"]
    assert {each.title for each in node.walk() if each.kind == "parameter"} == {"compute_voucher.tranche_size"}
    streams = {each.facts["stream"] for each in node.walk() if each.kind == "record"}
    assert streams == {"tranches", "transfers"}


def test_a_tranche_of_a_firm_that_shares_its_cap_counts_what_is_shared(tx: Connection, told: Told) -> None:
    (shared,) = texts(tree_of(tx, told, "tranche:c1"), "tranche")
    both = texts(tree_of(tx, told, "tranche:c1"), "available")
    assert len(both) == 3, "the pool, the firm's own room and the one it shares"
    assert int(both[1].rpartition(" = ")[2]) == 0
    assert f"firm {both[2].rpartition(' = ')[2]})" in shared


def test_a_tranche_shows_no_transfer_of_another_firm(tx: Connection, told: Told) -> None:
    """The pool is everybody's: its sum is shown, its transfers are not."""
    seqs = [each.facts["seq"] for each in tree_of(tx, told, "tranche:b1").walk() if each.title.startswith("transfers:")]
    for row in tx.execute(select(transfers).where(transfers.c.seq.in_(seqs))).mappings():
        assert OTHER in (*row["debit"].split(":"), *row["credit"].split(":")), row["id"]


def test_caps_beyond_one_are_given_up_out_of_what_is_left(tx: Connection, told: Told) -> None:
    first, second = [row for row in of_code(tx, "link") if kinds(row) == ("own", "given up")][:2]
    assert (first["amount_fen"], second["amount_fen"]) == (2_600, 2_600)
    assert texts(tree_of(tx, told, first["id"]), "caps_beyond_one") == ["max(0, 18000 - 9000) - 0 = 9000"]
    assert texts(tree_of(tx, told, second["id"]), "caps_beyond_one") == ["max(0, 18000 - 9000) - 2600 = 6400"]
    node = tree_of(tx, told, second["id"])
    assert any(each.title.startswith("facts:") for each in node.walk()), "the link's evidence"
    assert "compute_voucher.firm_cap" in {each.title for each in node.walk() if each.kind == "parameter"}


def test_a_share_is_what_the_hold_or_the_draw_lacks(tx: Connection, told: Told) -> None:
    for row in of_code(tx, "share"):
        (shown,) = texts(tree_of(tx, told, row["id"]), "lacks")
        needed, left = (int(part) for part in shown.partition(" = ")[0].split(" - "))
        assert needed - left == row["amount_fen"] > 0


def test_what_a_job_draws_again_of_a_closed_year_is_what_it_had_returned(tx: Connection, told: Told) -> None:
    again, back = of_code(tx, "reissue"), [row for row in of_code(tx, "lapse") if row["job"] is not None]
    assert {row["amount_fen"] for row in again} == {row["amount_fen"] for row in back} == {6_400}
    assert [texts(tree_of(tx, told, row["id"]), "returned_to_closed") for row in back] == [["6400 = 6400"]] * len(back)
    for row in again:
        assert "sum_of_lines" in {each.title for each in tree_of(tx, told, row["id"]).walk()}


def test_what_a_tranche_had_left_goes_back_for_its_reason(tx: Connection, told: Told) -> None:
    idle, closed = of_code(tx, "tranche_back")[0], of_code(tx, "tranche_back")[-1]
    assert "compute_voucher.tranche_idle" in {each.title for each in tree_of(tx, told, idle["id"]).walk()}
    streams = {each.facts["stream"] for each in tree_of(tx, told, closed["id"]).walk() if each.kind == "record"}
    assert streams == {"acts", "transfers"}


# --- alterations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("UPDATE transfers SET amount_fen = amount_fen + 1 WHERE id = '{id}'", "tranche"),
        ("UPDATE transfers SET amount_fen = amount_fen + 1 WHERE id = '{id}'", "tranche_back"),
        ("UPDATE transfers SET amount_fen = amount_fen + 1 WHERE id = '{id}'", "link"),
        ("UPDATE transfers SET amount_fen = amount_fen + 1 WHERE id = '{id}'", "share"),
        ("UPDATE transfers SET amount_fen = amount_fen + 1 WHERE id = '{id}'", "reissue"),
        ("UPDATE transfers SET amount_fen = amount_fen + 1 WHERE id = '{id}'", "lapse"),
        ("UPDATE transfers SET amount_fen = amount_fen - 8999 WHERE code = 'open_room'", "tranche"),
        ("UPDATE transfers SET amount_fen = amount_fen + 1 WHERE phase = 'pending'", "share"),
    ],
)
def test_a_number_that_was_altered_is_a_mismatch(tx: Connection, told: Told, statement: str, code: str) -> None:
    identity = of_code(tx, code)[0]["id"]
    assert not tree_of(tx, told, identity).broken
    tx.exec_driver_sql(statement.format(id=identity))
    assert tree_of(tx, told, identity).mismatch


@pytest.mark.parametrize(
    ("statement", "title"),
    [
        ("UPDATE tranches SET amount_fen = amount_fen + 1 WHERE id = 'a1'", "tranches:1"),
        ("UPDATE tranches SET policy = 'no-such-policy' WHERE id = 'a1'", None),
        ("DELETE FROM tranches WHERE id = 'a1'", None),
    ],
)
def test_an_altered_or_missing_tranche_is_told(tx: Connection, told: Told, statement: str, title: str | None) -> None:
    tx.exec_driver_sql(statement)
    node = tree_of(tx, told, "tranche:a1")
    if title is None:
        assert node.facts["recomputed"] is None
        assert "explain.not_recomputed" in {each.title for each in node.walk()}
        return
    assert {each.title for each in node.walk() if each.verified is False} == {title}


def test_a_link_that_no_longer_reads_is_told_and_does_not_stop_the_rest(tx: Connection, told: Told) -> None:
    row = next(row for row in of_code(tx, "link") if kinds(row) == ("own", "given up"))
    tx.execute(facts.update().where(facts.c.subject_kind == "link").values(subject="nobody", evidence="{"))
    node = tree_of(tx, told, row["id"])
    assert node.mismatch or node.facts["recomputed"] is None


# --- who may ----------------------------------------------------------------------------------------------------------


def test_a_firm_explains_its_own_tranche_and_no_others(tx: Connection, told: Told) -> None:
    rooms_of = [f"{tranche_room(FIRM, YEAR)}#available", firm_room(FIRM, YEAR), "tranche:a1"]
    for amount in rooms_of:
        assert isinstance(explain(tx, amount, told.registry, firm=FIRM), Node), amount
        assert isinstance(explain(tx, amount, told.registry, firm=THIRD), Refusal), amount
    assert isinstance(explain(tx, shared_room(SUBJECT, YEAR), told.registry, firm=PROVIDER), Refusal)


def test_a_room_spelled_wrong_names_the_nearest(tx: Connection, told: Told) -> None:
    found = explain(tx, f"{tranche_room(FIRM, YEAR)}x", told.registry)
    assert isinstance(found, Refusal)
    assert found.facts["nearest"] == tranche_room(FIRM, YEAR)
    found = explain(tx, "tranche:", told.registry)
    assert isinstance(found, Refusal)
    assert found.facts["nearest"] == FORMS["tranche"]
    assert tx.execute(select(tranches.c.id)).scalars().all() == ["a1", "b1", "c1"]
