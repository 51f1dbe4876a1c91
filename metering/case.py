"""Case: `yisuan settle` from strict JSON text to one document; what is not exactly a case is refused and
named.

settle_document(text, registry, rules) -> dict      CaseError(code, facts) for a bad case
run_settle(paths, parameters, stdout, stderr)       the whole command, its exit code returned
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TextIO

from adapters.accelerator import Origin
from metering.case_format import CASE, LARGEST, VERSION
from metering.entry import Rooms, UsageEntry
from metering.facts import Interval
from metering.parameters import ParameterError, Policy, Registry, load_policies
from metering.rates import Price, RateCard
from metering.rule import Rule, Rules, load_rules
from metering.settlement import Settlement, document, settle

OK, BAD_INPUT = 0, 2

_FIRST = datetime.min.replace(tzinfo=UTC)
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2})"
    r"(?::([0-9]{2})(?:\.([0-9]+))?)?(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
# Nearly every time there is: the standard library reads these to the same instant, faster.
_PLAIN_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(?:\.[0-9]{3})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_YEAR = re.compile(r"[0-9]{4}")
_ORIGINS = {origin.value: origin for origin in Origin}
_KEPT = 256  # firms whose rulings a Settling keeps
_SHOWN = 80  # characters of a bad value that an error repeats


class CaseError(ValueError):
    """A case that cannot be settled.

    code: stable. facts: what there is of path (JSON pointer), value, expected, nearest, problem.
    """

    def __init__(self, code: str, facts: Mapping[str, Any]) -> None:
        self.code, self.facts = code, dict(facts)
        where = f" at {facts['path'] or 'the top'}" if "path" in facts else ""
        said = ", ".join(f"{key} {json.dumps(value)}" for key, value in facts.items() if key != "path")
        super().__init__(f"{code}{where}: {said}")


def schema() -> dict[str, Any]:
    """The JSON Schema of a case, the same as docs/schemas/settle-case.json."""
    return deepcopy(CASE)


def settle_document(text: str | bytes, registry: Registry, rules: Sequence[Rule]) -> dict[str, Any]:
    """The output document of a case given as JSON text (bytes: UTF-8).

    Raises CaseError for anything that is not exactly a case.
    """
    return document(Settling(registry, rules).settled(_parse(text)))


class Settling:
    """Settles case after case under one registry and one set of rules; what the rules say of a firm's usage is kept."""

    def __init__(self, registry: Registry, rules: Sequence[Rule]) -> None:
        self.registry, self.rules = registry, tuple(rules)  # a tuple stays the same tuple
        self._kept: dict[Any, Rules] = {}

    def settled(self, value: Any) -> Settlement:
        """The settlement of a case given as the value that its JSON text would be parsed to; raises CaseError."""
        case = _Case.read(value, self.registry)
        key = (case.policy.id, case.firm, tuple(case.sites.items()))
        rules = self._kept.get(key)
        if rules is None:
            if len(self._kept) == _KEPT:
                self._kept.clear()
            rules = Rules(policy=case.policy, rules=self.rules, firm=case.firm, sites=case.sites)
            self._kept[key] = rules
        return settle(case.usage, case.rates, rules, case.rooms)


def run_settle(paths: Sequence[str | Path], parameters: Path | None, stdout: TextIO, stderr: TextIO) -> int:
    """One compact document a line for each file, in order; exit code 0, or 2 if any file was bad.

    A bad file among several leaves an error document on its line; alone it leaves stdout empty and the
    problem on stderr, as do parameters that cannot be used. Output is ASCII, so that no terminal or line
    splitter can break it.
    """
    try:
        registry = load_policies(parameters)
    except ParameterError as problem:
        stderr.write(f"yisuan settle: parameters: {problem}\n")
        return BAD_INPUT
    if not paths:
        stderr.write("yisuan settle: name at least one CASE.json\n")
        return BAD_INPUT
    rules = load_rules()
    code = OK
    for path in paths:
        try:
            found = settle_document(_content(path), registry, rules)
        except CaseError as bad:
            code = BAD_INPUT
            if len(paths) == 1:
                stderr.write(f"yisuan settle: {json.dumps(str(path))[1:-1]}: {bad}\n")
                break
            found = {
                "version": VERSION,
                "error": {"code": bad.code, "facts": {"file": str(path), **bad.facts}},
            }
        stdout.write(json.dumps(found, separators=(",", ":")) + "\n")
    return code


