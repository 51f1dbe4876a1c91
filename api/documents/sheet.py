"""Sheet: one document as a value, the same for every format. Pure.

    statement.py, settlement.py, clearing.py, subsidy.py -> Sheet -> html.py, pdf.py, xlsx.py, table.py, document()

Cells hold what the books hold (fen, device milliseconds, basis points, RFC 3339) and their column says how they read.
A document's `content` hash is of what it was made from, so that a copy in any format can be matched with the books.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from adapters.chain import digest, timestamp
from api import texts

VERSION = 1
Cell = str | int | None  # None is unknown, and reads as a dash


class Kind(enum.StrEnum):
    """What a column or fact holds, and so how it reads and whether it stands to the right."""

    TEXT = "text"
    MONEY = "money"  # fen
    HOURS = "hours"  # device milliseconds, read as device-hours with four decimals
    PERCENT = "percent"  # basis points
    PERMILLE = "permille"
    COUNT = "count"
    MOMENT = "moment"  # RFC 3339 or UTC milliseconds, read as Beijing time


NUMBERS = frozenset({Kind.MONEY, Kind.HOURS, Kind.PERCENT, Kind.PERMILLE, Kind.COUNT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: a key for programs, a title for people."""

    key: str
    title: str
    kind: Kind = Kind.TEXT

    @property
    def number(self) -> bool:
        return self.kind in NUMBERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under columns, every row as long as `columns`; totals: one more row, None where there is nothing to add up."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    totals: tuple[Cell, ...] | None = None

    def __post_init__(self) -> None:
        for row in (*self.rows, *([self.totals] if self.totals is not None else [])):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: a row has {len(row)} cells, the table {len(self.columns)} columns"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One labelled value at the head of a document."""

    key: str
    label: str
    value: Cell
    kind: Kind = Kind.TEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A whole document. number: what it is filed under. signatures: who signs, in order. hashes: label and hex, in the foot.

    demo: the ledger is a demonstration, which every page says.
    """

    kind: str
    title: str
    number: str
    issued_at: datetime
    language: str
    facts: tuple[Fact, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()
    hashes: tuple[tuple[str, str], ...] = ()
    demo: bool = False

    def word(self, code: str, **facts: Any) -> str:
        """A text of the document's own language."""
        return texts.strict_text(code, facts, self.language)


def shown(value: Cell, kind: Kind) -> str:
    """A cell as people read it, in either language; None is a dash, never 0."""
    if value is None:
        return texts.UNKNOWN
    if kind is Kind.MOMENT:
        return texts.moment(value)
    if isinstance(value, str):
        return value
    read: Mapping[Kind, Callable[[int], str]] = {
        Kind.MONEY: lambda fen: amount(fen, grouped=True),
        Kind.HOURS: lambda ms: f"{hours(ms):,f}",
        Kind.PERCENT: texts.percent,
        Kind.PERMILLE: lambda part: texts.percent(part * 10),
        Kind.COUNT: texts.count,
    }
    return read[kind](value) if kind in read else str(value)


