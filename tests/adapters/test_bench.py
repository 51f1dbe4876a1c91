"""What is measured is right or is not reported; figures follow from the log; time is limited; nothing hides a failure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.accelerator import Accelerator, Source
from adapters.adapter import AdapterError, Probe
from adapters.bench import collective, gemm, memory
from adapters.bench.group import measure_group
from adapters.bench.log import sha256
from adapters.bench.numpy_stack import Numpy
from adapters.bench.report import ReportInvalid, measurement, peak_of, unit_of, verify
from adapters.bench.stack import STACKS, StackAbsent, Unsupported, first_stack, open_stack
from adapters.bench.target import HOST, Target, TargetUnknown, choose, found, targets, together
from adapters.bench.timing import Repeats, quantile, repeat, rounds, significant
from adapters.bench.trial import Outcome, askings, measure, mismatch
from adapters.catalog import load_catalog
from adapters.deadline import DeadlineError, Worker
from tests.adapters.bench_stacks import ACCELERATOR, Hanging, Here, Idle, Lazy, Rank, Refusing, Small, here

ROOT = Path(__file__).parents[2]
AT = datetime(2026, 11, 1, tzinfo=UTC)
CATALOG = load_catalog()


class Ticking:
    """A clock that goes on by a step at every look."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def trial(asked: Callable[[str], Any], target: Target = HOST, **more: Any) -> Outcome:
    given: dict[str, Any] = {"stack": "numpy", "seed": 7, "seconds": 100.0, "at": AT, "catalog": CATALOG}
    return measure(asked, target, **{**given, "clock": lambda: 0.0, **more})


def device(number: int = 0, model: str | None = "H800", **more: Any) -> Accelerator:
    return Accelerator(
        **{
            "uuid": f"GPU-{number}",
            "index": number,
            "vendor": "nvidia",
            "model_raw": "NVIDIA H800",
            "model": model,
            "visible_id": f"GPU-{number}",
            "source": Source.LIBRARY,
            **more,
        }
    )


class Tools:
    """A vendor's adapter that lists what it is given."""

    vendor = "nvidia"
    capabilities: frozenset[Any] = frozenset()

    def __init__(self, *devices: Accelerator, fails: bool = False, available: bool = True) -> None:
        self.devices, self.fails, self.available = devices, fails, available

    def probe(self) -> Probe:
        return Probe(available=self.available, reason=None if self.available else "not here")

    def inventory(self) -> tuple[Accelerator, ...]:
        if self.fails:
            raise AdapterError("the tool crashed")
        return self.devices

    def visibility(self, devices: Any) -> dict[str, str]:
        if any(one.visible_id is None for one in devices):
            raise ValueError("visible_id: unknown")
        return {"CUDA_VISIBLE_DEVICES": ",".join(one.visible_id for one in devices)}


# --- timing ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=40), st.floats(0, 1))
def test_a_quantile_is_numpy_s(values: list[float], share: float) -> None:
    assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)), rel=1e-9)


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 1.5), ([1.0], -0.1)])
def test_a_quantile_of_nothing_or_beyond_all_is_an_error(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match=r"values|share"):
        quantile(values, share)


def test_repeats_fill_a_batch_and_stop_with_the_budget() -> None:
    """A clock that only looks move: a batch lasts one step, however many runs are in it."""
    ran: list[int] = []
    timed = repeat(lambda: ran.append(1), lambda: None, budget_s=0.6, clock=Ticking(0.01))

    assert timed.inner == 4, (
        "two batches of 10 ms look once each; one run of four is then taken for 2.5 ms … 20 ms hold"
    )
    assert 3 <= len(timed.seconds) <= 25
    assert timed.seconds[0] == pytest.approx(0.01 / timed.inner)
    assert len(ran) == 2 + 1 + 2 + timed.inner * len(timed.seconds)


def test_a_slow_run_is_repeated_three_times_whatever_the_budget() -> None:
    timed = repeat(lambda: None, lambda: None, budget_s=0.001, clock=Ticking(5.0))

    assert timed == Repeats(inner=1, seconds=(5.0, 5.0, 5.0))


