"""Documents and exports: what is printed, signed and filed, and the books for other people's tools."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import AwareDatetime
from sqlalchemy import Connection, select

from api import queries
from api.auth import Authorised, Principal
from api.documents.clearing import clearing_sheet
from api.documents.settlement import settlement_sheet
from api.documents.sheet import Sheet, document
from api.documents.statement import firm_sheet, job_sheet
from api.documents.subsidy import subsidy_sheet
from api.problems import Problem, language_of
from api.routes.shared import Shared, found
from metering import store
from metering.focus import COLUMNS, VoucherAs, billed_lines, focus_rows
from metering.schema import accounts, firms, transfers
from metering.statement import firm_statement, job_statement

routes = APIRouter(tags=["documents"])


class Form(enum.StrEnum):
    """The forms of one and the same document."""

    HTML = "html"
    PDF = "pdf"
    XLSX = "xlsx"
    JSON = "json"
    CSV = "csv"


MEDIA = {
    Form.HTML: "text/html; charset=utf-8",
    Form.PDF: "application/pdf",
    Form.XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    Form.JSON: "application/json",
    Form.CSV: "text/csv; charset=utf-8",
}
SAFE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


def _wanted(
    request: Request,
    form: Annotated[Form, Query(alias="format", description="The form of the document.")] = Form.HTML,
    lang: Annotated[Literal["zh", "en"] | None, Query(description="Else the language that is preferred.")] = None,
) -> tuple[Form, str]:
    return form, lang or language_of(request)


Wanted = Annotated[tuple[Form, str], Depends(_wanted)]
From = Annotated[AwareDatetime | None, Query(alias="from", description="Settled at or after.")]
To = Annotated[AwareDatetime | None, Query(alias="to", description="Settled before.")]


@routes.get("/v1/documents/statements/jobs/{job}")
def job_document(job: str, who: Authorised, services: Shared, wanted: Wanted) -> Response:
    """A job's statement 对账单, from its latest settlement."""
    with services.database.read() as tx:
        found(queries.job(tx, who.firm, job), "job", job)
        said = found(job_statement(tx, job), "statement", job)
        demo = store.ledger_mark(tx) == "demo"
    return answer(job_sheet(said, language=wanted[1], at=services.clock.now(), demo=demo), wanted[0])


@routes.get("/v1/documents/statements/firms/{firm}")
def firm_document(
    firm: str, who: Authorised, services: Shared, wanted: Wanted, start: From = None, end: To = None
) -> Response:
    """A firm's statement 对账单 over [from, to)."""
    _ordered(start, end)
    with services.database.read() as tx:
        found(queries.one(tx, firms, firm) if who.firm in (None, firm) else None, "firm", firm)
        said = firm_statement(tx, firm, start, end)
        demo = store.ledger_mark(tx) == "demo"
    return answer(firm_sheet(said, language=wanted[1], at=services.clock.now(), demo=demo), wanted[0])


@routes.get("/v1/documents/settlements/{settlement:path}")
def settlement_document(settlement: str, who: Authorised, services: Shared, wanted: Wanted) -> Response:
    """One settlement as the sheet to sign 结算单."""
    with services.database.read() as tx:
        said = found(queries.settlement(tx, who.firm, settlement), "settlement", settlement)
        name = tx.execute(select(firms.c.name).where(firms.c.id == said["firm"])).scalar()
        demo = store.ledger_mark(tx) == "demo"
    made = settlement_sheet(said, firm_name=name, language=wanted[1], at=services.clock.now(), demo=demo)
    return answer(made, wanted[0])


@routes.get("/v1/documents/clearing/{batch}")
def clearing_document(batch: str, who: Authorised, services: Shared, wanted: Wanted) -> Response:
    """A clearing batch 清算批次, for its provider and the zone."""
    from metering.clearing import batch_document

    return _of_provider(batch_document, batch, who, services, wanted, clearing_sheet)


@routes.get("/v1/documents/subsidies/{application}")
def subsidy_document(application: str, who: Authorised, services: Shared, wanted: Wanted) -> Response:
    """A subsidy application 补贴申请, for its provider and the zone."""
    from metering.subsidy_evidence import application_document

    def read(tx: Connection, project: str) -> dict[str, Any] | None:  # one not assessed yet is computed as of now
        return application_document(tx, project, services.budget.policy, services.clock.now())

    return _of_provider(read, application, who, services, wanted, subsidy_sheet)


