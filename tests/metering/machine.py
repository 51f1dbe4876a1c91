"""The auditor: what the books must say after any story, kept in plain dicts. It shares no code with metering.

Written from the notice and the design's money rules: fee = price × device time, rounded half up once a line (rule 1); a
year's deduction is the least of ⌊Σ eligible fee × rate⌋ and what is left in every room (rules 2, 3); a hold takes what the
whole time limit would draw (rule 7); daily and final settlement agree (rule 5); a refund returns each its own share, the
voucher's part rounded up (rule 6); what a closed year gets back lapses (R25). Money in fen, time in aware UTC.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction

YEAR_STARTS = {y: datetime(y - 1, 12, 31, 16, tzinfo=UTC) for y in range(2024, 2031)}  # local midnight, UTC+8
TERM = (datetime(2024, 3, 27, 16, tzinfo=UTC), datetime(2027, 3, 31, 16, tzinfo=UTC))  # clause 4.3
RATE = {"ascend": Fraction(2, 5), "h800": Fraction(3, 10)}  # clause 2.1.1: domestic and other chips
HOUR = timedelta(hours=1)
MS = timedelta(milliseconds=1)
Slice = tuple[datetime, datetime, int, bool, bool]  # start, end, local year, in force, eligible


@dataclass
class Job:
    """One lease and all that was ever said about it. lines: those of its last settlement; None before the first."""

    id: str
    firm: str
    pool: str
    devices: int
    price: int
    contract: str | None
    start: datetime
    limit: timedelta
    until: datetime
    metered: datetime
    lost: bool = False
    stopped: bool = False  # settled while nothing new was promised
    final: bool = False
    state: str = "none"
    number: int = 0
    lines: list[Slice] | None = None
    fees: list[tuple[int, bool, int]] = field(default_factory=list)  # per class in order: year, eligible, fen
    refunds: list[int] = field(default_factory=list)
    invoice: str | None = None
    billed: int = 0
    paid: int = 0

    @property
    def fee(self) -> int:
        return sum(fen for _, _, fen in self.fees)


@dataclass
class Batch:
    """items: what each job's settlement (by its number in `settlements`) has in it, in fen."""

    id: str
    year: int
    items: dict[str, int]
    settlements: dict[str, int]
    state: str = "submitted"
    payments: dict[str, int] = field(default_factory=dict)
    returned: set[str] = field(default_factory=set)

    @property
    def paid(self) -> int:
        return sum(fen for reference, fen in self.payments.items() if reference not in self.returned)

    @property
    def left(self) -> int:
        return sum(self.items.values()) - self.paid


@dataclass
class Clawback:
    id: str
    job: str
    year: int
    fen: int
    state: str = "opened"


