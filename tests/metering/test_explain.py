"""Every number explains itself: it comes out the same again, and whatever was altered under it says so, alone."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from metering import explain_tree as tree
from metering.case import settle_document
from metering.explain import FORMS, explain
from metering.explain_books import LISTING, account_fields
from metering.explain_settlement import LINE, TOTALS
from metering.explain_tree import Item, Node
from metering.parameters import load_policies
from metering.rule import load_rules
from metering.schema import accounts, holds, settlement_lines, settlements, transfers
from metering.statement import firm_statement, job_statement
from scheduler.database import Database
from scheduler.refusal import Refusal
from scheduler.schema import pools
from tests.metering.cases import cases
from tests.platform import FIRM, job_text, make_platform

REGISTRY = load_policies()
SCHEMA = json.loads(Path("docs/schemas/explanation.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settled jobs, domestic and foreign; one that declines, one still running with its hold, one settled in two parts."""
    directory = tmp_path_factory.mktemp("explain")
    platform = make_platform(directory)
    for name, accelerators, extra in (
        ("a", "Ascend910B3:7", ""),
        ("b", "H800:8", ""),
        ("c", "H800:3", "money: {voucher: none}\n"),
    ):
        job = platform.submit(name, job_text(name, accelerators, extra=extra))
        platform.loop.tick()
        platform.clock.advance(1234.567)
        platform.beat()
        platform.backend.end(f"{job}.1", 0)
        platform.loop.tick()
    platform.submit("d", job_text("d", "Ascend910B3:1"))
    platform.loop.tick()
    platform.clock.advance(60)
    platform.beat()
    platform.loop.tick()
    long = platform.submit("e", job_text("e", "H800:1", limit="30h"))
    platform.loop.tick()
    for _ in range(2):  # past a local midnight: an interim settlement, then the rest
        platform.clock.advance(13 * 3600)
        platform.beat()
        platform.loop.tick()
    platform.backend.end(f"{long}.1", 0)
    platform.loop.tick()
    platform.database.close()
    return directory


@contextmanager
def opened(directory: Path) -> Iterator[Connection]:
    database = Database(f"sqlite:///{directory / 'yisuan.db'}")
    with database.read() as tx:
        yield tx
    database.close()


@pytest.fixture
def copy(settled: Path, tmp_path: Path) -> Path:
    shutil.copytree(settled, tmp_path / "copy")
    return tmp_path / "copy"


def tree_of(tx: Connection, amount: str, **asked: Any) -> Node:
    found = explain(tx, amount, REGISTRY, **asked)
    assert isinstance(found, Node), (amount, found)
    return found


def check_form(node: dict[str, Any]) -> None:
    """The node and all below it have the keys that the published schema asks of their kind, with its types."""
    published = SCHEMA["$defs"]["node"]
    types = {"integer": int, "string": str, "boolean": bool, "object": dict, "array": list, "null": type(None)}
    asked = [published, *(one["then"] for one in published["allOf"]
                          if one["if"]["properties"]["kind"]["const"] == node["kind"])]  # fmt: skip
    assert node["kind"] in published["properties"]["kind"]["enum"]
    assert ("verified" in node) == (node["kind"] == "record")
    for form in asked:
        assert set(form["required"]) <= set(node), node
        for key, wanted in form.get("properties", {}).items():
            names = [wanted.get("type", [])] if isinstance(wanted.get("type", []), str) else wanted.get("type", [])
            assert key not in node or not names or isinstance(node[key], tuple(types[n] for n in names)), (key, node)
            assert key not in node or "enum" not in wanted or node[key] in wanted["enum"]
    for child in node["children"]:
        check_form(child)