def test_ranks_run_exactly_as_often_as_they_are_told() -> None:
    ran: list[int] = []
    timed = rounds(lambda: ran.append(1), lambda: None, inner=4, repeats=3, clock=Ticking(1.0))

    assert (len(ran), timed.inner, timed.seconds) == (12, 4, (0.25, 0.25, 0.25))


@pytest.mark.parametrize(("value", "shown"), [(123456789.0, 123457000.0), (0.000123456789, 0.000123457), (0.0, 0.0)])
def test_six_digits_count(value: float, shown: float) -> None:
    assert significant(value) == shown


# --- multiplication -------------------------------------------------------------------------------------------------


def test_the_operations_of_a_multiplication() -> None:
    assert gemm.flops(2, 3, 4) == 2 * 2 * 3 * 4


@pytest.mark.parametrize("precision", list(gemm.TOLERANCE))
def test_operands_are_exact_in_their_precision_and_follow_from_the_seed(precision: str) -> None:
    a, b = gemm.operands(precision, 64, 5)
    again, _ = gemm.operands(precision, 64, 5)
    other, _ = gemm.operands(precision, 64, 6)

    assert np.array_equal(a, again)
    assert not np.array_equal(a, other)
    assert not np.array_equal(a, b)
    if precision not in gemm.WIDE:
        assert np.array_equal(a.astype(np.float16).astype(np.int8), a)
        assert set(np.unique(a)) == set(range(-4, 5)), "3 bits of mantissa hold whole numbers to 16"


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
def test_numpy_s_own_product_passes_its_check(precision: str) -> None:
    a, b = gemm.operands(precision, 200, 1)
    made = Numpy().product(precision, a, b)
    made.run()
    rows, columns = gemm.corner(200, 1)

    assert gemm.check(precision, a, b, rows, columns, made.take(rows, columns)).ok


def rounded_to_tf32(value: Any) -> Any:
    """Ten bits of mantissa kept, as TF32 units do on reading."""
    bits = value.view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def test_tf32_sold_as_fp32_fails() -> None:
    a, b = gemm.operands("fp32", 512, 3)
    rows, columns = gemm.corner(512, 3)
    fast = rounded_to_tf32(a) @ rounded_to_tf32(b)

    checked = gemm.check("fp32", a, b, rows, columns, fast[np.ix_(rows, columns)])
    assert not checked.ok
    assert checked.error < gemm.TOLERANCE["tf32"], "and it is right as what it is"


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp8", "int8", "tf32"])
def test_a_result_rounded_as_the_precision_rounds_passes(precision: str) -> None:
    a, b = gemm.operands(precision, 1024, 3)
    rows, columns = gemm.corner(1024, 3)
    exact = (a.astype(np.float64) @ b.astype(np.float64))[np.ix_(rows, columns)]
    bits = {"fp16": 11, "bf16": 8, "fp8": 8, "tf32": 24, "int8": 53}[precision]
    scale = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 1))) + 1 - bits)

    assert gemm.check(precision, a, b, rows, columns, np.rint(exact / scale) * scale).ok


@given(st.sampled_from(sorted(gemm.TOLERANCE)), st.sampled_from([math.nan, math.inf, -math.inf, 1e300, 0.0]))
def test_what_is_no_result_never_passes(precision: str, value: float) -> None:
    a, b = gemm.operands(precision, 32, 1)
    rows, columns = gemm.corner(32, 1)

    assert not gemm.check(precision, a, b, rows, columns, np.full((len(rows), len(columns)), value)).ok


@given(st.sampled_from(sorted(gemm.BYTES)), st.floats(0, 1e18), st.none() | st.integers(1 << 16, 1 << 40))
def test_a_size_fits_the_matrix_units_and_the_memory(precision: str, rate: float, room: int | None) -> None:
    size = gemm.size_for(precision, rate, room)

    assert gemm.SIZES[0] <= size <= gemm.SIZES[1]
    assert size % gemm.STEP == 0
    if room is not None and size > gemm.SIZES[0]:
        assert size**2 * (2 * gemm.BYTES[precision] + gemm.OUT_BYTES[precision]) <= room / 4


# --- stacks ---------------------------------------------------------------------------------------------------------


