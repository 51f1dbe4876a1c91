"""Run every benchmark and print one JSON line each; append them to benchmarks/results.jsonl with --record.

A figure is a ratio against a peer or a bound measured in the same run, because machines differ and shared ones vary.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ALL = ("startup", "settle", "journal", "plan_scale", "postings", "settling", "events")
LONG = ("growth", "agent")  # half an hour; a minute and a half


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[*ALL, *LONG, []], help="which ones; if none is named all but growth and agent"
    )
    parser.add_argument("--record", action="store_true", help="append the lines to results.jsonl")
    arguments = parser.parse_args()
    for name in arguments.names or ALL:
        measured = importlib.import_module(f"benchmarks.{name}").measure()
        line = json.dumps({"benchmark": name, "commit": commit(), "machine": machine(), **measured})
        print(line, flush=True)
        if arguments.record:
            with (HERE / "results.jsonl").open("a", encoding="utf-8") as out:
                out.write(line + "\n")
    return 0


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE
    )
    return done.stdout.strip() or "unknown"


def machine() -> str:
    import os

    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
