"""Rule: one kind of voucher logic: where verdicts change, who is excluded, at which rate, up to what bound.

A rule is one file in metering/rules/ and one line under the entry points `yisuan.rules`. Numbers and dates
are parameters: a rule asks the policy for them. Pure, apart from `load_rules`.
"""

# ruff: noqa: ARG002 - a rule that says nothing looks at nothing

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import entry_points
from typing import Protocol

from metering.entry import Rooms, UsageEntry
from metering.facts import Interval, Timeline
from metering.parameters.policy import Policy

GROUP = "yisuan.rules"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A policy, the rules that read it, and the dated facts they ask for. firm: (), never eligible."""

    policy: Policy
    rules: tuple[Rule, ...]
    firm: tuple[Interval, ...] = ()
    sites: Mapping[str, tuple[Interval, ...]] = field(default_factory=dict)


def load_rules() -> tuple[Rule, ...]:
    """Every registered rule, by name. The result of settle does not depend on their order."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    return tuple(found[name].load()() for name in sorted(found))