def test_numpy_is_always_there_and_stacks_that_are_not_say_so() -> None:
    assert first_stack()[1].about().kind in ("cpu", "accelerator")
    assert open_stack("numpy").about().name == "numpy"
    with pytest.raises(StackAbsent, match="device 1 of 1"):
        open_stack("numpy", 1)
    with pytest.raises(ValueError, match="'jax' is none of torch, cupy, numpy"):
        open_stack("jax")
    for name in STACKS:
        told = said_by(name)
        assert name in told


def said_by(name: str) -> str:
    """The stack's name for itself, or why it is not here."""
    try:
        return open_stack(name).about().name
    except StackAbsent as absent:
        return str(absent)


def test_numpy_refuses_what_a_processor_has_not() -> None:
    stack, some = Numpy(), np.zeros(4, np.float32)
    acts: list[Callable[[], Any]] = [
        lambda: stack.upload(some), lambda: stack.download(some), lambda: stack.peer(some, 1), lambda: stack.all_reduce(some),
        lambda: stack.join(0, 2, "/nowhere"), lambda: stack.product("fp8", np.zeros((2, 2)), np.zeros((2, 2))),
    ]  # fmt: skip

    for act in acts:
        with pytest.raises(Unsupported):
            act()


@pytest.mark.parametrize("kind", memory.KINDS)
def test_memory_is_moved_and_compared_everywhere(kind: str) -> None:
    moved, where, expected = memory.movement(Numpy(), kind, 100_000, 3)
    assert {0, 99_999} <= set(where.tolist())
    moved.run()
    assert memory.worst(moved.take(where), expected) <= memory.TOLERANCE[kind]
    moved.clear()
    assert memory.worst(moved.take(where), expected) > memory.TOLERANCE[kind]
    assert moved.bytes_moved == {"copy": 2, "triad": 5}[kind] * 400_000


# --- trials ---------------------------------------------------------------------------------------------------------


def test_a_trial_with_numpy_measures_everything_and_its_log_says_the_same() -> None:
    outcome = trial(lambda stack: here(Small(), seed=7))
    document = outcome.document

    assert [(m["name"], m["precision"]) for m in document["measurements"]] == [
        ("gemm", "fp64"),
        ("gemm", "fp32"),
        ("memory_copy", None),
        ("memory_triad", None),
    ]
    for each in document["measurements"]:
        assert each["p10"] <= each["median"] <= each["p90"]
        assert each["value"] == each["median"] > 0
        assert each["repeats"] >= 3
    assert (document["version"], document["seed"], document["problems"]) == (1, 7, [])
    assert document["device"]["uuid"] is None, "a processor is nobody's accelerator"
    assert document["log_sha256"] == sha256(outcome.log)
    assert verify(document, outcome.log) == []
    assert not outcome.wrong


@pytest.mark.parametrize("field", ["value", "median", "p10", "p90", "repeats", "unit", "name", "precision"])
def test_a_changed_figure_is_found(field: str) -> None:
    outcome = trial(lambda stack: here(Small()))
    changed = json.loads(json.dumps(outcome.document))
    value = changed["measurements"][1][field]
    changed["measurements"][1][field] = value * 2 if isinstance(value, int | float) else "fp16"

    assert verify(changed, outcome.log) != []


def test_a_changed_log_is_found_and_what_is_no_log_is_an_error() -> None:
    outcome = trial(lambda stack: here(Small()))
    lines = outcome.log.splitlines(keepends=True)

    assert any("log_sha256" in told for told in verify(outcome.document, b"".join(lines[:-1])))
    assert any("no line" in told for told in verify(outcome.document, outcome.log.replace(b"seconds", b"Seconds")))
    with pytest.raises(ReportInvalid, match="measurements"):
        verify({"log_sha256": ""}, outcome.log)
    lying = json.loads(json.dumps(outcome.document))
    lying["measurements"][0]["log_sha256"] = sha256(lines[0])
    with pytest.raises(ReportInvalid, match="none of a test"):
        verify(lying, outcome.log)


def test_what_a_stack_refuses_is_a_problem_each() -> None:
    outcome = trial(lambda stack: here(Refusing()))

    assert outcome.document["measurements"] == []
    assert outcome.document["problems"] == [
        "gemm fp64: no kernel for fp64",
        "gemm fp32: no kernel for fp32",
        "memory_copy: out of memory",
        "memory_triad: out of memory",
    ]
    assert not outcome.wrong


