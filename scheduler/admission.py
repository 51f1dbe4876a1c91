"""Admission: what a parsed job asks for that nothing schedules yet. Refused by name, never ignored. Pure."""

from __future__ import annotations

from scheduler.job import JobSpec
from scheduler.refusal import Refusal


def unsupported(spec: JobSpec) -> tuple[Refusal, ...]:
    """One NOT_SUPPORTED_YET refusal per feature the job uses and the platform does not have; () when it may go on."""
    asked = {
        "/resources/share": not spec.request.whole,
        "/resources/topology": bool(spec.request.topology_required or spec.request.topology_preferred),
        "/gang/min_nodes": spec.gang_min_nodes != spec.nodes,
        "/deadline": spec.deadline is not None,
        "/secrets": bool(spec.secrets),
        "/inputs": bool(spec.inputs),
        "/workload": spec.workload is not None,
        "/retry": spec.retry is not None,
        "/array": spec.array is not None,
        "/depends_on": bool(spec.depends_on),
        **{f"/variants/{stack}/image": v.image is not None for stack, v in sorted(spec.variants.items())},
    }
    return tuple(Refusal(code="NOT_SUPPORTED_YET", facts={"field": field}) for field, used in asked.items() if used)
