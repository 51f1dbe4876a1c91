"""Document: a parameter file as strict plain values, and the checks that name file, key and value when one
fails.

YAML is read with the few scalars a reviewer expects: decimal integers, true, false, null; everything else is
text, so that 010, 1:30, 4.1 and 2024-03-28 mean what they look like. Duplicate keys are refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml

LARGEST = 2**53 - 1  # RFC 8785 and every JSON reader keep integers exact up to here


class ParameterError(ValueError):
    """Parameters that cannot be used.

    The message names the file, the key, the value and what would be right.
    """

    def __init__(self, file: Path, where: str, problem: str) -> None:
        self.file, self.where, self.problem = file, where, problem
        super().__init__(f"{file}: {where}: {problem}" if where else f"{file}: {problem}")


class _Loader(yaml.SafeLoader):
    """SafeLoader with the short list of scalars and without duplicate keys."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - the name is PyYAML's

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in found:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            found[key] = self.construct_object(value_node, deep=deep)
        return found


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)).replace("_", ""))


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"-?(?:0|[1-9][0-9_]*)\Z"), list("-0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)\Z"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|)\Z"), ["~", "n", ""])
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read(file: Path) -> Any:
    """The file's content as dicts, lists, text, ints, bools and None; ParameterError if it is not that."""
    try:
        text = file.read_bytes().decode("utf-8")
    except OSError as problem:
        raise ParameterError(file, "", f"cannot be read: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise ParameterError(file, "", f"is not UTF-8: {problem.reason} at byte {problem.start}") from problem
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as problem:
        raise ParameterError(file, "", f"is not strict YAML: {' '.join(str(problem).split())}") from problem


def mapping(
    file: Path, where: str, value: Any, *, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, Any]:
    """The value as a mapping with exactly these keys; the error names one that is unknown or missing."""
    if not isinstance(value, dict):
        raise ParameterError(file, where, f"{value!r} is not a mapping")
    known = [*required, *optional]
    for key in value:
        if key not in known:
            raise ParameterError(file, where, f"unknown key {key!r}{_nearest(str(key), known)}")
    for key in required:
        if key not in value:
            raise ParameterError(file, where, f"key {key!r} is missing")
    return value


def sequence(file: Path, where: str, value: Any) -> list[Any]:
    """The value as a list with at least one item."""
    if not isinstance(value, list) or not value:
        raise ParameterError(file, where, f"{value!r} is not a list with at least one item")
    return value


def text(file: Path, where: str, value: Any) -> str:
    """The value as text that says something."""
    if not isinstance(value, str) or not value.strip():
        raise ParameterError(file, where, f"{value!r} is not text; write it in quotes")
    return value


def whole(file: Path, where: str, value: Any, *, largest: int = LARGEST) -> int:
    """The value as an integer from 0 to `largest`; true and "5" are not integers."""
    if type(value) is not int or not 0 <= value <= largest:
        raise ParameterError(file, where, f"{value!r} is not an integer from 0 to {largest}")
    return value


def choice(file: Path, where: str, value: Any, known: Collection[str]) -> str:
    """The value as one of the known words."""
    if not isinstance(value, str) or value not in known:
        raise ParameterError(file, where, f"{value!r} is not one of {', '.join(known)}{_nearest(str(value), known)}")
    return value


def day(file: Path, where: str, value: Any) -> str:
    """The value as a calendar day, yyyy-mm-dd."""
    shown = str(value)
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", shown):
        raise ParameterError(file, where, f"{value!r} is not a day such as 2026-01-01")
    try:
        date.fromisoformat(shown)
    except ValueError as problem:
        raise ParameterError(file, where, f"{value!r} is not a day: {problem}") from problem
    return shown


def moment(file: Path, where: str, value: Any, zone: ZoneInfo) -> datetime:
    """The value as an instant (UTC): a day, which begins at midnight in `zone`, or a time with an offset."""
    shown = str(value)
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", shown):
        local = datetime.combine(date.fromisoformat(day(file, where, value)), time(), tzinfo=zone)
    else:
        try:
            local = datetime.fromisoformat(shown)
        except ValueError as problem:
            raise ParameterError(file, where, f"{value!r} is not a day or a time: {problem}") from problem
        if local.tzinfo is None:
            raise ParameterError(
                file, where, f"{value!r} has no offset; write a day, or a time with one such as +08:00"
            )
        if local.microsecond % 1000:
            raise ParameterError(file, where, f"{value!r} is finer than a millisecond")
    try:
        return local.astimezone(UTC)
    except OverflowError as problem:
        raise ParameterError(file, where, f"{value!r} is outside the years 1 to 9999") from problem


def _nearest(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; nearest is {close[0]!r}" if close else ""