@pytest.mark.parametrize(
    ("stack", "bad"), [(Lazy, {"gemm fp64", "gemm fp32", "memory_copy"}), (Idle, {"gemm fp64", "gemm fp32"})]
)
def test_a_fast_wrong_answer_is_no_measurement(stack: type[Small], bad: set[str]) -> None:
    outcome = trial(lambda name: here(stack()))

    assert {told.split(":")[0] for told in outcome.document["problems"]} == bad
    assert all("is wrong" in told for told in outcome.document["problems"])
    named = {f"{m['name']} {m['precision'] or ''}".strip() for m in outcome.document["measurements"]}
    assert named.isdisjoint(bad)
    assert outcome.wrong


def test_a_kernel_that_hangs_is_killed_and_the_rest_is_measured() -> None:
    """In real processes; the trial's own clock stands still, so every deadline is the whole time limit."""
    made: list[Worker] = []

    def asked(stack: str) -> Worker:
        name = f"{Hanging.__module__}:{Hanging.__name__}"
        made.append(Worker(name, open_s=0, environment={"PYTHONPATH": str(ROOT)}))
        return made[-1]

    outcome = trial(asked, seconds=4.0)

    assert [m["name"] for m in outcome.document["measurements"]] == ["memory_copy", "memory_triad"]
    assert len(outcome.document["problems"]) == 1
    assert "gemm fp16" in outcome.document["problems"][0]
    assert len(made) == 2, "the lost process is replaced once"


def test_a_lost_rig_is_opened_again_on_the_same_stack() -> None:
    def fails(method: str) -> None:
        if method == "gemm":
            raise DeadlineError("gemm: no answer")

    wanted: list[str] = []

    def asked(stack: str) -> Here:
        wanted.append(stack)
        rig = here(Small())
        rig.before = fails
        return rig

    outcome = trial(asked, stack="auto")

    assert wanted == ["auto", "numpy", "numpy"]
    assert [m["name"] for m in outcome.document["measurements"]] == ["memory_copy", "memory_triad"]


def test_what_no_time_is_left_for_is_said() -> None:
    times = iter([0.0, 0.0, 9.95] + [9.95] * 20)
    outcome = trial(lambda stack: here(Small()), seconds=10.0, clock=lambda: next(times))

    assert [m["precision"] for m in outcome.document["measurements"]] == ["fp64"]
    assert outcome.document["problems"] == [
        f"{title}: no time was left of 10 s" for title in ("gemm fp32", "memory_copy", "memory_triad")
    ]


def test_no_question_waits_longer_than_what_is_left() -> None:
    rig = here(Small())
    trial(lambda stack: rig, seconds=9.0)

    assert [deadline for _, _, deadline in rig.asked] == [9.0, 6.75, 9.0, 9.0, 9.0]
    assert rig.closed == 1


def test_a_stack_that_cannot_be_asked_is_an_error_and_its_process_is_closed() -> None:
    def absent(method: str) -> None:
        raise AdapterError("torch: not installed")

    rig = Here(None, absent)
    with pytest.raises(AdapterError, match="not installed"):
        trial(lambda stack: rig)
    assert rig.closed == 1


def test_progress_is_told_before_each_and_at_the_end() -> None:
    told: list[tuple[int, int, str]] = []
    trial(lambda stack: here(Small()), progress=lambda *what: told.append(what))

    assert told == [(0, 4, "gemm fp64"), (1, 4, "gemm fp32"), (2, 4, "memory_copy"), (3, 4, "memory_triad"), (4, 4, "")]


