"""A story told to the platform and to the auditor of machine.py at once; test_machine.py tells the rest of it, and when they agree."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

import metering.parameters
from metering import acts, correction, refunding, rooms, store
from metering.ledger import (
    PROGRAMME,
)
from metering.parameters import Registry, load_policies
from scheduler.refusal import Refusal
from tests.metering.machine import TERM, YEAR_STARTS, Auditor, Job
from tests.metering.office import FINANCE, OPERATOR, REVIEWER, SINCE, Office
from tests.platform import FIRM, PROVIDER, job_text, make_platform

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


class Usage(RuleBasedStateMachine):
    """Jobs that run and are settled, facts that change, money that comes back: what a story tells of usage.

    Every rule does one thing to the platform, says what the auditor expects of it, and writes it into his book.
    """

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

    def agree(self) -> None:
        """The auditor's word, for whoever tells the whole story."""
        raise NotImplementedError

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