@dataclass
class Auditor:
    """rooms: caps as opened. held, drawn, back: per job and year; back is the voucher's share of refunds."""

    rooms: dict[tuple[str, ...], int] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    held: dict[str, dict[int, int]] = field(default_factory=dict)
    drawn: dict[str, dict[int, int]] = field(default_factory=dict)
    back: dict[str, dict[int, int]] = field(default_factory=dict)
    claimed: dict[str, datetime] = field(default_factory=dict)  # firm: since when; a claim reaches forward only (R20)
    suspended: dict[str, list[tuple[datetime, datetime]]] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)  # firms, or "programme"
    closed: set[int] = field(default_factory=set)
    batches: list[Batch] = field(default_factory=list)
    clawbacks: list[Clawback] = field(default_factory=list)
    slips: dict[str, int] = field(default_factory=dict)  # firm: all that its bank slips say it paid

    # --- rooms ------------------------------------------------------------------------------------

    def left(self, *room: str) -> int:
        """What a room can still give; a closed year's gives nothing."""
        if room[0] != "contract" and int(room[-1]) in self.closed:
            return 0
        gone = 0
        for job in self.jobs.values():
            if room in self._rooms_of(job, room[-1]):
                for book, sign in ((self.held, 1), (self.drawn, 1), (self.back, -1)):
                    years = book.get(job.id, {})
                    gone += sign * (sum(years.values()) if room[0] == "contract" else years.get(int(room[-1]), 0))
        return self.rooms.get(room, 0) - gone

    def _rooms_of(self, job: Job, year: str) -> list[tuple[str, ...]]:
        contract = [("contract", job.contract)] if job.contract else []
        return [("firm", job.firm, year), ("pool", year), *contract]

    # --- settlement -------------------------------------------------------------------------------

    def slices(self, job: Job, until: datetime) -> list[Slice]:
        """The job's time up to `until`, cut wherever year, term or eligibility changes and nowhere else."""
        spans = self.suspended.get(job.firm, [])
        since = self.claimed.get(job.firm, datetime.max.replace(tzinfo=UTC))
        edges = {*TERM, *YEAR_STARTS.values(), since, *(edge for span in spans for edge in span)}
        cuts = [job.start, *sorted(edge for edge in edges if job.start < edge < until), until]
        found: list[Slice] = []
        for a, b in itertools.pairwise(cuts):
            year = max(y for y, begin in YEAR_STARTS.items() if begin <= a)
            eligible = since <= a and not any(s <= a < e for s, e in spans)
            flags = (year, TERM[0] <= a < TERM[1], eligible)
            if found and found[-1][2:] == flags:
                found[-1] = (found[-1][0], b, *flags)
            else:
                found.append((a, b, *flags))
        return found

    def classes(self, job: Job, lines: list[Slice]) -> list[tuple[int, bool, int]]:
        sums: dict[tuple[int, bool], int] = {}
        for a, b, year, in_force, eligible in lines:
            price = 0 if job.lost else job.price
            fee = math.floor(Fraction(price * job.devices * ((b - a) // MS), 3_600_000) + Fraction(1, 2))
            sums[year, in_force and eligible] = sums.get((year, in_force and eligible), 0) + fee
        return [(year, draws, fee) for (year, draws), fee in sums.items()]

    def deduction(self, job: Job, classes: list[tuple[int, bool, int]]) -> dict[int, int]:
        """What each year may draw: its ceiling, or the least room, what the job holds and has drawn counted as room.

        Of a job with refunds: the most of it that, net of their share, the rooms still have.
        """
        mine = {y: self.held.get(job.id, {}).get(y, 0) + self.drawn.get(job.id, {}).get(y, 0) for y in YEAR_STARTS}
        stopped = self.stopped(job.firm)
        running = sum(mine.values()) + (self.left("contract", job.contract) if job.contract and not stopped else 0)
        found = {}
        for year in sorted({year for year, draws, _ in classes if draws}):
            ceiling = math.floor(sum(fee for y, draws, fee in classes if draws and y == year) * RATE[job.pool])
            rooms = [("firm", job.firm, str(year)), ("pool", str(year))]
            bounds = [mine[year] + (0 if stopped else self.left(*room)) for room in rooms]
            found[year] = min(ceiling, *bounds, *([running] if job.contract else []))
            running -= found[year]
        for year in found if job.refunds else ():
            found[year] = self.fitting(job, classes, found, year)
        return found

    def fitting(self, job: Job, classes: list[tuple[int, bool, int]], found: dict[int, int], year: int) -> int:
        """The most the year may draw so that what refunds do not bring back of it is there to be drawn."""
        rooms = [
            ("firm", job.firm, str(year)),
            ("pool", str(year)),
            *([("contract", job.contract)] if job.contract else []),
        ]
        left = 0 if self.stopped(job.firm) else min(self.left(*room) for room in rooms)
        before, fees, drawn = self.due(job).get(year, 0), job.fees, self.drawn.get(job.id, {})
        job.fees = classes

        def fits(fen: int) -> bool:
            self.drawn[job.id] = {**found, year: fen}
            return fen - self.returned(job).get(year, 0) - before <= left

        low, high = 0, found[year]
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        job.fees, self.drawn[job.id] = fees, drawn
        return low

    def stopped(self, firm: str) -> bool:
        """Its right, or the programme, is frozen: what is promised stays, nothing new is promised."""
        return firm in self.claimed and bool({firm, "programme"} & self.frozen)

    def reserve(self, job: Job) -> None:
        self.jobs[job.id] = job
        self.held[job.id] = self.deduction(job, self.classes(job, self.slices(job, job.start + job.limit)))

    def settle(self, job: Job, until: datetime, *, final: bool) -> None:
        """All the job has used up to `until`; what its holds do not cover is drawn from the rooms, or given back."""
        job.lines, job.stopped = self.slices(job, until), self.stopped(job.firm)
        job.fees = self.classes(job, job.lines)
        target, before, held = self.deduction(job, job.fees), self.drawn.get(job.id, {}), self.held[job.id]
        for year in held:
            used = min(max(target.get(year, 0) - before.get(year, 0), 0), held[year])
            held[year] = 0 if final else held[year] - used
        self.drawn[job.id] = target
        job.number, job.final = job.number + 1, final
        if final:
            job.state = "issued"
            self.back[job.id] = self.returned(job)

    def tick(self, now: datetime, ended: str | None = None, *, lost: bool = False) -> None:
        """Every running job is settled up to each local midnight that passed, the oldest job first; `ended` for good."""
        for job in sorted((j for j in self.jobs.values() if not j.final), key=lambda j: (j.start, j.id + ".1")):
            if job.id == ended:
                job.until, job.lost = now, lost  # what the platform lost costs nothing at all
                self.settle(job, now, final=True)
                continue
            midnight = (job.metered + 8 * HOUR).replace(hour=0, minute=0, second=0, microsecond=0) - 8 * HOUR
            while (midnight := midnight + 24 * HOUR) <= now:
                self.settle(job, midnight, final=False)
                job.metered = midnight

    # --- refunds ----------------------------------------------------------------------------------

    def returned(self, job: Job) -> dict[int, int]:
        """The voucher's share of all refunds so far, by the year it came from: nobody keeps what they did not pay."""
        kept = [fee for _, _, fee in job.fees]
        for amount in job.refunds:
            amount = min(amount, sum(kept))  # a correction may have left less to give back
            fair = [Fraction(amount * fee, sum(kept)) if amount else Fraction(0) for fee in kept]
            gone = [math.floor(part) for part in fair]
            order = sorted(range(len(kept)), key=lambda i: (gone[i] - fair[i], i))
            for i in order[: amount - sum(gone)]:
                gone[i] += 1
            kept = [fee - part for fee, part in zip(kept, gone, strict=True)]
        found: dict[int, int] = {}
        for (year, draws, fee), rest in zip(job.fees, kept, strict=True):
            part = self.drawn[job.id].get(year, 0) if draws else 0
            found[year] = found.get(year, 0) + (part - math.floor(Fraction(part * rest, fee)) if fee else 0)
        return found

    def due(self, job: Job) -> dict[int, int]:
        """What the treasury owes for the job, per year."""
        return {y: fen - self.back.get(job.id, {}).get(y, 0) for y, fen in self.drawn.get(job.id, {}).items()}

    def owed(self, job: Job) -> int:
        """What is the firm's own to pay of the job, slips not counted."""
        kept = job.fee - min(sum(job.refunds), job.fee)
        return kept - sum(self.due(job).values())

    # --- clearing ---------------------------------------------------------------------------------

    def outdated(self, job: Job) -> bool:
        """Today's facts would settle it otherwise, or it was settled while its rooms were shut."""
        return self.slices(job, job.until) != job.lines or (job.stopped and not self.stopped(job.firm))

    def clear(self, job: Job) -> bool:
        """Nothing stands between the job and its payment: facts as settled, and papers to the fen if it draws at all."""
        if not job.final or self.outdated(job) or {job.firm, "programme"} & self.frozen:
            return False
        if not sum(self.drawn[job.id].values()):
            return True
        kept = job.fee - min(sum(job.refunds), job.fee)
        return job.invoice is not None and job.billed == kept and job.paid >= self.owed(job)

    def all_clear(self, batch: Batch) -> bool:
        return all(self.clear(self.jobs[job]) for job in batch.items)

    def ready(self) -> list[Job]:
        """Verified, or paid already for another year or before it fell due again."""
        return [job for job in self.jobs.values() if job.state in ("verified", "paid", "closed") and job.invoice]

    def move(self, batch: Batch, before: tuple[str, ...], after: str) -> None:
        """The batch's settlements at one of these states go on; one corrected meanwhile stays where it is."""
        for name, number in batch.settlements.items():
            job = self.jobs[name]
            if job.number == number and job.state in before:
                job.state = after

    def withdraw(self, batch: Batch, job: str) -> None:
        self.move(Batch("", 0, {}, {job: batch.settlements.pop(job)}), ("approved",), "verified")
        del batch.items[job]
        if not batch.left:
            batch.state = "paid"
            self.move(batch, ("approved",), "paid")

    def _cleared(self, job: Job, year: int) -> int:
        mine = [batch for batch in self.batches if batch.year == year and batch.state != "building"]
        return sum(batch.items.get(job.id, 0) for batch in mine)

    def _cases(self, job: Job, year: int, *states: str) -> list[Clawback]:
        return [case for case in self.clawbacks if (case.job, case.year) == (job.id, year) and case.state in states]

    def to_clear(self, job: Job, year: int) -> int:
        """What is due and was not cleared, or was cleared and came back (R29: corrections only add)."""
        back = sum(case.fen for case in self._cases(job, year, "confirmed", "repaid"))
        return self.due(job).get(year, 0) - self._cleared(job, year) + back

    def claw_back(self, job: Job) -> int:
        """One open case a year for what was cleared beyond what is due and is not decided yet; how many are new."""
        new = 0
        for year in YEAR_STARTS:
            decided = self._cases(job, year, "confirmed", "repaid", "written_off", "dropped")
            pending = self._cases(job, year, "opened", "noticed")
            due = max(self.due(job).get(year, 0), 0)
            excess = max(self._cleared(job, year) - due - sum(case.fen for case in decided), 0)
            if excess == sum(case.fen for case in pending):
                continue
            for case in pending:
                case.state = "superseded"
            if excess:
                number = 1 + sum(case.job == job.id for case in self.clawbacks)
                self.clawbacks.append(Clawback(f"clawback:{job.id}:{number}", job.id, year, excess))
                new += 1
        return new
