"""Explain papers: what an invoice comes to with its corrections, what slips paid of it, what a contract comes to. Reads only."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from metering import explain_tree as tree
from metering.explain_past import Row, reckon, values
from metering.explain_records import Reader
from metering.explain_tree import Node
from metering.programme_schema import contracts, invoice_jobs, invoices, slips

INVOICE = ("net_fen", "paid_fen")
BILLED = (
    "number",
    "contract",
    "issuer",
    "buyer",
    "amount_fen",
    "tax_fen",
    "issued_on",
    "sha256",
    "corrects",
    "recorded_at_ms",
)
SLIP = ("reference", "invoice", "payer", "payee", "amount_fen", "paid_at_ms", "sha256", "recorded_at_ms")
CONTRACT = ("id", "number", "programme", "buyer", "seller", "project", "amount_fen", "support_cap_fen", "items", "tax_basis",
            "recorded_at_ms")  # fmt: skip


def invoice_row(reader: Reader, number: str) -> Row | None:
    return reader.tx.execute(select(invoices).where(invoices.c.number == number)).mappings().first()


def corrections_of(reader: Reader, number: str) -> list[Row]:
    """Supplements and red invoices (红字) of an invoice, in order."""
    query = select(invoices).where(invoices.c.corrects == number).order_by(invoices.c.seq)
    return list(reader.tx.execute(query).mappings())


def slips_on(reader: Reader, number: str) -> list[Row]:
    query = select(slips).where(slips.c.invoice == number).order_by(slips.c.seq)
    return list(reader.tx.execute(query).mappings())


def slip_row(reader: Reader, reference: str) -> Row | None:
    return reader.tx.execute(select(slips).where(slips.c.reference == reference)).mappings().first()


def contract_row(reader: Reader, identity: str) -> Row | None:
    return reader.tx.execute(select(contracts).where(contracts.c.id == identity)).mappings().first()


def invoice_leaves(reader: Reader, rows: Sequence[Row]) -> list[Node]:
    return reader.records(invoices, rows, BILLED)


def slip_leaves(reader: Reader, rows: Sequence[Row]) -> list[Node]:
    return reader.records(slips, rows, SLIP)


def invoice(reader: Reader, number: str, name: str) -> Node:
    """net_fen: the invoice with everything that corrects it; paid_fen: what bank slips on record paid of it."""
    row = invoice_row(reader, number)
    extra = corrections_of(reader, number) if name == "net_fen" else slips_on(reader, number)
    terms = [*([row] if row is not None and name == "net_fen" else []), *extra]
    amounts = [int(each["amount_fen"]) for each in terms]

    def work(found: list[Node]) -> int | None:
        found += invoice_leaves(reader, [row] if row is not None else [])
        found += (invoice_leaves if name == "net_fen" else slip_leaves)(reader, extra)
        query = select(invoice_jobs).where(invoice_jobs.c.invoice == number).order_by(invoice_jobs.c.seq)
        found += reader.records(invoice_jobs, list(reader.tx.execute(query).mappings()), ("invoice", "job"))
        summed = tree.total("sum_of_invoices" if name == "net_fen" else "sum_of_slips", amounts)
        found.insert(0, summed)
        return int(summed.facts["result"]) if row is not None else None

    return reckon(f"invoice:{number}#{name}", sum(amounts), work)


def contract_leaf(reader: Reader, row: Row) -> Node:
    """The contract's record with its evidence."""
    return reader.record(contracts, row, CONTRACT)


def domestic_part(row: Row) -> tuple[int, int]:
    """(all, domestic) of a contract's items, fen."""
    items = values(row["items"])
    return (
        sum(int(item["amount_fen"]) for item in items),
        sum(int(item["amount_fen"]) for item in items if item["domestic"] is True),
    )


def project_contracts(reader: Reader, project: str, buyer: str, programme: str) -> list[Row]:
    """The contracts that a project bought under, in the order they were recorded."""
    query = select(contracts).where(
        contracts.c.project == project, contracts.c.buyer == buyer, contracts.c.programme == programme
    )
    return list(reader.tx.execute(query.order_by(contracts.c.seq)).mappings())


def bills_of(reader: Reader, contract: str) -> list[Row]:
    """The contract's invoices that correct no other, in order."""
    query = select(invoices).where(invoices.c.contract == contract, invoices.c.corrects.is_(None))
    return list(reader.tx.execute(query.order_by(invoices.c.seq)).mappings())


def papers_of(reader: Reader, contract: str) -> list[Row]:
    """Every invoice of the contract, its corrections, and the slips on them, in the order of their recording."""
    found: list[Row] = []
    for bill in bills_of(reader, contract):
        found += [bill, *corrections_of(reader, bill["number"]), *slips_on(reader, bill["number"])]
    return sorted(found, key=lambda row: (row["recorded_at_ms"], row["seq"]))


def paper_leaves(reader: Reader, rows: Sequence[Row]) -> list[Node]:
    """Leaves of invoices and slips."""
    return [
        *invoice_leaves(reader, [row for row in rows if "number" in row]),
        *slip_leaves(reader, [row for row in rows if "reference" in row]),
    ]


def invoiced_fen(rows: Sequence[Row]) -> int:
    """What these invoices come to, their corrections included."""
    return sum(int(row["amount_fen"]) for row in rows if "number" in row)


def paid_fen(rows: Sequence[Row]) -> int:
    """What these slips paid."""
    return sum(int(row["amount_fen"]) for row in rows if "reference" in row)


def completed_fen(rows: Sequence[Row]) -> int:
    """What was both invoiced and paid: per invoice the lesser of the two (clause 2.4.7: actually completed)."""
    found = 0
    for bill in (row for row in rows if "number" in row and row["corrects"] is None):
        mine = [row for row in rows if row.get("corrects") == bill["number"] or row.get("invoice") == bill["number"]]
        net = int(bill["amount_fen"]) + invoiced_fen(mine)
        found += min(net, paid_fen(mine))
    return found
