"""Clearing: batches and payments, disputes, refunds, corrections and clawbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.commands.cases import Asked, Kind, run
from api.commands.connection import connect, one, resolve
from api.commands.console import Column, Output, section, show, word
from api.commands.papers import (
    Action,
    Format,
    Reason,
    Reference,
    Words,
    fen_of,
    moment,
    money,
    path,
    state,
    tell,
    tell_story,
    told,
    year_of,
)

if TYPE_CHECKING:
    from api.client import Client

CLEARING = {
    "list": "",
    "show": "ID",
    "build": "PROVIDER YEAR",
    "submit": "ID",
    "approve": "ID",
    "send-back": "ID --reason TEXT",
    "abandon": "ID --reason TEXT",
    "withdraw": "ID SETTLEMENT --reason TEXT",
    "pay": "ID AMOUNT --reference R",
    "returned": "ID --reference R --reason TEXT",
    "reconcile": "ID",
    "verify": "SETTLEMENT",
    "why": "SETTLEMENT",
}
DISPUTE = {
    "list": "",
    "open": "SETTLEMENT TEXT --code C",
    "withdraw": "ID [--reason TEXT]",
    "uphold": "ID --reason TEXT",
    "dismiss": "ID --reason TEXT",
}
CLAWBACK = {
    "list": "",
    "notice": "ID [--reason TEXT]",
    "confirm": "ID --reason TEXT",
    "drop": "ID --reason TEXT",
    "repay": "ID --reference R [--reason TEXT]",
    "offset": "ID --reference R [--reason TEXT]",
    "write-off": "ID --reason TEXT",
}
REVIEWERS = ("approve", "send-back", "withdraw", "confirm", "drop", "write-off")
FINANCE = ("pay", "returned", "reconcile", "repay", "offset")
KEYS = {**dict.fromkeys(REVIEWERS, "reviewer"), **dict.fromkeys(FINANCE, "finance")}

BATCH = (
    Column(key="id", title="column.batch"),
    Column(key="provider", title="column.provider"),
    Column(key="year", title="column.year"),
    Column(key="state", title="column.state", shown=state),
)
BATCHES = (*BATCH, Column(key="since", title="column.since", shown=moment))
BATCH_WHOLE = (
    *BATCH,
    Column(key="total_fen", title="column.deduction", shown=money, number=True),
    Column(key="left_fen", title="column.to_pay", shown=money, number=True),
    Column(key="merkle_root", title="column.root"),
)
ITEM = (
    Column(key="settlement", title="column.settlement"),
    Column(key="firm", title="column.firm"),
    Column(key="invoice", title="column.invoice"),
    Column(key="slip", title="column.slip"),
    Column(key="fee_fen", title="column.fee", shown=money, number=True),
    Column(key="deduction_fen", title="column.deduction", shown=money, number=True),
    Column(key="payable_fen", title="column.payable", shown=money, number=True),
)
PAYMENT = (
    Column(key="at", title="column.at", shown=moment),
    Column(key="reference", title="column.reference"),
    Column(key="amount_fen", title="column.amount", shown=money, number=True),
    Column(key="returns", title="column.returns"),
)
DISPUTES = (
    Column(key="id", title="column.dispute"),
    Column(key="settlement", title="column.settlement"),
    Column(key="party", title="column.party"),
    Column(key="code", title="column.what", shown=lambda value: word(f"dispute.{value}")),
    Column(key="state", title="column.state", shown=state),
    Column(key="opened_at", title="column.opened", shown=moment),
    Column(key="text", title="column.text"),
)
CLAWBACKS = (
    Column(key="id", title="column.clawback"),
    Column(key="party", title="column.party"),
    Column(key="year", title="column.year"),
    Column(key="cause", title="column.cause", shown=word),
    Column(key="state", title="column.state", shown=state),
    Column(key="since", title="column.since", shown=moment),
    Column(key="amount_fen", title="column.amount", shown=money, number=True),
)
VERIFIED = (Column(key="settlement", title="column.settlement"), Column(key="state", title="column.state", shown=state))


def clearing(
    action: Action = "list",
    words: Words = None,
    reference: Reference = None,
    reason: Reason = None,
    output: Format = Output.TABLE,
) -> None:
    """Who approves does not pay, and who submits does not approve.

    \b
    list                                        every batch
    show ID                                     its settlements, payments and story
    build PROVIDER YEAR                         a batch of everything verified and due
    submit ID                                   what it holds is fixed and waits for approval
    approve ID                                  it may be paid
    send-back ID --reason TEXT                  it may not; it can only be abandoned
    abandon ID --reason TEXT                    its settlements are free for another batch
    withdraw ID SETTLEMENT --reason TEXT        an approved batch goes on without it, and it can be corrected
    pay ID AMOUNT --reference R                 the treasury paid so much, such as 1200.50 CNY
    returned ID --reference R --reason TEXT     the bank sent a payment back
    reconcile ID                                bank and books agree
    verify SETTLEMENT                           its papers match, and today's facts settle it the same
    why SETTLEMENT                              where it stands, and everything that stands in its way
    """
    # Amounts and years are read before anything is asked of the server.
    reads = {"pay": lambda words: fen_of(words[1]), "build": lambda words: year_of(words[1])}
    run(BATCH_KIND, action, words, output, does=BATCH_DOES, reads=reads, reference=reference, reason=reason)


def _show(client: Client, asked: Asked) -> None:
    _tell_batch(one(client, asked.path()), asked.output, whole=True)


def _verify(client: Client, asked: Asked) -> None:
    tell(client.post("/v1/clearing/verifications", {"settlement": asked.words[0]}), VERIFIED, asked.output)


def _build(client: Client, asked: Asked) -> None:
    asked.tell(client.post("/v1/clearing", {"provider": asked.words[0], "year": asked.read}))


def _pay(client: Client, asked: Asked) -> None:
    asked.tell(client.post(asked.path("payments"), {"amount_fen": asked.read, "reference": asked.options["reference"]}))


def _withdraw(client: Client, asked: Asked) -> None:
    body = {"act": "withdraw_item", "reason": asked.options["reason"], "reference": asked.words[1]}
    asked.tell(client.post(asked.path("acts"), body))


def _returned(client: Client, asked: Asked) -> None:
    body = {"reference": asked.options["reference"], "reason": asked.options["reason"]}
    asked.tell(client.post(asked.path("returns"), body))


def _tell_batch(found: dict[str, Any], output: Output, *, whole: bool = False) -> None:
    """A batch on stdout; with `whole` and for people also its settlements, payments and story."""
    # Before it is submitted what it comes to is not known yet, before it is approved what is left of it is not.
    done = {step["act"] for step in found["acts"]}
    total = found["totals"]["deduction_fen"] if "submit" in done else None
    left = found["left_fen"] if "approve" in done else None
    figures = {} if output in (Output.JSON, Output.YAML) else {"total_fen": total, "left_fen": left}
    tell({**found, **figures}, BATCH_WHOLE, output)
    if not whole or output is not Output.TABLE:
        return
    for title, rows, columns in (("items", found["items"], ITEM), ("payments", found["payments"], PAYMENT)):
        if rows:
            section(word(f"column.{title}"))
            show(rows, columns, output)
    tell_story(found["acts"])


def _why(client: Client, asked: Asked) -> None:
    found, output = one(client, path("clearing", "settlements", asked.words[0])), asked.output
    columns = (Column(key="code", title="column.what"), Column(key="detail", title="column.why"))
    rows = [{**each, "detail": told(each["code"], each["facts"])} for each in found["obstacles"]]
    if output is Output.CSV:
        show(rows, columns, output)
        return
    tell(found, VERIFIED, output)
    if output is Output.TABLE:
        section(word("column.obstacles"))
        show(rows, columns, output)
        tell_story(found["acts"])


BATCH_KIND = Kind(command="clearing", place="clearing", forms=CLEARING, columns=BATCHES, tell=_tell_batch, keys=KEYS)
BATCH_DOES = {
    "show": _show,
    "why": _why,
    "verify": _verify,
    "build": _build,
    "pay": _pay,
    "withdraw": _withdraw,
    "returned": _returned,
}


def dispute(
    action: Action = "list",
    words: Words = None,
    code: Annotated[str | None, typer.Option(metavar="C", help="open: what is in question, such as quantity.")] = None,
    reason: Reason = None,
    output: Format = Output.TABLE,
) -> None:
    """Until a dispute is resolved, nothing of its job is paid.

    \b
    list                              every dispute
    open SETTLEMENT TEXT --code C     question a settlement of your own
    withdraw ID [--reason TEXT]       your own
    uphold ID --reason TEXT           it is right; a refund or a correction follows
    dismiss ID --reason TEXT          it is not
    """
    run(DISPUTE_KIND, action, words, output, does={"open": _open}, code=code, reason=reason)


def _open(client: Client, asked: Asked) -> None:
    settlement, text = asked.words
    asked.tell(client.post("/v1/disputes", {"settlement": settlement, "code": asked.options["code"], "text": text}))


DISPUTE_KIND = Kind(
    command="dispute",
    place="disputes",
    forms=DISPUTE,
    columns=DISPUTES,
    tell=lambda found, output: tell(found, DISPUTES, output),
    keys={"open": "firm", "withdraw": "firm"},
)


def refund(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id or name.")],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="Of its fee, such as 12.34 CNY.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it stays on record.")],
    rebate: Annotated[bool, typer.Option("--rebate", help="A rebate granted afterwards.")] = False,
    output: Format = Output.TABLE,
) -> None:
    """Part of a job's fee goes back: the firm's own share to the firm, the voucher's to the room of its year."""
    fen = fen_of(amount)
    columns = (
        Column(key="id", title="column.refund"),
        Column(key="settlement", title="column.settlement"),
        Column(key="returned_fen", title="column.returned", shown=money, number=True),
        Column(key="firm_fen", title="column.to_firm", shown=money, number=True),
        Column(key="voucher_fen", title="column.to_voucher", shown=money, number=True),
    )
    with connect("operator") as client:
        known, kind = resolve(client, job), "rebate" if rebate else "refund"
        found = client.post("/v1/refunds", {"job": known, "kind": kind, "amount_fen": fen, "reason": reason})
    tell(found, columns, output)


