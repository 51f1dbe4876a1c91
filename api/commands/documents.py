"""Documents: statements, settlement sheets and applications as files, and the books for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from api.commands.connection import connect, resolve
from api.commands.console import USAGE, Failure, talk, word

KINDS = {  # kind: path of its route, role of the key to prefer
    "job": ("statements/jobs", "firm"),
    "firm": ("statements/firms", "firm"),
    "settlement": ("settlements", "firm"),
    "clearing": ("clearing", "operator"),
    "subsidy": ("subsidies", "operator"),
}
FORMATS = ("html", "pdf", "xlsx", "json", "csv")
BINARY = ("pdf", "xlsx")
EXPORTS = {"focus": "firm", "beancount": "operator"}

Start = Annotated[str | None, typer.Option("--from", metavar="TIME", help="Settled at or after, RFC 3339.")]
End = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Settled before, RFC 3339.")]
Out = Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Where to write; stdout without it.")]


def document(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="job, firm, settlement, clearing or subsidy.")],
    identity: Annotated[str, typer.Argument(metavar="ID", help="Its id; a job also by name.")],
    form: Annotated[str, typer.Option("--format", help="html, pdf, xlsx, json or csv.")] = "html",
    out: Out = None,
    start: Start = None,
    end: End = None,
) -> None:
    """The same document in every format; its content hash is in the foot."""
    if kind not in KINDS:
        do = word("cli.document.kind.do", kinds=", ".join(KINDS))
        raise Failure(word("cli.document.kind", kind=kind), do=do, code=USAGE)
    if form not in FORMATS:
        do = word("cli.document.kind.do", kinds=", ".join(FORMATS))
        raise Failure(word("cli.document.format", format=form), do=do, code=USAGE)
    if form in BINARY and out is None:
        raise Failure(word("cli.document.binary", format=form), code=USAGE)
    if kind != "firm" and (start or end):
        raise Failure(word("cli.document.period"), code=USAGE)
    path, role = KINDS[kind]
    with connect(role) as client:
        known = resolve(client, identity) if kind == "job" else identity
        answer = client.fetch(
            f"/v1/documents/{path}/{quote(known, safe=':')}", format=form, lang=_language(), **_period(start, end)
        )
    _write(answer.content, out)


def export(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="focus or beancount.")],
    out: Out = None,
    form: Annotated[str | None, typer.Option("--format", help="Of focus: csv or json.")] = None,
    firm: Annotated[str | None, typer.Option(help="Of focus: one firm's, where your key may see it.")] = None,
    voucher_as: Annotated[
        str | None, typer.Option("--voucher-as", help="Of focus: column (beside the fee) or credit (a row below zero).")
    ] = None,
    start: Start = None,
    end: End = None,
) -> None:
    """FOCUS 1.4 rows of what was billed, or the ledger as a Beancount file."""
    if kind not in EXPORTS:
        do = word("cli.document.kind.do", kinds=", ".join(EXPORTS))
        raise Failure(word("cli.export.kind", kind=kind), do=do, code=USAGE)
    given = {"format": form, "firm": firm, "voucher_as": voucher_as, **_period(start, end)}
    options = {"voucher_as": "--voucher-as", "format": "--format", "firm": "--firm", "from": "--from", "to": "--to"}
    for name, value in given.items():
        if kind != "focus" and value is not None:
            raise Failure(word("cli.export.option", option=options[name]), code=USAGE)
    with connect(EXPORTS[kind]) as client:
        answer = client.fetch(f"/v1/exports/{kind}", **given)
    _write(answer.content, out)


def _language() -> str:
    from api.commands.console import language

    return language()


def _period(start: str | None, end: str | None) -> dict[str, str | None]:
    return {"from": start, "to": end}


def _write(content: bytes, out: Path | None) -> None:
    """The bytes as they came, in the file or on stdout."""
    if out is None:
        typer.get_binary_stream("stdout").write(content)
        return
    try:
        out.write_bytes(content)
    except OSError as problem:
        said = word("cli.document.unwritable", path=str(out), problem=problem.strerror or str(problem))
        raise Failure(said, code=USAGE) from None
    talk(word("cli.document.written", path=str(out), size=len(content)))
