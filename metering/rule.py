"""Rule: one kind of voucher logic: where verdicts change, who is excluded, at which rate, up to what bound.

A rule is one file in metering/rules/ and one line under the entry points `yisuan.rules`. Numbers and dates
are parameters: a rule asks the policy for them. What all rules together say of an entry at an instant is a Ruling;
`Rules` keeps the rulings on entries that no rule tells apart. Pure, apart from `load_rules`.
"""

# ruff: noqa: ARG002 - a rule that says nothing looks at nothing

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any, Protocol

from metering.entry import Rooms, UsageEntry
from metering.facts import Interval, Timeline, timeline
from metering.parameters.policy import Policy

GROUP = "yisuan.rules"

# The order in which reasons are given. A rule of another package comes after these, by name.
REASONS = (
    "POLICY_NOT_IN_FORCE",
    "FIRM_NOT_ELIGIBLE",
    "SITE_NOT_ELIGIBLE",
    "FIRM_CAP_REACHED",
    "POOL_EXHAUSTED",
    "CONTRACT_CAP_REACHED",
    "TRANCHE_EXHAUSTED",
)
_RANK = {reason: rank for rank, reason in enumerate(REASONS)}
_COURSES, _EDGES = 64, 1024  # what Rules keeps at most: so many courses, of so many edges each


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Why an interval draws nothing: the reason's code, and the clause that says so."""

    reason: str
    clause: str


@dataclass(frozen=True, slots=True)
class Rate:
    """The most that may be deducted, in basis points of the fee, and the clauses it rests on."""

    basis_points: int
    clauses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """What a year's deduction may not pass, and the reason given when it stops there. available_fen ≥ 0."""

    reason: str
    available_fen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a rule may know besides the usage entry: the policy, and when firm and sites are eligible."""

    policy: Policy
    firm: Timeline
    sites: Mapping[str, Timeline]


class Rule(Protocol):
    """Subclass it and write the methods that apply; the others say nothing.

    Pure: same arguments, same answer.
    """

    name: str
    # The fields of an entry, besides its time, on which breakpoints, exclusions and rate depend. None: on any of them, so
    # the rule is asked about every entry. A rule that names them is asked once for all entries that agree in these.
    looks_at: tuple[str, ...] | None = None

    def breakpoints(self, entry: UsageEntry, context: Context) -> Iterable[datetime]:
        """The instants strictly inside the entry at which `exclusions` or `rate` may change; any order."""
        return ()

    def exclusions(self, entry: UsageEntry, at: datetime, context: Context) -> Iterable[Exclusion]:
        """Why the entry draws nothing at the instant; empty when this rule has no objection."""
        return ()

    def rate(self, entry: UsageEntry, at: datetime, context: Context) -> Rate | None:
        """The rate at the instant; None when this rule gives none.

        Of several rules' rates the lowest applies.
        """
        return None

    def bounds(self, year: int, rooms: Rooms, context: Context) -> Iterable[Bound]:
        """What bounds the year's deduction. rooms: what is left now, earlier years' deductions taken off."""
        return ()


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say of an entry at an instant. rate_bp: the lowest rate given, None when no rule gives one.

    applied_bp: 0 when excluded. reasons, clauses: of the exclusions; without one no reasons, and the rate's clauses.
    """

    rate_bp: int | None
    exclusions: tuple[Exclusion, ...]
    clauses: tuple[str, ...]
    applied_bp: int
    reasons: tuple[str, ...]

    def same(self, other: Ruling) -> bool:
        """True where the two grant and refuse the same: a line goes on from the one to the other."""
        return self is other or (self.rate_bp == other.rate_bp and self.exclusions == other.exclusions)