def shown_numbers(tx: Connection) -> dict[str, int]:
    """Every amount id of the platform with the number that is stored or shown for it elsewhere."""
    found: dict[str, int] = {}
    for row in tx.execute(select(settlements)).mappings():
        found |= {f"{row['id']}#{name}": row[name] for name in TOTALS}
        statement = job_statement(tx, row["job"])
        assert statement is not None
        found |= {f"statement:{row['job']}#{name}": statement["totals"][name] for name in TOTALS}
        of_firm = firm_statement(tx, row["firm"])["totals"]
        found |= {f"statement-firm:{row['firm']}#{name}": of_firm[name] for name in TOTALS}
    for row in tx.execute(select(settlement_lines)).mappings():
        found |= {f"{row['settlement']}/{row['number']}#{name}": row[name] for name in LINE}
    for row in tx.execute(select(accounts)).mappings():
        for name in account_fields(row["id"]):
            available = row["credits_posted"] - row["debits_posted"] - row["debits_pending"]
            found[f"{row['id']}#{name}"] = available if name == "available" else row[name]
    for row in tx.execute(select(holds)).mappings():
        found[f"hold:{row['lease']}:{row['year']}:{row['generation']}"] = row["amount_fen"]
    for row in tx.execute(select(transfers)).mappings():
        found[row["id"]] = row["amount_fen"]
    for row in tx.execute(select(pools)).mappings():
        found[f"price:{row['id']}"] = row["price_fen_per_device_hour"]
    return found


# --- the law ----------------------------------------------------------------------------------------------------------


def test_every_number_of_a_settled_platform_is_recomputed_to_itself(settled: Path) -> None:
    with opened(settled) as tx:
        numbers = shown_numbers(tx)
        assert len(numbers) > 150
        for amount, value in numbers.items():
            node = tree_of(tx, amount)
            assert (node.kind, node.title, node.facts["value"]) == ("amount", amount, value)
            assert node.facts["recomputed"] == value, amount
            assert node.broken == (), amount
            assert any(leaf.kind == "record" for leaf in node.walk()), amount
            check_form(node.document())


def test_a_later_settlement_moves_only_what_was_not_posted(settled: Path) -> None:
    with opened(settled) as tx:
        found = tx.execute(select(transfers).where(transfers.c.settlement == "settlement:job_e:2")).mappings().all()
        due = [
            node
            for row in found
            for node in tree_of(tx, row["id"]).walk()
            if node.title == "not_posted_yet" and not node.facts["text"].endswith("- 0 = " + str(node.facts["result"]))
        ]

    assert {row["code"] for row in found} >= {"fee", "subsidy", "draw"}
    assert due, "every amount is what is due less what an interim settlement posted"


def test_an_arithmetic_text_is_the_computation_it_says(settled: Path) -> None:
    """Sums and differences are evaluated as written; the two roundings with Python's own integers."""
    from math import floor

    with opened(settled) as tx:
        texts = {
            node.facts["text"]
            for amount in shown_numbers(tx)
            for node in tree_of(tx, amount).walk()
            if node.kind == "arithmetic"
        }
    checked = 0
    for text in texts:
        left, _, right = text.rpartition(" = ")
        if "…" in left or "largest_remainder" in left or left.startswith("min("):
            continue
        left = left.replace("×", "*").replace("/", "//") if "floor" in left else left.replace("×", "*")
        names = {"floor": floor, "half_up": lambda value: floor(value + 0.5)}
        assert eval(left, {"__builtins__": {}}, names) == int(right), text  # noqa: S307 - our own text
        checked += 1
    assert checked > 20


@given(cases())
def test_the_arithmetic_shown_is_the_settlement(case: dict[str, Any]) -> None:
    """The second derivation against settle(), over the cases of the settlement laws."""
    from metering.explain_settlement import _items

    out = settle_document(json.dumps(case), REGISTRY, load_rules())
    policy = REGISTRY.policy(case["policy"])
    items = _items(case["usage"], out["lines"])
    worked = tree.work(items, case.get("rooms", {}), {"pool": policy.pool_fen, "firm": policy.firm_cap_fen})

    assert worked.totals == out["totals"]
    assert [item.fee_fen for item in items] == [line["fee_fen"] for line in out["lines"]]
    assert list(worked.deductions) == [line["deduction_fen"] for line in out["lines"]]


