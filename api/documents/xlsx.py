"""Workbook of a sheet: one page-wide worksheet, numbers as numbers."""

from __future__ import annotations

import io
from datetime import UTC
from decimal import Decimal
from typing import Any

import xlsxwriter

from api.documents.sheet import Cell, Kind, Sheet, Table, hours, shown

EXACT = 10**15  # a workbook's numbers are doubles: fen are exact below this, and larger amounts are written as text
FORMATS = {
    Kind.MONEY: "#,##0.00",
    Kind.HOURS: "#,##0.0000",
    Kind.PERCENT: "0.##%",
    Kind.PERMILLE: "0.0%",
    Kind.COUNT: "#,##0",
}
WIDEST, NARROWEST = 42, 9
PAPER_A4 = 9
FOOTER_LIMIT = 255  # characters, Excel's own


def write_xlsx(sheet: Sheet) -> bytes:
    """The sheet as an .xlsx file; the same sheet gives the same bytes. Texts are never formulas or links.

    A column's width fits its cells up to WIDEST characters, longer ones wrap. The foot has page numbers and the first hash.
    """
    out = io.BytesIO()
    options = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    book = xlsxwriter.Workbook(out, options)
    book.set_properties({"title": sheet.title, "subject": sheet.number, "created": sheet.issued_at.astimezone(UTC)})
    page = book.add_worksheet(sheet.word("document.worksheet"))
    page.set_paper(PAPER_A4)
    page.set_landscape()
    page.fit_to_pages(1, 0)
    page.set_footer(_footer(sheet))
    _Writer(book, page, sheet).write()
    book.close()
    return out.getvalue()


def _footer(sheet: Sheet) -> str:
    told = f"{sheet.hashes[0][0]} {sheet.hashes[0][1]}".replace("&", "&&") if sheet.hashes else ""
    return f"&L&6{told}"[: FOOTER_LIMIT - 12] + "&R&8&P / &N"


class _Writer:
    def __init__(self, book: Any, page: Any, sheet: Sheet) -> None:
        self._book, self._page, self._sheet = book, page, sheet
        self._row = 0
        self._made: dict[tuple[Any, ...], Any] = {}
        self._widths: dict[int, int] = {}

    def write(self) -> None:
        sheet = self._sheet
        self._page.write_string(0, 0, sheet.title, self._style(bold=True, font_size=16))
        self._row = 1
        head = ((sheet.word("document.number"), sheet.number), (sheet.word("document.issued"), _issued(sheet)))
        for label, value in head:
            self._fact(label, value, Kind.TEXT)
        if sheet.demo:
            self._line(sheet.word("document.demo"), bold=True)
        for fact in sheet.facts:
            self._fact(fact.label, fact.value, fact.kind)
        for table in sheet.tables:
            self._table(table)
        self._row += 1
        for note in sheet.notes:
            self._line(note)
        for signature in sheet.signatures:
            self._line(f"{signature}: ")
        for label, value in sheet.hashes:
            self._line(f"{label} {value}", font_size=8)
        for column, width in self._widths.items():
            self._page.set_column(column, column, max(NARROWEST, min(WIDEST, width + 2)))

    def _fact(self, label: str, value: Cell, kind: Kind) -> None:
        self._page.write_string(self._row, 0, label, self._style(bold=True))
        self._widths[0] = max(self._widths.get(0, 0), _width(label))
        self._cell(1, value, kind, wrap=False, align="left")
        self._row += 1

    def _line(self, text: str, **style: Any) -> None:
        self._page.write_string(self._row, 0, text, self._style(**style))
        self._row += 1

    def _table(self, table: Table) -> None:
        self._row += 1
        self._line(table.title, bold=True, font_size=12)
        for number, column in enumerate(table.columns):
            align = "right" if column.number else "left"
            self._page.write_string(self._row, number, column.title, self._style(bold=True, bottom=1, align=align))
            self._widths[number] = max(self._widths.get(number, 0), _width(column.title))
        self._row += 1
        for row in table.rows:
            self._cells(table, row)
        if table.totals is not None:
            self._cells(table, table.totals, bold=True, top=1)

    def _cells(self, table: Table, row: tuple[Cell, ...], **style: Any) -> None:
        for number, (value, column) in enumerate(zip(row, table.columns, strict=True)):
            read = shown(value, column.kind) if value is not None else ""
            self._widths[number] = max(self._widths.get(number, 0), _width(read))
            self._cell(number, value, column.kind, wrap=True, **style)
        self._row += 1

    def _cell(self, column: int, value: Cell, kind: Kind, *, wrap: bool, **style: Any) -> None:
        number = _number(value, kind)
        if value is None:
            self._page.write_blank(self._row, column, None, self._style(**style))
        elif number is None:
            read = shown(value, kind)
            self._page.write_string(self._row, column, read, self._style(text_wrap=wrap, valign="top", **style))
        else:
            made = self._style(num_format=FORMATS[kind], valign="top", **style)
            self._page.write_number(self._row, column, number, made)

    def _style(self, **wanted: Any) -> Any:
        key = tuple(sorted(wanted.items()))
        if key not in self._made:
            self._made[key] = self._book.add_format(wanted)
        return self._made[key]


def _number(value: Cell, kind: Kind) -> Decimal | None:
    """The cell as a number in its own unit (yuan, hours, a part of one); None where it must be text."""
    if not isinstance(value, int) or kind not in FORMATS or abs(value) >= EXACT:
        return None
    scale = {Kind.MONEY: -2, Kind.PERCENT: -4, Kind.PERMILLE: -3, Kind.COUNT: 0}
    return hours(value) if kind is Kind.HOURS else Decimal(value).scaleb(scale[kind])


def _width(text: str) -> int:
    """Columns a text takes; a Han character takes two."""
    return sum(2 if ord(sign) > 0x2E7F else 1 for sign in text)


def _issued(sheet: Sheet) -> str:
    return shown(sheet.issued_at.isoformat(), Kind.MOMENT)
