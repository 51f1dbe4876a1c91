"""Policy: show, diff, simulate, check, freeze. Reads the server's parameters, or a folder's with --parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from api.commands.connection import connect, one
from api.commands.console import (
    USAGE,
    Column,
    Failure,
    Output,
    emit,
    language,
    pairs,
    section,
    show,
    talk,
    word,
)
from api.commands.policy_check import approval_of, check, load, read_samples

if TYPE_CHECKING:
    from metering.parameters import Policy, Registry

Format = Annotated[Output, typer.Option("-o", "--output", help="Table for people; json, yaml or csv for programs.")]


def policy(
    action: Annotated[str, typer.Argument(metavar="[show|diff|simulate|check|freeze]", help="What to do.")] = "show",
    names: Annotated[list[str] | None, typer.Argument(metavar="[ID|A B|CASE.json…]", help="See below.")] = None,
    parameters: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Parameters of a folder; no server is asked.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="The built-in parameters; no server is asked.")] = False,
    base: Annotated[str | None, typer.Option("--policy", metavar="A", help="simulate: the policy it was.")] = None,
    against: Annotated[str | None, typer.Option("--against", metavar="B", help="simulate: the other one.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="DAY", help="simulate: usage from this day on.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="DAY", help="simulate: usage before this day.")] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="check: begun values as they were; DIR/frozen.json without it.")
    ] = None,
    current: Annotated[
        Path | None, typer.Option(metavar="DIR", help="check: the parameters in use, if not the built-in ones.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="check, freeze: accept changes to time that passed.")] = False,
    approved_by: Annotated[str | None, typer.Option(metavar="NAME", help="Who approved what --force accepts.")] = None,
    output: Format = Output.TABLE,
) -> None:
    """show [ID]: all policies, or one in full. diff A B: parameter by parameter.

    simulate --policy A --against B [CASE.json…]: who gains and who loses; the server's jobs without a case. Changes nothing.

    check --parameters DIR [CASE.json…]: refuses a folder that edits values which have begun to hold, and lists the
    settlements it would change; freeze does the same and then records what has begun in DIR/frozen.json.
    """
    given = names or []
    source = _Source(parameters, offline)
    if action == "show" and len(given) <= 1:
        _show(source, given[0], output) if given else _list(source, output)
    elif action == "diff" and len(given) == 2:
        _diff(source, given[0], given[1], output)
    elif action == "simulate" and base and against:
        _simulate(source, base, against, [Path(name) for name in given], start, end, output)
    elif action in ("check", "freeze") and parameters is not None:
        approval = approval_of(force, approved_by)
        check(parameters, baseline, current, [Path(name) for name in given], approval, output, write=action == "freeze")
    else:
        _usage(action)


def _usage(action: str) -> NoReturn:
    forms = {
        "show": "yisuan policy show [ID]",
        "diff": "yisuan policy diff A B",
        "simulate": "yisuan policy simulate --policy A --against B [CASE.json…]",
        "check": "yisuan policy check --parameters DIR [CASE.json…]",
        "freeze": "yisuan policy freeze --parameters DIR [CASE.json…]",
    }
    if action not in forms:
        raise Failure(word("cli.policy.action", action=action), do=" | ".join(forms.values()), code=USAGE)
    raise Failure(word("cli.policy.arguments", action=action), do=forms[action], code=USAGE)


class _Source:
    """Where policies come from: the server, or files of this machine."""

    def __init__(self, parameters: Path | None, offline: bool) -> None:
        self.parameters, self.local = parameters, offline or parameters is not None

    def registry(self) -> Registry:
        """The folder's policies, or the built-in ones; a Failure for a folder that cannot be used."""
        return load(self.parameters)

    def policies(self, *names: str) -> list[Policy]:
        """Policies of the registry by id; a Failure names the nearest of an unknown one."""
        from metering.parameters import UnknownPolicy

        registry = self.registry()
        try:
            return [registry.policy(name) for name in names]
        except UnknownPolicy as unknown:
            raise Failure(str(unknown), do="yisuan policy show", code=USAGE) from None


# --- show ---------------------------------------------------------------------------------------------------------


