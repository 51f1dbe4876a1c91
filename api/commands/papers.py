"""Papers: contracts, invoices and bank slips; and what every command about cases shares: its forms, its file, its story."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.commands.connection import connect, one
from api.commands.console import USAGE, Column, Failure, Output, emit, language, pairs, section, show, word

Format = Annotated[Output, typer.Option("-o", "--output", help="Table for people; json, yaml or csv for programs.")]
Action = Annotated[str, typer.Argument(metavar="[ACTION]", help="What to do; see above.")]
Words = Annotated[list[str] | None, typer.Argument(metavar="[…]", help="What the action asks for.")]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Why; it stays on record.")]
OPTION = re.compile(r"(\[?)--(\w+) \w+\]?")
Reference = Annotated[str | None, typer.Option(metavar="R", help="The bank slip, payment or batch it rests on.")]


# --- forms --------------------------------------------------------------------------------------------------------


def take(
    command: str, forms: Mapping[str, str], action: str, given: Sequence[str] | None, **options: str | None
) -> list[str]:
    """The words of the action, as many as its form names; a Failure (2) tells the right form otherwise.

    forms: {action: "ID AMOUNT --reference R [--reason TEXT]"}: words, options it needs, in brackets those it may have.
    """
    if action not in forms:
        near = difflib.get_close_matches(action, forms, n=1, cutoff=0.5)
        told = word("cli.nearest", nearest=near[0]) if near else ""
        raise Failure(
            word("cli.action.unknown", command=command, action=action) + told, do=usage_of(command, forms), code=USAGE
        )
    wanted = OPTION.sub("", forms[action]).split()
    known = {name: not bracket for bracket, name in OPTION.findall(forms[action])}
    said = {name: value for name, value in options.items() if value is not None}
    right = set(said) <= set(known) and all(name in said for name, needed in known.items() if needed)
    found = list(given or [])
    if len(found) != len(wanted) or not all(part.strip() for part in found) or not right:
        raise misuse(command, forms, action)
    return found


def misuse(command: str, forms: Mapping[str, str], action: str) -> Failure:
    """The Failure (2) that tells the action's form."""
    what = word("cli.action.form", command=command, action=action)
    return Failure(what, do=usage_of(command, {action: forms[action]}), code=USAGE)


def usage_of(command: str, forms: Mapping[str, str]) -> str:
    """How the command is called, a line for each form."""
    return "\n".join(f"yisuan {command} {action} {form}".strip() for action, form in forms.items())


def fen_of(spelled: str) -> int:
    """The exact fen of `12.34 CNY`; a Failure (2) for anything else."""
    from scheduler.duration import parse_money

    try:
        return parse_money(spelled)
    except ValueError as problem:
        raise Failure(word("cli.amount.bad", amount=spelled), why=str(problem), code=USAGE) from None


def year_of(spelled: str) -> int:
    """The year that four digits name; a Failure (2) for anything else."""
    if len(spelled) != 4 or not (spelled.isascii() and spelled.isdigit()):
        raise Failure(word("cli.year.bad", year=spelled), code=USAGE)
    return int(spelled)


def body_of(file: Path) -> dict[str, Any]:
    """The request that a YAML or JSON file holds. A `…_fen` may be written as `8000.50 CNY`; a Failure (2) if it is none."""
    from metering.parameters.document import ParameterError, read

    try:
        found = read(file)
    except ParameterError as problem:
        raise Failure(word("cli.input.bad"), why=str(problem), code=USAGE) from None
    if not isinstance(found, dict):
        raise Failure(word("cli.input.bad"), why=f"{file}: {found!r} is not a mapping", code=USAGE)
    body: dict[str, Any] = _in_fen(found)
    return body


