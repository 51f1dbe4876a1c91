"""Standing: when a firm, a site or a firm with a provider meets what the notice asks, from the dated facts on record.

Clause 4.1 asks seven things of a firm, clause 4.2 two papers of a data centre. A firm's seven may be recorded one by one or,
once verified as a whole with its evidence, as `eligible`; a suspension takes its time out of either.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

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


Known = Mapping[str, tuple[Interval, ...]]  # each fact's instants


def intervals(tx: Connection, subject_kind: str, subject: str) -> Known:
    """Each recorded fact's instants, united, withdrawn records left out."""
    return intervals_of(tx, [subject]).get((subject_kind, subject), {})


def intervals_of(tx: Connection, subjects: Collection[str]) -> dict[tuple[str, str], Known]:
    """The same of many subjects at once, by (kind, subject); without those of which nothing is on record."""
    columns = (facts.c.seq, facts.c.subject_kind, facts.c.subject, facts.c.fact, facts.c.from_ms, facts.c.to_ms)
    query = select(*columns, facts.c.withdraws_seq).where(facts.c.subject.in_(list(subjects))).order_by(facts.c.seq)
    rows = [tuple(row) for row in tx.execute(query)] if subjects else []
    withdrawn = {row[6] for row in rows if row[6] is not None}
    found: dict[tuple[str, str], dict[str, list[Interval]]] = {}
    for seq, kind, subject, fact, start, end, _ in rows:
        if seq not in withdrawn:
            held = Interval(start=from_ms(start), end=from_ms(end) if end is not None else None)
            found.setdefault((kind, subject), {}).setdefault(fact, []).append(held)
    return {key: {fact: unite(each) for fact, each in known.items()} for key, known in found.items()}


def eligible_intervals(tx: Connection, subject_kind: str, subject: str) -> tuple[Interval, ...]:
    """When the subject meets its clause: 4.1 for a firm, 4.2 for a site."""
    return meets(subject_kind, intervals(tx, subject_kind, subject))


def meets(subject_kind: str, known: Known) -> tuple[Interval, ...]:
    """When a subject of which this is known meets its clause: 4.1 for a firm, 4.2 for a site."""
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
