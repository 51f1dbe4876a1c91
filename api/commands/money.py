"""Money: voucher, statement, usage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from api.commands.connection import connect, one, resolve
from api.commands.console import USAGE, Column, Failure, Output, emit, pairs, section, show, talk, word
from api.commands.papers import Action, Reason, Words, body_of, misuse, path, take, tell, year_of

Format = Annotated[Output, typer.Option("-o", "--output", help="Table for people; json, yaml or csv for programs.")]


def _money(value: Any) -> str:
    from api.texts import money

    return money(value)


def _percent(value: Any) -> str:
    from api.texts import percent

    return percent(value)


def _moment(value: Any) -> str:
    from api.texts import moment

    return moment(value)


def _reasons(codes: Any) -> str:
    return "; ".join(word(code) for code in codes)


LINE_COLUMNS = (
    Column(key="lease", title="column.lease"),
    Column(key="model", title="column.model"),
    Column(key="origin", title="column.origin", shown=lambda value: word(f"origin.{value}")),
    Column(key="start", title="column.start", shown=_moment),
    Column(key="end", title="column.end", shown=_moment),
    Column(key="fee_fen", title="column.fee", shown=_money, number=True),
    Column(key="rate_bp", title="column.rate", shown=_percent, number=True),
    Column(key="deduction_fen", title="column.deduction", shown=_money, number=True),
    Column(key="payable_fen", title="column.payable", shown=_money, number=True),
    Column(key="reasons", title="column.reasons", shown=_reasons),
    Column(key="clauses", title="column.clauses", shown=", ".join),
)


RIGHT = {
    "show": "",
    "freeze": "FIRM --reason TEXT",
    "unfreeze": "FIRM --reason TEXT",
    "revoke": "FIRM --reason TEXT",
    "links": "",
    "link": "FILE",
}
TRANCHE = (
    Column(key="year", title="column.year"),
    Column(key="issued_fen", title="column.issued_fen", shown=_money, number=True),
    Column(key="drawn_fen", title="column.drawn", shown=_money, number=True),
    Column(key="held_fen", title="column.held", shown=_money, number=True),
    Column(key="left_fen", title="column.left", shown=_money, number=True),
    Column(key="given_back_fen", title="column.given_back", shown=_money, number=True),
    Column(key="idle_from", title="column.idle_from", shown=_moment),
)
LINK = (
    Column(key="seq", title="column.number", number=True),
    Column(key="codes", title="column.codes", shown=", ".join),
    Column(key="from", title="column.start", shown=_moment),
    Column(key="to", title="column.end", shown=_moment),
    Column(key="withdrawn", title="column.withdrawn", shown=lambda value: word("yes" if value else "no")),
)
LINKED = (
    Column(key="seq", title="column.number", number=True),
    Column(key="codes", title="column.codes", shown=", ".join),
    Column(key="subjects", title="column.subjects", shown=lambda years: _listed(years)),
)


def voucher(
    action: Action = "show",
    words: Words = None,
    claim: Annotated[
        bool,
        typer.Option("--claim", help="Claim the right first; where vouchers come in tranches, the next tranche too."),
    ] = False,
    tranche: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="With --claim: the tranche's id; the same one again moves nothing."),
    ] = None,
    year: Annotated[
        str | None, typer.Option(metavar="YEAR", help="With --claim: the tranche's year, else the one of today.")
    ] = None,
    firm: Annotated[str | None, typer.Option(help="Another firm's, where your key may see it.")] = None,
    reason: Reason = None,
    output: Format = Output.TABLE,
) -> None:
    """The right to draw, and what is left of each year's rooms.

    \b
    show                             yours, or those your key may see
    freeze FIRM --reason TEXT        it draws nothing new
    unfreeze FIRM --reason TEXT      by a reviewer who did not freeze it
    revoke FIRM --reason TEXT        for good, from now on
    links                            credit codes that are one firm, withdrawn ones too
    link FILE                        puts such a link on record

    The file has the fields of POST /v1/links: codes, from, to, evidence, withdraws.
    """
    given = take("voucher", RIGHT, action, words, reason=reason)
    beside = claim or firm is not None
    if (action != "show" and beside) or (not claim and (tranche is not None or year is not None)):
        raise misuse("voucher", RIGHT, action)
    if action in ("links", "link"):
        _link(body_of(Path(given[0])) if given else None, output)
        return
    if action != "show":
        _set_right(action, given[0], str(reason), output)
        return
    asked = {"id": tranche, "year": None if year is None else year_of(year)}
    with connect("firm") as client:
        if claim:
            taken = {key: value for key, value in asked.items() if value is not None}
            client.post("/v1/vouchers", {"programme": "compute_voucher", **taken})
        found = list(client.items("/v1/vouchers", firm=firm))
    if output is not Output.TABLE:
        rows = [{**{k: v for k, v in item.items() if k != "rooms"}, "rooms": item.get("rooms")} for item in found]
        show(rows, tuple(Column(key=k, title=k) for k in ("firm", "programme", "policy", "rooms")), output)
        return
    if not found:
        talk(word("voucher.none"))
    for item in found:
        section(f"{item['firm']}  {word('voucher.programme.' + str(item['programme']))}")
        shared = item.get("subjects") or {}
        joint = [(word("column.subjects"), _listed(shared))] if shared else []
        pairs([(word("voucher.policy"), str(item["policy"])), *_rooms(item.get("rooms") or {}), *joint])
        if item.get("tranches"):
            show(item["tranches"], TRANCHE, output)


def _listed(years: Mapping[str, str]) -> str:
    """The subjects that share a cap, by year."""
    return ", ".join(f"{year} {subject}" for year, subject in sorted(years.items())) or "—"


def _link(body: dict[str, Any] | None, output: Output) -> None:
    """Every link on record, or the one that is put there, with the subjects that now share a cap."""
    with connect("operator") as client:
        if body is None:
            show([_in_cells(each, output) for each in client.items("/v1/links")], LINK, output)
        else:
            tell(_in_cells(client.post("/v1/links", body), output), LINKED, output)


def _in_cells(found: Mapping[str, Any], output: Output) -> dict[str, Any]:
    """For CSV the codes and subjects as one text each; else as they are."""
    if output is not Output.CSV:
        return dict(found)
    texts = {"codes": " ".join(found["codes"])}
    if "subjects" in found:
        texts["subjects"] = " ".join(f"{year}={subject}" for year, subject in sorted(found["subjects"].items()))
    return {**found, **texts}


def _set_right(action: str, firm: str, reason: str, output: Output) -> None:
    """The firm's right has taken the step; where it now stands is on stdout."""
    columns = (
        Column(key="firm", title="column.firm"),
        Column(key="state", title="column.state", shown=lambda value: word(f"document.state.{value}")),
    )
    with connect("operator" if action == "freeze" else "reviewer") as client:
        found = client.post(path("vouchers", firm, "acts"), {"act": action, "reason": reason})
    tell({**found, "firm": firm}, columns, output)