def test_an_accelerator_s_figures_stand_beside_its_peak() -> None:
    stack = Small(kind="accelerator", device_name="NVIDIA H800", precisions=("fp16", "fp32"))
    outcome = trial(lambda name: here(stack), Target(device=device(), environment={}))
    by_name = {(m["name"], m["precision"]): m for m in outcome.document["measurements"]}
    chip = CATALOG.get("H800")
    assert chip is not None

    assert outcome.document["device"] | {"kind": None} == {
        "uuid": "GPU-0",
        "vendor": "nvidia",
        "model": "H800",
        "model_raw": "NVIDIA H800",
        "kind": None,
    }
    assert by_name["gemm", "fp16"]["peak"] == chip.fp16_tflops
    assert by_name["gemm", "fp16"]["ratio_of_peak"] == significant(
        by_name["gemm", "fp16"]["value"] / chip.fp16_tflops, 4
    )  # type: ignore[operator]
    assert by_name["memory_copy", None]["peak"] == chip.memory_bandwidth_gbs
    assert by_name["gemm", "fp32"]["peak"] is None
    assert {("host_to_device", None), ("device_to_host", None)} <= set(by_name)


def test_a_processor_s_figures_never_carry_the_device_s_name() -> None:
    outcome = trial(lambda name: here(Small()), Target(device=device(), environment={}))

    assert outcome.document["device"]["uuid"] is None
    assert outcome.document["problems"] == ["device: no stack here reaches GPU-0; the processor was measured instead"]


def test_a_stack_that_names_another_model_is_told() -> None:
    named = {"uuid": "GPU-0", "vendor": "nvidia", "model": "H800"}
    about = {"name": "torch", "memory_bytes": 80 << 30}

    assert mismatch(named, {**about, "device_name": "NVIDIA H800"}, CATALOG) == []
    assert mismatch(named, {**about, "device_name": "a name nobody knows"}, CATALOG) == []
    assert mismatch(named, {**about, "device_name": "NVIDIA A10", "memory_bytes": None}, CATALOG) != []


def test_the_dies_of_a_package_share_its_peak() -> None:
    chip = next(one for one in CATALOG if one.dies > 1 and one.fp16_tflops)

    assert peak_of("gemm", "bf16", chip) == chip.fp16_tflops / chip.dies  # type: ignore[operator]
    assert peak_of("gemm", "fp8", chip) is None
    assert peak_of("gemm", "fp16", None) is None
    assert [unit_of("gemm", "int8"), unit_of("gemm", "fp8"), unit_of("memory_copy", None)] == ["TOPS", "TFLOPS", "GB/s"]


def test_a_rate_by_hand() -> None:
    """2·1000³ operations in 1, 2 and 4 ms are 2, 1 and 0.5 TFLOPS."""
    answer = {"size": 1000, "work": 2_000_000_000, "seconds": [0.001, 0.002, 0.004]}
    made = measurement("gemm", "fp16", answer, None, b"line\n")

    assert (made["median"], made["p10"], made["p90"], made["repeats"]) == (1.0, 0.6, 1.8, 3)
    assert made["log_sha256"] == sha256(b"line\n")


def test_links_are_measured_on_accelerators_only() -> None:
    assert [a.title for a in askings({**ACCELERATOR, "kind": "cpu"})] == ["gemm fp16", "memory_copy", "memory_triad"]
    assert [a.title for a in askings(ACCELERATOR)][-2:] == ["host_to_device", "device_to_host"]


# --- which device ---------------------------------------------------------------------------------------------------


def test_devices_are_found_and_chosen_by_uuid() -> None:
    listed, problems = found([Tools(device(0), device(1)), Tools(fails=True), Tools(device(9), available=False)])

    assert [one.uuid for _, one in listed] == ["GPU-0", "GPU-1"]
    assert problems == ["nvidia: the tool crashed"]
    assert [one.uuid for _, one in choose(listed, None)] == ["GPU-0"]
    assert [one.uuid for _, one in choose(listed, "GPU-1")] == ["GPU-1"]
    assert len(choose(listed, "all")) == 2
    assert choose([], None) == []
    with pytest.raises(TargetUnknown, match="'GPU-7' is not on this host; known are GPU-0, GPU-1"):
        choose(listed, "GPU-7")


def test_a_simulated_device_is_never_a_target() -> None:
    listed, _ = found([Tools(device(0, source=Source.SIMULATED))])

    assert listed == []