def _in_fen(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _in_fen(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_in_fen(each) for each in value]
    return fen_of(value) if name.endswith("_fen") and isinstance(value, str) else value


def path(*parts: str) -> str:
    """A path of /v1, each part quoted: an id is never read as none or as more than one. A Failure (2) where it would be."""
    for part in parts:
        if part.strip() in ("", ".", ".."):
            raise Failure(word("cli.id.bad", id=part), code=USAGE)
    return "/v1/" + "/".join(quote(part, safe=":") for part in parts)


# --- how values read ----------------------------------------------------------------------------------------------


def money(value: Any) -> str:
    """Fen as yuan with two decimals."""
    from api.texts import money as yuan

    return yuan(value)


def moment(value: Any) -> str:
    """An instant in Beijing time."""
    from api.texts import moment as beijing

    return beijing(value)


def percent(value: Any) -> str:
    """Basis points as percent."""
    from api.texts import percent as hundredths

    return hundredths(value)


def state(value: Any) -> str:
    """Where a case stands, in words."""
    return word(f"document.state.{value}")


def step(value: Any) -> str:
    """An act, in words."""
    return word(f"document.act.{value}")


def programme_name(value: Any) -> str:
    """A programme, in words."""
    return word(f"voucher.programme.{value}")


def listed(value: Any) -> str:
    """Items beside each other."""
    return ", ".join(str(each) for each in value)


def told(code: str, facts: Mapping[str, Any]) -> str:
    """A code with its facts, in words; facts may carry any name."""
    from api.texts import text

    return text(code, facts, language())


def tell(document: Mapping[str, Any], columns: Sequence[Column], output: Output) -> None:
    """One document on stdout: for people label by label, as CSV in one row, else whole."""
    if output in (Output.JSON, Output.YAML):
        emit(dict(document), output)
    elif output is Output.CSV:
        show([document], columns, output)
    else:
        cells = [(word(c.title), document.get(c.key), c) for c in columns if c.key in document]
        pairs([(title, "—" if value is None else c.shown(value)) for title, value, c in cells])


STORY_COLUMNS = (
    Column(key="at", title="column.at", shown=moment),
    Column(key="act", title="column.act", shown=step),
    Column(key="role", title="column.role", shown=lambda value: word(f"role.{value}")),
    Column(key="by", title="column.by"),
    Column(key="reason", title="column.reason"),
)


def tell_story(acts: Sequence[Mapping[str, Any]]) -> None:
    """Every step of a case: when, what, in which role, who and why."""
    section(word("column.story"))
    show(acts, STORY_COLUMNS, Output.TABLE)


# --- commands -----------------------------------------------------------------------------------------------------

CONTRACT = (
    Column(key="id", title="column.contract"),
    Column(key="number", title="column.number"),
    Column(key="programme", title="column.programme", shown=programme_name),
    Column(key="buyer", title="column.buyer"),
    Column(key="seller", title="column.seller"),
    Column(key="from", title="column.start", shown=moment),
    Column(key="to", title="column.end", shown=moment),
    Column(key="amount_fen", title="column.amount", shown=money, number=True),
    Column(key="support_cap_fen", title="column.support_cap", shown=money, number=True),
)
CONTRACT_WHOLE = (
    *CONTRACT,
    Column(key="signed_on", title="column.signed"),
    Column(key="tax_basis", title="column.tax_basis", shown=lambda value: word(f"tax.{value}")),
    Column(key="project", title="column.project"),
)
ITEM = (
    Column(key="description", title="column.what"),
    Column(key="model", title="column.model"),
    Column(key="quantity", title="column.count", number=True),
    Column(key="amount_fen", title="column.amount", shown=money, number=True),
    Column(key="domestic", title="column.domestic", shown=lambda value: word("yes" if value else "no")),
)
INVOICE = (
    Column(key="number", title="column.invoice"),
    Column(key="contract", title="column.contract"),
    Column(key="issuer", title="column.seller"),
    Column(key="buyer", title="column.buyer"),
    Column(key="issued_on", title="column.issued"),
    Column(key="amount_fen", title="column.amount", shown=money, number=True),
    Column(key="tax_fen", title="column.tax", shown=money, number=True),
    Column(key="paid_fen", title="column.paid", shown=money, number=True),
    Column(key="corrects", title="column.corrects"),
    Column(key="jobs", title="column.job", shown=listed),
)
SLIP = (
    Column(key="reference", title="column.slip"),
    Column(key="invoice", title="column.invoice"),
    Column(key="payer", title="column.payer"),
    Column(key="payee", title="column.payee"),
    Column(key="paid_at_ms", title="column.paid_at", shown=moment),
    Column(key="amount_fen", title="column.amount", shown=money, number=True),
)
PAPER = {"list": "", "add": "FILE"}


def contract(
    action: Annotated[str, typer.Argument(metavar="[ID|add]", help="A contract's id, or add.")] = "list",
    words: Annotated[list[str] | None, typer.Argument(metavar="[FILE]", help="add: a YAML or JSON file.")] = None,
    output: Format = Output.TABLE,
) -> None:
    """A contract is on record for good; with FILE the same again changes nothing.

    \b
    list          every contract; also without an action
    ID            one, with its items
    add FILE      put one on record

    The file has the fields of POST /v1/contracts; an amount may be written as 8000.50 CNY.
    """
    if action in PAPER or words:
        given = take("contract", PAPER, action, words)
        _paper("contracts", action, given, CONTRACT, CONTRACT_WHOLE, output)
        return
    with connect("operator") as client:
        found = one(client, path("contracts", action))
    tell(found, CONTRACT_WHOLE, output)
    if output is Output.TABLE and found.get("items"):
        section(word("column.items"))
        show(found["items"], ITEM, output)


def invoice(action: Action = "list", words: Words = None, output: Format = Output.TABLE) -> None:
    """An invoice bills the jobs it names, to the fen. Its seller or an operator puts it on record.

    \b
    list          every invoice, and what was paid of it
    add FILE      put one on record

    The file has the fields of POST /v1/invoices; an amount may be written as 8000.50 CNY.
    """
    _paper("invoices", action, take("invoice", PAPER, action, words), INVOICE, INVOICE, output)


def slip(action: Action = "list", words: Words = None, output: Format = Output.TABLE) -> None:
    """A bank slip is the payer's own share of an invoice, paid. An operator puts it on record.

    \b
    list          every slip
    add FILE      put one on record

    The file has the fields of POST /v1/slips; an amount may be written as 8000.50 CNY.
    """
    _paper("slips", action, take("slip", PAPER, action, words), SLIP, SLIP, output)


def _paper(
    kind: str,
    action: str,
    given: Sequence[str],
    columns: Sequence[Column],
    whole: Sequence[Column],
    output: Output,
) -> None:
    """The papers of a kind, or the one that is put on record."""
    body = body_of(Path(given[0])) if action == "add" else None
    with connect("operator") as client:
        if body is None:
            show(list(client.items(path(kind))), columns, output)
        else:
            tell(client.post(path(kind), body), whole, output)
