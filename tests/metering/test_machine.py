"""Any story, told to the platform and to the auditor of machine.py at once: after every step they must agree to the fen.

Rooms are small, so that they run dry; calls are repeated, and some crash after they ran and before they committed. The
stories cross New Year 2027 and the end of the term. `YISUAN_DEEP=1` tells many and longer ones.

Not told here: a job under a contract of its own that runs on the eve of New Year, a claim after a year was closed, and
offsets.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

import metering.parameters
from metering import acts, clawback, clearing, contracts, correction, refunding, review, rooms, store
from metering.ledger import (
    PROGRAMME,
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
from metering.parameters import Registry, load_policies
from metering.schema import accounts
from scheduler.refusal import Refusal
from tests.metering.machine import TERM, YEAR_STARTS, Auditor, Batch, Job
from tests.metering.office import FINANCE, OPERATOR, REVIEWER, SINCE, Office
from tests.platform import FIRM, PROVIDER, job_text, make_platform
from tests.postgres import Server

DEEP = bool(os.environ.get("YISUAN_DEEP"))
OTHER = "91110302MA09Z8Y7X6"
FIRMS = {FIRM: "C-1", OTHER: "D-1"}
YEARS = (2024, 2025, 2026, 2027)
POOLS = {"ascend": "Ascend910B3", "h800": "H800"}
NEAR = timedelta(minutes=30)
NOTHING = {"debits_posted": 0, "credits_posted": 0, "debits_pending": 0}  # an account no transfer has touched
some = st.integers(0, 99)


class Crash(BaseException):
    """The process dies after the work and before the commit; nothing in it can catch that."""


@functools.cache
def small_rooms(pool_fen: int, cap_fen: int) -> Registry:
    """The shipped parameters with another pool and another cap per firm."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "parameters"
        shutil.copytree(Path(metering.parameters.__file__).parent, folder)
        file = folder / "etown-2024-10" / "compute_voucher.yaml"
        text = file.read_text(encoding="utf-8")
        assert text.count("value: 10_000_000_000") == 4
        assert text.count("value: 2_000_000_000") == 1
        text = text.replace("value: 10_000_000_000", f"value: {pool_fen}")
        file.write_text(text.replace("value: 2_000_000_000", f"value: {cap_fen}"), encoding="utf-8")
        return load_policies(folder)


