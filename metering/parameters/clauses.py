"""Clauses: the numbered places that values rest on, each with a gist in both languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metering.parameters import document
from metering.parameters.document import ParameterError
from metering.parameters.policy import Clause


def read_clauses(file: Path, where: str, value: Any) -> dict[str, Clause]:
    """The clauses by number. Raises ParameterError for one given twice, or a platform rule that is not called P…"""
    found: dict[str, Clause] = {}
    words = ("number", "gist_zh", "gist_en")
    for index, item in enumerate(document.sequence(file, where, value)):
        at = f"{where}[{index}]"
        document.mapping(file, at, item, required=words, optional=("platform",))
        platform = item.get("platform", False)
        if platform is not True and platform is not False:
            raise ParameterError(file, f"{at}.platform", f"{platform!r} is not true or false")
        clause = Clause(**{key: document.text(file, f"{at}.{key}", item[key]) for key in words}, platform=platform)
        if clause.number.startswith("P") is not clause.platform:
            raise ParameterError(
                file, f"{at}.number", f"{clause.number!r}: platform rules, and they alone, begin with P"
            )
        if clause.number in found:
            raise ParameterError(file, f"{at}.number", f"{clause.number!r} is there twice")
        found[clause.number] = clause
    return found
