"""An office around a small platform: jobs that run, papers that match them, and one person per role."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from metering import clearing, contracts, model_voucher, store
from metering.acts import Actor
from metering.audit import audit_connection
from metering.rule import load_rules
from metering.schema import settlements
from scheduler.refusal import Refusal
from tests.platform import FIRM, PROVIDER, Platform, job_text, make_platform

OPERATOR = Actor(by="olga", role="operator")
REVIEWER = Actor(by="rui", role="reviewer")
FINANCE = Actor(by="fang", role="finance")
FIRM_USER = Actor(by="fei", role="firm")
PROVIDER_USER = Actor(by="pan", role="provider")
SINCE = datetime(2024, 3, 27, 16, tzinfo=UTC)
UNTIL = datetime(2027, 12, 31, 16, tzinfo=UTC)


@dataclass
class Office:
    """What a test does in one word each. Every record's id is counted, so that runs are alike."""

    platform: Platform
    count: int = 0
    contract: str | None = None
    sampled: list[str] = field(default_factory=list)

    @property
    def now(self) -> datetime:
        return self.platform.clock.now()

    def run(self, accelerators: str = "Ascend910B3:8", seconds: float = 3600, extra: str = "") -> str:
        """A job that ran so long and is settled; its id."""
        self.count += 1
        self.platform.beat()
        job = self.platform.submit(f"j{self.count}", job_text(f"j{self.count}", accelerators, extra=extra))
        self.platform.loop.tick()
        self.platform.clock.advance(seconds)
        self.platform.beat()
        self.platform.backend.end(f"{job}.1", 0)
        self.platform.loop.tick()
        return job

    def settlement(self, job: str) -> dict[str, Any]:
        """The job's latest settlement."""
        with self.platform.database.read() as tx:
            query = select(settlements).where(settlements.c.job == job).order_by(settlements.c.number.desc())
            return dict(tx.execute(query).mappings().first() or {})

    def call(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """A function of metering in one write transaction, now; a Refusal rolls back, as a route does."""
        try:
            with self.platform.database.write() as tx:
                got = function(tx, *arguments, now=self.now, **named)
                if isinstance(got, Refusal):
                    raise _Refused(got)
                return got
        except _Refused as refused:
            return refused.refusal

    def balance(self, account: Any) -> Any:
        with self.platform.database.read() as tx:
            return store.balance(tx, account)

    def agree(self, identity: str = "C-1", **changes: Any) -> Any:
        """A contract between the firm and the provider over the policy's whole term."""
        values = {
            "number": identity, "programme": "compute_voucher", "buyer": FIRM, "seller": PROVIDER, "signed_on": "2024-03-28",
            "start": SINCE, "end": UNTIL, "amount_fen": 10**9, "tax_basis": "tax_included", "support_cap_fen": None,
            "project": None, "items": [], "evidence": {"sha256": "c" * 64}, "by": "olga",
        }  # fmt: skip
        return self.call(contracts.record_contract, id=identity, **{**values, **changes})

    def declare(self, fact: str = "unrelated", start: datetime = SINCE, end: datetime | None = None) -> int:
        number: int = self.call(
            store.record_fact, subject_kind="relation", subject=f"{FIRM}|{PROVIDER}", fact=fact, start=start, end=end,
            evidence={}, by="fei",
        )  # fmt: skip
        return number

    def bill(self, *jobs: str, number: str | None = None, contract: str = "C-1", **changes: Any) -> Any:
        """An invoice for these jobs, to the fen."""
        self.count += 1
        total = sum(self.settlement(job)["fee_fen"] for job in jobs)
        values = {"amount_fen": total, "tax_fen": total * 6 // 106, "issued_on": "2026-06-02", "sha256": "f" * 64, "by": "pan",
                  "corrects": None}  # fmt: skip
        return self.call(
            contracts.record_invoice, number=number or f"INV-{self.count}", contract_id=contract, job_ids=jobs,
            **{**values, **changes},
        )  # fmt: skip

    def pay_share(self, invoice: str, amount_fen: int, reference: str | None = None, payer: str = FIRM) -> Any:
        self.count += 1
        return self.call(
            contracts.record_slip, reference=reference or f"SLIP-{self.count}", invoice_number=invoice, payer=payer,
            amount_fen=amount_fen, paid_at=self.now, sha256="a" * 64, by="fei",
        )  # fmt: skip

    def ready(self, *jobs: str) -> str:
        """The jobs are invoiced and paid for, and verified; the invoice's number."""
        invoice = self.bill(*jobs)
        assert not isinstance(invoice, Refusal), invoice
        paid = self.pay_share(invoice["number"], sum(self.settlement(job)["payable_fen"] for job in jobs))
        assert paid["settled"], paid
        for job in jobs:
            got = self.verify(job)
            assert got["state"] == "verified", got
        return str(invoice["number"])

    def verify(self, job: str) -> Any:
        return self.call(clearing.verify, self.platform.budget, self.settlement(job)["id"], OPERATOR)

    def batch(self, year: int = 2026) -> str:
        """A batch of what is verified, submitted; its id."""
        built = self.call(clearing.build, provider=PROVIDER, year=year, actor=OPERATOR)
        assert not isinstance(built, Refusal), built
        got = self.call(clearing.submit, self.platform.budget, built["id"], OPERATOR)
        assert not isinstance(got, Refusal), got
        return str(built["id"])

    def clear(self, year: int = 2026) -> str:
        """A batch of what is verified, approved, paid and reconciled; its id."""
        batch = self.batch(year)
        approved = self.call(clearing.approve, self.platform.budget, batch, REVIEWER)
        assert approved["state"] == "approved", approved
        left = approved["left_fen"]
        paid = self.call(
            clearing.pay, self.platform.budget, batch, amount_fen=left, reference=f"T-{batch}", actor=FINANCE
        )
        assert paid["state"] == "paid", paid
        self.call(clearing.reconcile, batch, FINANCE)
        return batch

    def audit(self) -> None:
        """Every law of the books holds."""
        with self.platform.database.read() as tx:
            report = audit_connection(tx, [], self.platform.budget.registry, load_rules())
        assert report.ok, [finding for finding in report.laws if not finding.ok]


class _Refused(Exception):
    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.code)


def make_office(directory: Path, **options: Any) -> Office:
    """A platform with a contract in force and the firm's declaration that it is not related to the provider."""
    office = Office(make_platform(directory, **options))
    assert not isinstance(office.agree(), Refusal)
    office.declare()
    return office


@contextmanager
def audited_office(directory: Path, *prepare: Callable[[Office], object]) -> Iterator[Office]:
    """An office on which `prepare` was called; in the end its books are audited and its database is closed."""
    made = make_office(directory)
    for one in prepare:
        one(made)
    yield made
    made.audit()
    made.platform.database.close()


def with_model_pools(office: Office) -> None:
    """The model voucher's pools are open."""
    with office.platform.database.write() as tx:
        model_voucher.open_pools(tx, office.platform.budget.policy, office.now)


def code(answer: Any) -> str:
    """The code of an answer that has to be a refusal."""
    assert isinstance(answer, Refusal), answer
    return answer.code


def net(office: Office, account: Any) -> int:
    """Debits less credits, fen."""
    found = office.balance(account)
    return int(found.debits_posted - found.credits_posted)
