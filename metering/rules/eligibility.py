"""Eligibility: nothing is drawn outside the term, or by a firm or at a site that does not qualify. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from metering.entry import UsageEntry
from metering.facts import Timeline
from metering.rule import Context, Exclusion, Rule

POLICY_NOT_IN_FORCE = Exclusion("POLICY_NOT_IN_FORCE", "4.3")
FIRM_NOT_ELIGIBLE = Exclusion("FIRM_NOT_ELIGIBLE", "4.1")
SITE_NOT_ELIGIBLE = Exclusion("SITE_NOT_ELIGIBLE", "4.2")


class UnknownSite(LookupError):
    """Usage at a site of which no facts were given, not even that it never qualifies."""


class Eligibility(Rule):
    """Clause 4.3: the term.

    Clause 4.1: who. Clause 4.2: data centres with their energy papers. At usage time.
    """

    name = "eligibility"
    looks_at = ("site",)

    def breakpoints(self, entry: UsageEntry, context: Context) -> Iterable[datetime]:
        found = [
            *context.policy.in_force.edges_within(entry.start, entry.end),
            *context.firm.edges_within(entry.start, entry.end),
        ]
        site = _site(entry, context)
        return found if site is None else (*found, *site.edges_within(entry.start, entry.end))

    def exclusions(self, entry: UsageEntry, at: datetime, context: Context) -> Iterable[Exclusion]:
        found = []
        if not context.policy.in_force_at(at):
            found.append(POLICY_NOT_IN_FORCE)
        if not context.firm.holds_at(at):
            found.append(FIRM_NOT_ELIGIBLE)
        site = _site(entry, context)
        if site is not None and not site.holds_at(at):
            found.append(SITE_NOT_ELIGIBLE)
        return found


def _site(entry: UsageEntry, context: Context) -> Timeline | None:
    if entry.site is None:
        return None
    if entry.site not in context.sites:
        raise UnknownSite(f"lease {entry.lease} ran at site {entry.site!r}, of which no facts were given")
    return context.sites[entry.site]
