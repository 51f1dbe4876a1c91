"""Job file v1: everything is parsed, what is unknown is refused with the nearest spelling, all of it at once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.admission import unsupported
from scheduler.duration import format_duration, parse_duration, parse_money, parse_size
from scheduler.job import Objective, Priority
from scheduler.jobfile import JobFileError, canonical_form, from_canonical, parse_job, spec_hash

FULL = """
name: llama-sft
queue: tenant-a/train
priority: high
nodes: 4
time_limit: 12h
deadline: 2026-10-01T08:00+08:00
resources:
  accelerators:
    any_of: [H100:8, Ascend910B3:8, {origin: domestic, count: 8, memory: 60GiB+}]
  share: {memory: 16GiB, cores: 25%}
  topology: {required: node, preferred: rack}
gang: {min_nodes: 2}
variants:
  cuda: {image: img, run: torchrun a}
  cann: {run: torchrun b, envs: {HCCL_CONNECT_TIMEOUT: "1800"}}
entrypoint: python train.py
setup: pip install -r req.txt
envs: {MODEL: qwen3-8b}
secrets: [hf-token]
workload: qwen3-8b-sft
inputs: {/data: oss://bucket/ds}
checkpoint: {path: ck, interval: 15m, signal: SIGUSR1, grace: 120s}
retry: {on_events: [preempted, node_fail], limit: 3}
money: {voucher: auto, objective: start_time, max_net_cost: 8000.5 CNY, contract: C-1}
array: 0-99%10
depends_on: [{job: prep, when: succeeded}]
"""
SMALL = "name: a\ntime_limit: 1h\nresources: {accelerators: H800:8}\nentrypoint: 'true'\n"


def test_the_whole_example_parses_field_by_field() -> None:
    spec = parse_job(FULL)

    assert (spec.priority, spec.nodes, spec.gang_min_nodes, spec.time_limit_ms) == (Priority.HIGH, 4, 2, 43_200_000)
    assert [a.models for a in spec.request.alternatives] == [("H100",), ("Ascend910B3",), ()]
    assert spec.request.alternatives[2].memory_bytes_min == 60 << 30
    assert (spec.request.share_memory_bytes, spec.request.share_cores_permille) == (16 << 30, 250)
    assert (spec.request.topology_required, spec.request.topology_preferred) == ("node", "rack")
    assert spec.checkpoint is not None
    assert (
        spec.checkpoint.interval_ms,
        spec.checkpoint.signal,
        spec.checkpoint.grace_ms,
    ) == (900_000, "SIGUSR1", 120_000)
    assert (spec.money.max_net_fen, spec.money.objective, spec.money.contract) == (800_050, Objective.START_TIME, "C-1")
    assert spec.array is not None
    assert (spec.array.first, spec.array.last, spec.array.parallel) == (0, 99, 10)
    assert dict(spec.variants["cann"].envs) == {"HCCL_CONNECT_TIMEOUT": "1800"}


def test_what_is_not_scheduled_yet_is_named_feature_by_feature() -> None:
    fields = [refusal.facts["field"] for refusal in unsupported(parse_job(FULL))]

    assert fields == ["/resources/share", "/secrets"]
    assert unsupported(parse_job(SMALL)) == ()


@pytest.mark.parametrize("text", [FULL, SMALL, SMALL.replace("H800:8", "{ordered: [A100:4, H800:8]}"),
                                  SMALL.replace("H800:8", "{origin: foreign, count: 2}")])  # fmt: skip
def test_the_canonical_form_gives_the_same_job_and_the_same_hash(text: str) -> None:
    spec = parse_job(text)
    again = from_canonical(json.loads(json.dumps(canonical_form(spec))))

    assert canonical_form(spec) == canonical_form(again)
    assert spec_hash(spec) == spec_hash(again)


def test_the_hash_does_not_depend_on_spelling_and_does_on_content() -> None:
    lines = SMALL.strip().splitlines()
    assert spec_hash(parse_job(SMALL)) == spec_hash(parse_job("\n".join(reversed(lines))))
    assert spec_hash(parse_job(SMALL)) == spec_hash(parse_job(SMALL.replace("1h", "60m")))
    assert spec_hash(parse_job(SMALL)) != spec_hash(parse_job(SMALL.replace("1h", "61m")))


@pytest.mark.parametrize(
    ("text", "field", "nearest"),
    [
        (SMALL.replace("name", "nam"), "/nam", "name"),
        (SMALL.replace("name: a\n", ""), "/name", None),
        (SMALL.replace("name: a", "name: 'a b'"), "/name", None),
        (SMALL.replace("time_limit: 1h\n", ""), "/time_limit", None),
        (SMALL.replace("1h", "60"), "/time_limit", None),
        (SMALL.replace("1h", "1 hour"), "/time_limit", None),
        (SMALL.replace("1h", "0s"), "/time_limit", None),
        (SMALL.replace("H800:8", "H800"), "/resources/accelerators", None),
        (SMALL.replace("H800:8", "8"), "/resources/accelerators", None),
        (SMALL.replace("H800:8", "gpu:8"), "/resources/accelerators", None),
        (SMALL.replace("H800:8", "H8000:8"), "/resources/accelerators", "H800"),
        (SMALL.replace("H800:8", "H800:0"), "/resources/accelerators", None),
        (SMALL.replace("H800:8", "{any_off: [H800:8]}"), "/resources/accelerators/any_off", None),
        (SMALL.replace("H800:8", "{any_of: []}"), "/resources/accelerators", None),
        (SMALL.replace("H800:8", "{any_of: [H800:8, X:1]}"), "/resources/accelerators/1", None),
        (SMALL.replace("H800:8", "{origin: domestik, count: 8}"), "/resources/accelerators/origin", "domestic"),
        (SMALL.replace("H800:8", "{origin: domestic}"), "/resources/accelerators/count", None),
        (SMALL.replace("H800:8", "{count: 8, memory: 60GB}"), "/resources/accelerators/memory", None),
        (SMALL.replace("H800:8", "{count: 8, memory: 60}"), "/resources/accelerators/memory", None),
        (SMALL + "nodes: 0\n", "/nodes", None),
        (SMALL + "nodes: true\n", "/nodes", None),
        (SMALL + "nodes: 1.5\n", "/nodes", None),
        (SMALL + "nodes: 2\ngang: {min_nodes: 3}\n", "/gang/min_nodes", None),
        (SMALL + "priority: hihg\n", "/priority", "high"),
        (SMALL + "envs: {A: 1}\n", "/envs/A", None),
        (SMALL + "variants: {cudda: {run: a}}\n", "/variants/cudda", "cuda"),
        (SMALL + "checkpoint: {path: a, signal: SIGKILL}\n", "/checkpoint/signal", None),
        (SMALL + "money: {max_net_cost: 8000}\n", "/money/max_net_cost", None),
        (SMALL + "money: {objective: netcost}\n", "/money/objective", "net_cost"),
        (SMALL + "deadline: 2026-10-01T08:00\n", "/deadline", None),
        (SMALL + "array: 9-1\n", "/array", None),
        (SMALL + "retry: {on_events: [crash], limit: 1}\n", "/retry/on_events", None),
        (SMALL.replace("entrypoint: 'true'\n", ""), "/entrypoint", None),
        (SMALL + "name: b\n", "/name", None),
        ("a: &x 1\nb: *x\n", "/", None),
        ("- 1\n", "/", None),
        ("", "/", None),
        ("{" * 400, "/", None),
        ("x" * 300_000, "/", None),
    ],
)
def test_a_malformed_file_is_refused_by_field_with_the_nearest_spelling(
    text: str, field: str, nearest: str | None
) -> None:
    with pytest.raises(JobFileError) as caught:
        parse_job(text)

    assert field in [problem.field for problem in caught.value.problems]
    if nearest is not None:
        assert nearest in [problem.nearest for problem in caught.value.problems]


def test_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(JobFileError):
        parse_job(b"name: \xff\xfe\n")


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(JobFileError) as caught:
        parse_job("nam: a\ntime_limit: 1\npriority: x\nresources: {accelerators: gpu:8}\n")

    assert {"/nam", "/name", "/time_limit", "/priority", "/resources/accelerators", "/entrypoint"} == {
        problem.field for problem in caught.value.problems
    }


@given(ms=st.integers(1, 366 * 86_400_000))
def test_a_duration_written_and_read_is_itself(ms: int) -> None:
    assert ms == parse_duration(format_duration(ms))


def test_sizes_and_money() -> None:
    assert (parse_size("1.5GiB"), parse_size("64GiB+")) == (1536 << 20, 64 << 30)
    assert (parse_money("8000 CNY"), parse_money("8000.5 CNY"), parse_money("0.05 CNY")) == (800_000, 800_050, 5)


@given(text=st.text(max_size=60))
def test_no_text_at_all_makes_the_reader_fail_otherwise(text: str) -> None:
    """No short text is a whole job, and each is refused with a problem that says so."""
    with pytest.raises(JobFileError) as caught:
        parse_job(text)

    assert caught.value.problems