def _rooms(rooms: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (word(f"room.{kind}", year=year), _money(fen))
        for kind in ("firm", "pool")
        for year, fen in sorted((rooms.get(kind) or {}).items())
    ]


def statement(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="The job's id or name.")] = None,
    firm: Annotated[str | None, typer.Option(help="A firm's id instead of a job.")] = None,
    output: Format = Output.TABLE,
) -> None:
    """Fee, rate, deduction and payable, line by line, each with its reason and clause."""
    if (job is None) == (firm is None):
        raise Failure(word("cli.statement.which"), do="yisuan statement JOB | --firm ID", code=USAGE)
    with connect("firm") as client:
        where = f"firms/{firm}" if firm else f"jobs/{resolve(client, str(job))}"
        found = one(client, f"/v1/statements/{where}")
    if output in (Output.JSON, Output.YAML):
        emit(found, output)
    elif firm:
        rows = [{**item, **item["totals"]} for item in found["jobs"]]
        named = (Column(key="job", title="column.job"), Column(key="name", title="column.name"))
        show(rows, (*named, *(c for c in LINE_COLUMNS if c.key in ("fee_fen", "deduction_fen", "payable_fen"))), output)
        if output is Output.TABLE:
            tell_totals(found)
            pairs(_rooms(found["rooms"]))
    else:
        show(found["lines"], LINE_COLUMNS, output)
        if output is Output.TABLE:
            tell_totals(found)
            for notice in found["notices"]:
                talk(word(notice))


def tell_totals(found: Mapping[str, Any]) -> None:
    """Fee, deduction and payable of a statement on stdout."""
    names = ("fee", "deduction", "payable")
    pairs([(word(f"column.{name}"), _money(found["totals"][f"{name}_fen"])) for name in names])


def usage(output: Format = Output.TABLE) -> None:
    """What leases consumed; time the platform lost is listed at price 0 with its cause."""
    with connect("firm") as client:
        found = list(client.items("/v1/usage"))
    columns = (
        Column(key="lease", title="column.lease"),
        Column(key="model", title="column.model"),
        Column(key="kind", title="column.kind", shown=lambda value: word(f"usage.{value}")),
        Column(key="cause", title="column.cause", shown=lambda value: word(f"cause.{value}")),
        Column(key="devices", title="column.devices", number=True),
        Column(key="start", title="column.start", shown=_moment),
        Column(key="end", title="column.end", shown=_moment),
        Column(key="price_fen_per_device_hour", title="column.price", shown=_money, number=True),
    )
    show(found, columns, output)
