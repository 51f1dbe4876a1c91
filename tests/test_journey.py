"""The whole journey with real processes: killed twice at random moments, started again on the same data directory."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
YISUAN = Path(sys.executable).parent / "yisuan"
JOBS = ROOT / ".venv-jobs" / "bin"


@pytest.mark.skipif(not JOBS.exists(), reason="the jobs' environment is made by `make test`")
def test_a_platform_killed_twice_loses_no_job_and_runs_none_twice(tmp_path: Path) -> None:
    """kill -9 and start again: every job ends as its file says, each member started once, every law of the audit holds."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    command = [
        YISUAN,
        "demo",
        "--once",
        "-o",
        "json",
        "--data-dir",
        tmp_path / "data",
        "--port",
        str(rng.randrange(20000, 40000)),
    ]
    environment = {**os.environ, "YISUAN_JOB_PATH": f"{JOBS}:/usr/local/bin:/usr/bin:/bin"}
    for _ in range(2):
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(1.0, 7.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)

    assert {job["example"]: (job["state"], job["starts"]) for job in document["jobs"]} == {
        "domestic": ("SUCCEEDED", 1),
        "foreign": ("SUCCEEDED", 1),
        "either": ("SUCCEEDED", 2),
        "waiting": ("SUCCEEDED", 1),
        "failing": ("FAILED", 1),
    }
    assert document["audit"]["ok"], document["audit"]
    origins = {line["origin"] for settlement in document["settlements"] for line in settlement["lines"]}
    assert {"domestic", "foreign"} == origins
    (either,) = [job for job in document["jobs"] if job["example"] == "either"]
    assert either["model"] == "Ascend910B3", "dearer on the list, cheaper after the voucher"
