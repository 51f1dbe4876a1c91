"""Description: a policy as plain values for people and programs, and two of them side by side. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from metering.parameters.policy import AWAITING, PROPOSED, Clause, Parameter, Policy, Row

VERSION = 1


def describe(policy: Policy) -> dict[str, Any]:
    """All of the policy: every value with unit, dates, clauses and people, every question, and what to beware of.

    Dates are midnights in the policy's zone where they are midnights, else instants with its offset; `to` is exclusive,
    None = open. A value that overlays another names its overlay in `source`.
    """
    return {
        "version": VERSION,
        "id": policy.id,
        "number": policy.number,
        "title": {"zh": policy.title_zh, "en": policy.title_en},
        "issuer": policy.issuer,
        "status": policy.status,
        "zone": policy.zone.key,
        "text_sha256": policy.text_sha256,
        "bundle_sha256": policy.bundle_sha256,
        "overlays": [
            {"id": one.id, "level": one.level, "number": one.number, "title": {"zh": one.title_zh, "en": one.title_en}}
            for one in policy.overlays
        ],
        "parameters": [_parameter(parameter, policy.zone) for _, parameter in sorted(policy.parameters.items())],
        "clauses": [_clause(clause) for clause in policy.clauses.values()],
        "interpretations": [
            {
                "id": one.id,
                "question": {"zh": one.question_zh, "en": one.question_en},
                "options": list(one.options),
                "chosen": one.chosen,
                "answered": one.answered,
                "confirmed": one.confirmed,
                "decided_on": one.decided_on,
                "decided_by": one.decided_by,
                "clauses": list(one.clauses),
                "note": one.note,
            }
            for one in policy.interpretations
        ],
        "notices": [
            {
                "code": one.code,
                "lines_ending_after": shown_date(one.lines_ending_after, policy.zone),
                "gist": {"zh": one.gist_zh, "en": one.gist_en},
            }
            for one in policy.notices
        ],
        "warnings": warnings(policy),
    }


def _parameter(parameter: Parameter, zone: ZoneInfo) -> dict[str, Any]:
    rows = sorted((*parameter.rows, *parameter.set_aside), key=lambda row: (row.start, row.recorded_at))
    return {"key": parameter.key, "unit": parameter.unit, "values": [_row(row, zone) for row in rows]}


def _row(row: Row, zone: ZoneInfo) -> dict[str, Any]:
    return {
        "value": row.value,
        "from": shown_date(row.start, zone),
        "to": None if row.end is None else shown_date(row.end, zone),
        "clauses": list(row.clauses),
        "status": row.status,
        "source": row.source,
        "recorded_at": row.recorded_at,
        "recorded_by": row.recorded_by,
        "approved_by": row.approved_by,
        "withdrawn_at": row.withdrawn_at,
        "note": row.note,
    }


def _clause(clause: Clause) -> dict[str, Any]:
    gist = {"zh": clause.gist_zh, "en": clause.gist_en}
    return {"number": clause.number, "gist": gist, "platform": clause.platform}


def shown_date(at: datetime, zone: ZoneInfo) -> str:
    """yyyy-mm-dd for a midnight in the zone, else the instant with the zone's offset."""
    local = at.astimezone(zone)
    midnight = (local.hour, local.minute, local.second, local.microsecond) == (0, 0, 0, 0)
    return local.date().isoformat() if midnight else local.isoformat()


def warnings(policy: Policy) -> list[dict[str, Any]]:
    """What a reader must know before relying on the policy: [{code, facts}], the gravest first.

    Codes: POLICY_SETTLES_NOTHING, VALUES_AWAITING_CONFIRMATION, INTERPRETATION_UNANSWERED (one per question),
    INTERPRETATIONS_BY_DEFAULT, VALUES_PROPOSED.
    """
    rows = [row for parameter in policy.parameters.values() for row in (*parameter.rows, *parameter.set_aside)]
    awaiting, proposed = (sum(row.status == status for row in rows) for status in (AWAITING, PROPOSED))
    default = [one for one in policy.interpretations if one.answered and not one.confirmed]
    found: list[dict[str, Any]] = []
    if policy.status != "active":
        found.append({"code": "POLICY_SETTLES_NOTHING", "facts": {"policy": policy.id}})
    if awaiting:
        found.append({"code": "VALUES_AWAITING_CONFIRMATION", "facts": {"count": awaiting}})
    for one in policy.interpretations:
        if not one.answered:
            facts = {"id": one.id, "question_zh": one.question_zh, "question_en": one.question_en}
            found.append({"code": "INTERPRETATION_UNANSWERED", "facts": facts})
    if default:
        found.append({"code": "INTERPRETATIONS_BY_DEFAULT", "facts": {"count": len(default)}})
    if proposed:
        found.append({"code": "VALUES_PROPOSED", "facts": {"count": proposed}})
    return found


# --- two policies side by side ------------------------------------------------------------------------------------


def difference(one: Policy, other: Policy) -> dict[str, Any]:
    """Parameter by parameter, every interval on which the two say different things; None = says nothing then.

    Intervals are the longest ones, in order of key and date; dates in the first policy's zone. interpretations: the
    questions whose answers differ, None = not asked there.
    """
    keys = sorted({*one.parameters, *other.parameters})
    values = [row for key in keys for row in _differing(key, one, other)]
    left, right = ({q.id: q for q in policy.interpretations} for policy in (one, other))
    asked = [
        {
            "id": id,
            "question": {"zh": question.question_zh, "en": question.question_en},
            "a": left[id].chosen if id in left else None,
            "b": right[id].chosen if id in right else None,
        }
        for id, question in {**right, **left}.items()  # noqa: A001 - the word of the format
    ]
    return {
        "version": VERSION,
        "a": one.id,
        "b": other.id,
        "bundle_sha256": {"a": one.bundle_sha256, "b": other.bundle_sha256},
        "parameters": values,
        "same": [key for key in keys if key not in {row["key"] for row in values}],
        "interpretations": sorted((q for q in asked if q["a"] != q["b"]), key=lambda q: str(q["id"])),
    }


def _differing(key: str, one: Policy, other: Policy) -> list[dict[str, Any]]:
    sides: tuple[Mapping[str, Parameter], ...] = (one.parameters, other.parameters)
    both = [side.get(key) for side in sides]
    edges: set[datetime] = set()
    for parameter in both:
        for row in () if parameter is None else parameter.rows:
            edges |= {row.start} if row.end is None else {row.start, row.end}
    found: list[dict[str, Any]] = []
    for at in sorted(edges):
        rows = [None if parameter is None else parameter.row_at(at) for parameter in both]
        a, b = (None if row is None else row.value for row in rows)
        begins = shown_date(at, one.zone)
        if found and found[-1]["to"] is None:
            if (found[-1]["a"], found[-1]["b"]) == (a, b):
                continue
            found[-1]["to"] = begins
        if a != b:
            clauses = [[] if row is None else list(row.clauses) for row in rows]
            unit = next(parameter.unit for parameter in both if parameter is not None)
            said = {"a": a, "b": b, "clauses_a": clauses[0], "clauses_b": clauses[1]}
            found.append({"key": key, "unit": unit, "from": begins, "to": None, **said})
    return found