def test_a_device_that_no_process_can_be_shown_is_told() -> None:
    told: list[str] = []
    listed, _ = found([Tools(device(0), device(1, visible_id=None))])
    made = targets(listed, told.append)

    assert [(t.device.uuid, t.environment) for t in made if t.device] == [("GPU-0", {"CUDA_VISIBLE_DEVICES": "GPU-0"})]
    assert told == ["GPU-1: visible_id: unknown"]


def test_a_group_is_two_or_more_of_a_vendor_in_one_environment() -> None:
    listed, _ = found([Tools(device(0), device(1), device(2, visible_id=None))])

    assert [([d.uuid for d in devices], shown) for devices, shown in together(listed)] == [
        (["GPU-0", "GPU-1"], {"CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1"})
    ]
    assert together(listed[:1]) == []


# --- several devices ------------------------------------------------------------------------------------------------


def test_bus_bandwidth_is_what_each_link_carries() -> None:
    """nccl-tests: 2(n−1)/n of the vector: all of it for two ranks, nearly twice for many."""
    assert collective.bus_bytes(1000, 2) == 1000
    assert collective.bus_bytes(1000, 8) == 1750
    with pytest.raises(ValueError, match="at least 2"):
        collective.bus_bytes(1000, 1)


def test_a_collective_lasts_as_long_as_its_slowest_rank() -> None:
    rigs = [Rank(0.001), Rank(0.004)]
    asked = [Here(rig) for rig in rigs]
    answer = collective.measure(asked, "accelerator", 100.0, lambda: 0.0)

    assert set(answer["seconds"]) == {0.004}
    assert answer["work"] == 256 << 20
    assert answer["inner"] == 5
    assert rigs[0].rounds == rigs[1].rounds, "ranks that disagree wait for ever"
    assert [rig.joined[:2] for rig in rigs] == [(0, 2), (1, 2)]
    assert [one.closed for one in asked] == [1, 1]


def test_a_rank_that_fails_ends_the_collective_and_closes_all() -> None:
    def late(method: str) -> None:
        raise DeadlineError("join: no answer")

    asked = [Here(Rank(0.001)), Here(Rank(0.001), late)]
    with pytest.raises(DeadlineError):
        collective.measure(asked, "accelerator", 100.0, lambda: 0.0)
    assert [one.closed for one in asked] == [1, 1]


class Card(Rank):
    """A device among several: it links, sums and says what it is."""

    def about(self) -> dict[str, Any]:
        return dict(ACCELERATOR)

    def transfer(self, direction: str, other: int, budget_s: float) -> dict[str, Any]:
        if other == 0:
            raise Unsupported("no way to device 0")
        return {"size": 4, "work": 3e9, "inner": 1, "seconds": [0.1, 0.1], "error": 0.0, "tolerance": 0.0, "ok": True}


@pytest.fixture
def cards() -> Iterator[list[Accelerator]]:
    return [device(number) for number in range(3)]


def test_a_group_s_links_and_sum_are_one_document(cards: list[Accelerator]) -> None:
    outcome = measure_group(lambda index: Here(Card(0.01)), cards, seed=1, seconds=60.0, at=AT, clock=lambda: 0.0)
    made = {(m["name"], *m["ends"]): m for m in outcome.document["measurements"]}

    assert outcome.document["device"]["uuids"] == ["GPU-0", "GPU-1", "GPU-2"]
    assert outcome.document["device"]["uuid"] is None
    assert made["device_to_device", "GPU-0", "GPU-1"]["value"] == 30.0
    assert made["all_reduce", "GPU-0", "GPU-1", "GPU-2"]["value"] == significant((256 << 20) * 4 / 3 / 0.01 / 1e9)
    assert outcome.document["problems"] == ["device_to_device GPU-2 GPU-0: no way to device 0"]
    assert verify(outcome.document, outcome.log) == []
    assert not outcome.wrong


def test_a_wrong_sum_is_no_measurement(cards: list[Accelerator]) -> None:
    outcome = measure_group(
        lambda index: Here(Card(0.01, wrong=True)), cards, seed=1, seconds=60.0, at=AT, clock=lambda: 0.0
    )

    assert [m["name"] for m in outcome.document["measurements"]] == ["device_to_device", "device_to_device"]
    assert any(told.startswith("all_reduce") and "wrong" in told for told in outcome.document["problems"])
    assert outcome.wrong