def _list(source: _Source, output: Output) -> None:
    if source.local:
        kept = ("id", "number", "status", "bundle_sha256")
        found = [{k: getattr(one, k) for k in kept} for one in source.registry().policies.values()]
    else:
        with connect("firm") as client:
            found = list(client.items("/v1/policies"))
    columns = (
        Column(key="id", title="column.policy"),
        Column(key="status", title="column.status", shown=lambda value: word(f"policy.{value}")),
        Column(key="bundle_sha256", title="column.bundle"),
    )
    show(found, columns, output)


def _show(source: _Source, name: str, output: Output) -> None:
    if source.local:
        from metering.parameters.description import describe

        found = describe(source.policies(name)[0])
    else:
        with connect("firm") as client:
            found = one(client, f"/v1/policies/{name}")
    rows = [
        {
            "key": parameter["key"],
            "unit": parameter["unit"],
            "shown": shown_value(parameter["unit"], row["value"]),
            **row,
        }
        for parameter in found["parameters"]
        for row in parameter["values"]
    ]
    columns = (
        Column(key="key", title="policy.column.parameter"),
        Column(key="value" if output is Output.CSV else "shown", title="policy.column.value", number=True),
        Column(key="unit", title="policy.column.unit", shown=lambda unit: word(f"policy.unit.{unit}")),
        Column(key="from", title="policy.column.from"),
        Column(key="to", title="policy.column.to"),
        Column(key="clauses", title="column.clauses", shown=", ".join),
        Column(key="status", title="column.status", shown=lambda status: word(f"policy.value.{status}")),
    )
    if output in (Output.JSON, Output.YAML):
        emit(found, output)
        return
    if output is Output.CSV:
        show([{**row, "clauses": " ".join(row["clauses"])} for row in rows], columns, output)
        return
    lang = language()
    section(f"{found['id']}  {found['number']}  {found['title'][lang]}")
    pairs(
        [
            (word("column.status"), word(f"policy.{found['status']}")),
            (word("column.bundle"), found["bundle_sha256"]),
            *((word("policy.overlay"), f"{o['id']}  {o['number']}  {o['title'][lang]}") for o in found["overlays"]),
        ]
    )
    show(rows, columns, output)
    section(word("policy.clauses"))
    pairs([(clause["number"], clause["gist"][lang]) for clause in found["clauses"]])
    section(word("policy.interpretations"))
    questions = [
        {
            **question,
            "asked": question["question"][lang],
            "others": [o for o in question["options"] if o != question["chosen"]],
        }
        for question in found["interpretations"]
    ]
    asked = (
        Column(key="asked", title="policy.column.question"),
        Column(key="chosen", title="policy.column.answer"),
        Column(key="others", title="policy.column.options", shown=", ".join),
        Column(key="clauses", title="column.clauses", shown=", ".join),
        Column(key="decided_by", title="policy.column.decided_by"),
    )
    show(questions, asked, output)
    _warn(found["warnings"])


def shown_value(unit: str, value: Any) -> str | None:
    """A parameter's value as people read it, by its unit; words are words, None stays None."""
    from api.texts import money, percent

    if value is None:
        return None
    if isinstance(value, bool):
        return word("yes" if value else "no")
    if isinstance(value, str):
        return value
    return {"basis_point": percent, "fen": money, "fen_per_year": money}.get(unit, str)(value)


def _warn(warnings: Sequence[Mapping[str, Any]]) -> None:
    """Each warning on stderr, in words."""
    for warning in warnings:
        facts = dict(warning["facts"])
        facts["question"] = facts.get(f"question_{language()}")
        talk(word("policy.warning", text=word(warning["code"], **facts)))


# --- diff ---------------------------------------------------------------------------------------------------------


