"""PDF of a sheet, on A4, with a Chinese font that every reader has and so need not be carried."""

from __future__ import annotations

import io
from html import escape
from itertools import groupby
from typing import Any

from reportlab.lib import colors
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4, landscape
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import CondPageBreak, KeepTogether, Paragraph, SimpleDocTemplate, Spacer
from reportlab.platypus import Table as Grid

from api.documents.html import WIDE
from api.documents.sheet import Cell, Kind, Sheet, Table, shown

LATIN, BOLD, HAN = "Helvetica", "Helvetica-Bold", "STSong-Light"  # Adobe-GB1 CID font: named in the file, not embedded
SIZE, LEADING = 7.5, 10.5
MARGIN = 14 * mm
SHORT, LONG, PADDING = 66.0, 140.0, 11.0  # points: texts that keep to one line; what a long one asks for; both sides
INK, GREY, RULE = colors.HexColor("#111111"), colors.HexColor("#555555"), colors.HexColor("#cccccc")


def write_pdf(sheet: Sheet) -> bytes:
    """The sheet as a PDF; the same sheet gives the same bytes. Head rows repeat, every page has its number and hashes.

    Characters beyond the Basic Multilingual Plane, which the font lacks, read as their code point: [U+2CB73].
    """
    if HAN not in pdfmetrics.getRegisteredFontNames():
        pdfmetrics.registerFont(UnicodeCIDFont(HAN))
    wide = any(len(table.columns) >= WIDE for table in sheet.tables)
    out = io.BytesIO()
    made = SimpleDocTemplate(
        out, pagesize=landscape(A4) if wide else A4, leftMargin=MARGIN, rightMargin=MARGIN, topMargin=MARGIN,
        bottomMargin=20 * mm, title=sheet.title, subject=sheet.number, author="yisuan", lang=_tag(sheet), invariant=1,
    )  # fmt: skip
    width = made.width - 12  # a frame keeps 6 points on either side
    story: list[Any] = [_text(sheet.title, size=16, bold=True), Spacer(1, 2 * mm)]
    said = f"{sheet.word('document.number')} {sheet.number} · {sheet.word('document.issued')} {_issued(sheet)}"
    story.append(_text(said, colour=GREY))
    if sheet.demo:
        story.append(_text(sheet.word("document.demo"), colour=colors.HexColor("#aa3333")))
    story += [Spacer(1, 3 * mm), _facts(sheet, width)]
    for table in sheet.tables:
        story += _section(table, width, sheet.word("document.none"))
    story += [Spacer(1, 3 * mm), *(_text(f"· {note}") for note in sheet.notes)]
    if sheet.signatures:
        story.append(KeepTogether([Spacer(1, 8 * mm), _signatures(sheet, width)]))
    made.build(story, canvasmaker=_numbered(sheet))
    return out.getvalue()


def _tag(sheet: Sheet) -> str:
    return "zh-CN" if sheet.language == "zh" else "en"


def _issued(sheet: Sheet) -> str:
    return shown(sheet.issued_at.isoformat(), Kind.MOMENT)


# --- text ---------------------------------------------------------------------------------------------------------


def _latin(sign: str) -> bool:
    """Whether the Latin font has the character: it is in Windows-1252."""
    try:
        sign.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str) -> str:
    calm = "".join(f"[U+{ord(sign):X}]" if ord(sign) > 0xFFFF else sign for sign in text)
    return "".join(sign if sign.isprintable() or sign == "　" else " " for sign in calm)


def _markup(text: str) -> str:
    """Runs in the font that has them; everything from outside is escaped."""
    runs = ((latin, "".join(signs)) for latin, signs in groupby(_printable(text), key=_latin))
    return "".join(escape(run) if latin else f'<font name="{HAN}">{escape(run)}</font>' for latin, run in runs)


def _text(
    text: str,
    *,
    size: float = SIZE,
    bold: bool = False,
    right: bool = False,
    heading: bool = False,
    colour: Any = INK,
) -> Paragraph:
    style = ParagraphStyle(
        "cell",
        fontName=BOLD if bold else LATIN,
        fontSize=size,
        leading=size + LEADING - SIZE,
        textColor=colour,
        alignment=TA_RIGHT if right else 0,
        splitLongWords=1,
        **({"spaceBefore": 4 * mm, "spaceAfter": 1 * mm} if heading else {}),
        **({"wordWrap": "CJK"} if any(not _latin(sign) for sign in text) else {}),
    )
    return Paragraph(_markup(text), style)


def _length(text: str, *, bold: bool = False, size: float = SIZE) -> float:
    runs = groupby(_printable(text), key=_latin)
    fonts = ((BOLD if bold else LATIN) if latin else HAN for latin, _ in groupby(_printable(text), key=_latin))
    return float(sum(pdfmetrics.stringWidth("".join(r), f, size) for (_, r), f in zip(runs, fonts, strict=True)))


# --- parts --------------------------------------------------------------------------------------------------------


