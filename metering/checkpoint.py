"""Checkpoint: the heads of all chains at one moment, kept in the database and in a file outside it.

A chain alone does not stop someone who rewrites all of it; a head that left the building does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select

from adapters.chain import canonical, digest
from metering.schema import CHAINED as MONEY
from metering.schema import checkpoints
from scheduler.clock import to_ms
from scheduler.journal import head
from scheduler.schema import CHAINED as WORK

STREAMS = {**WORK, **MONEY}


def heads(tx: Connection) -> dict[str, list[Any]]:
    """{stream: [seq, hash]} of every chain now."""
    return {stream: list(head(tx, stream)) for stream in sorted(STREAMS)}


def take(tx: Connection, file: Path | None, now: datetime) -> bool:
    """Record the heads, in the table and as a line of `file`; False when nothing moved since the last one."""
    found = heads(tx)
    text = canonical(found).decode()
    last = tx.execute(select(checkpoints.c.heads).order_by(checkpoints.c.id.desc())).scalar()
    if last == text:
        return False
    tx.execute(insert(checkpoints).values(at_ms=to_ms(now), heads=text, sha256=digest(found)))
    if file is not None:
        _append(file, {"at_ms": to_ms(now), "heads": found, "sha256": digest(found)})
    return True


def read_file(file: Path) -> list[dict[str, Any]]:
    """The checkpoints a file holds; a torn last line (power cut while writing) is left out, a torn earlier one raises."""
    lines = file.read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError:
            if number == len(lines):
                break
            raise ValueError(f"{file}: line {number} is not JSON") from None
    return found


def _append(file: Path, body: Mapping[str, Any]) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, canonical(body) + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
