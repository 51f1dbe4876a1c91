"""Documents in every form: the same figures, in both languages, whatever a name contains."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from beancount import loader
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from api.documents.clearing import clearing_sheet
from api.documents.html import security_policy, style, write_html
from api.documents.pdf import write_pdf
from api.documents.settlement import settlement_sheet
from api.documents.sheet import Column, Desk, Kind, Sheet, Table, amount, cell, document, hours, kind_of, shown
from api.documents.statement import firm_sheet, job_sheet
from api.documents.subsidy import subsidy_sheet
from api.documents.table import BOM, calm, write_csv, write_rows
from api.documents.xlsx import EXACT, write_xlsx
from api.texts import known
from metering.beancount import beancount_lines
from metering.clearing import batch_document
from metering.lifecycle import MACHINES, SAME
from metering.schema import accounts, transfers
from tests.api import sheets
from tests.api.sheets import AT, HOSTILE, LONG_NAME
from tests.metering.office import make_office


def settlement(language: str, **given: Any) -> Sheet:
    return settlement_sheet(sheets.settlement(**given), firm_name=LONG_NAME, language=language, at=AT, demo=False)


def plain(build: Callable[..., Sheet], found: Mapping[str, Any]) -> Callable[..., Sheet]:
    return lambda language: build(found, language=language, at=AT, demo=True)


BUILDERS: dict[str, Callable[..., Sheet]] = {
    "settlement": settlement,
    "job_statement": plain(job_sheet, sheets.statement()),
    "firm_statement": plain(firm_sheet, sheets.firm()),
    "clearing": plain(clearing_sheet, sheets.batch()),
    "subsidy": plain(subsidy_sheet, sheets.application()),
}
BOTH = pytest.mark.parametrize("language", ["zh", "en"])
EACH = pytest.mark.parametrize("kind", BUILDERS)


class Page(HTMLParser):
    """What a page loads, its scripts, its cells, and its language."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def read(content: bytes) -> Page:
    page = Page()
    page.feed(content.decode("utf-8"))
    return page


def figures(sheet: Sheet) -> list[str]:
    """Every number of a sheet as it reads."""
    return [
        shown(value, column.kind)
        for table in sheet.tables
        for row in (*table.rows, *([table.totals] if table.totals else []))
        for value, column in zip(row, table.columns, strict=True)
        if column.number and value is not None
    ]


@EACH
@BOTH
def test_every_document_has_every_form(kind: str, language: str) -> None:
    sheet = BUILDERS[kind](language)

    assert sheet.kind == kind
    assert write_pdf(sheet).startswith(b"%PDF-")
    assert write_xlsx(sheet).startswith(b"PK")
    page = read(write_html(sheet))
    assert page.tags[0] == ("html", {"lang": "zh-CN" if language == "zh" else "en"})
    for figure in figures(sheet):
        assert figure in page.words
    body = json.loads(json.dumps(document(sheet)))
    assert [len(t["rows"]) for t in body["tables"]] == [len(t.rows) for t in sheet.tables]
    assert body["number"] == sheet.number
    assert all(re.fullmatch("[0-9a-f]{64}", item["sha256"]) for item in body["hashes"])


@EACH
def test_the_two_languages_differ_in_words_and_agree_in_figures(kind: str) -> None:
    zh, en = BUILDERS[kind]("zh"), BUILDERS[kind]("en")
    han = re.compile("[一-鿿]")

    assert figures(zh) == figures(en)
    assert [fact.value for fact in zh.facts if fact.kind is Kind.MONEY] == [
        fact.value for fact in en.facts if fact.kind is Kind.MONEY
    ]
    assert zh.hashes[-1][1] == en.hashes[-1][1], "one content, one hash"
    labels = [en.title, *(f.label for f in en.facts), *(c.title for t in en.tables for c in t.columns), *en.signatures]
    assert [label for label in labels if han.search(label)] == []
    assert han.search(zh.title)


@EACH
def test_the_same_sheet_is_the_same_pdf_and_another_is_not(kind: str) -> None:
    sheet = BUILDERS[kind]("zh")

    assert write_pdf(sheet) == write_pdf(BUILDERS[kind]("zh"))
    assert write_pdf(sheet) != write_pdf(replace(sheet, number="another"))


