"""Package: a lease as the files that its Ray job starts from. Pure but for reading our own two programs.

A zip of driver.py, lease.json, shim.py and confinement.py, the same bytes for the same lease, so that its name can be
its hash and a repeated upload changes nothing. The job's environment is in it, not in the job's entry, which everybody
who lists jobs reads.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.catalog import load_catalog
from scheduler.job import Variant
from scheduler.lease import GRACE_MS, Lease, Member

HERE = Path(__file__).resolve().parent
PROGRAMS = {"driver.py": "ray_driver.py", "shim.py": "shim.py", "confinement.py": "confinement.py"}
NOT_RUN = 126  # POSIX sh: found, but cannot be executed
PORTS = range(20_000, 40_000)  # MASTER_PORT: above the registered services, mostly below Linux's ephemeral ports
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can say


def packed(
    lease: Lease,
    submission: str,
    nodes: Mapping[int, str],
    resources: Mapping[int, Mapping[str, float]],
    stop: str,
    work: str,
    path: str | None,
    start_timeout_ms: int,
) -> tuple[str, bytes]:
    """Name and bytes of the package. nodes, resources: per rank, the Ray node's name and what is taken of it.

    stop: the name under which a stop request would be uploaded.
    """
    checkpoint = lease.spec.checkpoint
    stopping = {
        "signal": checkpoint.signal if checkpoint else None,
        "grace_ms": checkpoint.grace_ms if checkpoint and checkpoint.grace_ms is not None else GRACE_MS,
    }
    folder = Path(work) / lease.job
    body = {
        "lease": lease.id,
        "submission": submission,
        "stop": f"gcs://{stop}",
        "stopping": stopping,
        "start_timeout_ms": start_timeout_ms,
        "spec": {
            "command": command_of(lease),
            "setup": lease.spec.setup,
            "work": str(folder),
            "private": [],
            "confinement": "none",
            "uid": None,
            "time_limit_ms": lease.spec.time_limit_ms,
            **stopping,
        },
        "members": [
            {
                "rank": member.rank,
                "node": nodes[member.rank],
                "resources": dict(resources[member.rank]),
                "env": environment(lease, member, folder, path),
            }
            for member in lease.placement.members
        ],
    }
    content = _zip({name: (HERE / file).read_bytes() for name, file in PROGRAMS.items()}, body)
    return f"yisuan-{hashlib.sha256(content).hexdigest()}.zip", content


def command_of(lease: Lease) -> str:
    """What the placed model's software stack runs, else the entrypoint, else a line that says there is neither."""
    variant = _variant(lease)
    missing = f"echo no entrypoint, and no variant for {shlex.quote(lease.placement.model)} >&2; exit {NOT_RUN}"
    return (variant.run if variant else None) or lease.spec.entrypoint or missing


def environment(lease: Lease, member: Member, work: Path, path: str | None) -> dict[str, str]:
    """What is added to the node's own environment; MASTER_ADDR is the driver's to say. path: None = the node's PATH.

    The names are those of members on the platform's own host (local.py), and NODE_RANK.
    """
    chip, variant, checkpoint = load_catalog().get(lease.placement.model), _variant(lease), lease.spec.checkpoint
    rank, world = str(member.rank), str(len(lease.placement.members))
    found = {
        **({"PATH": path} if path else {}),
        "HOME": str(work),
        "TMPDIR": str(work / "tmp"),
        "LANG": "C.UTF-8",
        "USER": "job",
        "LOGNAME": "job",
        **lease.spec.envs,
        **(variant.envs if variant else {}),
        **lease.visibility.get(member.rank, {}),
        "YISUAN_JOB": lease.job,
        "YISUAN_LEASE": lease.id,
        "YISUAN_MODEL": lease.placement.model,
        "YISUAN_DEVICES": str(len(member.devices)),
        "YISUAN_RANK": rank,
        "YISUAN_WORLD_SIZE": world,
        "YISUAN_PROGRESS": str(work / f"progress-{lease.id}.json"),
        "RANK": rank,
        "WORLD_SIZE": world,
        "NODE_RANK": rank,
        "LOCAL_RANK": "0",
        "MASTER_PORT": str(PORTS[zlib.crc32(lease.id.encode()) % len(PORTS)]),
    }
    if chip is not None:
        found["YISUAN_VENDOR"] = chip.vendor
    if checkpoint is not None:
        found["YISUAN_CHECKPOINT"] = os.path.normpath(work / checkpoint.path)
        if checkpoint.interval_ms is not None:
            found["YISUAN_CHECKPOINT_INTERVAL_S"] = str(checkpoint.interval_ms // 1000)
    return found


def _variant(lease: Lease) -> Variant | None:
    chip = load_catalog().get(lease.placement.model)
    return lease.spec.variants.get(chip.stack) if chip else None


def _zip(programs: Mapping[str, bytes], body: Mapping[str, Any]) -> bytes:
    files = {**programs, "lease.json": json.dumps(body, sort_keys=True).encode()}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o600 << 16
            archive.writestr(entry, files[name])
    return made.getvalue()
