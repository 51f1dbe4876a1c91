"""Explain: any number shown, by its id: clause → parameter → arithmetic → record → evidence (design §5 rule 11).

    settlement:JOB:N#TOTAL        settlement:JOB:N/LINE#FIELD     a settlement's totals and lines
    statement:JOB#TOTAL           statement-firm:FIRM#TOTAL       a statement's totals
    ACCOUNT#COUNTER               TRANSFER                        any account of the trial balance, any transfer by id
    tranche:FIRM:ID               tranche:FIRM:PROGRAMME:YEAR     a tranche issued, and what is left of a year's
    hold:LEASE:YEAR:GENERATION    price:POOL                      a hold, a pool's price
    listing:POOL#FIELD            STREAM:SEQ                      a listing's net price, any record of a chain
    refund_ID#FIELD               invoice:NUMBER#FIELD            what a refund returned, what an invoice comes to
    batch_ID#FIELD                batch_ID/ITEM#FIELD             a clearing batch's totals and items
    payment:BATCH:REFERENCE       clawback:OF:N                   what the treasury paid, what has to come back
    project:ID#amount_fen         application:ID#FIELD            grants: the server subsidy, the model voucher
    support:FIRM:PROJECT#FIELD    other_ID                        the choice of the best one (clause 4.4), another support

Without `#`, everything that is shown under the id. Reads only.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, or_, select

from metering import exclusion, subsidy_evidence
from metering import explain_books as books
from metering import explain_clearing as cleared
from metering import explain_grants as grants
from metering import explain_papers as papers
from metering import explain_settlement as settled
from metering import explain_tree as tree
from metering.checkpoint import STREAMS
from metering.explain_past import told
from metering.explain_records import Reader
from metering.explain_tree import Node
from metering.parameters import OriginRegister, Registry, load_origin_register
from metering.programme_schema import refunds
from metering.schema import accounts, firms, settlements
from scheduler.refusal import Refusal
from scheduler.schema import jobs

__all__ = ["FORMS", "Node", "explain", "explanation"]

FORMS = {
    "settlement": "settlement:JOB:N/LINE#payable_fen",
    "statement": "statement:JOB#payable_fen",
    "statement-firm": "statement-firm:FIRM#payable_fen",
    "room": "room:FIRM:compute_voucher:YEAR#available",
    "pool": "pool:compute_voucher:YEAR#available",
    "tranche": "tranche:FIRM:compute_voucher:YEAR#available",
    "hold": "hold:LEASE:YEAR:GENERATION",
    "price": "price:POOL",
    "listing": "listing:POOL#net_fen_per_device_hour",
    "refund": "refund_ID#voucher_fen",
    "batch": "batch_ID/ITEM#deduction_fen",
    "payment": "payment:BATCH:REFERENCE",
    "clawback": "clawback:JOB:N",
    "invoice": "invoice:NUMBER#net_fen",
    "project": "project:ID#amount_fen",
    "application": "application:ID#amount_fen",
    "support": "support:FIRM:PROJECT#ours_fen",
    "other": "other_ID",
}
LONGEST = 400


def explain(
    tx: Connection,
    amount_id: str,
    registry: Registry,
    *,
    firm: str | None = None,
    register: OriginRegister | None = None,
    now: datetime | None = None,
) -> Node | Refusal:
    """The tree of the number; every record in it is hashed again, every number recomputed (`Node.broken` is empty if all
    hold).

    firm: only what is this firm's, or public, is known. Refusal AMOUNT_UNKNOWN with the nearest id or form, and
    AMOUNT_FIELD_UNKNOWN with the nearest field.
    """
    asked = _Asked(
        Reader(tx, registry), firm, register or load_origin_register(), now if now is not None else datetime.now(UTC)
    )
    base, _, name = amount_id.partition("#")
    if len(amount_id) > LONGEST or not base:
        return Refusal(code="AMOUNT_UNKNOWN", facts={"amount": amount_id[:LONGEST], "nearest": FORMS["settlement"]})
    found = asked.find(base)
    if found is None:
        return Refusal(code="AMOUNT_UNKNOWN", facts={"amount": amount_id, "nearest": asked.nearest(base)})
    fields, node = found
    if name and name not in fields:
        close = difflib.get_close_matches(name, fields, n=1, cutoff=0.0) or [""]
        facts = {"amount": base, "field": name, "nearest": close[0], "known": list(fields)}
        return Refusal(code="AMOUNT_FIELD_UNKNOWN", facts=facts)
    if name or not fields:
        return node(name)
    return tree.amounts(base, [node(each) for each in fields])


def explanation(node: Node) -> dict[str, Any]:
    """The published form (docs/schemas/explanation.json); ok: no record altered, every number comes out again."""
    return {"version": 1, "ok": not node.broken, "tree": node.document()}


Found = tuple[tuple[str, ...], Callable[[str], Node]]  # the fields under an id, and the tree of one of them


class _Asked:
    """One question: who asks, and how each form of id is read."""

    def __init__(self, reader: Reader, firm: str | None, register: OriginRegister, now: datetime) -> None:
        self.reader, self.firm, self.register, self.now = reader, firm, register, now

    def find(self, base: str) -> Found | None:
        """What is shown under the id; None if nothing is, or nothing that this firm may see."""
        head, _, rest = base.partition(":")
        forms: dict[str, Callable[[str], Found | None]] = {
            "settlement": lambda _: self._settlement(base),
            "statement": self._statement,
            "statement-firm": self._firm_statement,
            "hold": lambda _: self._hold(base),
            "price": self._price,
            "listing": self._listing,
            "payment": lambda _: self._payment(base),
            "clawback": lambda _: self._clawback(base),
            "invoice": self._invoice,
            "project": lambda _: self._project(base),
            "application": lambda _: self._application(base),
            "support": self._support,
        }
        minted = {"refund": self._refund, "batch": self._batch, "other": self._other}
        word = base.split("_")[0]
        found = forms[head](rest) if head in forms else minted[word](base) if word in minted else None
        return found or self._transfer(base) or self._account(base) or self._record(base)

    def _mine(self, firm: str | None) -> bool:
        return self.firm is None or firm == self.firm

    def _settlement(self, base: str) -> Found | None:
        identity, _, number = base.partition("/")
        story = settled.read_story(self.reader, identity)
        if story is None or not self._mine(story.row["firm"]):
            return None
        if not number:
            return settled.TOTALS, story.total
        if not (number.isascii() and number.isdecimal()) or not 1 <= int(number[:9]) <= len(story.lines):
            return None
        return settled.LINE, lambda name: story.line(int(number) - 1, name)

    def _statement(self, job: str) -> Found | None:
        rows = settled.latest(self.reader, job=job)
        if not rows or not self._mine(rows[0]["firm"]):
            return None
        return settled.TOTALS, lambda name: settled.statement_total(self.reader, f"statement:{job}", rows, name)

    def _firm_statement(self, firm: str) -> Found | None:
        known = self.reader.tx.execute(select(firms.c.id).where(firms.c.id == firm)).first()
        if known is None or not self._mine(firm):
            return None
        rows = settled.latest(self.reader, firm=firm)
        return settled.TOTALS, lambda name: settled.statement_total(self.reader, f"statement-firm:{firm}", rows, name)

    def _hold(self, base: str) -> Found | None:
        row = books.hold_row(self.reader, base)
        if row is None or not self._mine(row["firm"]):
            return None
        return (), lambda _: books.hold(self.reader, row)

    def _price(self, pool: str) -> Found | None:
        row = books.pool_row(self.reader, pool)
        return None if row is None else ((), lambda _: books.price(self.reader, row, self.now))

    def _listing(self, pool: str) -> Found | None:
        row = books.pool_row(self.reader, pool)
        if row is None or not row["listed"]:
            return None
        return books.LISTING, lambda name: books.listing(self.reader, row, name, self.register, self.now)

    def _refund(self, base: str) -> Found | None:
        row = cleared.refund_row(self.reader, base)
        if row is None or not self._mine(self._firm_of_job(row["job"])):
            return None
        return cleared.REFUND, lambda name: cleared.refund(self.reader, row, name)

    def _batch(self, base: str) -> Found | None:
        """A batch is its provider's and the zone's, not a firm's."""
        identity, slash, number = base.partition("/")
        if self.firm is not None or not cleared.batch_known(self.reader, identity):
            return None
        if not slash:
            return cleared.BATCH, lambda name: cleared.batch(self.reader, identity, name)
        rows = cleared.item_rows(self.reader, identity)
        if not (number.isascii() and number.isdecimal()) or not 1 <= int(number[:9]) <= len(rows):
            return None
        place = int(number)
        return cleared.ITEM_FIELDS, lambda name: cleared.item(self.reader, rows[place - 1], place, name)

    def _payment(self, base: str) -> Found | None:
        row = cleared.payment_row(self.reader, base)
        return None if row is None or self.firm is not None else ((), lambda _: cleared.payment(self.reader, row))

    def _clawback(self, base: str) -> Found | None:
        story = cleared.clawback_steps(self.reader, base)
        if not story or not self._mine(told(story[0]).get("party")):
            return None
        return (), lambda _: cleared.clawback(self.reader, base)

    def _invoice(self, number: str) -> Found | None:
        row = papers.invoice_row(self.reader, number)
        if row is None or not self._mine(row["buyer"]):
            return None
        return papers.INVOICE, lambda name: papers.invoice(self.reader, number, name)

    def _project(self, base: str) -> Found | None:
        """A server project is its provider's and the zone's, not a firm's."""
        if self.firm is not None or not grants.project_steps(self.reader, base):
            return None
        shown = None
        if not grants.granted(self.reader, base):
            policy = grants.current_policy(self.reader)
            name = base.removeprefix("project:")
            document = subsidy_evidence.application_document(self.reader.tx, name, policy, self.now)
            shown = document["amount_fen"] if document is not None else None
        return ("amount_fen",), lambda _: grants.project(self.reader, base, self.now, shown)

    def _application(self, base: str) -> Found | None:
        story = grants.application_steps(self.reader, base)
        if not story or not self._mine(told(story[0]).get("firm")):
            return None
        return grants.application_fields(self.reader, base), lambda name: grants.application(self.reader, base, name)

    def _support(self, rest: str) -> Found | None:
        firm, _, project = rest.partition(":")
        if not self._mine(firm) or not grants.support_rows(self.reader, firm, project):
            return None
        found = exclusion.comparison(self.reader.tx, firm, project)
        shown = {name: found[name] for name in ("ours_fen", "best_other_fen")}
        shown["given_fen"] = max(shown.values())
        return grants.SUPPORT, lambda name: grants.support(self.reader, firm, project, name, shown[name])

    def _other(self, base: str) -> Found | None:
        row = grants.other_row(self.reader, base)
        return None if row is None or not self._mine(row["firm"]) else ((), lambda _: grants.other(self.reader, row))

    def _transfer(self, base: str) -> Found | None:
        found = self.reader.transfer(base)
        if found is None or not self._mine(self._firm_of(found[0])):
            return None
        return (), lambda _: books.transfer(self.reader, found[0])

    def _firm_of(self, row: Any) -> str | None:
        """Whose transfer it is: the job's firm, or the firm whose account it moves."""
        if row["job"] is not None:
            return self._firm_of_job(row["job"])
        own = (self.firm for side in ("debit", "credit") if self.firm in row[side].split(":"))
        return next(own, None)

    def _firm_of_job(self, job: str) -> str | None:
        owner = self.reader.tx.execute(select(jobs.c.firm).where(jobs.c.id == job)).scalar()
        return str(owner) if owner is not None else None

    def _account(self, base: str) -> Found | None:
        row = books.account_row(self.reader, base)
        if row is None or not (self.firm is None or self.firm in base.split(":")):
            return None
        return books.account_fields(base), lambda name: books.account(self.reader, row, name)

    def _record(self, base: str) -> Found | None:
        """A record by its place; for a firm this is closed, for whose a record is depends on its stream."""
        stream, _, text = base.rpartition(":")
        if self.firm is not None or stream not in STREAMS or not (text.isascii() and text.isdecimal()):
            return None
        leaf = self.reader.record_at(stream, int(text[:18]), [c.name for c in STREAMS[stream].columns][3:])
        return None if leaf is None else ((), lambda _: leaf)

    def nearest(self, base: str) -> str:
        """The known id most like this one, else the form its first word has."""
        words = [word for word in base.replace("/", ":").split(":") if word]
        near = difflib.get_close_matches(base, list(self._known(words)), n=1, cutoff=0.7)
        if near:
            return near[0]
        first = words[0].split("_")[0] if words and words[0] not in FORMS else words[0] if words else ""
        form = difflib.get_close_matches(first, FORMS, n=1, cutoff=0.5)
        return FORMS[form[0]] if form else FORMS["settlement"]

    def _known(self, words: list[str]) -> Iterable[str]:
        """Ids of settlements and accounts that this firm may see; of settlements those of a job that is named."""
        tx = self.reader.tx
        named = select(settlements.c.id, settlements.c.firm).where(settlements.c.job.in_(words[:4]))
        newest = select(settlements.c.id, settlements.c.firm).order_by(settlements.c.seq.desc()).limit(200)
        for query in (named, newest):
            yield from (row.id for row in tx.execute(query) if self._mine(row.firm))
        yield from grants.known(self.reader, self.firm)
        if self.firm is None:
            yield from cleared.known(self.reader)
        for refund in tx.execute(select(refunds.c.id, refunds.c.job).order_by(refunds.c.seq.desc()).limit(200)):
            if self.firm is None or self._firm_of_job(refund.job) == self.firm:
                yield refund.id
        ids = select(accounts.c.id)
        if words:
            ids = ids.where(
                or_(
                    accounts.c.id.startswith(words[0], autoescape=True),
                    accounts.c.id.contains(words[-1], autoescape=True),
                )
            )
        for row in tx.execute(ids.limit(2000)):
            if self.firm is None or self.firm in row.id.split(":"):
                yield row.id
