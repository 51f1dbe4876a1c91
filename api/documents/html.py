"""HTML of a sheet: one file that needs no other, made to be printed on A4."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from api.documents.sheet import Kind, Sheet, shown

HERE = Path(__file__).parent
WIDE = 8  # columns from which a page lies on its side


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # names, reasons and papers come from outside


def style(sheet: Sheet) -> str:
    """The style of the document, page size and foot included."""
    page = "A4 landscape" if any(len(table.columns) >= WIDE for table in sheet.tables) else "A4"
    foot = f"{sheet.hashes[0][0]} {sheet.hashes[0][1]}" if sheet.hashes else sheet.number
    pages = sheet.word("document.pages", page="\x00", pages="\x01").replace("\x00", '" counter(page) "')
    return _environment().get_template("sheet.css").render(
        page=page, foot=_css(foot), pages='"' + pages.replace("\x01", '" counter(pages) "') + '"'
    )  # fmt: skip


def _css(text: str) -> str:
    """A CSS string: whatever is not a letter, digit, space or dash is escaped by its code point."""
    return '"' + "".join(s if s.isalnum() or s in " -:_" else f"\\{ord(s):x} " for s in text) + '"'


def security_policy(sheet: Sheet) -> str:
    """Content-Security-Policy under which the document shows: its own style and nothing else."""
    hashed = base64.b64encode(hashlib.sha256(style(sheet).encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{hashed}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def write_html(sheet: Sheet) -> bytes:
    """The document as UTF-8, in its language, loading nothing. Everything from outside is escaped."""
    body = _environment().get_template("sheet.html").render(
        sheet=sheet,
        style=style(sheet),
        lang="zh-CN" if sheet.language == "zh" else "en",
        shown=shown,
        issued=shown(sheet.issued_at.isoformat(), Kind.MOMENT),
        t=sheet.word,
    )  # fmt: skip
    return body.encode("utf-8")