def test_an_html_document_loads_nothing_and_runs_nothing() -> None:
    sheet = settlement_sheet(
        sheets.settlement([sheets.line(lease=HOSTILE)]), firm_name=HOSTILE, language="en", at=AT, demo=False
    )
    page = read(write_html(sheet))

    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "form", "a", "object"})
    assert [attrs for _, attrs in page.tags if {"src", "href", "style"} & set(attrs)] == []
    assert HOSTILE in page.words
    assert "url(" not in style(sheet)
    assert "@import" not in style(sheet)
    assert "sha256-" in security_policy(sheet)
    assert "unsafe" not in security_policy(sheet)


def test_the_foot_of_a_printed_page_has_its_number_and_the_hash() -> None:
    made = style(settlement("zh"))

    assert 'content: "第 " counter(page) " 页，共 " counter(pages) " 页"' in made
    assert f'{"b" * 64}"' in made
    assert "size: A4 landscape" in made


def test_a_hash_label_cannot_leave_its_css_string() -> None:
    label = 'x"; } body { display: none\\'
    made = style(replace(settlement("en"), hashes=((label, "f" * 64),)))
    (content,) = re.findall(r'@bottom-left \{ content: "([^"]*)";', made)

    assert re.sub(r"\\([0-9a-f]+) ", lambda found: chr(int(found[1], 16)), content) == f"{label} {'f' * 64}"


@BOTH
def test_amounts_stand_in_figures_and_in_capitals(language: str) -> None:
    page = read(write_html(settlement(language)))

    assert "人民币玖拾陆元整" in page.words
    assert "人民币陆拾肆元整" in page.words
    assert {"160.00", "64.00", "96.00", "40%", "8.0000"} <= set(page.words)


def test_a_settlement_whose_lines_do_not_sum_is_not_printed() -> None:
    found = sheets.settlement()
    found["totals"] = {**found["totals"], "payable_fen": 9_601}

    with pytest.raises(ValueError, match="payable_fen: lines of settlement:job_a:1 sum to 9600, the record says 9601"):
        settlement_sheet(found, firm_name=None, language="zh", at=AT, demo=False)


def test_a_batch_whose_items_do_not_sum_is_not_printed() -> None:
    found = sheets.batch(totals={"fee_fen": 480_000_000, "deduction_fen": 192_000_001, "payable_fen": 288_000_000})

    with pytest.raises(ValueError, match="deduction_fen: items of batch_1 sum to 192000000"):
        clearing_sheet(found, language="zh", at=AT, demo=False)


def test_the_content_hash_changes_with_one_fen_and_not_with_the_hour_of_printing() -> None:
    one = settlement("zh")
    later = settlement_sheet(sheets.settlement(), firm_name=LONG_NAME, language="en", at=AT.replace(hour=9), demo=True)
    other = settlement("zh", lines=[sheets.line(deduction_fen=6_399, payable_fen=9_601)])

    assert one.hashes[-1][1] == later.hashes[-1][1]
    assert one.hashes[-1][1] != other.hashes[-1][1]


def test_the_demonstration_ledger_is_named_on_every_form() -> None:
    sheet = BUILDERS["clearing"]("en")
    told = "Demonstration ledger"

    assert any(word.startswith(told) for word in read(write_html(sheet)).words)
    assert told in write_csv(sheet).decode("utf-8")
    assert document(sheet)["demo"] is True
    assert any(told in str(value) for row in rows_of(write_xlsx(sheet)) for value in row)
    assert told not in write_csv(settlement("en")).decode("utf-8")


@pytest.mark.parametrize("kind", ["settlement", "clearing"])
def test_unknown_is_a_dash_for_people_and_null_or_empty_for_programs(kind: str) -> None:
    found = sheets.batch()
    sheet = (
        clearing_sheet(found, language="en", at=AT, demo=False)
        if kind == "clearing"
        else settlement_sheet(sheets.settlement(), firm_name=None, language="en", at=AT, demo=False)
    )
    body = document(sheet)

    assert "—" in read(write_html(sheet)).words
    if kind == "clearing":
        assert [row["slip"] for row in body["tables"][0]["rows"]] == ["HD-77", None, None]
    else:
        assert next(fact for fact in body["facts"] if fact["key"] == "firm_name")["value"] is None
    assert "—" not in write_csv(sheet).decode("utf-8")


