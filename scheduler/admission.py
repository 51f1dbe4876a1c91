"""Admission: what a parsed job asks for that nothing schedules yet, or that cannot be any more. Refused by name. Pure."""

from __future__ import annotations

from datetime import datetime

from adapters.chain import timestamp
from scheduler.job import JobSpec
from scheduler.refusal import Refusal
from scheduler.topology import level_of

ARRAY_MAX = 1_000  # elements of one array: each is a row, a story and a bill of its own
STORED_LEVELS = ("node", "rack", "region")  # domains that an enrolled node has; its links are not read yet


def unsupported(spec: JobSpec) -> tuple[Refusal, ...]:
    """One NOT_SUPPORTED_YET refusal per feature the job uses and the platform does not have; () when it may go on."""
    domains = {"required": spec.request.topology_required, "preferred": spec.request.topology_preferred}
    asked = {
        "/resources/share": not spec.request.whole,
        **{f"/resources/topology/{k}": bool(v) and level_of(v) not in STORED_LEVELS for k, v in domains.items() if v},
        "/secrets": bool(spec.secrets),
    }
    return tuple(Refusal(code="NOT_SUPPORTED_YET", facts={"field": field}) for field, used in asked.items() if used)


def untimely(spec: JobSpec, now: datetime) -> Refusal | None:
    """DEADLINE_PAST for a job whose deadline has come before it waits; ARRAY_TOO_LARGE for more than ARRAY_MAX jobs at once."""
    if spec.deadline is not None and spec.deadline <= now:
        return Refusal(code="DEADLINE_PAST", facts={"deadline_at": timestamp(spec.deadline), "now_ms": timestamp(now)})
    if spec.array is not None and spec.array.last - spec.array.first + 1 > ARRAY_MAX:
        size = spec.array.last - spec.array.first + 1
        return Refusal(code="ARRAY_TOO_LARGE", facts={"size": size, "limit": ARRAY_MAX})
    return None
