"""Assignment: the file in which the backend tells the agent which processes hold which devices.

One `<allocation>.json` per allocation, replaced whole. The agent knows devices and opaque ids, nothing of
jobs.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters.adapter import AdapterError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_KEYS = ("version", "allocation", "devices", "share_permille", "pids", "cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Devices in use by one allocation on this node.

    allocation: an opaque id, also the file's name. devices: uuids. share_permille: 1..1000 of each device.
    pids: the roots of its process trees, host numbers; empty when not known. cgroup: None when it has none.
    """

    allocation: str
    devices: tuple[str, ...]
    share_permille: int = 1000
    pids: tuple[int, ...] = ()
    cgroup: str | None = None


def read_assignments(directory: Path) -> tuple[Assignment, ...]:
    """Every assignment in the directory, in name order; () when the directory does not exist.

    AdapterError names a file that is not an assignment. A file that goes while we read is no longer an
    assignment.
    """
    found, unread = scan_assignments(directory)
    for problem in unread.values():
        raise problem
    return found


def scan_assignments(directory: Path) -> tuple[tuple[Assignment, ...], dict[str, AdapterError]]:
    """(assignments in name order, why each other file could not be read by the allocation it is named for).

    One spoiled file hides no other.
    """
    found, unread = [], {}
    for path in sorted(directory.glob("*.json")):
        try:
            found.append(_parse(path.read_text(encoding="utf-8"), path))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            problem = AdapterError(f"{path}: cannot be read: {error}")
            problem.__cause__ = error
            unread[path.stem] = problem
        except AdapterError as problem:
            unread[path.stem] = problem
    return tuple(found), unread


def write_assignment(directory: Path, assignment: Assignment) -> None:
    """The assignment is on disk, whole: a reader sees the old file or the new one.

    ValueError if it is unfit.
    """
    problem = _problem(assignment)
    if problem:
        raise ValueError(problem)
    directory.mkdir(parents=True, exist_ok=True)
    body = json.dumps({"version": 1, **asdict(assignment)}, ensure_ascii=False, sort_keys=True)
    handle, draft = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=directory)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(body + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(_path(directory, assignment.allocation))
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def remove_assignment(directory: Path, allocation: str) -> None:
    """The allocation holds nothing any more. Removing it again changes nothing."""
    _path(directory, allocation).unlink(missing_ok=True)


def _path(directory: Path, allocation: str) -> Path:
    if not _NAME.fullmatch(allocation):
        raise ValueError(f"allocation: {allocation!r} cannot name a file; use letters, digits, _ . and -")
    return directory / f"{allocation}.json"


def _parse(text: str, path: Path) -> Assignment:
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: not JSON: {error}") from error
    if not isinstance(body, dict) or body.get("version") != 1 or set(body) - set(_KEYS):
        raise AdapterError(f"{path}: not an assignment of version 1 with keys {', '.join(_KEYS)}")
    if not isinstance(body.get("devices"), list) or not isinstance(body.get("pids", []), list):
        raise AdapterError(f"{path}: devices and pids must be lists")
    found = Assignment(
        allocation=body.get("allocation", ""),
        devices=tuple(body["devices"]),
        share_permille=body.get("share_permille", 1000),
        pids=tuple(body.get("pids", [])),
        cgroup=body.get("cgroup"),
    )
    problem = _problem(found)
    if not problem and found.allocation != path.stem:
        problem = f"allocation: {found.allocation!r} is not the file's name"
    if problem:
        raise AdapterError(f"{path}: {problem}")
    return found


def _problem(found: Assignment) -> str | None:
    if not isinstance(found.allocation, str) or not _NAME.fullmatch(found.allocation):
        return f"allocation: {found.allocation!r} cannot name a file; use letters, digits, _ . and -"
    if not found.devices or not all(isinstance(uuid, str) and uuid for uuid in found.devices):
        return f"devices: {found.devices!r} is not a non-empty list of uuids"
    if len(set(found.devices)) != len(found.devices):
        return f"devices: {found.devices!r} names a device twice"
    if type(found.share_permille) is not int or not 1 <= found.share_permille <= 1000:
        return f"share_permille: {found.share_permille!r} is not a whole number from 1 to 1000"
    if not all(type(pid) is int and pid > 0 for pid in found.pids):
        return f"pids: {found.pids!r} holds other than positive whole numbers"
    if found.cgroup is not None and not isinstance(found.cgroup, str):
        return f"cgroup: {found.cgroup!r} is not a text"
    return None
