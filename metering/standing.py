"""Standing: when a firm, a site or a firm with a provider meets what the notice asks, from the dated facts on record.

Clause 4.1 asks seven things of a firm, clause 4.2 two papers of a data centre. A firm's seven may be recorded one by one or,
once verified as a whole with its evidence, as `eligible`; a suspension takes its time out of either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, select

from metering.facts import Interval, intersect, subtract, unite
from metering.schema import facts
from scheduler.clock import from_ms

WHOLE = "eligible"
SUSPENDED = "suspended"
FIRM_FACTS = (  # clause 4.1
    "business_registration",
    "tax_registration",
    "statistics_registration",
    "actual_operation",
    "independent_legal_person",
    "clean_record",  # no major administrative penalty or criminal record in three years
    "not_dishonest",
)
SITE_FACTS = ("energy_review", "energy_report")  # clause 4.2
RELATED = "related"  # a firm and a provider under common control: no support for what one sells to the other
UNRELATED = "unrelated"  # the firm's declaration (非关联声明), which clearing asks for
KINDS: Mapping[str, tuple[str, ...]] = {
    "firm": (WHOLE, *FIRM_FACTS, SUSPENDED),
    "site": SITE_FACTS,
    "relation": (RELATED, UNRELATED),
}


def relation(firm: str, provider: str) -> str:
    """The subject of facts about a firm and a provider."""
    return f"{firm}|{provider}"


def intervals(tx: Connection, subject_kind: str, subject: str) -> dict[str, tuple[Interval, ...]]:
    """Each recorded fact's instants, united, withdrawn records left out."""
    query = select(facts).where(facts.c.subject_kind == subject_kind, facts.c.subject == subject)
    rows = list(tx.execute(query.order_by(facts.c.seq)).mappings())
    withdrawn = {row["withdraws_seq"] for row in rows if row["withdraws_seq"] is not None}
    found: dict[str, list[Interval]] = {}
    for row in rows:
        if row["seq"] not in withdrawn:
            found.setdefault(row["fact"], []).append(_interval(row))
    return {fact: unite(each) for fact, each in found.items()}


def _interval(row: Mapping[Any, Any]) -> Interval:
    return Interval(start=from_ms(row["from_ms"]), end=from_ms(row["to_ms"]) if row["to_ms"] is not None else None)


def eligible_intervals(tx: Connection, subject_kind: str, subject: str) -> tuple[Interval, ...]:
    """When the subject meets its clause: 4.1 for a firm, 4.2 for a site."""
    known = intervals(tx, subject_kind, subject)
    if subject_kind == "firm":
        met = unite((*known.get(WHOLE, ()), *_all(known, FIRM_FACTS)))
        return subtract(met, known.get(SUSPENDED, ()))
    return _all(known, SITE_FACTS)


def related_intervals(tx: Connection, firm: str, provider: str) -> tuple[Interval, ...]:
    """When the firm and the provider are known to be related."""
    return intervals(tx, "relation", relation(firm, provider)).get(RELATED, ())


def declared_unrelated(tx: Connection, firm: str, provider: str) -> tuple[Interval, ...]:
    """When the firm has declared that it is not related to the provider, and nothing on record says otherwise."""
    known = intervals(tx, "relation", relation(firm, provider))
    return subtract(known.get(UNRELATED, ()), known.get(RELATED, ()))


def _all(known: Mapping[str, Iterable[Interval]], needed: Iterable[str]) -> tuple[Interval, ...]:
    found: tuple[Interval, ...] | None = None
    for fact in needed:
        mine = unite(known.get(fact, ()))
        found = mine if found is None else intersect(found, mine)
    return found or ()
