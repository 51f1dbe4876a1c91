"""Overlay: values of a higher level that shadow a policy's own from a date.

Clause 4.3 of etown-2024-10: where national or municipal policy changes during the term, that prevails. One file per
higher notice in `overlays/`; levels and their order are declared in registry.yaml under `precedence`, highest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from metering.parameters import document
from metering.parameters.clauses import read_clauses
from metering.parameters.document import ParameterError
from metering.parameters.policy import AWAITING, Clause, Overlay, Parameter, Row
from metering.parameters.rows import read_parameters

FOLDER = "overlays"
HEAD = ("id", "number", "title_zh", "title_en", "issuer", "level", "zone", "applies_to", "clauses", "values")


def load_overlays(directory: Path, levels: Sequence[str]) -> tuple[Overlay, ...]:
    """Every overlay of the folder of parameters, highest level first, then by id; none without an `overlays` folder.

    Raises ParameterError for a level that registry.yaml does not declare, or two of one level that set one key of one
    policy at the same instant.
    """
    folder = directory / FOLDER
    for file in sorted(folder.glob("*.yml")):
        raise ParameterError(file, "", "would be overlooked; call it .yaml")
    found = [(file, _overlay(file, document.read(file), levels)) for file in sorted(folder.glob("*.yaml"))]
    for index, (file, one) in enumerate(found):
        for _, other in found[:index]:
            _check_apart(file, one, other)
    return tuple(sorted((one for _, one in found), key=lambda one: (levels.index(one.level), one.id)))


def _overlay(file: Path, value: Any, levels: Sequence[str]) -> Overlay:
    head = document.mapping(file, "", value, required=HEAD, optional=("note",))
    words = {name: document.text(file, name, head[name]) for name in HEAD[:7]}
    if words["id"] != file.stem:
        raise ParameterError(file, "id", f"{words['id']!r} in the file {file.name!r}")
    document.choice(file, "level", words["level"], levels)
    try:
        zone = ZoneInfo(words.pop("zone"))
    except (KeyError, ValueError, OSError) as problem:
        raise ParameterError(file, "zone", f"{head['zone']!r} is not a time zone such as 'Asia/Shanghai'") from problem
    clauses = read_clauses(file, "clauses", head["clauses"])
    values = read_parameters(file, "values", head["values"], words["id"], clauses, zone, gaps=True)
    return Overlay(
        **words,
        applies_to=tuple(document.text(file, "applies_to", n) for n in document.sequence(file, "applies_to", head["applies_to"])),
        clauses=MappingProxyType(clauses),
        parameters=MappingProxyType({parameter.key: parameter for parameter in values}),
    )  # fmt: skip


def _check_apart(file: Path, one: Overlay, other: Overlay) -> None:
    if one.level != other.level or not set(one.applies_to) & set(other.applies_to):
        return
    for key in sorted(set(one.parameters) & set(other.parameters)):
        for row in one.parameters[key].rows:
            for old in other.parameters[key].rows:
                if (old.end is None or row.start < old.end) and (row.end is None or old.start < row.end):
                    problem = f"{other.id!r} of the same level {one.level!r} sets it at the same time"
                    raise ParameterError(file, key, problem)


def shadowed(
    folder: Path, own: Mapping[str, Parameter], clauses: Mapping[str, Clause], overlays: Sequence[Overlay]
) -> tuple[dict[str, Parameter], dict[str, Clause]]:
    """The policy's parameters as they hold under the overlays (highest level first), and the clauses they then cite.

    A clause of an overlay is cited as `<overlay>:<number>`. A value awaiting confirmation shadows nothing. Raises
    ParameterError for a key that the policy does not have.
    """
    parameters, cited = dict(own), dict(clauses)
    for overlay in reversed(overlays):  # the highest level last, so that it prevails
        for number, clause in overlay.clauses.items():
            named = f"{overlay.id}:{number}"
            cited[named] = replace(clause, number=named)
        for key, parameter in overlay.parameters.items():
            if key not in parameters:
                raise ParameterError(
                    folder.parent / FOLDER / f"{overlay.id}.yaml", key, f"{folder.name} has no such key"
                )
            rows = parameters[key].rows
            for row in parameter.rows:
                if row.status != AWAITING:
                    cites = tuple(f"{overlay.id}:{number}" for number in row.clauses)
                    rows = _cut(rows, replace(row, clauses=cites))
            parameters[key] = Parameter(key, parameter.unit, rows, parameters[key].set_aside)
    return parameters, cited


def _cut(rows: Sequence[Row], above: Row) -> tuple[Row, ...]:
    """The rows with `above` in the place of whatever they said over its interval."""
    kept = [above]
    for row in rows:
        if row.start < above.start:
            kept.append(replace(row, end=_earlier(row.end, above.start)))
        if above.end is not None and (row.end is None or above.end < row.end):
            kept.append(replace(row, start=max(row.start, above.end)))
    return tuple(sorted(kept, key=lambda row: row.start))


def _earlier(end: datetime | None, bound: datetime) -> datetime:
    return bound if end is None else min(end, bound)
