"""Binding: devices read one by one through a vendor's library that lives where it may hang (deadline.py).

The reader behind `ask` has `keys()`, which names every device it counts, and `read(key)`, which gives fields of a Row
as plain JSON values. A device that
does not answer, or fails, is listed as failed under the name it had when it last answered, and hides no other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from adapters.accelerator import Health, Partition, PartitionKind, Source
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.deadline import DeadlineError
from adapters.row import Row, assemble, name_device

SYSTEM_FOLDERS = ("/usr/lib64", "/usr/lib", "/usr/local/lib64", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu")
_FIELDS = frozenset(one.name for one in fields(Row)) - {"partition", "health", "problems", "throttled", "index"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One vendor's library: its file, where it lies beside the system's folders, and our reader of it.

    target: `module:Class` of the reader, whose only argument is `library`, the file's path.
    """

    file: str
    folders: tuple[str, ...]
    target: str
    semantics: str


class Asker(Protocol):
    """Gives a reader's answers, within a deadline; AdapterError with its words when there is none."""

    def ask(self, method: str, *arguments: Any, deadline_s: float | None = None) -> Any: ...


def find_library(name: str, folders: Sequence[str] = ()) -> str | None:
    """The first file of this name in LD_LIBRARY_PATH, the vendor's folders and the system's; None without one.

    Nothing is loaded: a library may hang when it is.
    """
    searched = [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), *folders, *SYSTEM_FOLDERS]
    return next((str(path) for folder in searched if folder and (path := Path(folder, name)).is_file()), None)


HUNG = timedelta(minutes=1)  # a device that hung is left alone so long; the others are read without waiting for it
MOST_HUNG = 4  # in one round: each costs its deadline, and a driver that hangs so often hangs altogether
SPLIT = "the device is split; jobs get its parts"


@dataclass(slots=True)
class Memory:
    """What is kept of a library's devices between two rounds: their last rows, and when they hung, by key."""

    rows: dict[str, Row] = field(default_factory=dict)
    hung: dict[str, datetime] = field(default_factory=dict)


def read_library(
    library: Asker, memory: Memory, at: datetime, catalog: Catalog, *, vendor: str, semantics: str
) -> Reading:
    """Every device the library counts, with a sample of each. AdapterError when they cannot be counted.

    memory is kept up to date here, so that a lost device keeps its name, and one that hung is not waited for at once
    again. A device that was there and is no longer counted is a problem of the reading.
    """
    keys = [str(key) for key in library.ask("keys")]
    rows: list[Row] = []
    late = 0
    for position, key in enumerate(keys):
        told: Mapping[str, Any] = {}
        try:
            if key in memory.hung and timedelta() <= at - memory.hung[key] < HUNG:
                raise AdapterError("it gave no answer a moment ago, and is left alone for a minute")
            if late >= MOST_HUNG:
                raise AdapterError(f"{late} others gave no answer just now; it was not asked")
            said = library.ask("read", key)
            told = said if isinstance(said, dict) else {}
            row = memory.rows[key] = read_row(told, position)
            memory.hung.pop(key, None)
        except DeadlineError as error:
            late, memory.hung[key] = late + 1, at
            row = _lost(position, memory.rows.get(key), str(error))
        except AdapterError as error:
            row = _lost(position, memory.rows.get(key), str(error))
        parts = _parts(row, vendor, told)
        rows += [replace(row, visible_id=None, problems=(*row.problems, SPLIT)) if parts else row, *parts]
    gone = [name_device(vendor, row) for key, row in sorted(memory.rows.items()) if key not in keys]
    problems = [f"{name} was here and is no longer counted: it was removed, or its driver lost it" for name in gone]
    return assemble(
        _packaged(rows, vendor),
        at,
        catalog,
        vendor=vendor,
        semantics=semantics,
        source=Source.LIBRARY,
        problems=problems,
    )


def read_row(told: Mapping[str, Any], number: int) -> Row:
    """The fields that a reader gave, as a Row; what is None or no field of it is left out."""
    held = {name: value for name, value in told.items() if name in _FIELDS and value is not None}
    throttled = told.get("throttled")
    index = told.get("index")
    row = Row(index=number if index is None else int(index), **held)
    return replace(
        row,
        visible_id=held.get("visible_id", str(row.index)),
        health=next((one for one in Health if one.value == told.get("health")), Health.UNKNOWN),
        problems=tuple(str(problem) for problem in told.get("problems", ())),
        throttled=tuple(str(word) for word in throttled) if isinstance(throttled, list) else None,
    )


def _lost(number: int, last: Row | None, error: str) -> Row:
    """Nothing can run on a device that does not answer."""
    named = (
        Row(index=number)
        if last is None
        else Row(
            index=last.index,
            name=last.name,
            uuid=last.uuid,
            bdf=last.bdf,
            serial=last.serial,
            driver=last.driver,
            total=last.total,
            package_id=last.package_id,
        )
    )
    return replace(named, health=Health.FAILED, problems=(f"the library cannot read it: {error}",), raw_error=error)


def _parts(row: Row, vendor: str, told: Mapping[str, Any]) -> list[Row]:
    """The partitions that a reader names in `parts`: id, profile, kind, total."""
    parent = name_device(vendor, row)
    found = []
    for part in told.get("parts", ()):
        kind = PartitionKind(part["kind"])
        found.append(
            Row(
                index=int(part["id"]),
                name=row.name,
                uuid=f"{parent}/{kind.value}{part['id']}",
                bdf=row.bdf,
                driver=row.driver,
                total=part.get("total"),
                sampled=False,
                partition=Partition(kind=kind, parent_uuid=parent, profile=part.get("profile")),
            )
        )
    return found


def _packaged(rows: Sequence[Row], vendor: str) -> list[Row]:
    """package_id is the reader's own number of the card until here: dies of one card share their first die's name."""
    first: dict[str, str] = {}
    whole = [row for row in rows if row.partition is None]
    for row in whole:
        if row.package_id is not None:
            first.setdefault(row.package_id, name_device(vendor, row))
    counted = {card: sum(row.package_id == card for row in whole) for card in first}
    return [
        replace(row, package_id=first[row.package_id] if counted[row.package_id] > 1 else None)
        if row.package_id is not None
        else row
        for row in rows
    ]