def test_a_listings_net_price_is_the_published_one(settled: Path) -> None:
    from adapters.accelerator import Origin
    from metering.offer import listing_of
    from tests.fakes import NOON as START

    with opened(settled) as tx:
        for pool, origin, rate in (("ascend", Origin.DOMESTIC, 4000), ("h800", Origin.FOREIGN, 3000)):
            row = dict(tx.execute(select(pools).where(pools.c.id == pool)).mappings().one())
            published = listing_of({**row, "created_at": None}, origin, None, [], rate, True)
            for name in LISTING:
                node = tree_of(tx, f"listing:{pool}#{name}", now=START)
                assert node.facts["value"] == published[name]
                assert node.broken == ()
            assert any(leaf.title == "origin_register" for leaf in tree_of(tx, f"listing:{pool}", now=START).walk())


def test_a_deduction_is_told_from_clause_to_evidence(settled: Path) -> None:
    with opened(settled) as tx:
        node = tree_of(tx, "settlement:job_a:1/1#deduction_fen")
    kinds = [one.kind for one in node.walk()]
    titles = {one.title for one in node.walk()}

    assert {"2.1.1", "4.1", "4.2", "compute_voucher.rate_ceiling.domestic", "ceiling", "facts:1"} <= titles
    assert kinds.index("clause") < kinds.index("parameter") < kinds.index("arithmetic") < kinds.index("evidence")
    rate = next(one for one in node.walk() if one.title == "compute_voucher.rate_ceiling.domestic")
    assert rate.facts["value"] == 4000
    assert rate.facts["bundle_sha256"] == REGISTRY.policy("etown-2024-10").bundle_sha256


def test_a_line_that_draws_nothing_says_which_clause_and_why(settled: Path) -> None:
    with opened(settled) as tx:
        node = tree_of(tx, "settlement:job_c:1/1#deduction_fen")
    notes = {one.title for one in node.walk() if one.kind == "note"}

    assert node.facts["value"] == node.facts["recomputed"] == 0
    assert {"FIRM_NOT_ELIGIBLE", "explain.voucher.declined"} <= notes


