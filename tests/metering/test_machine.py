"""Any story, told to the platform and to the auditor of machine.py at once: after every step they must agree to the fen.

Rooms are small, so that they run dry; calls are repeated, and some crash after they ran and before they committed. The
stories cross New Year 2027 and the end of the term. `YISUAN_DEEP=1` tells many and longer ones.

Not told here: a job under a contract of its own that runs on the eve of New Year, a claim after a year was closed, and
offsets.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from metering import clawback, clearing, contracts, review, store
from metering.ledger import (
    contract_room,
    firm_payable,
    firm_room,
    firm_spent,
    owed_back,
    pool_room,
    pool_spent,
    provider_received,
    treasury_approved,
    treasury_committed,
    treasury_paid,
    written_off,
)
from metering.schema import accounts
from scheduler.refusal import Refusal
from tests.metering.machine import Batch
from tests.metering.office import FINANCE, OPERATOR, REVIEWER
from tests.metering.story import FIRMS, NOTHING, OTHER, POOLS, YEARS, Usage, some
from tests.platform import FIRM, PROVIDER
from tests.postgres import Server

DEEP = bool(os.environ.get("YISUAN_DEEP"))


class Story(Usage):
    """The same with papers, clearing and clawback, and the auditor's word after every step."""

    # --- a whole job with its papers --------------------------------------------------------------

    @precondition(lambda self: not self.jobs(final=False))
    @rule(
        pool=st.sampled_from(sorted(POOLS)),
        firm=st.sampled_from([FIRM, FIRM, OTHER]),
        hours=st.sampled_from([1, 2, 30]),
        agreed=st.booleans(),
        seconds=st.sampled_from([3, 1800, 3600, 10_000]),
    )
    def run(self, pool: str, firm: str, hours: int, agreed: bool, seconds: int) -> None:
        """A whole job by itself, with its papers: shorter or longer than what was held for it."""
        self.submit(pool, firm, 8, hours, agreed, "plain")
        self.end(0, seconds, "success", "plain")
        if self.jobs(final=True)[-1].fee:
            self.bill_and_pay(len([job for job in self.jobs(final=True) if job.fee]) - 1, 0, "plain")
        self.verify(len(self.jobs(final=True)) - 1, "plain")

    # --- papers and clearing ----------------------------------------------------------------------

    @precondition(lambda self: any(job.fee for job in self.jobs(final=True)))
    @rule(which=some, short=st.sampled_from([0, 0, 1]), manner=st.sampled_from(["plain", "crash", "twice"]))
    def bill_and_pay(self, which: int, short: int, manner: str) -> None:
        """The job's invoice, or the one that corrects it, and the firm's slip for what is still its own share."""
        job = self._of([job for job in self.jobs(final=True) if job.fee], which)
        due = job.fee - min(sum(job.refunds), job.fee) - job.billed
        self.count += 1
        if due:
            number = f"INV-{self.count}"
            bill = self.do(
                manner, contracts.record_invoice, number=number, contract_id=job.contract or FIRMS[job.firm], amount_fen=due, tax_fen=0,
                issued_on="2026-06-02", sha256="f" * 64, job_ids=[] if job.invoice else [job.id], corrects=job.invoice,
                by="pan",
            )  # fmt: skip
            assert not isinstance(bill, Refusal), bill
            job.invoice, job.billed = job.invoice or number, job.billed + due
            if not job.billed:  # a red invoice of the whole amount: void, as if there had been none
                job.invoice, job.paid = None, 0
        if job.invoice is None:
            return
        share = max(self.book.owed(job) - job.paid - short, 0)
        if share:
            slip = self.do(
                manner, contracts.record_slip, reference=f"SLIP-{self.count}", invoice_number=job.invoice, payer=job.firm,
                amount_fen=share, paid_at=self.office.now, sha256="a" * 64, by="fei",
            )  # fmt: skip
            assert slip["settled"] == (self.book.owed(job) <= job.paid + share)
            job.paid += share
            self.book.slips[job.firm] = self.book.slips.get(job.firm, 0) + share
            if slip["settled"] and job.state == "issued":
                job.state = "firm_paid"

    @precondition(lambda self: self.jobs(final=True))
    @rule(which=some, manner=st.sampled_from(["plain", "crash"]))
    def verify(self, which: int, manner: str) -> None:
        job = self._of(self.jobs(final=True), which)
        settlement = self.office.settlement(job.id)["id"]
        with self.platform.database.read() as tx:
            waits = review.waits(tx, f"SAMPLED:{settlement}")
        if waits:
            assert self.office.call(clearing.verify, self.platform.budget, settlement, OPERATOR).facts["obstacles"]
            close = {"review": f"SAMPLED:{settlement}", "action": "passed", "reason": "looked", "actor": OPERATOR}
            self.office.call(review.close, **close)
        got = self.do(manner, clearing.verify, self.platform.budget, settlement, OPERATOR)
        if self.book.clear(job) and job.state in ("issued", "firm_paid"):
            assert got["state"] == "verified"
            job.state = "verified"
        else:
            assert isinstance(got, Refusal), got

    @precondition(
        lambda self: any(self.book.to_clear(job, year) > 0 for job in self.book.ready() for year in (2026, 2027))
    )
    @rule(year=st.sampled_from([2026, 2026, 2027]))
    def batch(self, year: int) -> None:
        """What is verified and due for the year is built into a batch and submitted."""
        due = {job.id: self.book.to_clear(job, year) for job in self.book.ready() if job.invoice}
        due = {job: fen for job, fen in due.items() if fen > 0}
        clear = {job: fen for job, fen in due.items() if self.book.clear(self.book.jobs[job])}
        built = self.do("crash", clearing.build, provider=PROVIDER, year=year, actor=OPERATOR)
        if not due:
            assert built.code == "NOTHING_DUE"
            return
        got = self.do("crash", clearing.submit, self.platform.budget, built["id"], OPERATOR)
        if not clear:
            assert got.code == "NOTHING_DUE", got
            return
        assert {item["job"]: item["deduction_fen"] for item in got["items"]} == clear
        numbers = {job: self.book.jobs[job].number for job in clear}
        self.book.batches.append(Batch(built["id"], year, clear, numbers))
        self.book.move(self.book.batches[-1], ("verified", "paid", "closed"), "submitted")

    @precondition(lambda self: any(batch.state == "submitted" for batch in self.book.batches))
    @rule(which=some, yes=st.sampled_from([True, True, False]), manner=st.sampled_from(["plain", "crash"]))
    def approve(self, which: int, yes: bool, manner: str) -> None:
        batch = self._of([batch for batch in self.book.batches if batch.state == "submitted"], which)
        if not yes:
            got = self.do(manner, clearing.send_back, batch.id, REVIEWER, "no")
            batch.state = got["state"]
            self.book.move(batch, ("submitted",), "verified")
            return
        got = self.do(manner, clearing.approve, self.platform.budget, batch.id, REVIEWER)
        if self.book.all_clear(batch):
            assert got["state"] == "approved", got
            batch.state = "approved"
            self.book.move(batch, ("submitted",), "approved")
        else:
            assert isinstance(got, Refusal), got

    @precondition(lambda self: any(batch.state in ("approved", "part_paid") for batch in self.book.batches))
    @rule(which=some, part=st.sampled_from([1, 1, 2, 0]), manner=st.sampled_from(["plain", "crash"]))
    def pay(self, which: int, part: int, manner: str) -> None:
        """All of it, a half, or a fen too much."""
        batch = self._of([batch for batch in self.book.batches if batch.state in ("approved", "part_paid")], which)
        amount = (batch.left + part - 1) // part if part else batch.left + 1
        self.count += 1
        reference = f"T-{self.count}"
        got = self.do(
            manner, clearing.pay, self.platform.budget, batch.id, amount_fen=amount, reference=reference, actor=FINANCE
        )
        if not self.book.all_clear(batch) or amount > batch.left:
            assert isinstance(got, Refusal), got
            return
        batch.payments[reference] = amount
        batch.state = "part_paid" if batch.left else "paid"
        assert (got["state"], got["left_fen"]) == (batch.state, batch.left)
        if batch.state == "paid":
            self.book.move(batch, ("approved",), "paid")
        again = self.office.call(
            clearing.pay, self.platform.budget, batch.id, amount_fen=amount, reference=reference, actor=FINANCE
        )
        assert again.code == "ALREADY_RECORDED"

    @precondition(
        lambda self: any(self.book.to_clear(job, year) > 0 for job in self.book.ready() for year in (2026, 2027))
    )
    @rule(year=st.sampled_from([2026, 2026, 2027]))
    def clear(self, year: int) -> None:
        """What is verified goes all the way to the provider."""
        count = len(self.book.batches)
        self.batch(year)
        if len(self.book.batches) > count:
            self.approve(sum(batch.state == "submitted" for batch in self.book.batches) - 1, True, "plain")
            if self.book.batches[-1].state == "approved":
                self.pay(sum(batch.state in ("approved", "part_paid") for batch in self.book.batches) - 1, 1, "plain")

    @precondition(lambda self: any(batch.paid for batch in self.book.batches))
    @rule(which=some)
    def return_payment(self, which: int) -> None:
        """The bank sends a payment back, of whatever was paid and however long ago."""
        batch = self._of([batch for batch in self.book.batches if batch.paid], which)
        kept = sorted(set(batch.payments) - batch.returned)
        reference = kept[which % len(kept)]
        ask = {"reference": reference, "reason": "closed account", "actor": FINANCE}
        got = self.do("crash", clearing.payment_returned, batch.id, **ask)
        self.book.move(batch, ("paid", "closed"), "approved")
        batch.returned.add(reference)
        batch.state = "part_paid"
        assert (got["state"], got["left_fen"]) == ("part_paid", batch.left)
        assert self.office.call(clearing.payment_returned, batch.id, **ask).code == "ALREADY_RECORDED"

    @precondition(lambda self: any(batch.state in ("approved", "part_paid") for batch in self.book.batches))
    @rule(which=some, job=some)
    def withdraw(self, which: int, job: int) -> None:
        """A settlement is taken out of an approved batch, if so much is left to pay."""
        batch = self._of([batch for batch in self.book.batches if batch.state in ("approved", "part_paid")], which)
        name = self._of(sorted(batch.items), job)
        settlement = f"settlement:{name}:{batch.settlements[name]}"
        got = self.do("crash", clearing.withdraw_item, batch.id, settlement, REVIEWER, "doubtful")
        if batch.items[name] > batch.left:
            assert got.code == "WITHDRAWN_TOO_LATE"
            return
        assert not isinstance(got, Refusal), got
        self.book.withdraw(batch, name)
        assert got["state"] == batch.state

    @precondition(lambda self: any(batch.state == "paid" for batch in self.book.batches))
    @rule(which=some)
    def reconcile(self, which: int) -> None:
        batch = self._of([batch for batch in self.book.batches if batch.state == "paid"], which)
        assert self.do("crash", clearing.reconcile, batch.id, FINANCE)["state"] == "reconciled"
        batch.state = "reconciled"
        self.book.move(batch, ("paid",), "closed")

    @precondition(lambda self: self.book.clawbacks)
    @rule(which=some, end=st.sampled_from(["repay", "write_off", "drop"]))
    def claw_back(self, which: int, end: str) -> None:
        """One more step of a case; money moves when it is confirmed and when it ends."""
        case = self._of(self.book.clawbacks, which)
        decided = "drop" if end == "drop" else "confirm"
        step = {"opened": "notice", "noticed": decided, "confirmed": end}.get(case.state)
        if step is None or (case.state, step) == ("confirmed", "drop"):
            return
        actor = {"notice": OPERATOR, "repay": FINANCE}.get(step, REVIEWER)
        got = self.do(
            "crash", clawback.proceed, case.id, step, actor, "r", reference=case.id if step == "repay" else None
        )
        assert got["amount_fen"] == case.fen
        case.state = got["state"]

    # --- after every step -------------------------------------------------------------------------

    @invariant()
    def agree(self) -> None:
        """The store's balances are the book's, to the fen, and its own two sides are equal."""
        if not hasattr(self, "office"):
            return
        book, expected = self.book, {}
        for year in YEARS:
            pool, text = pool_room(year), str(year)
            expected[pool, "left"] = book.left("pool", text)
            expected[pool, "held"] = sum(years.get(year, 0) for years in book.held.values())
            due = {job.id: book.due(job).get(year, 0) for job in book.jobs.values()}
            expected[pool_spent(year), "net"] = -sum(due.values())
            for firm in book.claimed:
                mine = [job.id for job in book.jobs.values() if job.firm == firm]
                expected[firm_room(firm, year), "left"] = book.left("firm", firm, text)
                expected[firm_room(firm, year), "held"] = sum(book.held[job].get(year, 0) for job in mine)
                expected[firm_spent(firm, year), "net"] = -sum(due[job] for job in mine)
            batches = [batch for batch in self.book.batches if batch.year == year]
            approved = [batch for batch in batches if batch.state in ("approved", "part_paid", "paid", "reconciled")]
            promised = sum(sum(batch.items.values()) for batch in approved)
            paid = sum(batch.paid for batch in approved)
            back = {
                state: sum(case.fen for case in self.book.clawbacks if (case.year, case.state) == (year, state))
                for state in ("confirmed", "repaid", "written_off")
            }
            expected[treasury_committed(year), "net"] = sum(due.values()) - promised + sum(back.values())
            expected[treasury_approved(year), "net"] = promised - paid
            expected[treasury_paid(year), "net"] = paid - back["repaid"]
            expected[written_off(year), "net"] = -back["written_off"]
        for firm in FIRMS:
            owed = sum(book.owed(job) for job in book.jobs.values() if job.firm == firm)
            expected[firm_payable(firm), "net"] = owed - self.book.slips.get(firm, 0)
        expected[provider_received(PROVIDER), "net"] = sum(self.book.slips.values())
        expected[owed_back(PROVIDER), "net"] = -sum(
            case.fen for case in self.book.clawbacks if case.state == "confirmed"
        )
        expected[contract_room("C-2"), "left"] = book.left("contract", "C-2")
        found = {}
        with self.platform.database.read() as tx:
            assert store.trial_balance(tx)["balanced"]
            rows = {row["id"]: row for row in tx.execute(select(accounts)).mappings()}
            for account, what in expected:
                row = rows.get(account, NOTHING)
                net = row["debits_posted"] - row["credits_posted"]
                sides = {"left": -net - row["debits_pending"], "held": row["debits_pending"], "net": net}
                found[account, what] = sides[what]
        assert found == expected, {key: (found[key], fen) for key, fen in expected.items() if found[key] != fen}


def profile(examples: int, steps: int) -> settings:
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    return settings(
        max_examples=examples * (20 if DEEP else 1),
        stateful_step_count=steps * (2 if DEEP else 1),
        deadline=None,
        derandomize=not DEEP,  # the same stories every time; YISUAN_DEEP=1 tells new ones
        suppress_health_check=slow,
    )


def test_any_story_keeps_the_books_of_the_auditor() -> None:
    run_state_machine_as_test(Story, settings=profile(30, 30))


def test_any_story_keeps_them_on_postgresql_too(postgres: Server) -> None:
    class Served(Story):
        @staticmethod
        def url() -> str:
            return postgres.url(postgres.create())

    run_state_machine_as_test(Served, settings=profile(3, 15))