def _facts(sheet: Sheet, width: float) -> Grid:
    """Label and value, two pairs a row; a long value has the row to itself."""
    label, half = 32 * mm, width / 2
    rows: list[list[Any]] = []
    spans: list[Any] = []
    free = False
    for fact in sheet.facts:
        read = shown(fact.value, fact.kind)
        pair = [_text(fact.label, colour=GREY, size=8), _text(read, size=8)]
        if _length(read, size=8) > half - label - 6:
            rows.append([*pair, "", ""])
            spans.append(("SPAN", (1, len(rows) - 1), (3, len(rows) - 1)))
            free = False
        elif free:
            rows[-1][2:] = pair
            free = False
        else:
            rows.append([*pair, "", ""])
            free = True
    plain = [("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0)]
    tight = [("TOPPADDING", (0, 0), (-1, -1), 1), ("BOTTOMPADDING", (0, 0), (-1, -1), 1)]
    columns = [label, half - label, label, half - label]
    return Grid(rows or [["", "", "", ""]], colWidths=columns, style=[*plain, *tight, *spans], hAlign="LEFT")


def _section(table: Table, width: float, none: str) -> list[Any]:
    room = CondPageBreak(24 * mm)  # a title never stands alone at the foot of a page
    title = _text(table.title, size=10, bold=True, heading=True)
    if not table.rows:
        return [room, title, _text(none, colour=GREY)]
    read = [[shown(v, c.kind) for v, c in zip(row, table.columns, strict=True)] for row in table.rows]
    last = _totals(table)
    body = [[_text(c.title, bold=True, right=c.number) for c in table.columns]]
    body += [[_text(v, right=c.number) for v, c in zip(row, table.columns, strict=True)] for row in read]
    if last is not None:
        body.append([_text(v, bold=True, right=c.number) for v, c in zip(last, table.columns, strict=True)])
    look: list[Any] = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LINEBELOW", (0, 0), (-1, 0), 0.8, INK),
        ("LINEBELOW", (0, 1), (-1, -1), 0.3, RULE),
        ("LEFTPADDING", (0, 0), (0, -1), 0),
        ("LEFTPADDING", (1, 0), (-1, -1), 5),
        ("RIGHTPADDING", (0, 0), (-1, -1), 5),
        ("TOPPADDING", (0, 0), (-1, -1), 2),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
    ]
    if last is not None:
        look += [("LINEABOVE", (0, -1), (-1, -1), 0.8, INK), ("LINEBELOW", (0, -1), (-1, -1), 0.8, INK)]
    widths = _widths(table, [*read, *([last] if last is not None else [])], width)
    return [room, title, Grid(body, colWidths=widths, repeatRows=1, style=look, hAlign="LEFT")]


def _totals(table: Table) -> list[str] | None:
    if table.totals is None:
        return None
    cells: list[tuple[Cell, Kind]] = [(v, c.kind) for v, c in zip(table.totals, table.columns, strict=True)]
    return ["" if value is None else shown(value, kind) for value, kind in cells]


def _widths(table: Table, read: list[list[str]], width: float) -> list[float]:
    """Numbers, times and short texts get what they need on one line; long texts share the rest by their length."""
    needs, whole = [], []
    for number, column in enumerate(table.columns):
        cells = max((_length(row[number], bold=True) for row in read), default=0.0)
        need = max(cells, _length(column.title, bold=True), 24.0)
        whole.append(column.number or column.kind is Kind.MOMENT or need <= SHORT)
        needs.append(PADDING + (need if whole[-1] else min(need, LONG)))
    fixed = sum(need for need, kept in zip(needs, whole, strict=True) if kept)
    shared = sum(needs) - fixed
    if not shared or fixed > width * 0.85:  # all short, or numbers beyond any reason: all grow or shrink alike
        return [need * width / sum(needs) for need in needs]
    scale = (width - fixed) / shared
    return [need if kept else need * scale for need, kept in zip(needs, whole, strict=True)]


def _signatures(sheet: Sheet, width: float) -> Grid:
    """A line to sign on under each name, with a gap between the lines."""
    gap, count = 8 * mm, len(sheet.signatures)
    row: list[Any] = []
    for name in sheet.signatures:
        row += [_text(name, colour=GREY), ""]
    lines = [("LINEBELOW", (2 * n, 0), (2 * n, 0), 0.6, INK) for n in range(count)]
    plain = [("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0)]
    return Grid(
        [row[:-1]],
        colWidths=([(width - gap * (count - 1)) / count, gap] * count)[:-1],
        rowHeights=[18 * mm],
        style=[*plain, *lines],
        hAlign="LEFT",
    )


def _numbered(sheet: Sheet) -> type[Canvas]:
    """A canvas that knows how many pages there are when it writes the feet."""

    class Numbered(Canvas):  # type: ignore[misc]  # the library has no types
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self._pages: list[dict[str, Any]] = []

        def showPage(self) -> None:  # noqa: N802 - the library's name
            self._pages.append(dict(self.__dict__))
            self._startPage()

        def save(self) -> None:
            for number, page in enumerate(self._pages, 1):
                self.__dict__.update(page)
                self._foot(number, len(self._pages))
                super().showPage()
            super().save()

        def _foot(self, number: int, pages: int) -> None:
            self.setFillColor(GREY)
            for place, (label, value) in enumerate(sheet.hashes):
                foot = _text(f"{label} {value}", size=6, colour=GREY)
                foot.wrapOn(self, self._pagesize[0] - 2 * MARGIN - 30 * mm, 20)
                foot.drawOn(self, MARGIN + 6, 14 * mm - 8 * place)
            told = _text(sheet.word("document.pages", page=number, pages=pages), size=7, right=True, colour=GREY)
            told.wrapOn(self, 40 * mm, 20)
            told.drawOn(self, self._pagesize[0] - MARGIN - 6 - 40 * mm, 14 * mm)

    return Numbered