@dataclass(slots=True)
class Course:
    """Rulings over [start, end): constant between edges, each asked for when it is first needed."""

    start: datetime
    end: datetime
    edges: list[datetime]
    rulings: list[Ruling | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A policy, the rules that read it, and the dated facts they ask for. firm: (), never eligible."""

    policy: Policy
    rules: tuple[Rule, ...]
    firm: tuple[Interval, ...] = ()
    sites: Mapping[str, tuple[Interval, ...]] = field(default_factory=dict)
    context: Context = field(init=False, repr=False, compare=False)
    _alike: Callable[[UsageEntry], Any] | None = field(init=False, repr=False, compare=False)
    _courses: dict[Any, Course] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = {site: timeline(intervals) for site, intervals in self.sites.items()}
        object.__setattr__(self, "context", Context(policy=self.policy, firm=timeline(self.firm), sites=known))
        object.__setattr__(self, "_alike", _alike(self.rules))
        object.__setattr__(self, "_courses", {})

    def course(self, entry: UsageEntry, start: datetime, end: datetime) -> Course:
        """A course that spans the entry; one for all entries in [start, end) that no rule tells apart from it."""
        if self._alike is None:
            return self._run(entry)
        key = self._alike(entry)
        kept = self._courses.get(key)
        if kept is not None and kept.start <= entry.start and entry.end < kept.end:
            return kept
        if kept is None and len(self._courses) == _COURSES:
            return self._run(entry)
        first, last = (start, end) if kept is None else (min(start, kept.start), max(end, kept.end))
        found = self._run(replace(entry, start=_year_before(first), end=_year_after(last)))
        if len(found.edges) > _EDGES:
            return self._run(entry)
        self._courses[key] = found
        return found

    def _run(self, entry: UsageEntry) -> Course:
        inner = {at for rule in self.rules for at in rule.breakpoints(entry, self.context)}
        edges = sorted(at for at in inner if entry.start < at < entry.end)
        return Course(entry.start, entry.end, edges, [None] * (len(edges) + 1))

    def ruling(self, course: Course, entry: UsageEntry, at: datetime) -> Ruling:
        """What the rules say of the entry at an instant of its course."""
        index = bisect_right(course.edges, at)
        found = course.rulings[index]
        if found is None:
            found = course.rulings[index] = self._judge(entry, at)
        return found

    def _judge(self, entry: UsageEntry, at: datetime) -> Ruling:
        excluded = {exclusion for rule in self.rules for exclusion in rule.exclusions(entry, at, self.context)}
        exclusions = tuple(sorted(excluded, key=lambda e: (rank(e.reason), e.clause)))
        given = [rate for rule in self.rules if (rate := rule.rate(entry, at, self.context)) is not None]
        lowest = min(given, key=lambda rate: (rate.basis_points, rate.clauses), default=None)
        bp = None if lowest is None else lowest.basis_points
        if exclusions:
            clauses = tuple(dict.fromkeys(exclusion.clause for exclusion in exclusions))
            return Ruling(bp, exclusions, clauses, 0, tuple(dict.fromkeys(e.reason for e in exclusions)))
        return Ruling(bp, (), () if lowest is None else lowest.clauses, bp or 0, ())


def edges_between(course: Course, start: datetime, end: datetime) -> list[datetime]:
    """Where the ruling may change strictly between start and end."""
    edges = course.edges
    return edges[bisect_right(edges, start) : bisect_left(edges, end)] if edges else edges


def rank(reason: str) -> tuple[int, str]:
    """Where a reason stands among several."""
    return _RANK.get(reason, len(REASONS)), reason


def _alike(rules: Iterable[Rule]) -> Callable[[UsageEntry], Any] | None:
    """What entries must agree in so that no rule tells them apart; None where a rule may look at anything."""
    names: set[str] = set()
    for rule in rules:
        fields: tuple[str, ...] | None = getattr(rule, "looks_at", None)  # a rule need not inherit from Rule
        if fields is None:
            return None
        names.update(fields)
    return attrgetter(*sorted(names)) if names else lambda _: None


def _year_before(at: datetime) -> datetime:
    """The start of the UTC year: courses are extended by whole years, so seldom."""
    return datetime(at.year, 1, 1, tzinfo=UTC)


def _year_after(at: datetime) -> datetime:
    return datetime(at.year + 1, 1, 1, tzinfo=UTC) if at.year < 9999 else datetime.max.replace(tzinfo=UTC)


def load_rules() -> tuple[Rule, ...]:
    """Every registered rule, by name. The result of settle does not depend on their order."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    return tuple(found[name].load()() for name in sorted(found))