def _diff(source: _Source, a: str, b: str, output: Output) -> None:
    if source.local:
        from metering.parameters.description import difference

        found = difference(*source.policies(a, b))
    else:
        with connect("firm") as client:
            found = one(client, f"/v1/policies/{a}/diff/{b}")
    if output in (Output.JSON, Output.YAML):
        emit(found, output)
        return
    plain = output is Output.CSV
    rows = [
        {
            **row,
            "a": row["a"] if plain else shown_value(row["unit"], row["a"]),
            "b": row["b"] if plain else shown_value(row["unit"], row["b"]),
        }
        for row in found["parameters"]
    ]
    columns = (
        Column(key="key", title="policy.column.parameter"),
        Column(key="from", title="policy.column.from"),
        Column(key="to", title="policy.column.to"),
        Column(key="a", title="policy.column.a", number=True),
        Column(key="b", title="policy.column.b", number=True),
    )
    if not plain:
        section(f"A {found['a']}    B {found['b']}")
    show(rows, columns, output)
    if plain:
        return
    pairs([(word("policy.same"), ", ".join(found["same"]) or "—")])
    if found["interpretations"]:
        section(word("policy.interpretations"))
        asked = [{**question, "asked": question["question"][language()]} for question in found["interpretations"]]
        show(asked, (Column(key="asked", title="policy.column.question"), *columns[3:]), output)


# --- simulate -----------------------------------------------------------------------------------------------------


def _simulate(
    source: _Source, a: str, b: str, files: Sequence[Path], start: str | None, end: str | None, output: Output
) -> None:
    if source.local or files:
        found = _simulated(source, a, b, files, start, end)
    else:
        limits = {
            name: None if at is None else at.isoformat()
            for name, at in zip(("from", "to"), _period(start, end), strict=True)
        }
        with connect("finance") as client:
            found = one(client, "/v1/policies/simulate", policy=a, against=b, **limits)
    if output in (Output.JSON, Output.YAML):
        emit(found, output)
        return
    from api.texts import money

    amount = partial(Column, shown=money, number=True)
    columns = (
        amount(key="fee_fen", title="column.fee"),
        amount(key="deduction_fen", title="policy.column.deduction_a"),
        amount(key="deduction_against_fen", title="policy.column.deduction_b"),
        amount(key="difference_fen", title="policy.column.difference"),
        Column(key="outcome", title="policy.column.outcome", shown=lambda value: word(f"policy.outcome.{value}")),
    )
    named = (Column(key="firm", title="column.firm"), Column(key="cases", title="policy.column.cases", number=True))
    if output is Output.CSV:
        show(found["firms"], (*named, *columns), output)
        return
    section(f"A {found['policy']}    B {found['against']}")
    if files:
        show(found["cases"], (Column(key="case", title="policy.column.case"), named[0], *columns), output)
    show([*found["firms"], {**found["total"], "firm": word("policy.total")}], (*named, *columns), output)
    _warn(found["warnings"])


def _simulated(
    source: _Source, a: str, b: str, files: Sequence[Path], start: str | None, end: str | None
) -> dict[str, Any]:
    from api.commands.tools import progress
    from metering.case import CaseError
    from metering.impact import compare
    from metering.parameters.description import warnings
    from metering.rule import load_rules

    if not files:
        _usage("simulate")
    before, after = source.policies(a, b)
    begins, ends = _period(start, end)
    with progress(len(files), word("cli.policy.simulating")) as advance:
        samples = read_samples(files, source.registry(), advance)
        try:
            compared = compare(samples, before, after, load_rules(), start=begins, end=ends)
        except CaseError as bad:
            raise Failure(word("cli.input.bad"), why=str(bad), code=USAGE) from None
    return {**compared.document(), "warnings": warnings(after)}


def _period(start: str | None, end: str | None) -> tuple[datetime | None, datetime | None]:
    """Days begin at midnight in Beijing; a time needs its offset. The end is exclusive and later than the start."""
    from api.texts import ZONE

    found = []
    for name, value in (("--from", start), ("--to", end)):
        try:
            at = None if value is None else datetime.fromisoformat(value)
        except ValueError:
            raise Failure(word("cli.policy.day", name=name, value=value), do=f"{name} 2026-01-01", code=USAGE) from None
        if at is not None and at.tzinfo is None:
            at = at.replace(tzinfo=ZONE)
        found.append(at)
    if found[0] is not None and found[1] is not None and found[1] <= found[0]:
        raise Failure(word("cli.policy.period", start=start, end=end), code=USAGE)
    return found[0], found[1]
