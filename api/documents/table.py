"""CSV of a sheet: UTF-8 with a byte order mark, so that spreadsheets in Chinese offices read it as what it is."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence

from api.documents.sheet import Cell, Kind, Sheet, amount, hours, shown

BOM = "\ufeff"
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # OWASP, CSV injection: a text that begins so would be computed


def write_csv(sheet: Sheet) -> bytes:
    """Facts, tables and notes, an empty line between them. Money is exact decimal yuan without grouping; unknown is empty.

    A text that a spreadsheet would compute is preceded by an apostrophe.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")  # RFC 4180
    writer.writerows([[calm(sheet.title)], [sheet.word("document.number"), calm(sheet.number)]])
    writer.writerow([sheet.word("document.issued"), shown(_iso(sheet), Kind.MOMENT)])
    if sheet.demo:
        writer.writerow([sheet.word("document.demo")])
    writer.writerows([calm(fact.label), plain(fact.value, fact.kind)] for fact in sheet.facts)
    for table in sheet.tables:
        writer.writerows([[], [calm(table.title)], [calm(column.title) for column in table.columns]])
        for row in (*table.rows, *([table.totals] if table.totals is not None else [])):
            cells = zip(row, table.columns, strict=True)
            writer.writerow([plain(value, column.kind) for value, column in cells])
    _section(writer, ([calm(note)] for note in sheet.notes))
    _section(writer, ([calm(label), value] for label, value in sheet.hashes))
    return (BOM + out.getvalue()).encode("utf-8")


def _section(writer: object, rows: Iterable[list[str]]) -> None:
    kept = list(rows)
    if kept:
        writer.writerows([[], *kept])  # type: ignore[attr-defined]


def _iso(sheet: Sheet) -> str:
    return sheet.issued_at.isoformat()


def plain(value: Cell, kind: Kind) -> str:
    """A cell for programs that read CSV: numbers bare, texts made harmless."""
    if value is None:
        return ""
    if isinstance(value, str) and kind is not Kind.MOMENT:
        return calm(value)
    if kind is Kind.MONEY:
        return amount(int(value))
    if kind is Kind.HOURS:
        return f"{hours(int(value)):f}"
    if kind is Kind.COUNT:
        return str(value)
    return shown(value, kind)


def calm(text: str) -> str:
    """The text, with an apostrophe before it where a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def write_rows(columns: Sequence[str], rows: Iterable[Mapping[str, str | None]]) -> bytes:
    """Rows under their columns for programs: UTF-8 without a mark, null empty, texts harmless, numbers as they are."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        values = (row[name] for name in columns)
        writer.writerow(["" if v is None else v if NUMBER.fullmatch(v) else calm(v) for v in values])
    return out.getvalue().encode("utf-8")
