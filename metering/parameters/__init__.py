"""Parameters: policies as dated data, and the loader that refuses data it cannot trust.

A folder of parameters has `registry.yaml`, one folder per policy, `origin/register.yaml`, and what a higher level
fixes in `overlays/*.yaml`. A policy's folder has `policy.yaml`, `clauses.yaml`, `interpretations.yaml`,
`notices.yaml`, worked cases in `cases.yaml`, and its values in every other `*.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from adapters.chain import digest
from metering.facts import Interval, Timeline, timeline
from metering.parameters import document
from metering.parameters.clauses import read_clauses
from metering.parameters.document import ParameterError
from metering.parameters.origin import OriginRegister, OriginRow, load_origin_register
from metering.parameters.overlay import load_overlays, shadowed
from metering.parameters.policy import (
    FIRM_CAP,
    IN_FORCE,
    POOL,
    RATE_DOMESTIC,
    RATE_FOREIGN,
    Clause,
    Interpretation,
    Notice,
    Overlay,
    Parameter,
    Policy,
    Registry,
    Row,
    UnknownParameter,
    UnknownPolicy,
)
from metering.parameters.rows import read_parameters
from metering.year import local_year, year_start

__all__ = [
    "Clause",
    "Interpretation",
    "Notice",
    "OriginRegister",
    "OriginRow",
    "Overlay",
    "Parameter",
    "ParameterError",
    "Policy",
    "Registry",
    "Row",
    "UnknownParameter",
    "UnknownPolicy",
    "load_origin_register",
    "load_policies",
]

HERE = Path(__file__).parent
STATUSES = ("active", "awaiting_confirmation", "superseded")
NAMED = ("policy", "clauses", "interpretations", "notices")
CASES = "cases"  # examples: read by tests, no part of what settles
NEEDED = (IN_FORCE, RATE_DOMESTIC, RATE_FOREIGN, POOL, FIRM_CAP)


def load_policies(directory: Path | None = None) -> Registry:
    """Every policy in the folder; the shipped ones without an argument.

    directory: a folder of parameters, or the folder of one policy, whose status is then the one it has here
    (active if it is not known here). Raises ParameterError, naming file, key and value, for anything missing,
    unknown or wrong.
    """
    if directory is None:
        return _registered(HERE)
    if (directory / "registry.yaml").is_file():
        return _registered(directory)
    if (directory / "policy.yaml").is_file():
        registered = (directory.parent / "registry.yaml").is_file()
        overlays = load_overlays(directory.parent, _levels(directory.parent)) if registered else ()
        policy = _policy(directory, None, overlays)
        return Registry(MappingProxyType({policy.id: policy}), overlays)
    raise ParameterError(directory, "", "holds neither registry.yaml nor policy.yaml")


def _registered(directory: Path) -> Registry:
    listed = _listed(directory)
    overlays = load_overlays(directory, _levels(directory))
    for overlay in overlays:
        for name in overlay.applies_to:
            document.choice(directory / "overlays" / f"{overlay.id}.yaml", "applies_to", name, listed)
    found = {}
    for name, status in listed.items():
        found[name] = _policy(directory / name, status, overlays)
    for folder in sorted(path.parent for path in directory.glob("*/policy.yaml")):
        if folder.name not in found:
            raise ParameterError(directory / "registry.yaml", "policies", f"folder {folder.name!r} is not listed")
    return Registry(MappingProxyType(found), overlays)


def _levels(directory: Path) -> tuple[str, ...]:
    """The levels above the zone, highest first, as registry.yaml declares them."""
    file = directory / "registry.yaml"
    levels = _head(file).get("precedence", [])
    if levels == []:
        return ()
    return tuple(document.text(file, "precedence", level) for level in document.sequence(file, "precedence", levels))


def _head(file: Path) -> dict[str, Any]:
    return document.mapping(file, "", document.read(file), required=("policies",), optional=("precedence",))


def _listed(directory: Path) -> dict[str, str]:
    file = directory / "registry.yaml"
    head = _head(file)
    listed: dict[str, str] = {}
    for index, item in enumerate(document.sequence(file, "policies", head["policies"])):
        where = f"policies[{index}]"
        document.mapping(file, where, item, required=("id", "status"), optional=("note",))
        name = document.text(file, f"{where}.id", item["id"])
        if name in listed:
            raise ParameterError(file, f"{where}.id", f"{name!r} is listed twice")
        listed[name] = document.choice(file, f"{where}.status", item["status"], STATUSES)
    return listed


def _policy(folder: Path, status: str | None, overlays: Sequence[Overlay]) -> Policy:
    files = _files(folder)
    contents = {file.stem: document.read(file) for file in files}
    file = folder / "policy.yaml"
    head = document.mapping(
        file,
        "",
        contents["policy"],
        required=("id", "number", "title_zh", "title_en", "issuer", "zone", "text_sha256"),
        optional=("note",),
    )
    name = document.text(file, "id", head["id"])
    if status is None:
        status = _listed(HERE).get(name, "active")
    elif name != folder.name:
        raise ParameterError(file, "id", f"{name!r} in the folder {folder.name!r}")
    zone = _zone(file, head["zone"])
    clauses = read_clauses(folder / "clauses.yaml", "", contents["clauses"])
    own: dict[str, Parameter] = {}
    for file in files:
        if file.stem not in NAMED:
            for parameter in read_parameters(file, "", contents[file.stem], name, clauses, zone):
                if parameter.key in own:
                    raise ParameterError(file, parameter.key, "is defined twice in this policy")
                own[parameter.key] = parameter
    above = tuple(overlay for overlay in overlays if name in overlay.applies_to)
    parameters, clauses = shadowed(folder, own, clauses, above)
    in_force, years = _term(folder, status, parameters, zone)
    policy_file = folder / "policy.yaml"
    return Policy(
        id=name,
        number=document.text(policy_file, "number", head["number"]),
        title_zh=document.text(policy_file, "title_zh", head["title_zh"]),
        title_en=document.text(policy_file, "title_en", head["title_en"]),
        status=status,
        zone=zone,
        text_sha256=_text_sha256(policy_file, head["text_sha256"], status),
        issuer=document.text(policy_file, "issuer", head["issuer"]),
        parameters=MappingProxyType(parameters),
        own=MappingProxyType(own),
        overlays=above,
        clauses=MappingProxyType(clauses),
        interpretations=_interpretations(folder / "interpretations.yaml", contents["interpretations"], clauses),
        notices=_notices(folder / "notices.yaml", contents["notices"], zone),
        in_force=in_force,
        years=years,
        pool_fen=_by_year(parameters[POOL], years, zone),
        firm_cap_fen=_by_year(parameters[FIRM_CAP], years, zone),
        bundle_sha256=_bundle_sha256(folder, contents, above),
    )


def _files(folder: Path) -> list[Path]:
    if not (folder / "policy.yaml").is_file():
        raise ParameterError(folder, "", "has no policy.yaml")
    for file in sorted(folder.glob("*.yml")):
        raise ParameterError(file, "", "would be overlooked; call it .yaml")
    for name in NAMED:
        if not (folder / f"{name}.yaml").is_file():
            raise ParameterError(folder / f"{name}.yaml", "", "is missing")
    return [file for file in sorted(folder.glob("*.yaml")) if file.stem != CASES]


def _zone(file: Path, value: Any) -> ZoneInfo:
    try:
        return ZoneInfo(document.text(file, "zone", value))
    except (KeyError, ValueError, OSError) as problem:
        raise ParameterError(file, "zone", f"{value!r} is not a time zone such as 'Asia/Shanghai'") from problem


def _text_sha256(file: Path, value: Any, status: str) -> str | None:
    if value is None and status != "active":
        return None
    found = document.text(file, "text_sha256", value)
    if len(found) != 64 or set(found) - set("0123456789abcdef"):
        raise ParameterError(file, "text_sha256", f"{value!r} is not 64 hexadecimal digits")
    return found


def _interpretations(file: Path, value: Any, clauses: Mapping[str, Clause]) -> tuple[Interpretation, ...]:
    found = []
    words = ("id", "question_zh", "question_en", "chosen", "decided_on", "decided_by")
    for index, item in enumerate(document.sequence(file, "", value)):
        where = f"[{index}]"
        document.mapping(file, where, item, required=(*words, "options", "clauses"), optional=("note",))
        said = {word: document.text(file, f"{where}.{word}", item[word]) for word in words}
        document.day(file, f"{where}.decided_on", item["decided_on"])
        options = tuple(
            document.text(file, f"{where}.options", o) for o in document.sequence(file, where, item["options"])
        )
        document.choice(file, f"{where}.chosen", item["chosen"], options)
        cited = document.sequence(file, f"{where}.clauses", item["clauses"])
        numbers = tuple(document.choice(file, f"{where}.clauses", number, clauses) for number in cited)
        note = None if item.get("note") is None else document.text(file, f"{where}.note", item["note"])
        found.append(Interpretation(**said, options=options, clauses=numbers, note=note))
    return tuple(found)


def _notices(file: Path, value: Any, zone: ZoneInfo) -> tuple[Notice, ...]:
    found = []
    for index, item in enumerate(value or []):
        where = f"[{index}]"
        document.mapping(file, where, item, required=("code", "lines_ending_after", "gist_zh", "gist_en"))
        found.append(
            Notice(
                code=document.text(file, f"{where}.code", item["code"]),
                lines_ending_after=document.moment(
                    file, f"{where}.lines_ending_after", item["lines_ending_after"], zone
                ),
                gist_zh=document.text(file, f"{where}.gist_zh", item["gist_zh"]),
                gist_en=document.text(file, f"{where}.gist_en", item["gist_en"]),
            )
        )
    return tuple(found)


def _term(
    folder: Path, status: str, parameters: Mapping[str, Parameter], zone: ZoneInfo
) -> tuple[Timeline, tuple[int, ...]]:
    """When the policy holds and the local years it touches, each with its rates, pool and cap.

    A term without end, which an active policy cannot have, is taken to end with the last year that has a pool.
    """
    for key in NEEDED:
        if key not in parameters:
            raise ParameterError(folder, key, "is missing")
    term = [row for row in parameters[IN_FORCE].rows if row.value is True]
    if not term:
        raise ParameterError(folder, IN_FORCE, "is true at no time")
    start, end = term[0].start, term[-1].end
    if end is None:
        if status == "active":
            raise ParameterError(folder, IN_FORCE, "an active policy needs the day it ends in valid_to")
        end = max(row.end for row in parameters[POOL].rows if row.end is not None)
    years = tuple(range(local_year(start, zone), local_year(end - timedelta(milliseconds=1), zone) + 1))
    for key in (RATE_DOMESTIC, RATE_FOREIGN):
        rows = parameters[key].rows
        if rows[0].start > start or (rows[-1].end is not None and rows[-1].end < end):
            raise ParameterError(folder, key, f"has no value for part of the term {IN_FORCE}")
    for key in (POOL, FIRM_CAP):
        for year in years:
            if parameters[key].row_at(year_start(year, zone)) is None:
                raise ParameterError(folder, key, f"has no value for the year {year}, which is in force")
    return timeline(Interval(start=row.start, end=row.end or end) for row in term), years


def _by_year(parameter: Parameter, years: tuple[int, ...], zone: ZoneInfo) -> Mapping[int, int]:
    rows = {year: parameter.row_at(year_start(year, zone)) for year in years}
    return MappingProxyType({year: int(row.value) for year, row in rows.items() if row is not None})


def _bundle_sha256(folder: Path, contents: Mapping[str, Any], overlays: Sequence[Overlay]) -> str:
    """Of the policy's files, and of the overlays that apply to it, if any do."""
    bundle = dict(contents)
    if overlays:
        bundle["overlays/"] = [document.read(folder.parent / "overlays" / f"{one.id}.yaml") for one in overlays]
    try:
        return digest(bundle)
    except (TypeError, ValueError) as problem:
        raise ParameterError(folder, "", f"has a value with no canonical form: {problem}") from problem