def test_a_payment_that_came_back_is_taken_off_again() -> None:
    paid = sheets.batch()["payments"][0]
    back = {**paid, "id": "pay_1:returned", "reference": "HD-9:returned", "returns": "pay_1"}
    table = clearing_sheet(sheets.batch(payments=[paid, back]), language="en", at=AT, demo=False).tables[1]

    assert [row[1] for row in table.rows] == [192_000_000, -192_000_000]
    assert table.totals is not None
    assert table.totals[1] == 0


def test_a_real_batch_has_a_document_and_books_that_balance(tmp_path: Path) -> None:
    """From the lease to the reconciled batch, through the platform's own acts."""
    office = make_office(tmp_path)
    office.ready(office.run(), office.run("H800:8"))
    batch = office.clear()
    with office.platform.database.read() as tx:
        found = batch_document(tx, batch)
        held = [dict(row) for row in tx.execute(select(accounts).order_by(accounts.c.id)).mappings()]
        moved = [dict(row) for row in tx.execute(select(transfers).order_by(transfers.c.seq)).mappings()]
    office.platform.database.close()
    assert found is not None
    sheet = clearing_sheet(found, language="zh", at=AT, demo=True)
    facts = {fact.key: fact.value for fact in sheet.facts}
    _, errors, _ = loader.load_string("\n".join(beancount_lines(moved, held)) + "\n")

    assert errors == []
    assert (facts["fee_fen"], facts["deduction_fen"], facts["left_fen"]) == (30_400, 10_720, 0)
    assert facts["deduction_capital"] == "人民币壹佰零柒元贰角整"
    assert facts["state"] == "已对账"
    assert found["merkle_root"] is None, "no checkpoint was sealed with this approval"
    assert len(sheet.hashes) == 1
    assert "d" * 64 in [value for _, value in BUILDERS["clearing"]("zh").hashes]
    assert write_pdf(sheet).startswith(b"%PDF-")
    assert "None" not in read(write_html(sheet)).words


def test_an_application_shows_its_computation_in_words_and_units() -> None:
    sheet = subsidy_sheet(sheets.application(), language="en", at=AT, demo=False)
    tables = {table.title: table for table in sheet.tables}

    assert [row[:3] for row in tables["Computation"].rows] == [
        ("domestic-server part actually bought", "5,000,000.00", "CNY"),
        ("rate", "10%", "per cent"),
        ("amount", "500,000.00", "CNY"),
    ]
    assert len(tables["Contract items"].rows) == 1
    assert "seq" not in [column.key for column in tables["Invoices"].columns]
    assert [column.title for table in sheet.tables for column in table.columns if column.title == column.key] == []
    assert next(f.value for f in sheet.facts if f.key == "amount_capital") == "人民币伍拾万元整"


@pytest.mark.parametrize("machine", ["clearing", "project"])
def test_every_act_and_state_of_a_case_has_words(machine: str) -> None:
    steps = MACHINES[machine]
    stands = {step.after for step in steps.values()} - {SAME}

    assert [name for name in steps if not known(f"document.act.{name}")] == []
    assert [state for state in stands if not known(f"document.state.{state}")] == []


# --- workbooks and CSV --------------------------------------------------------------------------------------------


def rows_of(content: bytes) -> list[tuple[Any, ...]]:
    page = openpyxl.load_workbook(io.BytesIO(content)).worksheets[0]
    return [tuple(item.value for item in row) for row in page.iter_rows()]


