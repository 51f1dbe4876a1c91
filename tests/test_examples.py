"""The example jobs learn, resume, and learn nothing where there is nothing to learn."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from scheduler.admission import unsupported
from scheduler.jobfile import parse_job

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / ".venv-jobs" / "bin" / "python"
needs_environment = pytest.mark.skipif(not PYTHON.exists(), reason="the jobs' environment is made by `make test`")


def train(directory: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [PYTHON, ROOT / "examples" / "train.py", *arguments],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def accuracies(output: str) -> list[float]:
    return [float(found) for found in re.findall(r"epoch \d+ loss [\d.]+ accuracy ([\d.]+)", output)]


@needs_environment
def test_training_learns_visibly(tmp_path: Path) -> None:
    """Loss falls, accuracy on digits it has not seen passes 90 %."""
    code, output = train(tmp_path, "--epochs", "12")
    losses = [float(found) for found in re.findall(r"loss ([\d.]+)", output)]

    assert code == 0, output
    assert losses[-1] < losses[0] / 3
    assert accuracies(output)[-1] > 0.9


@needs_environment
def test_with_shuffled_labels_accuracy_falls_to_chance(tmp_path: Path) -> None:
    """Ten classes: chance is 10 %. Anything better would mean that the test digits leak into training."""
    _, output = train(tmp_path, "--epochs", "12", "--shuffle-labels")

    assert 0.04 < accuracies(output)[-1] < 0.16


@needs_environment
def test_training_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    train(tmp_path, "--epochs", "3")
    _, output = train(tmp_path, "--epochs", "5")

    assert "resumed from epoch 3" in output
    assert len(accuracies(output)) == 2
    assert len((tmp_path / "starts.log").read_text().splitlines()) == 2


@needs_environment
def test_the_failing_example_fails_with_its_own_code(tmp_path: Path) -> None:
    code, output = train(tmp_path, "--epochs", "9", "--fail-at", "2")

    assert code == 3
    assert len(accuracies(output)) == 2


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_a_valid_job_file(path: Path) -> None:
    assert unsupported(parse_job(path.read_text(encoding="utf-8"))) == ()
