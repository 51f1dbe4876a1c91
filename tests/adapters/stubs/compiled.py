"""Stub libraries compiled when tests run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent


def compile_stub(source: str, library: Path) -> Path:
    """The library made of `stubs/<source>`; a skip that says so where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc, clang) on the path; the stub library cannot be built")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(SOURCES / source)],
        check=True,
        timeout=60,
    )
    return library