def test_a_statement_over_very_many_jobs_still_sums_and_shows_each_record(
    settled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metering.explain_settlement.DEEP", 1)
    with opened(settled) as tx:
        node = tree_of(tx, f"statement-firm:{FIRM}#fee_fen")
        shown = firm_statement(tx, FIRM)["totals"]["fee_fen"]
    titles = {one.title for one in node.walk()}

    assert node.facts["value"] == node.facts["recomputed"] == shown
    assert {"settlements:1", "settlements:2", "settlements:3"} <= titles
    assert not any(title.startswith("usage_records") for title in titles)


# --- alterations ------------------------------------------------------------------------------------------------------

EDITS = [  # table, column, the edit, the record, an amount above it
    ("settlement_lines", "fee_fen", "fee_fen + 1", 1, "settlement:job_a:1#payable_fen"),
    ("settlement_lines", "deduction_fen", "deduction_fen + 1", 1, "statement:job_a#deduction_fen"),
    ("settlements", "payable_fen", "payable_fen - 1", 1, "statement-firm:" + FIRM + "#payable_fen"),
    ("usage_records", "end_ms", "end_ms + 1", 1, "settlement:job_a:1/1#fee_fen"),
    ("usage_records", "price_fen_per_device_hour", "price_fen_per_device_hour + 1", 1, "settlement:job_a:1#fee_fen"),
    ("prices", "fen_per_device_hour", "fen_per_device_hour + 1", 1, "settlement:job_a:1/1#payable_fen"),
    ("facts", "evidence", """'{"x":1}'""", 3, "settlement:job_a:1/1#deduction_fen"),
    ("facts", "evidence", """'not json'""", 1, "settlement:job_a:1/1#deduction_fen"),
    ("rights", "claimed_by", "'nobody'", 1, "settlement:job_a:1#deduction_fen"),
    ("transfers", "amount_fen", "amount_fen + 1", 1, "pool:compute_voucher:2024#available"),
]


def tamper(directory: Path, *statements: str) -> None:
    connection = sqlite3.connect(directory / "yisuan.db")
    triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for statement in (*(f"DROP TRIGGER {name}" for (name,) in triggers), *statements):
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(("table", "column", "edit", "seq", "amount"), EDITS)
def test_an_altered_record_says_so_at_its_leaf_and_no_other_leaf_does(
    copy: Path, table: str, column: str, edit: str, seq: int, amount: str
) -> None:
    tamper(copy, f"UPDATE {table} SET {column} = {edit} WHERE seq = {seq}")  # noqa: S608
    with opened(copy) as tx:
        node = tree_of(tx, amount)
        leaves = {one.title: one.verified for one in node.walk() if one.kind == "record"}
        others = {one.title for one in node.walk() if one.kind == "record" and one.verified is False}
        problem = next(one.problem for one in node.walk() if one.title == f"{table}:{seq}" and one.kind == "record")

    assert leaves[f"{table}:{seq}"] is False
    assert others == {f"{table}:{seq}"}
    assert problem == "content does not match its hash"
    check_form(node.document())


@pytest.mark.parametrize(("table", "column", "edit", "seq", "amount"), EDITS[:3])
def test_what_does_not_rest_on_the_altered_record_still_holds(
    copy: Path, table: str, column: str, edit: str, seq: int, amount: str
) -> None:
    del amount
    tamper(copy, f"UPDATE {table} SET {column} = {edit} WHERE seq = {seq}")  # noqa: S608
    with opened(copy) as tx:
        for untouched in ("settlement:job_b:1", "statement:job_b", "price:ascend", "settlement:job_b:1/1"):
            assert tree_of(tx, untouched).broken == ()


@pytest.mark.parametrize(
    ("statement", "amount", "shown", "recomputed"),
    [
        ("UPDATE settlement_lines SET fee_fen = fee_fen + 1 WHERE seq = 1", "settlement:job_a:1/1#fee_fen", 4802, 4801),
        ("UPDATE settlements SET fee_fen = fee_fen + 1 WHERE seq = 1", "settlement:job_a:1#fee_fen", 4802, 4801),
        ("UPDATE accounts SET credits_posted = credits_posted + 5 WHERE id = 'pool:compute_voucher:2025'",
         "pool:compute_voucher:2025#available", 10_000_000_005, 10_000_000_000),
        ("UPDATE pools SET price_fen_per_device_hour = 1 WHERE id = 'h800'", "price:h800", 1, 1800),
        ("UPDATE holds SET amount_fen = amount_fen + 1 WHERE lease = 'job_a.1'", "hold:job_a.1:2026:1", 11_201, 11_200),
    ],
)  # fmt: skip
def test_a_number_that_was_altered_is_a_mismatch_that_names_both(
    copy: Path, statement: str, amount: str, shown: int, recomputed: int
) -> None:
    tamper(copy, statement)
    with opened(copy) as tx:
        node = tree_of(tx, amount)

    assert node.mismatch
    assert (node.facts["value"], node.facts["recomputed"]) == (shown, recomputed)
    assert node in node.broken


def test_a_record_that_was_removed_or_rehashed_shows_at_its_neighbour(copy: Path) -> None:
    tamper(copy, "DELETE FROM transfers WHERE seq = 2")
    with opened(copy) as tx:
        third = tree_of(tx, "transfers:3")
        gone = explain(tx, "transfers:2", REGISTRY)

    assert (third.verified, third.problem) == (False, "the record before it is missing")
    assert isinstance(gone, Refusal)


def test_a_case_that_is_no_case_any_more_leaves_a_note_and_an_altered_leaf(copy: Path) -> None:
    tamper(copy, "UPDATE settlements SET case_json = '[]' WHERE seq = 1")
    with opened(copy) as tx:
        for name in TOTALS:
            node = tree_of(tx, f"settlement:job_a:1#{name}")
            assert node.facts["recomputed"] is None
            assert [one.title for one in node.broken] == ["settlements:1"]


# --- who may, and what is not an id -------------------------------------------------------------------------------------


def test_a_firm_explains_its_own_and_what_is_public(settled: Path) -> None:
    own = ["settlement:job_a:1", "statement:job_a#fee_fen", f"statement-firm:{FIRM}", "hold:job_a.1:2026:1",
           f"room:{FIRM}:compute_voucher:2026", f"firm:{FIRM}:payable", "price:ascend", "listing:h800"]  # fmt: skip
    with opened(settled) as tx:
        for amount in own:
            assert isinstance(explain(tx, amount, REGISTRY, firm=FIRM), Node), amount


def test_a_firm_is_told_of_nothing_else(settled: Path) -> None:
    """The answer is that of an id that does not exist, and names no id of somebody else."""
    other = "91110302MA0YDEMA99"
    public = {"price", "listing"}
    with opened(settled) as tx:
        for amount in {a.partition("#")[0] for a in shown_numbers(tx)} | {"transfers:1", "settlements:1", "facts:1"}:
            if amount.split(":")[0] in public:
                continue
            found = explain(tx, amount, REGISTRY, firm=other)
            assert isinstance(found, Refusal), amount
            assert found.code == "AMOUNT_UNKNOWN"
            assert found.facts["nearest"] in FORMS.values()


@pytest.mark.parametrize(
    ("amount", "nearest"),
    [
        ("settlement:job_a:9", "settlement:job_a:1"),
        ("settlement:job_a:1/99", "settlement:job_a:1"),
        ("settlement:job_a:1/0", "settlement:job_a:1"),
        ("settlement:job_a:1/x", "settlement:job_a:1"),
        ("setlement:nothing", FORMS["settlement"]),
        ("pool:compute_voucher:2026x", "pool:compute_voucher:2026"),
        ("hold:job_a.1:2026:x", FORMS["hold"]),
        ("listing:nowhere", FORMS["listing"]),
        ("price:", FORMS["price"]),
        ("", FORMS["settlement"]),
        ("#", FORMS["settlement"]),
        ("x" * 5000, FORMS["settlement"]),
        ("statement-firm:nobody", FORMS["statement-firm"]),
        ("api_keys:1", None),
        ("transfers:99999999999999999999", None),
    ],
)
def test_an_unknown_amount_names_the_nearest_known_one(settled: Path, amount: str, nearest: str | None) -> None:
    with opened(settled) as tx:
        found = explain(tx, amount, REGISTRY)

    assert isinstance(found, Refusal)
    assert found.code == "AMOUNT_UNKNOWN"
    assert nearest is None or found.facts["nearest"] == nearest


def test_an_unknown_field_names_the_nearest_and_all(settled: Path) -> None:
    with opened(settled) as tx:
        found = explain(tx, "settlement:job_a:1#payable", REGISTRY)

    assert found == Refusal(
        code="AMOUNT_FIELD_UNKNOWN",
        facts={"amount": "settlement:job_a:1", "field": "payable", "nearest": "payable_fen", "known": list(TOTALS)},
    )


# --- the tree itself ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=8), st.integers(0, 10_000))
def test_shares_shown_add_up_to_what_is_shared(weights: list[int], per_myriad: int) -> None:
    whole = sum(weights) * per_myriad // 10_000
    shares = [tree.share_of("line_share", whole, weights, index).facts["result"] for index in range(len(weights))]

    assert sum(shares) == whole


def test_contract_and_tranche_run_on_through_the_years() -> None:
    one = {
        "price": 100_000,
        "devices": 1,
        "ms": 3_600_000,
        "share": 1000,
        "domestic": True,
        "rate_bp": 4000,
        "draws": True,
    }
    items = [Item(year=year, **one) for year in (2025, 2026)]  # type: ignore[arg-type]
    worked = tree.work(
        items, {"contract": 50_000}, {"pool": {2025: 10**9, 2026: 10**9}, "firm": {2025: 10**9, 2026: 10**9}}
    )

    assert worked.deductions == (40_000, 10_000)
