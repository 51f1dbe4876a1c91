"""The page docs/extending.md is executed: each of its files, with its one line, is a working plug-in."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.registry import load_adapter
from metering.case import settle_document
from metering.parameters import load_policies
from metering.rule import load_rules
from scheduler.planner import plan
from scheduler.registry import load_backend_class, load_policy
from tests.platform import Platform, job_text

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
FILES = re.compile(r"```python file=(\S+)\n(.*?)```", re.DOTALL)
ENTRIES = re.compile(r'```toml entry\n\[project\.entry-points\."(\S+)"\]\n(.*?)```', re.DOTALL)


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Path]:
    """The page's files and lines, installed as a distribution of their own."""
    text = PAGE.read_text(encoding="utf-8")
    for name, body in FILES.findall(text):
        (tmp_path / name).write_text(body, encoding="utf-8")
    info = tmp_path / "extension-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extension\nVersion: 1.0\n")
    points = "\n".join(f"[{group}]\n{lines}" for group, lines in ENTRIES.findall(text))
    (info / "entry_points.txt").write_text(points.replace('"', ""))
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))
    for name, _ in FILES.findall(text):
        sys.modules.pop(name.removesuffix(".py"), None)


def test_the_page_shows_one_file_and_one_line_for_each_kind() -> None:
    text = PAGE.read_text(encoding="utf-8")

    assert {"yisuan.vendors", "yisuan.policies", "yisuan.rules", "yisuan.backends"} == {
        g for g, _ in ENTRIES.findall(text)
    }
    assert len(FILES.findall(text)) == 4
    assert all(len(lines.strip().splitlines()) == 1 for _, lines in ENTRIES.findall(text))


def test_the_vendor_of_the_page_reads_its_recording(installed: Path) -> None:
    recording = installed / "devices"
    recording.write_text("0 A1 512\n1 A1 N/A\n")

    reading = load_adapter("acme").parse_recording(recording)
    assert [device.uuid for device in reading.devices] == ["acme:0", "acme:1"]
    assert [sample.memory_used_bytes for sample in reading.samples] == [512 << 20, None]


def test_the_policy_of_the_page_orders_the_plan(installed: Path, platform: Platform) -> None:
    """Two nodes are free and three jobs want one each: the two shortest are launched."""
    from scheduler import view

    for name, limit in (("long", "9h"), ("short", "1h"), ("middle", "2h")):
        platform.submit(name, job_text(name, limit=limit))
    with platform.database.read() as tx:
        snapshot = view.snapshot(tx, platform.clock.now(), platform.budget)

    assert [launch.job for launch in plan(snapshot, load_policy("shortest")).launches] == ["job_short", "job_middle"]


def test_the_rule_of_the_page_excludes_its_model_and_nothing_else(installed: Path) -> None:
    """The pair 03 settles model X1; with the rule registered its line draws nothing and says why."""
    case = (Path(__file__).parent / "cases/settle/03-undetermined-takes-the-foreign-rate.json").read_text()
    out = settle_document(case, load_policies(), load_rules())

    (line,) = out["lines"]
    assert (line["reasons"], line["deduction_fen"], line["clauses"]) == (["MODEL_SUSPENDED"], 0, ["2.1.2"])
    other = settle_document(case.replace('"X1"', '"X2"'), load_policies(), load_rules())
    assert other["totals"]["deduction_fen"] == 299


def test_the_backend_of_the_page_is_driven_by_the_loop(installed: Path, platform: Platform) -> None:
    platform.loop.dispatch.backends = {"local": load_backend_class("instant")()}
    job = platform.submit("a", job_text())
    platform.loop.tick()
    platform.loop.tick()

    assert platform.state(job) == "SUCCEEDED"
