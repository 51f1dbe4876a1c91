"""The four import names are ours alone, and the registry says what pyproject.toml says."""

from __future__ import annotations

import importlib
import pkgutil
import tomllib
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("adapters", "scheduler", "metering", "api")
GROUPS = {
    "yisuan.vendors": "adapters.vendors",
    "yisuan.policies": "scheduler.policies",
    "yisuan.rules": "metering.rules",
    "yisuan.backends": "scheduler.backends",
}


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_provides_our_import_name(name: str) -> None:
    """pip merges packages of one name silently; then half of `scheduler` would be somebody else's."""
    assert set(packages_distributions().get(name, [])) <= {"yisuan"}


def test_installed_entry_points_are_those_of_pyproject() -> None:
    """Editing the table is invisible to an editable install until `pip install -e .` is run again."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]

    for group, points in table.items():
        installed = {p.name: p.value for p in entry_points(group=group) if p.dist and p.dist.name == "yisuan"}
        assert points == installed, "run: pip install -e ."


@pytest.mark.parametrize(("group", "package"), GROUPS.items())
def test_every_module_of_a_plug_in_folder_is_registered_and_loads(group: str, package: str) -> None:
    """A file nobody registered is dead; a registration that does not import is worse."""
    points = {point.name: point for point in entry_points(group=group)}
    folder = importlib.import_module(package)
    modules = {module.name for module in pkgutil.iter_modules(folder.__path__)}
    registered = {point.module.rsplit(".", 1)[1] for point in points.values() if point.module.startswith(package)}

    assert registered <= modules
    parts = {
        name for name in modules - registered if name.rsplit("_", 1)[0] in points
    }  # kubernetes_api is of kubernetes
    assert modules - registered - parts <= {"shim", "confinement"}, "what members run beside is not a plug-in"
    for point in points.values():
        assert point.load() is not None
