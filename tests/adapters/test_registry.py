"""Vendors are found by name and imported when asked for, not before."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from adapters.adapter import Adapter
from adapters.registry import UnknownVendor, load_adapter, vendors

ROOT = Path(__file__).parents[2]


def test_the_registered_vendors_are_those_of_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = project["project"]["entry-points"]["yisuan.vendors"]

    assert {name: entry.value for name, entry in vendors().items()} == declared


def test_every_module_among_the_vendors_is_registered() -> None:
    modules = {path.stem for path in (ROOT / "adapters" / "vendors").glob("*.py")} - {"__init__"}

    assert {entry.module.rsplit(".", 1)[1] for entry in vendors().values()} >= modules


def test_listing_names_imports_no_vendor() -> None:
    script = (
        "import sys; from adapters.registry import vendors; vendors()\n"
        "print(sorted(m for m in sys.modules if m.startswith(('adapters.vendors.', 'pynvml', 'psutil'))))"
    )

    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_an_adapter_is_loaded_fresh_by_name() -> None:
    first, second = load_adapter("simulated"), load_adapter("simulated")

    assert isinstance(first, Adapter)
    assert first is not second


@pytest.mark.parametrize(("name", "said"), [("nvida", "nearest is 'nvidia'"), ("tpu", "registered are amd, ascend")])
def test_an_unknown_vendor_is_refused_with_the_nearest(name: str, said: str) -> None:
    with pytest.raises(UnknownVendor, match=said):
        load_adapter(name)


def test_a_vendor_installed_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownVendor):
        load_adapter("later")
    info = tmp_path / "later-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: later\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[yisuan.vendors]\nlater = adapters.vendors.simulated:Simulated\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert "later" in vendors()
    assert load_adapter("later").vendor == "simulated"