def test_a_workbook_has_numbers_as_numbers_with_two_decimals() -> None:
    book = openpyxl.load_workbook(io.BytesIO(write_xlsx(settlement("zh"))))
    cells = [item for row in book.worksheets[0].iter_rows() for item in row if item.value is not None]
    money = [item for item in cells if item.number_format == "#,##0.00"]

    assert [item.value for item in money].count(96) >= 3, "fact, line and total"
    assert all(item.data_type == "n" for item in money)
    assert [item.value for item in cells if item.number_format == "0.##%"] == [0.4]
    assert book.worksheets[0].oddFooter.right.text is not None
    assert book.worksheets[0].page_setup.orientation == "landscape"


@given(fen=st.integers(-EXACT + 1, EXACT - 1))
def test_an_amount_in_a_workbook_is_exact(fen: int) -> None:
    columns = (Column(key="a", title="a", kind=Kind.MONEY),)
    sheet = replace(settlement("en"), tables=(Table(title="t", columns=columns, rows=((fen,),)),), facts=())
    (value,) = (item for row in rows_of(write_xlsx(sheet)) for item in row if isinstance(item, int | float))

    assert round(value * 100) == fen
    assert f"{value:.2f}" == amount(fen)


def test_an_amount_too_large_for_a_workbook_s_numbers_is_text() -> None:
    columns = (Column(key="a", title="a", kind=Kind.MONEY),)
    sheet = replace(settlement("en"), tables=(Table(title="t", columns=columns, rows=((EXACT,),)),), facts=())

    assert "10,000,000,000,000.00" in [item for row in rows_of(write_xlsx(sheet)) for item in row]


@BOTH
def test_no_text_is_a_formula_in_a_workbook_or_in_csv(language: str) -> None:
    sheet = settlement_sheet(
        sheets.settlement([sheets.line(lease=HOSTILE)]), firm_name="@SUM(A1)", language=language, at=AT, demo=False
    )
    book = openpyxl.load_workbook(io.BytesIO(write_xlsx(sheet)))
    cells = [item for row in book.worksheets[0].iter_rows() for item in row]

    assert [item for item in cells if item.data_type == "f"] == []
    assert HOSTILE in [item.value for item in cells]
    values = [value for row in csv.reader(io.StringIO(write_csv(sheet).decode("utf-8-sig"))) for value in row]
    assert [v for v in values if v.startswith(("=", "+", "@"))] == []
    assert f"'{HOSTILE}" in values
    assert "'@SUM(A1)" in values


def test_csv_has_a_mark_and_bare_exact_numbers() -> None:
    sheet = replace(settlement("zh", lines=[sheets.line(fee_fen=123_456_789, payable_fen=123_450_389)]))
    text = write_csv(sheet).decode("utf-8")
    rows = list(csv.reader(io.StringIO(text.removeprefix(BOM))))

    assert text.startswith(BOM)
    assert text.count(BOM) == 1
    assert text.replace("\r\n", "").count("\n") == 0
    found = next(row for row in rows if row and row[0] == "job_a.1")
    assert found[5:10] == ["8.0000", "1234567.89", "40%", "64.00", "1234503.89"]


def test_rows_for_programs_keep_numbers_and_calm_texts() -> None:
    made = write_rows(("a", "b"), [{"a": "-64.00", "b": "-x"}, {"a": None, "b": "火"}])

    assert made.decode("utf-8") == "a,b\r\n-64.00,'-x\r\n,火\r\n"


@given(text=st.text(max_size=30))
def test_calming_a_text_only_ever_puts_an_apostrophe_before_it(text: str) -> None:
    assert calm(text) in (text, f"'{text}")
    assert not calm(text).startswith(("=", "+", "-", "@"))


# --- PDF ----------------------------------------------------------------------------------------------------------


def test_a_pdf_takes_any_text() -> None:
    """A name may hold markup, control characters, emoji, and characters that the font lacks."""
    awkward = HOSTILE + LONG_NAME + "\x00\n\t" + "x" * 300 + "🚀" + "العربية"
    found = sheets.settlement([sheets.line(lease=awkward, model=awkward, reasons=[awkward], clauses=[awkward])])
    sheet = settlement_sheet(found, firm_name=awkward, language="zh", at=AT, demo=True)

    assert write_pdf(sheet).startswith(b"%PDF-")