def correct(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id or name.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it stays on record.")],
    output: Format = Output.TABLE,
) -> None:
    """The job is settled again under today's facts, origins and prices; the new settlement cites the old."""
    with connect("operator") as client:
        found = client.post("/v1/corrections", {"job": resolve(client, job), "reason": reason})
    figures = ("fee", "deduction", "payable")
    if output in (Output.JSON, Output.YAML):
        tell(found, (), output)
        return
    columns = (
        Column(key="which", title="column.what", shown=lambda value: word(f"column.{value}")),
        Column(key="settlement", title="column.settlement"),
        *(Column(key=f"{name}_fen", title=f"column.{name}", shown=money, number=True) for name in figures),
    )
    rows = [
        {"which": "before", "settlement": found["cites"], **found["before"]},
        {"which": "after", "settlement": found["settlement"], **found["after"]},
    ]
    show(rows, columns, output)
    if output is Output.TABLE and found["clawbacks"]:
        show([{"id": each} for each in found["clawbacks"]], CLAWBACKS[:1], output)


def clawback(
    action: Action = "list",
    words: Words = None,
    reference: Reference = None,
    reason: Reason = None,
    output: Format = Output.TABLE,
) -> None:
    """What was paid out and turned out not to be due.

    \b
    list                                        every case, and how far it is
    notice ID [--reason TEXT]                   the party was told
    confirm ID --reason TEXT                    it holds what is not its own
    drop ID --reason TEXT                       it does not
    repay ID --reference R [--reason TEXT]      it paid it back with this bank slip
    offset ID --reference R [--reason TEXT]     this batch of its own pays so much less
    write-off ID --reason TEXT                  it is not collected
    """
    run(CLAWBACK_KIND, action, words, output, does={}, reference=reference, reason=reason)


def _tell_clawback(found: dict[str, Any], output: Output) -> None:
    columns = (Column(key="clawback", title="column.clawback"), *(c for c in CLAWBACKS if c.key != "id"))
    tell(found, columns, output)


CLAWBACK_KIND = Kind(
    command="clawback", place="clawbacks", forms=CLAWBACK, columns=CLAWBACKS, tell=_tell_clawback, keys=KEYS
)
