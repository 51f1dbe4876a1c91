"""Programmes: freezing, the server subsidy's projects and the model voucher's applications."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.commands.cases import Asked, Kind, run
from api.commands.connection import connect, one
from api.commands.console import REFUSED, Column, Failure, Output, section, show, word
from api.commands.papers import (
    Action,
    Format,
    Reason,
    Reference,
    Words,
    body_of,
    listed,
    moment,
    money,
    path,
    percent,
    programme_name,
    state,
    tell,
    tell_story,
    told,
)

if TYPE_CHECKING:
    from api.client import Client

SUBSIDY = {
    "list": "",
    "show": "ID",
    "draft": "ID NAME",
    "serial": "ID FILE",
    "act": "ID ACT [--reason TEXT] [--reference R]",
}
MODEL_VOUCHER = {
    "list": "",
    "show": "ID",
    "apply": "FILE",
    "act": "ID ACT [--reason TEXT] [--reference R]",
}
ACT_KEYS = {"assess": "reviewer", "approve": "reviewer", "claw_back": "reviewer", "pay": "finance"}

STANDS = Column(key="state", title="column.state", shown=lambda value: word(f"programme.{value}"))
PROGRAMME = (Column(key="programme", title="column.programme", shown=programme_name), STANDS)
FROZEN = (Column(key="subject", title="column.programme", shown=programme_name), STANDS)
PROJECT = (
    Column(key="project", title="column.project"),
    Column(key="provider", title="column.provider"),
    Column(key="name", title="column.name"),
    Column(key="state", title="column.state", shown=state),
)
PROJECTS = (*PROJECT, Column(key="since", title="column.since", shown=moment))
PROJECT_WHOLE = (*PROJECT, Column(key="amount_fen", title="column.support", shown=money, number=True))
SERIAL = (
    Column(key="serial", title="column.serial"),
    Column(key="project", title="column.project"),
    Column(key="contract", title="column.contract"),
    Column(key="model", title="column.model"),
    Column(key="device", title="column.device"),
)
STEP = (
    Column(key="step", title="column.what", shown=lambda value: word(f"document.step.{value}")),
    Column(key="shown", title="column.value", number=True),
    Column(key="clause", title="column.clauses"),
    Column(key="source", title="column.source"),
)
APPLICATION = (
    Column(key="id", title="column.application"),
    Column(key="firm", title="column.firm"),
    Column(key="contract", title="column.contract"),
    Column(key="model", title="column.model"),
    Column(key="use", title="column.use", shown=lambda value: word(f"model.{value}")),
    Column(key="state", title="column.state", shown=state),
    Column(key="completed_fen", title="column.completed", shown=money, number=True),
    Column(key="amount_fen", title="column.support", shown=money, number=True),
)
APPLICATION_WHOLE = (
    *APPLICATION,
    Column(key="model_part_fen", title="column.model_part", shown=money, number=True),
    Column(key="reasons", title="column.reasons", shown=lambda codes: listed(word(code) for code in codes)),
)


def programmes(output: Format = Output.TABLE) -> None:
    """Each programme: open, or frozen for now."""
    with connect("firm") as client:
        show(list(client.items("/v1/programmes")), PROGRAMME, output)


def freeze(
    programme: Annotated[str, typer.Argument(metavar="PROGRAMME", help="Such as compute_voucher.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it stays on record.")],
    output: Format = Output.TABLE,
) -> None:
    """At once: nothing new is promised or paid until a reviewer unfreezes it. One firm's right: yisuan voucher freeze."""
    _set_programme(programme, "freeze", reason, "operator", output)


def unfreeze(
    programme: Annotated[str, typer.Argument(metavar="PROGRAMME", help="Such as compute_voucher.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it stays on record.")],
    output: Format = Output.TABLE,
) -> None:
    """By a reviewer who did not freeze it."""
    _set_programme(programme, "unfreeze", reason, "reviewer", output)


def _set_programme(programme: str, name: str, reason: str, role: str, output: Output) -> None:
    known = programme.replace("-", "_")
    with connect(role) as client:
        found = client.post(path("programmes", known, "acts"), {"act": name, "reason": reason})
    tell(found, FROZEN, output)