@given(text=st.text(max_size=60))
def test_no_text_breaks_a_pdf(text: str) -> None:
    sheet = replace(settlement("en"), title=text, number=text, notes=(text,))

    assert write_pdf(sheet).startswith(b"%PDF-")


def pages_of(content: bytes) -> int:
    return len(re.findall(rb"/Type /Page\b", content))


@pytest.mark.parametrize("count", [0, 1, 200])
def test_a_long_document_has_more_pages_and_none_is_lost(count: int) -> None:
    sheet = settlement("zh", lines=[sheets.line(number) for number in range(count)])
    pages = pages_of(write_pdf(sheet))

    assert pages == 1 if count < 2 else pages >= 5


@pytest.mark.parametrize("fen", [10**15, 2**53 - 1])
def test_amounts_of_any_size_fit(fen: int) -> None:
    line = sheets.line(fee_fen=fen, deduction_fen=0, payable_fen=fen)

    assert pages_of(write_pdf(settlement("zh", lines=[line]))) >= 1


# --- the value ----------------------------------------------------------------------------------------------------


def test_a_row_of_another_length_is_refused() -> None:
    columns = (Column(key="a", title="a"),)

    with pytest.raises(ValueError, match="'t': a row has 2 cells, the table 1 columns"):
        Table(title="t", columns=columns, rows=(("x", "y"),))
    with pytest.raises(ValueError, match="a row has 0 cells"):
        Table(title="t", columns=columns, rows=(), totals=())


@pytest.mark.parametrize("language", ["fr", "", "ZH"])
def test_another_language_is_refused(language: str) -> None:
    with pytest.raises(ValueError, match="neither zh nor en"):
        Desk(language)


@pytest.mark.parametrize("gone", ["lines", "totals", "bundle_sha256", "notices"])
def test_a_record_that_lacks_a_field_is_an_error_and_no_document(gone: str) -> None:
    found = sheets.settlement()
    del found[gone]

    with pytest.raises(KeyError, match=gone):
        settlement_sheet(found, firm_name=None, language="zh", at=AT, demo=False)


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (None, Kind.MONEY, "—"),
        (0, Kind.MONEY, "0.00"),
        (-5, Kind.MONEY, "-0.05"),
        (123_456_789, Kind.MONEY, "1,234,567.89"),
        (1, Kind.HOURS, "0.0000"),
        (180, Kind.HOURS, "0.0001"),
        (179, Kind.HOURS, "0.0000"),
        (3_600_000_000, Kind.HOURS, "1,000.0000"),
        (3000, Kind.PERCENT, "30%"),
        (993, Kind.PERMILLE, "99.3%"),
        ("2026-06-01T04:00:00.000Z", Kind.MOMENT, "2026-06-01 12:00:00"),
        ("x", Kind.MONEY, "x"),
        (1234, Kind.TEXT, "1234"),
    ],
)
def test_cells_read_by_their_kind(value: Any, kind: Kind, said: str) -> None:
    assert shown(value, kind) == said


@given(ms=st.integers(0, 10**15))
def test_hours_are_within_half_of_their_last_digit(ms: int) -> None:
    assert abs(hours(ms) * 3_600_000 - ms) <= 180


@pytest.mark.parametrize(
    ("value", "made"),
    [
        ({"number": "N", "id": "I"}, "N"),
        ({"id": 7}, 7),
        ({"a": 1, "b": None}, "a: 1; b: None"),
        ({}, None),
        (["a", "b"], "a; b"),
        ([], None),
        (True, "true"),
        (None, None),
        (1.5, "1.5"),
    ],
)
def test_nested_values_become_one_cell(value: Any, made: Any) -> None:
    assert cell(value) == made


@pytest.mark.parametrize(
    ("key", "kind"),
    [("amount_fen", Kind.MONEY), ("paid_at", Kind.MOMENT), ("device_ms", Kind.HOURS), ("own_use_permille", Kind.PERMILLE),
     ("to", Kind.MOMENT), ("listed_from", Kind.MOMENT), ("customers", Kind.TEXT), ("rate_bp", Kind.PERCENT)],
)  # fmt: skip
def test_a_key_s_ending_says_its_kind(key: str, kind: Kind) -> None:
    assert kind_of(key) is kind