def _content(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
        raise CaseError("UNREADABLE", {"problem": reason}) from problem


# --- strict JSON ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Unwelcome:
    """Something JSON text can say and a case cannot; kept in its place, so that the error knows the path."""

    code: str
    kind: str
    text: str


def _parse(text: str | bytes) -> Any:
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as problem:
        facts = {"problem": f"not UTF-8: {problem.reason}", "byte": problem.start}
        raise CaseError("NOT_JSON", facts) from problem
    try:
        return json.loads(
            decoded,
            object_pairs_hook=_object_of,
            parse_int=_integer_of,
            parse_float=lambda text: _Unwelcome("WRONG_TYPE", "a number that is not an integer", text),
            parse_constant=lambda text: _Unwelcome("NOT_JSON", "not JSON", text),
        )
    except json.JSONDecodeError as problem:
        facts = {"problem": problem.msg, "line": problem.lineno, "column": problem.colno}
        raise CaseError("NOT_JSON", facts) from problem
    except RecursionError as problem:
        raise CaseError("NOT_JSON", {"problem": "nested too deeply"}) from problem


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Unwelcome:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return _Unwelcome("DUPLICATE_KEY", "key given twice", key)
        seen.add(key)
    raise AssertionError("fewer keys than pairs, yet none twice")


def _integer_of(text: str) -> int | _Unwelcome:
    if len(text) > len(str(LARGEST)) + 1:  # int() itself refuses more than 4300 digits
        return _Unwelcome("OUT_OF_RANGE", "an integer too large to be exact", text)
    return int(text)


def _check_welcome(value: Any, path: str) -> None:
    if isinstance(value, _Unwelcome):
        if value.code == "DUPLICATE_KEY":
            raise CaseError("DUPLICATE_KEY", {"path": path, "key": _short(value.text)})
        raise CaseError(value.code, {"path": path, "value": _short(value.text), "problem": value.kind})


# --- the pieces of a case -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    policy: Policy
    firm: tuple[Interval, ...]
    sites: Mapping[str, tuple[Interval, ...]]
    rooms: Rooms
    usage: tuple[UsageEntry, ...]
    rates: RateCard

    @classmethod
    def read(cls, value: Any, registry: Registry) -> _Case:
        """The case that parsed JSON states; every key of it is looked at."""
        _check_welcome(value, "")
        version = value.get("version") if isinstance(value, dict) else None
        if type(version) is int and version != VERSION:
            raise CaseError("UNKNOWN_VERSION", {"path": "/version", "value": version, "expected": VERSION})
        body = _object(value, "", CASE)
        _whole(body["version"], "/version", least=VERSION, most=VERSION)
        policy = _policy(body["policy"], registry)
        firm = _object(body["firm"], "/firm", CASE["properties"]["firm"])
        _text(firm["id"], "/firm/id")
        sites = {}
        for name, site in _object(body.get("sites", {}), "/sites", None).items():
            path = f"/sites/{_escaped(name)}"
            described = _object(site, path, CASE["properties"]["sites"]["additionalProperties"])
            sites[name] = _intervals(described["eligible"], f"{path}/eligible")
        entries = _array(body["usage"], "/usage")
        usage = tuple(
            _plain_entry(entry, sites) or _entry(entry, f"/usage/{index}", sites) for index, entry in enumerate(entries)
        )
        return cls(
            policy=policy,
            firm=_intervals(firm["eligible"], "/firm/eligible"),
            sites=sites,
            rooms=_rooms(body.get("rooms", {})),
            usage=usage,
            rates=RateCard({r: (Price(start=_FIRST, fen_per_device_hour=int(r)),) for r in {e.rate for e in usage}}),
        )


def _policy(value: Any, registry: Registry) -> Policy:
    name = _choice(value, "/policy", registry.policies, "UNKNOWN_POLICY")
    policy = registry.policy(name)
    if policy.status != "active":
        active = sorted(known for known, one in registry.policies.items() if one.status == "active")
        facts = {"path": "/policy", "value": name, "status": policy.status, "expected": active}
        raise CaseError("POLICY_NOT_ACTIVE", facts)
    return policy


def _plain_entry(value: Any, sites: Collection[str]) -> UsageEntry | None:
    """An entry that is right in every way, read in one go; None for any other, and `_entry` says what is wrong with it.

    What it takes `_entry` reads to the same: one is tested against the other.
    """
    if type(value) is not dict:
        return None
    try:
        lease, model, origin, devices = value["lease"], value["model"], value["origin"], value["devices"]
        begins, ends, price = value["start"], value["end"], value["price_fen_per_device_hour"]
    except KeyError:
        return None
    optional, share, site = 0, 1000, None
    if "share_permille" in value:
        optional, share = 1, value["share_permille"]
    if "site" in value:
        optional, site = optional + 1, value["site"]
        if type(site) is not str or site not in sites:
            return None
    if (
        len(value) != 7 + optional
        or not (type(lease) is type(model) is type(origin) is type(begins) is type(ends) is str)
        or not (type(devices) is type(share) is type(price) is int)
        or not (1 <= devices <= LARGEST and 1 <= share <= 1000 and 0 <= price <= LARGEST)
        or origin not in _ORIGINS
        or not (_PLAIN_TIME.fullmatch(begins) and _PLAIN_TIME.fullmatch(ends))
    ):
        return None
    try:
        start, end = datetime.fromisoformat(begins).astimezone(UTC), datetime.fromisoformat(ends).astimezone(UTC)
    except (ValueError, OverflowError):  # no such day, or not in UTC
        return None
    if end < start:
        return None
    return UsageEntry(
        lease=lease, model=model, origin=_ORIGINS[origin], devices=devices, share_permille=share, site=site,
        start=start, end=end, rate=str(price),
    )  # fmt: skip


def _entry(value: Any, path: str, sites: Collection[str]) -> UsageEntry:
    body = _object(value, path, CASE["properties"]["usage"]["items"])
    start, end = (_usage_time(body[name], f"{path}/{name}") for name in ("start", "end"))
    if end < start:
        facts = {"path": f"{path}/end", "value": body["end"], "expected": f"not before start {body['start']}"}
        raise CaseError("END_BEFORE_START", facts)
    share = body.get("share_permille", 1000)
    return UsageEntry(
        lease=_text(body["lease"], f"{path}/lease"),
        model=_text(body["model"], f"{path}/model"),
        origin=Origin(_choice(body["origin"], f"{path}/origin", [o.value for o in Origin], "UNKNOWN_ORIGIN")),
        devices=_whole(body["devices"], f"{path}/devices", least=1),
        share_permille=_whole(share, f"{path}/share_permille", least=1, most=1000),
        site=_choice(body["site"], f"{path}/site", sites, "UNKNOWN_SITE") if "site" in body else None,
        start=start,
        end=end,
        rate=str(_whole(body["price_fen_per_device_hour"], f"{path}/price_fen_per_device_hour")),
    )


def _rooms(value: Any) -> Rooms:
    body = _object(value, "/rooms", CASE["properties"]["rooms"])
    given = {name: _whole(body[name], f"/rooms/{name}") for name in ("contract", "tranche") if name in body}
    by_year = {name: _by_year(body.get(name, {}), f"/rooms/{name}") for name in ("pool", "firm")}
    return Rooms(pool=by_year["pool"], firm=by_year["firm"], **given)


def _by_year(value: Any, path: str) -> dict[int, int]:
    found = {}
    for year, fen in _object(value, path, None).items():
        if not _YEAR.fullmatch(year):
            raise CaseError("BAD_YEAR", {"path": path, "value": _short(year), "expected": "a year such as 2025"})
        found[int(year)] = _whole(fen, f"{path}/{year}")
    return found


def _intervals(value: Any, path: str) -> tuple[Interval, ...]:
    shape = CASE["properties"]["firm"]["properties"]["eligible"]["items"]
    found = []
    for index, item in enumerate(_array(value, path)):
        at = f"{path}/{index}"
        body = _object(item, at, shape)
        start = _time(body["from"], f"{at}/from")
        end = None if body.get("to") is None else _time(body["to"], f"{at}/to")
        if end is not None and end < start:
            facts = {"path": f"{at}/to", "value": body["to"], "expected": f"not before from {body['from']}"}
            raise CaseError("END_BEFORE_START", facts)
        found += _representable(start, end)
    return tuple(found)


def _representable(start: datetime, end: datetime | None) -> list[Interval]:
    """The interval in UTC.

    Usage lies in years 1 to 9999 of UTC, so a bound outside them is as good as no bound.
    """
    first, last = _utc(start), None if end is None else _utc(end)
    if first is None and start.year > 1:
        return []
    if end is not None and last is None and end.year == 1:
        return []
    return [Interval(start=first or _FIRST, end=last)]


# --- values ---------------------------------------------------------------------------------------


def _object(value: Any, path: str, shape: Mapping[str, Any] | None) -> dict[str, Any]:
    """The value as an object with the shape's keys; any keys where shape is None."""
    _check_welcome(value, path)
    if not isinstance(value, dict):
        raise _wrong_type(value, path, "an object")
    if shape is not None:
        known = shape["properties"]
        for key in value:
            if key not in known:
                facts = {"path": path, "key": _short(key), **_nearest(key, known)}
                raise CaseError("UNKNOWN_KEY", facts)
        for key in shape.get("required", ()):
            if key not in value:
                raise CaseError("MISSING_KEY", {"path": path, "key": key})
    return value


def _array(value: Any, path: str) -> list[Any]:
    _check_welcome(value, path)
    if not isinstance(value, list):
        raise _wrong_type(value, path, "an array")
    return value


def _text(value: Any, path: str) -> str:
    _check_welcome(value, path)
    if not isinstance(value, str):
        raise _wrong_type(value, path, "a string")
    return value


def _whole(value: Any, path: str, *, least: int = 0, most: int = LARGEST) -> int:
    _check_welcome(value, path)
    if type(value) is not int:
        raise _wrong_type(value, path, "an integer")
    if not least <= value <= most:
        expected = f"{least} to {most}" if least != most else str(least)
        raise CaseError("OUT_OF_RANGE", {"path": path, "value": value, "expected": expected})
    return value


def _choice(value: Any, path: str, known: Collection[str], code: str) -> str:
    name = _text(value, path)
    if name not in known:
        raise CaseError(code, {"path": path, "value": _short(name), **_nearest(name, known)})
    return name


def _usage_time(value: Any, path: str) -> datetime:
    at = _utc(_time(value, path))
    if at is None:
        raise _bad_time(value, path, "outside the years 0001 to 9999 of UTC")
    return at


def _utc(at: datetime) -> datetime | None:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        return None


def _time(value: Any, path: str) -> datetime:
    """The instant that RFC 3339 text states, whole milliseconds, in its own offset."""
    text = _text(value, path)
    if _PLAIN_TIME.fullmatch(text):
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass  # no such day or hour: below it is said which
    match = _TIME.fullmatch(text)
    if match is None:
        raise _bad_time(text, path, "not RFC 3339 with an offset, such as 2025-06-01T09:00:00+08:00")
    year, month, day, hour, minute, second, fraction, sign, hours, minutes = match.groups()
    if fraction is not None and fraction[3:].strip("0"):
        raise _bad_time(text, path, "finer than a millisecond")
    if sign is not None and (int(hours) > 23 or int(minutes) > 59):
        raise _bad_time(text, path, "no such offset")
    offset = timedelta(hours=int(hours), minutes=int(minutes)) if sign else timedelta()
    milliseconds = int((fraction or "0")[:3].ljust(3, "0"))
    try:
        return datetime(
            *(int(year), int(month), int(day), int(hour), int(minute), int(second or 0)),
            milliseconds * 1000,
            tzinfo=timezone(-offset if sign == "-" else offset),
        )
    except ValueError as problem:
        raise _bad_time(text, path, str(problem)) from problem


def _bad_time(value: str, path: str, problem: str) -> CaseError:
    return CaseError("BAD_TIME", {"path": path, "value": _short(value), "problem": problem})


def _wrong_type(value: Any, path: str, expected: str) -> CaseError:
    kinds = {dict: "an object", list: "an array", _Unwelcome: "an object"}
    shown = kinds.get(type(value)) or (_short(value) if isinstance(value, str) else value)
    return CaseError("WRONG_TYPE", {"path": path, "value": shown, "expected": expected})


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _nearest(word: str, known: Collection[str]) -> dict[str, Any]:
    close = difflib.get_close_matches(word[:_SHOWN], list(known), n=1)
    return {"nearest": close[0]} if close else {"expected": sorted(known)[:20]}


def _escaped(key: str) -> str:
    """A key as a step of a JSON pointer (RFC 6901)."""
    return _short(key).replace("~", "~0").replace("/", "~1")
