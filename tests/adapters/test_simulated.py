"""Simulated devices read what the real processes that hold them use, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.accelerator import EvidenceLevel, Source
from adapters.adapter import AdapterError
from adapters.assignment import Assignment, remove_assignment, write_assignment
from adapters.catalog import load_catalog
from adapters.reading import reading_document
from adapters.vendors.simulated import VARIABLES, Declaration, Simulated
from tests.adapters.recorded import AT

TWO = (Declaration(node="n1", model="H800", count=1), Declaration(node="n1", model="Ascend910B3", count=1))
BUSY = "import time\nwhile True: pass"
IDLE = "import time; time.sleep(60)"


@pytest.fixture
def child(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", request.param])
    yield process
    process.kill()
    process.wait()


def test_a_declared_device_is_marked_simulated_and_takes_its_figures_from_the_catalogue() -> None:
    first, second = Simulated(TWO).inventory()

    assert (first.uuid, first.model, first.vendor) == ("sim:n1:0", "H800", "nvidia")
    assert (second.uuid, second.model, second.vendor) == ("sim:n1:1", "Ascend910B3", "ascend")
    assert (first.source, first.evidence_level) == (Source.SIMULATED, EvidenceLevel.DECLARED)
    assert second.memory_total_bytes == 64 * 2**30


def test_nothing_declared_is_not_available() -> None:
    probe = Simulated().probe()

    assert (probe.available, probe.reason) == (False, "no simulated devices declared")
    assert Simulated().inventory() == ()


def test_an_unknown_model_is_refused_with_the_nearest_key() -> None:
    with pytest.raises(AdapterError, match="'H8O0' is not in the catalogue; nearest is 'H800'"):
        Simulated([Declaration(node="n1", model="H8O0", count=1)])


def test_without_assignments_nobody_knows_and_the_readings_are_unknown(tmp_path: Path) -> None:
    for adapter in (Simulated(TWO), Simulated(TWO, assignments_dir=tmp_path / "absent")):
        assert {sample.utilisation_ratio for sample in adapter.samples()} == {None}
        assert {sample.memory_used_bytes for sample in adapter.samples()} == {None}


def test_a_device_that_no_assignment_holds_is_really_idle(tmp_path: Path) -> None:
    samples = Simulated(TWO, assignments_dir=tmp_path, clock=lambda: AT).samples()

    assert [(sample.utilisation_ratio, sample.memory_used_bytes) for sample in samples] == [(0.0, 0)] * 2
    assert {sample.power_watts for sample in samples} == {None}
    assert {sample.utilisation_semantics for sample in samples} == {"process CPU time"}


@pytest.mark.parametrize("child", [BUSY], indirect=True)
def test_readings_move_with_a_busy_process_and_stop_with_it(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    adapter = Simulated(TWO, assignments_dir=tmp_path)
    write_assignment(tmp_path, Assignment(allocation="a", devices=("sim:n1:0",), pids=(child.pid,)))
    adapter.samples()
    time.sleep(0.5)

    held, free = adapter.samples()

    assert held.utilisation_ratio is not None
    assert 0.05 < held.utilisation_ratio <= 1.0  # other programs share this host
    assert (held.memory_used_bytes or 0) > 2**20
    assert free.utilisation_ratio == 0.0

    child.kill()
    child.wait()
    gone = adapter.samples()[0]
    assert (gone.utilisation_ratio, gone.memory_used_bytes) == (None, None)
    assert "a: " in (gone.raw_error or "")

    remove_assignment(tmp_path, "a")
    assert adapter.samples()[0].utilisation_ratio == 0.0


@pytest.mark.parametrize("child", [IDLE], indirect=True)
def test_a_sleeping_holder_uses_memory_and_almost_no_time(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    adapter = Simulated(TWO, assignments_dir=tmp_path)
    both = ("sim:n1:0", "sim:n1:1")
    write_assignment(tmp_path, Assignment(allocation="a", devices=both, pids=(child.pid,)))
    time.sleep(0.3)
    adapter.samples()
    time.sleep(0.3)

    first, second = adapter.samples()

    assert first.utilisation_ratio is not None
    assert first.utilisation_ratio < 0.2
    assert first.memory_used_bytes == second.memory_used_bytes
    assert (first.memory_used_bytes or 0) > 2**20


def test_an_assignment_without_processes_is_unknown_not_idle(tmp_path: Path) -> None:
    write_assignment(tmp_path, Assignment(allocation="a", devices=("sim:n1:0",)))

    held, free = Simulated(TWO, assignments_dir=tmp_path).samples()

    assert held.utilisation_ratio is None
    assert free.utilisation_ratio == 0.0


def test_an_unreadable_assignment_makes_every_reading_unknown(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")

    samples = Simulated(TWO, assignments_dir=tmp_path).samples()

    assert {sample.utilisation_ratio for sample in samples} == {None}
    assert all("not JSON" in (sample.raw_error or "") for sample in samples)


def test_a_job_sees_the_variables_of_the_modelled_stack() -> None:
    first, second = Simulated(TWO).inventory()

    assert Simulated().visibility([first]) == {
        "YISUAN_VISIBLE_DEVICES": "0",
        "CUDA_VISIBLE_DEVICES": "0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert Simulated().visibility([second]) == {
        "YISUAN_VISIBLE_DEVICES": "1",
        "ASCEND_RT_VISIBLE_DEVICES": "1",
    }


def test_every_variable_belongs_to_a_stack_of_the_catalogue() -> None:
    assert set(VARIABLES) <= {chip.stack for chip in load_catalog()}


def test_a_declaration_file_reads_as_devices_without_samples(tmp_path: Path) -> None:
    path = tmp_path / "declared.json"
    path.write_text(json.dumps({"version": 1, "devices": [{"node": "n", "model": "MLU590", "count": 2}]}))

    document = reading_document(Simulated().parse_recording(path), load_catalog())

    assert [device["uuid"] for device in document["devices"]] == ["sim:n:0", "sim:n:1"]
    assert document["devices"][0]["origin"] == "domestic"
    assert document["samples"] == []


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"version": 1}',
        '{"version": 1, "devices": [{"node": "n", "model": "H800", "count": true}]}',
        '{"version": 1, "devices": [{"node": "n", "model": "H800", "count": 0}]}',
        '{"version": 1, "devices": [{"node": "n", "model": "H800", "count": 1, "x": 1}]}',
    ],
)
def test_a_malformed_declaration_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "declared.json"
    path.write_text(text)

    with pytest.raises(AdapterError):
        Simulated().parse_recording(path)
