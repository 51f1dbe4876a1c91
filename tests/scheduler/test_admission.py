"""What a job file may ask for: the rest is refused by name, and a refusal is never wider than what is missing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.admission import ARRAY_MAX, unsupported, untimely
from scheduler.job import JobId
from scheduler.jobfile import canonical_form, elements_of, from_canonical, parse_job, spec_hash
from tests.platform import job_text

NOW = datetime(2026, 10, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "extra",
    [
        "gang: {min_nodes: 1}\n",
        "deadline: 2026-10-01T08:00+08:00\n",
        "workload: sft\n",
        "retry: {on_events: [node_fail], limit: 1}\n",
        "array: 0-9%2\n",
        "depends_on: [{job: prep, when: ended}]\n",
        "checkpoint: {path: ck, interval: 15m}\n",
    ],
)
def test_what_is_scheduled_is_accepted(extra: str) -> None:
    assert unsupported(parse_job(job_text(nodes=2, extra=extra))) == ()


@pytest.mark.parametrize(
    ("resources", "fields"),
    [
        ("share: {cores: 25%}", ["/resources/share"]),
        ("topology: {required: rack, preferred: node}", []),
        ("topology: {required: nvlink}", ["/resources/topology/required"]),
        ("topology: {required: region, preferred: hccs}", ["/resources/topology/preferred"]),
    ],
)
def test_of_topology_only_the_levels_that_nodes_declare_are_taken(resources: str, fields: list[str]) -> None:
    text = job_text().replace("Ascend910B3:8}", f"Ascend910B3:8, {resources}}}")
    assert [refusal.facts["field"] for refusal in unsupported(parse_job(text))] == fields


def test_a_deadline_is_refused_from_its_own_instant_on() -> None:
    spec = parse_job(job_text(extra="deadline: 2026-10-01T08:00+08:00\n"))

    assert untimely(spec, NOW - timedelta(milliseconds=1)) is None
    refusal = untimely(spec, NOW)
    assert refusal is not None
    assert (refusal.code, refusal.facts["deadline_at"]) == ("DEADLINE_PAST", "2026-10-01T00:00:00.000Z")


@pytest.mark.parametrize(("last", "code"), [(ARRAY_MAX - 1, None), (ARRAY_MAX, "ARRAY_TOO_LARGE")])
def test_an_array_has_a_largest_size(last: int, code: str | None) -> None:
    refusal = untimely(parse_job(job_text(extra=f"array: 0-{last}\n")), NOW)
    assert (refusal.code if refusal else None) == code


@given(first=st.integers(0, 9_999_999), more=st.integers(0, 30))
def test_the_elements_of_an_array_are_jobs_that_know_their_place(first: int, more: int) -> None:
    """One job per index, ids ascending as texts, each readable from its canonical form, no two with the same hash."""
    last = min(first + more, 9_999_999)
    spec = parse_job(job_text(extra=f"array: {first}-{last}%2\nenvs: {{LR: '1'}}\n"))
    found = list(elements_of(JobId("job_x"), spec))

    assert [index for index, _, _ in found] == list(range(first, last + 1))
    ids = [name for _, name, _ in found]
    assert ids == sorted(set(ids))
    assert len({spec_hash(one) for _, _, one in found}) == len(found)
    for index, _, one in found:
        assert one.array is None
        assert from_canonical(canonical_form(one)) == one
        assert (one.envs["YISUAN_ARRAY"], one.envs["YISUAN_ARRAY_INDEX"], one.envs["LR"]) == ("job_x", str(index), "1")


def test_a_job_without_an_array_is_its_own_only_element() -> None:
    spec = parse_job(job_text())
    assert list(elements_of(JobId("job_x"), spec)) == [(None, "job_x", spec)]
