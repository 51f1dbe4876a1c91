"""Clearing: batches and payments, disputes, refunds, corrections and clawbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    take,
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
# Whose key to prefer where several are at hand; the server decides who may.
REVIEWERS = ("approve", "send-back", "withdraw", "confirm", "drop", "write-off")
FINANCE = ("pay", "returned", "reconcile", "repay", "offset")

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
    given = take("clearing", CLEARING, action, words, reference=reference, reason=reason)
    # Amounts and years are read before anything is asked of the server.
    fen = fen_of(given[1]) if action == "pay" else 0
    year = year_of(given[1]) if action == "build" else 0
    with connect(_role(action)) as client:
        if action == "list":
            show(list(client.items("/v1/clearing")), BATCHES, output)
        elif action == "show":
            _tell_batch(one(client, path("clearing", given[0])), output, whole=True)
        elif action == "why":
            _why(client, given[0], output)
        elif action == "verify":
            tell(client.post("/v1/clearing/verifications", {"settlement": given[0]}), VERIFIED, output)
        elif action == "build":
            _tell_batch(client.post("/v1/clearing", {"provider": given[0], "year": year}), output)
        elif action == "pay":
            body = {"amount_fen": fen, "reference": reference}
            _tell_batch(client.post(path("clearing", given[0], "payments"), body), output)
        elif action == "withdraw":
            body = {"act": "withdraw_item", "reason": reason, "reference": given[1]}
            _tell_batch(client.post(path("clearing", given[0], "acts"), body), output)
        elif action == "returned":
            body = {"reference": reference, "reason": reason}
            _tell_batch(client.post(path("clearing", given[0], "returns"), body), output)
        else:
            _tell_batch(client.post(path("clearing", given[0], "acts"), _act(action, reason)), output)


def _role(action: str) -> str:
    return "reviewer" if action in REVIEWERS else "finance" if action in FINANCE else "operator"


def _act(action: str, reason: str | None, reference: str | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"act": action.replace("-", "_"), "reason": reason or ""}
    return body if reference is None else {**body, "reference": reference}


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


def _why(client: Client, settlement: str, output: Output) -> None:
    found = one(client, path("clearing", "settlements", settlement))
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
    given = take("dispute", DISPUTE, action, words, code=code, reason=reason)
    with connect("firm" if action in ("open", "withdraw") else "operator") as client:
        if action == "list":
            show(list(client.items("/v1/disputes")), DISPUTES, output)
            return
        if action == "open":
            body: dict[str, Any] = {"settlement": given[0], "code": code, "text": given[1]}
            found = client.post("/v1/disputes", body)
        else:
            found = client.post(path("disputes", given[0], "acts"), _act(action, reason))
    tell(found, DISPUTES, output)


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
    given = take("clawback", CLAWBACK, action, words, reference=reference, reason=reason)
    with connect(_role(action)) as client:
        if action == "list":
            show(list(client.items("/v1/clawbacks")), CLAWBACKS, output)
            return
        found = client.post(path("clawbacks", given[0], "acts"), _act(action, reason, reference))
    columns = (Column(key="clawback", title="column.clawback"), *(c for c in CLAWBACKS if c.key != "id"))
    tell(found, columns, output)