def amount(fen: int, *, grouped: bool = False) -> str:
    """Fen as yuan with two decimals, exact: 123456 is 1234.56, grouped 1,234.56. Columns say 元, so there is no sign."""
    whole = f"{abs(fen) // 100:,d}" if grouped else str(abs(fen) // 100)
    return f"{'-' if fen < 0 else ''}{whole}.{abs(fen) % 100:02d}"


def hours(device_ms: int) -> Decimal:
    """Device-hours to four decimals, half up: for reading; what is settled is milliseconds."""
    return (Decimal(device_ms) / 3_600_000).quantize(Decimal("0.0001"), rounding=ROUND_HALF_UP)


def document(sheet: Sheet) -> dict[str, Any]:
    """The sheet as JSON: values as the books hold them, beside the kind that says in what unit."""
    return {
        "version": VERSION,
        "kind": sheet.kind,
        "title": sheet.title,
        "number": sheet.number,
        "issued_at": timestamp(sheet.issued_at),
        "language": sheet.language,
        "demo": sheet.demo,
        "facts": [{"key": f.key, "label": f.label, "kind": f.kind.value, "value": f.value} for f in sheet.facts],
        "tables": [_table(table) for table in sheet.tables],
        "notes": list(sheet.notes),
        "signatures": list(sheet.signatures),
        "hashes": [{"label": label, "sha256": value} for label, value in sheet.hashes],
    }


def _table(table: Table) -> dict[str, Any]:
    def named(row: Sequence[Cell]) -> dict[str, Cell]:
        return {column.key: cell for column, cell in zip(table.columns, row, strict=True)}

    return {
        "title": table.title,
        "columns": [{"key": c.key, "title": c.title, "kind": c.kind.value} for c in table.columns],
        "rows": [named(row) for row in table.rows],
        "totals": None if table.totals is None else named(table.totals),
    }


class Desk:
    """What builders share: texts of one language, and tables made of rows that are mappings."""

    def __init__(self, language: str) -> None:
        if language not in texts.LANGUAGES:
            raise ValueError(f"language: {language!r} is neither zh nor en")
        self.language = language

    def word(self, code: str, **facts: Any) -> str:
        """The text of a code; UnknownText if there is none."""
        return texts.strict_text(code, facts, self.language)

    def said(self, code: str) -> str:
        """The text of a code from a record or a rule of another package: one without words reads as itself."""
        return texts.text(code, {}, self.language)

    def listed(self, codes: Sequence[str] | None) -> str:
        """Several codes in words."""
        return ("；" if self.language == "zh" else "; ").join(self.said(code) for code in codes or ())

    def fact(self, key: str, value: Cell, kind: Kind = Kind.TEXT) -> Fact:
        return Fact(key=key, label=self.word(f"document.fact.{key}"), value=value, kind=kind)

    def column(self, key: str, kind: Kind = Kind.TEXT) -> Column:
        """A column for the rows' key, titled `document.column.<key>` or, for a key nobody foresaw, the key itself."""
        code = f"document.column.{key}"
        return Column(key=key, title=self.word(code) if texts.known(code) else key, kind=kind)

    def table(
        self,
        title: str,
        rows: Sequence[Mapping[str, Any]],
        columns: Sequence[tuple[str, Kind]],
        totals: Mapping[str, int] | None = None,
    ) -> Table:
        """A table of these columns of the rows; totals fill the columns they name, after the word for total."""
        made = tuple(self.column(key, kind) for key, kind in columns)
        last: list[Cell] = []
        if totals is not None:
            last = [totals.get(column.key) for column in made]
            if last[0] is None:
                last[0] = self.word("document.total")
        return Table(
            title=self.word(title),
            columns=made,
            rows=tuple(tuple(self._cell(row.get(column.key)) for column in made) for row in rows),
            totals=tuple(last) if totals is not None else None,
        )

    def _cell(self, value: Any) -> Cell:
        return self.word("yes" if value else "no") if isinstance(value, bool) else cell(value)

    def guessed(self, title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
        """A table of all keys that the rows have, in order of appearance; a key's ending says its kind."""
        keys = list(dict.fromkeys(key for row in rows for key in row))
        return self.table(title, rows, [(key, kind_of(key)) for key in keys])


def kind_of(key: str) -> Kind:
    """The kind that a record's key stands for, by its ending."""
    endings = {
        "_fen": Kind.MONEY, "device_ms": Kind.HOURS, "_bp": Kind.PERCENT, "permille": Kind.PERMILLE,
        "_at": Kind.MOMENT, "_at_ms": Kind.MOMENT, "_from": Kind.MOMENT, "_to": Kind.MOMENT,
    }  # fmt: skip
    if key in ("at", "from", "to", "start", "end"):
        return Kind.MOMENT
    return next((kind for ending, kind in endings.items() if key.endswith(ending)), Kind.TEXT)


def cell(value: Any) -> Cell:
    """A value of a record as a cell: nested ones by their number or id, lists joined; None stays None."""
    if isinstance(value, Mapping):
        for key in ("number", "id"):
            if value.get(key) is not None:
                return cell(value[key])
        return "; ".join(f"{key}: {cell(item)}" for key, item in value.items()) or None
    if isinstance(value, list | tuple):
        return "; ".join(str(cell(item)) for item in value) or None
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if value is None or isinstance(value, str | int) else str(value)


def content_hash(source: Mapping[str, Any]) -> str:
    """SHA-256 of what a document was made from, as canonical JSON (RFC 8785)."""
    return digest(dict(source))