class Story(RuleBasedStateMachine):
    """Every rule does one thing to the platform, says what the auditor expects of it, and writes it into his book."""

    url: Callable[[], str] | None = None  # a fresh, migrated database instead of SQLite

    @initialize(
        pool=st.sampled_from([9_000, 30_000, 10_000_000_000]),
        cap=st.sampled_from([7_000, 20_000, 2_000_000_000]),
        contract=st.sampled_from([3_000, 10_000, 10**9]),
    )
    def begin(self, pool: int, cap: int, contract: int) -> None:
        self.directory = tempfile.TemporaryDirectory()
        registry = small_rooms(pool, cap)
        with mock.patch("tests.platform.load_policies", return_value=registry):
            url = type(self).url
            self.office = Office(make_platform(Path(self.directory.name), url=url() if url else None))
        self.platform = self.office.platform
        self.book = Auditor(claimed={FIRM: self.office.now})
        self.caps = dict.fromkeys(YEARS, cap)
        self.prices = {"ascend": 2000, "h800": 1800}
        self.to_come: list[tuple[datetime, str, int]] = []
        self.facts: list[tuple[str, int, tuple[datetime, datetime]]] = []
        self.count = 0
        now = self.office.now
        with self.platform.database.write() as tx:
            store.enrol_firm(tx, id=OTHER, name="other", now=now)
            eligible = {"subject_kind": "firm", "subject": OTHER, "fact": "eligible", "evidence": {}, "by": "op"}
            store.record_fact(tx, start=SINCE, end=None, now=now, **eligible)  # type: ignore[arg-type]
            unrelated = {"subject_kind": "relation", "fact": "unrelated", "evidence": {}, "by": "fei"}
            for firm in FIRMS:
                subject = f"{firm}|{PROVIDER}"
                store.record_fact(tx, subject=subject, start=SINCE, end=None, now=now, **unrelated)  # type: ignore[arg-type]
        for firm, name in FIRMS.items():
            self.office.agree(name, number=name, buyer=firm)
        self.office.agree("C-2", number="C-2", support_cap_fen=contract)
        for year in YEARS:
            self.book.rooms["pool", str(year)] = pool
            self.book.rooms["firm", FIRM, str(year)] = cap
        self.book.rooms["contract", "C-2"] = contract

    def teardown(self) -> None:
        if hasattr(self, "office"):
            try:
                self.office.audit()
            finally:  # a story that breaks a law is told again and again while it is made shorter
                self.office.platform.database.close()
                self.directory.cleanup()

    # --- how things are done ----------------------------------------------------------------------

    def do(self, manner: str, function: Any, *arguments: Any, **named: Any) -> Any:
        """A call, now. crash: it is done once in vain before; twice: once more after, which must be a yes as well."""
        if manner == "crash":
            with contextlib.suppress(Crash), self.platform.database.write() as tx:
                function(tx, *arguments, now=self.office.now, **named)
                raise Crash
            self.agree()
        got = self.office.call(function, *arguments, **named)
        if manner == "twice":
            again = self.office.call(function, *arguments, **named)
            assert isinstance(again, Refusal) == isinstance(got, Refusal), (got, again)
        return got

    def tick(self, manner: str = "plain", ended: str | None = None, *, lost: bool = False) -> None:
        """The loop goes round, with the same in the book. crash: its first settlement and its first hold are in vain."""
        self.platform.beat()
        if manner == "crash":
            budget = self.platform.budget
            with mock.patch.object(budget, "charge", _once_in_vain(budget.charge)), mock.patch.object(
                budget, "hold", _once_in_vain(budget.hold)
            ):  # fmt: skip
                for _ in range(3):
                    try:
                        self.platform.loop.tick()
                        break
                    except Crash:
                        continue
        self.platform.loop.tick()
        if manner == "twice":
            self.platform.loop.tick()
        self.book.tick(self.office.now, ended, lost=lost)
        for start, pool, fen in sorted(self.to_come, key=lambda each: each[0]):
            if start <= self.office.now:
                self.prices[pool] = fen

    @staticmethod
    def _of(found: list[Any], which: int) -> Any:
        return found[which % len(found)]

    def jobs(self, *, final: bool) -> list[Job]:
        return [job for job in self.book.jobs.values() if job.final is final]

    # --- work -------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.jobs(final=False)) < 4)
    @rule(
        pool=st.sampled_from(sorted(POOLS)),
        firm=st.sampled_from([FIRM, FIRM, OTHER]),
        devices=st.sampled_from([1, 4, 8]),
        hours=st.sampled_from([1, 2, 30]),
        agreed=st.booleans(),
        manner=st.sampled_from(["plain", "plain", "crash"]),
    )
    def submit(self, pool: str, firm: str, devices: int, hours: int, agreed: bool, manner: str) -> None:
        """A job is submitted, reserved with its holds, and starts."""
        if sum(job.pool == pool for job in self.jobs(final=False)) >= 2:
            return
        self.tick()
        self.count += 1
        eve = YEAR_STARTS[2027] - 2 * NEAR <= self.office.now < YEAR_STARTS[2027]  # see the module's docstring
        contract = "C-2" if agreed and firm == FIRM and not eve else None
        extra = f"money: {{contract: {contract}}}\n" if contract else ""
        text = job_text(f"j{self.count:02}", f"{POOLS[pool]}:{devices}", limit=f"{hours}h", extra=extra)
        identity = self.platform.submit(f"j{self.count:02}", text, firm=firm)
        now = self.office.now
        self.book.reserve(
            Job(id=identity, firm=firm, pool=pool, devices=devices, price=self.prices[pool], contract=contract, start=now,
                limit=timedelta(hours=hours), until=now, metered=now)
        )  # fmt: skip
        self.tick(manner)

    @rule(
        seconds=st.sampled_from([1, 1800, 3600, 5400, 36_000, 93_600]),
        manner=st.sampled_from(["plain", "crash", "twice"]),
    )
    def wait(self, seconds: int, manner: str) -> None:
        """Time passes; at midnight what runs is settled so far."""
        self.platform.clock.advance(seconds)
        self.tick(manner)

    @rule(edge=st.sampled_from([YEAR_STARTS[2027], TERM[1]]), early=st.sampled_from([NEAR, -NEAR]))
    def wait_for(self, edge: datetime, early: timedelta) -> None:
        """Half an hour before, or after, the year or the term ends; nothing runs through the months before."""
        if self.office.now < edge - early and not self.jobs(final=False):
            self.platform.clock.advance((edge - early - self.office.now).total_seconds())
            self.tick()

    @precondition(lambda self: self.jobs(final=False))
    @rule(
        which=some,
        seconds=st.sampled_from([0, 1, 1799, 3600]),
        how=st.sampled_from(["success", "success", "failure", "lost"]),
        manner=st.sampled_from(["plain", "crash", "twice"]),
    )
    def end(self, which: int, seconds: int, how: str, manner: str) -> None:
        running = self.jobs(final=False)
        job = running[which % len(running)]
        self.platform.clock.advance(seconds)
        if how == "lost":
            self.platform.backend.lose(f"{job.id}.1")
        else:
            self.platform.backend.end(f"{job.id}.1", int(how == "failure"))
        self.tick(manner, job.id, lost=how == "lost")

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

    @rule(
        pool=st.sampled_from(sorted(POOLS)),
        fen=st.sampled_from([0, 1, 999, 3000]),
        minutes=st.sampled_from([1, 60, 1500]),
    )
    def change_price(self, pool: str, fen: int, minutes: int) -> None:
        start = self.office.now + timedelta(minutes=minutes)
        got = self.do("crash", store.set_price, pool=pool, model=POOLS[pool], fen=fen, start=start, by="o")
        assert got is None
        self.to_come.append((start, pool, fen))

    # --- rights and standing ----------------------------------------------------------------------

    @precondition(lambda self: not self.book.closed)
    @rule(firm=st.sampled_from(sorted(FIRMS)), manner=st.sampled_from(["plain", "crash", "twice"]))
    def claim(self, firm: str, manner: str) -> None:
        got = self.do(manner, store.claim, firm=firm, by="f", policy="etown-2024-10", caps=self.caps)
        assert not isinstance(got, Refusal), got
        self.book.claimed.setdefault(firm, self.office.now)
        for year, cap in self.caps.items():
            self.book.rooms["firm", firm, str(year)] = cap

    @rule(whom=st.sampled_from([FIRM, OTHER, "programme"]))
    def freeze_or_thaw(self, whom: str) -> None:
        kind, subject = ("programme", PROGRAMME) if whom == "programme" else ("right", f"{PROGRAMME}:{whom}")
        act = "unfreeze" if whom in self.book.frozen else "freeze"
        got = self.do("crash", acts.act, kind, subject, act, REVIEWER if act == "unfreeze" else OPERATOR, reason="r")
        if whom == "programme" or whom in self.book.claimed:
            assert got == {"freeze": "frozen", "unfreeze": "open" if whom == "programme" else "active"}[act], got
            self.book.frozen ^= {whom}
        else:
            assert got.code == "ACT_NOT_NOW"

    @rule(
        firm=st.sampled_from([FIRM, FIRM, OTHER]),
        back=st.sampled_from([0, 600, 1801, 7200, 90_000]),
        length=st.sampled_from([1, 600, 3600, 100_000]),
    )
    def suspend(
        self, firm: str, back: int, length: int, *, start: datetime | None = None, end: datetime | None = None
    ) -> None:
        """The firm was, is or will be suspended for a while."""
        start = start or self.office.now - timedelta(seconds=back)
        span = (start, end or start + timedelta(seconds=length))
        number = self.do(
            "crash", store.record_fact, subject_kind="firm", subject=firm, fact="suspended", start=span[0], end=span[1],
            evidence={}, by="o",
        )  # fmt: skip
        self.facts.append((firm, number, span))
        self.book.suspended.setdefault(firm, []).append(span)

    @precondition(lambda self: self.facts)
    @rule(which=some)
    def reinstate(self, which: int) -> None:
        """A suspension is withdrawn, by a record that cites it and holds at no instant."""
        firm, number, span = self.facts.pop(which % len(self.facts))
        self.office.call(
            store.record_fact, subject_kind="firm", subject=firm, fact="suspended", start=span[0], end=span[0], evidence={},
            by="o", withdraws=number,
        )  # fmt: skip
        self.book.suspended[firm].remove(span)

    # --- after the fact ---------------------------------------------------------------------------

    @precondition(lambda self: self.jobs(final=True))
    @rule(which=some, permille=st.sampled_from([1, 333, 500, 1000, 1001]), kind=st.sampled_from(["refund", "rebate"]))
    def refund(self, which: int, permille: int, kind: str) -> None:
        job = self._of(self.jobs(final=True), which)
        left = max(job.fee - sum(job.refunds), 0)
        amount = left * permille // 1000 + (permille > 1000)
        got = self.do(
            "crash", refunding.refund, job=job.id, amount_fen=amount, kind=kind, reason="r", actor=OPERATOR,
        )  # fmt: skip
        if not amount:
            assert got.code == "AMOUNT_NOT_POSITIVE"
        elif job.state in ("submitted", "approved"):
            assert got.code == "IN_CLEARING"
        elif amount > left:
            assert got.code == "REFUND_TOO_LARGE"
        else:
            assert not isinstance(got, Refusal), got
            job.refunds.append(amount)
            self.book.back[job.id] = self.book.returned(job)
            self.book.claw_back(job)

    @precondition(lambda self: self.jobs(final=True))
    @rule(which=some)
    def correct(self, which: int) -> None:
        """The latest job whose facts changed, or any other, is settled again."""
        stale = [job for job in self.jobs(final=True) if self.book.outdated(job)]
        job = self._of(stale or self.jobs(final=True), which)
        got = self.do("crash", correction.correct, self.platform.budget, job.id, OPERATOR, "r")
        if job.state in ("submitted", "approved"):
            assert got.code == "IN_CLEARING"
        elif job not in stale:
            assert got.code == "NOTHING_TO_CORRECT", got
        else:
            assert not isinstance(got, Refusal), got
            self.book.settle(job, job.until, final=True)
            assert got["after"]["deduction_fen"] == sum(self.book.drawn[job.id].values())
            new = self.book.claw_back(job)
            assert job.refunds or len(got["clawbacks"]) == new

    @precondition(lambda self: self.jobs(final=True))
    @rule(which=some, part=st.sampled_from([0, 1, 2]))
    def penalise(self, which: int, part: int) -> None:
        """It turns out that the firm was not eligible before, during or after half of a job, which is settled again."""
        job = self._of(self.jobs(final=True), which)
        quarter = timedelta(milliseconds=(job.until - job.start) // timedelta(milliseconds=4))
        start = job.start + (2 * part - 1) * quarter
        self.suspend(job.firm, 0, 1, start=start, end=start + 2 * quarter)
        stale = [each for each in self.jobs(final=True) if self.book.outdated(each)]
        if job in stale:
            self.correct(stale.index(job))

    @precondition(lambda self: 2026 not in self.book.closed and self.office.now >= YEAR_STARTS[2027] - NEAR)
    @rule(manner=st.sampled_from(["plain", "crash"]))
    def close_year(self, manner: str) -> None:
        got = self.do(manner, rooms.close_year, self.platform.budget.policy, 2026, FINANCE, "over")
        if self.office.now < YEAR_STARTS[2027]:
            assert got.code == "YEAR_NOT_OVER"
        elif any(years.get(2026, 0) for years in self.book.held.values()):
            assert got.code == "HOLDS_OPEN"
        else:
            assert got["lapsed_fen"] == self.book.left("pool", "2026")
            self.book.closed.add(2026)

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


def _once_in_vain(function: Any) -> Any:
    """The function, whose first call crashes after it ran."""
    calls = []

    @functools.wraps(function)
    def flaky(*arguments: Any, **named: Any) -> Any:
        got = function(*arguments, **named)
        calls.append(1)
        if len(calls) == 1:
            raise Crash
        return got

    return flaky


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
