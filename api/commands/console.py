"""Console: how every command speaks. Data on stdout in one of four forms, talk and failures on stderr."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer

OK, REFUSED, USAGE, UNAVAILABLE = 0, 1, 2, 3
LANGUAGES = ("zh", "en")
_chosen: dict[str, str] = {}


class Output(enum.StrEnum):
    """Tables are for people; the other three are for programs and never translated."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: the rows' key, its title as a text code, and how a value reads (None is always a dash)."""

    key: str
    title: str
    shown: Callable[[Any], str] = str
    number: bool = False


class Failure(Exception):
    """A command cannot go on. what happened, why, what to do; code is the exit code."""

    def __init__(self, what: str, *, why: str = "", do: str = "", code: int = REFUSED) -> None:
        self.what, self.why, self.do, self.code = what, why, do, code
        super().__init__(what)

    def tell(self) -> None:
        """The three parts are on stderr, those that are known."""
        for label, said in ((word("cli.error"), self.what), (word("cli.why"), self.why), (word("cli.do"), self.do)):
            if said:
                typer.echo(f"{label}{said}", err=True)


def language() -> str:
    """zh or en: --lang, else YISUAN_LANG, else LANG; zh when they say neither (C and POSIX say nothing)."""
    if "lang" in _chosen:
        return _chosen["lang"]
    wanted = os.environ.get("YISUAN_LANG") or os.environ.get("LC_ALL") or os.environ.get("LANG") or ""
    plain = wanted.split(".")[0].split("_")[0].lower()
    return "zh" if plain in ("zh", "c", "posix", "") else "en"


def set_language(value: str | None) -> None:
    """Texts are in `value` from now on, None: in the environment's; anything but zh and en is a usage error."""
    _chosen.clear()
    if value is None:
        return
    if value not in LANGUAGES:
        raise Failure(f"--lang: {value!r} is neither zh nor en", code=USAGE)
    _chosen["lang"] = value


def word(code: str, **facts: Any) -> str:
    """The text of a code in the chosen language."""
    from api.texts import text

    return text(code, facts, language())


def talk(message: str) -> None:
    """Say something to the person, beside the data."""
    typer.echo(message, err=True)


def emit(document: Any, output: Output = Output.JSON) -> None:
    """One document on stdout, as JSON or YAML."""
    if output is Output.YAML:
        import yaml

        typer.echo(yaml.safe_dump(document, allow_unicode=True, sort_keys=False), nl=False)
        return
    import json

    typer.echo(json.dumps(document, ensure_ascii=False, indent=2))


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], output: Output, *, title: str = "") -> None:
    """Rows on stdout. JSON and YAML carry the rows as they are; CSV and the table carry the columns."""
    if output in (Output.JSON, Output.YAML):
        emit(list(rows), output)
    elif output is Output.CSV:
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([column.key for column in columns])
        writer.writerows([["" if row.get(c.key) is None else row.get(c.key) for c in columns] for row in rows])
    else:
        _table(rows, columns, title)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    if not rows:
        talk(word("cli.nothing"))
        return
    table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for column in columns:
        # Folding, not cutting: a shortened id or amount is a wrong one.
        table.add_column(word(column.title), justify="right" if column.number else "left", overflow="fold")
    for row in rows:
        cells = [row.get(c.key) for c in columns]
        table.add_row(*(Text("—" if cell is None else c.shown(cell)) for c, cell in zip(columns, cells, strict=True)))
    _console().print(table)


def _console() -> Any:
    """Rich on stdout: the terminal's width, and no folding where the reader is a pipe."""
    from rich.console import Console

    piped = not sys.stdout.isatty()
    return Console(no_color="NO_COLOR" in os.environ, width=240 if piped else None, highlight=False)


def pairs(items: Sequence[tuple[str, str]]) -> None:
    """Labels and values in two columns on stdout."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for label, value in items:
        table.add_row(Text(label, style="bold"), Text(value))
    _console().print(table)


def section(title: str) -> None:
    """A heading on stdout, an empty line before it."""
    typer.echo(f"\n{title}")
