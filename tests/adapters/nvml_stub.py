"""The stub management library of stubs/nvml/nvml.c, compiled when tests run, and the files that tell it what to be."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parent / "stubs" / "nvml" / "nvml.c"
MIB = 1024 * 1024
H800: Mapping[str, Any] = {
    "name": "NVIDIA H800",
    "serial": "165",
    "vbios": "96.00",
    "pciid": 0x232410DE,
    "total": 81559 * MIB,
    "used": 7 * MIB,
    "util": 42,
    "memutil": 12,
    "power": 410250,
    "limit": 700000,
    "energy": 5_000_000,
    "temp": 55,
    "memtemp": 61,
    "clock": 1755,
    "memclock": 1593,
    "ecc_corr": 3,
    "ecc_unc": 0,
    "rows": 1,
    "rows_pending": 0,
    "rows_failed": 0,
    "throttle": 0x5,
    "numa": 1,
    "links": 8,
    "crc": 2,
    "mig": 0,
    "pid": 4242,
}


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="nvml-stub-")


@functools.cache
def build(prefix: str = "nvml", file: str = "libnvidia-ml.so.1", *, own_pci: bool = False) -> Path:
    """The compiled library, with its calls under `prefix`; a skip that says so where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (gcc or cc) to build the stub library with")
    folder = Path(_folder().name) / prefix
    folder.mkdir(exist_ok=True)
    made = folder / file
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-DPREFIX={prefix}"]
    flags += ["-DOWN_PCI"] if own_pci else []
    subprocess.run([compiler, *flags, "-o", str(made), str(SOURCE)], check=True)
    return made


class Host:
    """A host with devices: what the stub reads at its start, and the control file that it reads at every call."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._profile, self._control = folder / "profile", folder / "control"
        self._control.write_text("", encoding="utf-8")
        monkeypatch.setenv("NVML_STUB_PROFILE", str(self._profile))
        monkeypatch.setenv("NVML_STUB_CONTROL", str(self._control))

    def hold(self, count: int = 2, changes: Mapping[int, Mapping[str, Any]] | None = None) -> None:
        """`count` H800, numbered in uuid and bus address; changes: by number; a value of None leaves the key out."""
        lines = []
        for index in range(count):
            said = {"uuid": f"GPU-{index}", "bdf": f"00000000:{0x1B + index:02X}:00.0", **H800}
            said |= (changes or {}).get(index, {})
            words = [f"{key}={str(value).replace(' ', '_')}" for key, value in said.items() if value is not None]
            lines.append(" ".join(words))
        self._profile.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def tell(self, *commands: str) -> None:
        """What goes wrong from now on, in place of what did."""
        self._control.write_text("\n".join(commands) + "\n", encoding="utf-8")