def subsidy(
    action: Action = "list",
    words: Words = None,
    reference: Reference = None,
    reason: Reason = None,
    output: Format = Output.TABLE,
) -> None:
    """A project of clause 2.1.2, from its contract to its payment; each step asks for its evidence.

    \b
    list                                             every project
    show ID                                          evidence, computation and story
    draft ID NAME                                    a provider opens a project
    serial ID FILE                                   a bought server's serial, contract, model and device
    act ID ACT [--reason TEXT] [--reference R]       its next step

    ACT: verify-contract, deliver, list, meet-serving, assess, pay (with --reference), monitor, close; claw-back and reject
    (with --reason).
    """
    reads = {"serial": lambda words: body_of(Path(words[1]))}
    run(PROJECT_KIND, action, words, output, does=PROJECT_DOES, reads=reads, reference=reference, reason=reason)


def _show_project(client: Client, asked: Asked) -> None:
    found = one(client, asked.path())
    asked.tell(found)
    if asked.output is Output.TABLE:
        _tell_evidence(found)
        _tell_computation(found["computation"])
        tell_story(found["acts"])


def _draft(client: Client, asked: Asked) -> None:
    asked.tell(client.post("/v1/subsidies", {"id": asked.words[0], "name": asked.words[1]}))


def _serial(client: Client, asked: Asked) -> None:
    tell(client.post(asked.path("serials"), asked.read), SERIAL, asked.output)


PROJECT_KIND = Kind(
    command="subsidy",
    place="subsidies",
    forms=SUBSIDY,
    columns=PROJECTS,
    tell=lambda found, output: tell(found, PROJECT_WHOLE, output),
    keys={"draft": "provider", "serial": "provider"},
    act_keys=ACT_KEYS,
)
PROJECT_DOES = {"show": _show_project, "draft": _draft, "serial": _serial}


def _tell_evidence(found: dict[str, Any]) -> None:
    """What the project rests on: its contracts, invoices, payments and serials."""
    papers = (
        ("contract", [agreed["id"] for agreed in found["contracts"]]),
        ("invoice", [bill["number"] for bill in found["invoices"]]),
        ("slip", [paid["reference"] for paid in found["payments"]]),
        ("serial", [bought["serial"] for bought in found["serials"]]),
    )
    section(word("column.evidence"))
    columns = (Column(key="kind", title="column.what", shown=lambda value: word(f"column.{value}")),
               Column(key="papers", title="column.number", shown=listed))  # fmt: skip
    show([{"kind": kind, "papers": numbers or None} for kind, numbers in papers], columns, Output.TABLE)


def _tell_computation(steps: list[dict[str, Any]]) -> None:
    section(word("column.computation"))
    rows = [{**step, "shown": _value(step)} for step in steps]
    show(rows, STEP, Output.TABLE)


def _value(step: dict[str, Any]) -> str:
    """A step's value by its unit."""
    value, unit = step["value"], str(step.get("unit", ""))
    return money(value) if unit.startswith("fen") else percent(value) if unit == "basis_point" else str(value)


def model_voucher(
    action: Action = "list",
    words: Words = None,
    reference: Reference = None,
    reason: Reason = None,
    output: Format = Output.TABLE,
) -> None:
    """An application of clause 2.4.7 for one contract.

    \b
    list                                             every application
    show ID                                          what was granted, how it was computed, and its story
    apply FILE                                       the file has the fields of POST /v1/model-vouchers
    act ID ACT [--reason TEXT] [--reference R]       its next step

    ACT: verify, approve, pay (with --reference); reject and claw-back (with --reason).
    """
    reads = {"apply": lambda words: body_of(Path(words[0]))}
    run(APPLICATION_KIND, action, words, output, does=APPLICATION_DOES, reads=reads, reference=reference, reason=reason)


def _apply(client: Client, asked: Asked) -> None:
    asked.tell(client.post("/v1/model-vouchers", asked.read))


def _show_application(client: Client, asked: Asked) -> None:
    identity, among = asked.words[0], list(client.items("/v1/model-vouchers"))
    found = next((each for each in among if each["id"] == identity), None)
    if found is None:
        raise Failure(told("NOT_FOUND", {"what": "application", "id": identity}), why="NOT_FOUND", code=REFUSED)
    asked.tell(found)
    if asked.output is Output.TABLE:
        if found["computation"]:
            _tell_computation(found["computation"])
        tell_story(found["acts"])


APPLICATION_KIND = Kind(
    command="model-voucher",
    place="model-vouchers",
    forms=MODEL_VOUCHER,
    columns=APPLICATION,
    tell=lambda found, output: tell(found, APPLICATION_WHOLE, output),
    keys={"list": "firm", "show": "firm", "apply": "firm"},
    act_keys=ACT_KEYS,
)
APPLICATION_DOES = {"apply": _apply, "show": _show_application}
