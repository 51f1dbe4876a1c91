"""How long `yisuan --help` takes beside a bare interpreter: what a person waits for at every command."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RUNS = 9


def measure() -> dict[str, Any]:
    """{help_s, bare_s, ratio}: medians of alternating runs."""
    command = str(Path(sys.executable).parent / "yisuan")
    helped, bare = [], []
    for _ in range(RUNS):
        helped.append(timed([command, "--help"]))
        bare.append(timed([sys.executable, "-c", "pass"]))
    return {
        "help_s": round(statistics.median(helped), 3),
        "bare_s": round(statistics.median(bare), 3),
        "ratio": round(statistics.median(helped) / statistics.median(bare), 1),
    }


def timed(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(arguments, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
