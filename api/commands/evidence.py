"""Evidence: a device's level and what it rests on; a node's answer to a challenge; what a person decides."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.commands.connection import connect, one
from api.commands.console import USAGE, Column, Failure, Output, emit, section, show, talk, word
from api.commands.papers import Action, Format, Reason, Words, listed, moment, path, take

if TYPE_CHECKING:
    from adapters.evidence import Statement

FORMS = {
    "list": "",
    "show": "DEVICE",
    "challenge": "NODE",
    "answer": "NODE [--directory DIR]",
    "asked": "NODE",
    "bench": "DEVICE FILE",
    "audit": "DEVICE FILE --reason TEXT --decider WHO --since TIME [--until TIME]",
    "move": "DEVICE NODE --reason TEXT",
    "clear": "DEVICE --reason TEXT",
    "withdraw": "DEVICE NUMBER --reason TEXT",
}
ROLES = {"answer": "agent"}
LEVEL = Column(key="level", title="column.evidence_level", shown=lambda value: f"L{value}", number=True)
BECAUSE = Column(key="because", title="column.reasons", shown=listed)
DEVICES = (
    Column(key="device", title="column.device"),
    LEVEL,
    BECAUSE,
    Column(key="node", title="column.node"),
    Column(key="vendor", title="column.vendor"),
    Column(key="model", title="column.model"),
    Column(key="source", title="column.source"),
)
ASKED = (
    Column(key="issued_at", title="column.start", shown=moment),
    Column(key="kind", title="column.kind"),
    Column(key="device", title="column.device"),
    Column(key="outcome", title="column.outcome"),
    Column(key="ended_at", title="column.end", shown=moment),
    Column(key="id", title="column.id"),
)
SINCE = Column(key="from", title="column.start", shown=moment)
STEPS = (SINCE, LEVEL, BECAUSE)
RECORDS = (
    Column(key="seq", title="column.number", number=True),
    Column(key="kind", title="column.kind"),
    SINCE,
    Column(key="to", title="column.end", shown=moment),
    Column(key="recorded_by", title="column.by"),
)
REGISTER = (
    Column(key="verdict", title="column.origin"),
    Column(key="basis", title="column.basis"),
    Column(key="determined_by", title="column.by"),
    Column(key="approved_by", title="column.approved_by"),
    Column(key="valid_from", title="column.start", shown=moment),
    Column(key="valid_to", title="column.end", shown=moment),
)


def evidence(
    action: Action = "list",
    words: Words = None,
    reason: Reason = None,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="answer: holds the node's enrolled key, as for `yisuan agent`.")
    ] = None,
    decider: Annotated[str | None, typer.Option(metavar="WHO", help="audit: who decided; not who records it.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="audit: from when it holds, with offset.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="audit: until when; open without it.")] = None,
    output: Format = Output.TABLE,
) -> None:
    """How well a device's origin is shown, from L0 (declared) to L5 (somebody looked); docs/evidence.md has the ladder.

    \b
    list                             every device's level now
    show DEVICE                      its level over time, its records, and what the register says of its model
    challenge NODE                   a nonce for the node to answer within five minutes
    asked NODE                       what the platform asked by itself, with what came of it
    answer NODE [--directory DIR]    on the node: ask for a nonce, read devices and bus, sign, and send
    bench DEVICE FILE                compare a `yisuan bench -o json` result with the model's band
    audit DEVICE FILE --reason TEXT --decider WHO --since TIME [--until TIME]
                                     the paper's hash goes on record (L5)
    move DEVICE NODE --reason TEXT   maintenance takes it to another node
    clear DEVICE --reason TEXT       somebody looked at what was said against it
    withdraw DEVICE NUMBER --reason TEXT
                                     an earlier record no longer counts
    """
    folder = None if directory is None else str(directory)
    options = {"reason": reason, "directory": folder, "decider": decider, "since": since, "until": until}
    given = take("evidence", FORMS, action, words, **options)
    read = _read(action, given, options)
    with connect(ROLES.get(action, "operator")) as client:
        if action == "list":
            show(list(client.items("/v1/evidence")), DEVICES, output)
        elif action == "show":
            _tell(one(client, path("evidence", given[0])), output)
        elif action == "asked":
            show(list(client.items(path("agents", given[0], "challenges"))), ASKED, output)
        elif action == "challenge":
            nonce = client.post(path("agents", given[0], "challenge"))
            emit(nonce, Output.JSON if output is Output.TABLE else output)
        elif action == "answer":
            nonce = client.post(path("agents", given[0], "challenge"))["nonce"]
            found = client.post(path("agents", given[0], "evidence"), _signed(given[0], nonce, directory))
            show(found["devices"], DEVICES[:3], output)
            for problem in found["unmanaged"]:
                talk(problem)
        else:
            place = "fingerprint" if action == "bench" else "acts"
            show([client.post(path("evidence", given[0], place), read)], DEVICES[:3], output)


def _tell(found: dict[str, Any], output: Output) -> None:
    if output in (Output.JSON, Output.YAML):
        emit(found, output)
        return
    show([found], DEVICES, output)
    if output is Output.TABLE:
        section(word("evidence.course"))
        show(found["course"], STEPS, output)
        section(word("evidence.records"))
        show(found["records"], RECORDS, output)
        section(word("evidence.register", origin=word(f"origin.{found['billed_as']}"), level=found["level_asked"]))
        show([found["register"]], REGISTER, output)


def _read(action: str, given: list[str], options: dict[str, str | None]) -> dict[str, Any]:
    """The body of what is asked, made of files and options before anything is sent."""
    body: dict[str, Any] = {"act": action, "reason": options["reason"]}
    if action == "bench":
        try:
            return {"result": json.loads(_bytes(given[1]))}
        except ValueError as problem:
            raise Failure(word("cli.file.unreadable", path=given[1]), why=str(problem), code=USAGE) from None
    if action == "move":
        body["to_node"] = given[1]
    elif action == "withdraw":
        if not (given[1].isascii() and given[1].isdigit()):
            raise Failure(word("cli.evidence.number", number=given[1]), code=USAGE)
        body["seq"] = int(given[1])
    elif action == "audit":
        import hashlib

        paper = hashlib.sha256(_bytes(given[1])).hexdigest()
        body |= {"document_sha256": paper, "decided_by": options["decider"], "from": options["since"]}
        if options["until"] is not None:
            body["to"] = options["until"]
    return body


def _bytes(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as problem:
        raise Failure(word("cli.file.unreadable", path=file), why=str(problem), code=USAGE) from None


def _signed(node: str, nonce: str, directory: Path | None) -> dict[str, Any]:
    """What this host says now, under the node's key where one was enrolled; without it, unsigned (L2 at most)."""
    from adapters.event import key_id_of
    from adapters.evidence import sign_statement
    from adapters.witness import load_key
    from api.commands.agent import ENROLLED, STATE

    statement = _statement(node, nonce)
    folder = directory or Path.home() / STATE / node
    if not (folder / ENROLLED).exists():
        talk(word("cli.evidence.unsigned"))
        return {"statement": statement.document()}
    try:
        key = load_key(folder)
    except ValueError as problem:
        raise Failure(word("cli.file.unreadable", path=str(folder)), why=str(problem), code=USAGE) from None
    return {
        "statement": statement.document(),
        "key": key_id_of(key.public_key()),
        "signature": sign_statement(statement, key),
    }


def _statement(node: str, nonce: str) -> Statement:
    from adapters import pci
    from adapters.adapter import AdapterError
    from adapters.evidence import state
    from adapters.registry import load_adapter, vendors

    found = []
    for name in vendors():
        adapter = load_adapter(name)
        try:
            found += list(adapter.inventory()) if adapter.probe().available else []
        except AdapterError as problem:
            talk(f"{name}: {problem}")
    return state(node, nonce, datetime.now(UTC), found, pci.scan(), bare_metal=pci.is_bare_metal())