def _of_provider(
    read: Callable[[Connection, str], dict[str, Any] | None],
    identity: str,
    who: Principal,
    services: Any,
    wanted: tuple[Form, str],
    build: Callable[..., Sheet],
) -> Response:
    """The document of a record that belongs to a provider; another provider's is not there."""
    with services.database.read() as tx:
        said = read(tx, identity)
        demo = store.ledger_mark(tx) == "demo"
    mine = said if said is not None and who.provider in (None, said["provider"]) else None
    shown = found(mine, "document", identity)
    return answer(build(shown, language=wanted[1], at=services.clock.now(), demo=demo), wanted[0])


def answer(sheet: Sheet, form: Form) -> Response:
    """The document in this form, as a download unless it is a page."""
    headers = {**SAFE, "Content-Language": "zh-CN" if sheet.language == "zh" else "en"}
    if form is not Form.HTML:
        headers["Content-Disposition"] = f'attachment; filename="{file_name(sheet.number)}.{form.value}"'
    match form:  # a renderer's library is imported when one of its documents is asked for
        case Form.HTML:
            from api.documents.html import security_policy, write_html

            content = write_html(sheet)
            headers["Content-Security-Policy"] = security_policy(sheet)
        case Form.PDF:
            from api.documents.pdf import write_pdf

            content = write_pdf(sheet)
        case Form.XLSX:
            from api.documents.xlsx import write_xlsx

            content = write_xlsx(sheet)
        case Form.CSV:
            from api.documents.table import write_csv

            content = write_csv(sheet)
        case Form.JSON:
            content = json.dumps(document(sheet), ensure_ascii=False, indent=2).encode()
    return Response(content, media_type=MEDIA[form], headers=headers)


def file_name(number: str) -> str:
    """A document's number as a file name: letters, digits, dots and dashes."""
    return re.sub("[^A-Za-z0-9._-]+", "-", number).strip(".-")[:120] or "document"


def _ordered(start: datetime | None, end: datetime | None) -> None:
    if start is not None and end is not None and end <= start:
        detail = f"must be after from, {start.isoformat()}"
        raise Problem(422, "INPUT_INVALID", {}, [{"pointer": "/to", "detail": detail, "value": end.isoformat()}])


# --- exports ------------------------------------------------------------------------------------------------------


@routes.get("/v1/exports/focus")
def focus(
    who: Authorised,
    services: Shared,
    form: Annotated[Literal["csv", "json"], Query(alias="format")] = "csv",
    voucher_as: Annotated[VoucherAs, Query(description="column: beside the full fee; credit: a row below zero")] = (
        VoucherAs.COLUMN
    ),
    firm: Annotated[str | None, Query(description="Only this firm's, where your key may see it.")] = None,
    start: From = None,
    end: To = None,
) -> Response:
    """What was billed, as FOCUS 1.4 Cost and Usage rows; the set of the firm's statement over [from, to)."""
    _ordered(start, end)
    if who.firm is not None and firm not in (None, who.firm):
        found(None, "firm", str(firm))
    with services.database.read() as tx:
        wanted = who.firm if who.firm is not None else firm
        if wanted is not None:
            found(queries.one(tx, firms, wanted), "firm", wanted)
        lines = billed_lines(tx, wanted, start, end)
    rows = list(focus_rows(lines, voucher_as))
    headers = {**SAFE, "Content-Disposition": f'attachment; filename="focus.{form}"'}
    if form == "json":
        return Response(json.dumps(rows, ensure_ascii=False), media_type="application/json", headers=headers)
    from api.documents.table import write_rows

    return Response(write_rows(COLUMNS, rows), media_type=MEDIA[Form.CSV], headers=headers)


@routes.get("/v1/exports/beancount")
def beancount(who: Authorised, services: Shared) -> Response:  # noqa: ARG001 - zone roles see all
    """The whole ledger as a Beancount file."""
    from metering.beancount import beancount_lines

    with services.database.read() as tx:
        balances = [dict(row) for row in tx.execute(select(accounts).order_by(accounts.c.id)).mappings()]
        moved = [dict(row) for row in tx.execute(select(transfers).order_by(transfers.c.seq)).mappings()]
        mark = store.ledger_mark(tx) or "unmarked"
    content = "\n".join(beancount_lines(moved, balances, mark=mark)) + "\n"
    headers = {**SAFE, "Content-Disposition": 'attachment; filename="ledger.beancount"'}
    return Response(content, media_type="text/plain; charset=utf-8", headers=headers)
