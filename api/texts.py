"""Texts: what a code says in Chinese or English. Codes are stable; words are only made here, at the edge.

A catalogue is `locale/<language>/messages.po` (gettext), a message's id is its code. Facts enter by name: `*_fen` as
yuan, `*_at_ms`, `at`, `from_ms`, `now_ms`, `since`, `until` as Beijing time, `*_duration_ms` as hours and minutes.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

LANGUAGES = ("zh", "en")
ZONE = ZoneInfo("Asia/Shanghai")
UNKNOWN = "—"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES = ("at", "since", "until", "from_ms", "to_ms", "now_ms", "earliest_start", "next_evaluation")


class UnknownText(KeyError):
    """No catalogue has this code; a programming error that the tests look for."""


@functools.cache
def catalogue(lang: str) -> Mapping[str, str]:
    """Every code and its text in one language; raises ValueError for a language other than zh and en."""
    from babel.messages.pofile import read_po

    if lang not in LANGUAGES:
        raise ValueError(f"lang: {lang!r} is neither zh nor en")
    path = Path(__file__).parent / "locale" / lang / "messages.po"
    with path.open("rb") as file:
        return {str(message.id): str(message.string) for message in read_po(file, locale=lang) if message.id}


def known(code: str) -> bool:
    """Whether the code has a text."""
    return code in catalogue("zh")


def strict_text(code: str, facts: Mapping[str, Any] | None = None, lang: str = "zh") -> str:
    """The text of a code with its facts filled in; UnknownText when there is none. A fact it lacks reads as a dash."""
    found = catalogue(lang).get(code)
    if not found:
        raise UnknownText(code)
    shown = {name: shown_fact(name, value, lang) for name, value in (facts or {}).items()}
    return string.Formatter().vformat(found, (), _Facts(shown)) if "{" in found else found


def text(code: str, facts: Mapping[str, Any] | None = None, lang: str = "zh") -> str:
    """The same, for codes from elsewhere (a plug-in, a newer server): an unknown one reads as itself with its facts."""
    try:
        return strict_text(code, facts, lang)
    except UnknownText:
        told = ", ".join(f"{name}={shown_fact(name, value, lang)}" for name, value in (facts or {}).items())
        return f"{code} ({told})" if told else code


class _Facts(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return UNKNOWN


def shown_fact(name: str, value: Any, lang: str) -> str:
    """A fact as people read it, by the unit its name carries; None is a dash, never 0."""
    if value is None:
        return UNKNOWN
    if name == "origin" and isinstance(value, str):
        return text(f"origin.{value}", None, lang)
    if name == "state" and known(f"state.{value}"):
        return text(f"state.{value}", None, lang)
    if isinstance(value, bool):
        return text("yes" if value else "no", None, lang)
    if "_fen" in name and isinstance(value, int):  # also price_fen_per_device_hour
        return money(value)
    if name.endswith("_duration_ms") and isinstance(value, int):
        return duration(value, lang)
    if name.endswith("_bytes") and isinstance(value, int):
        return memory(value)
    if name.endswith(("_at", "_at_ms")) or name in _TIMES:
        return moment(value)
    if isinstance(value, Mapping):
        inner = (f"{key} {shown_fact(_unit_of(name, str(key)), item, lang)}" for key, item in value.items())
        return ("、" if lang == "zh" else ", ").join(inner)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            return text("nothing", None, lang)
        return ("、" if lang == "zh" else ", ").join(shown_fact("", item, lang) for item in value)
    return str(value)


def _unit_of(name: str, key: str) -> str:
    """A mapping such as hold_fen {year: fen} gives its unit to its values."""
    return name if name.endswith(("_fen", "_ms", "_bytes")) else key


# --- quantities ---------------------------------------------------------------------------------------------------


def money(fen: int | None) -> str:
    """Fen as yuan with two decimals and thousands: 123456 is ¥1,234.56. Exact: the integer is only pointed."""
    if fen is None:
        return UNKNOWN
    from babel.numbers import format_decimal

    whole = format_decimal(abs(fen) // 100, format="#,##0", locale="en")
    return f"{'-' if fen < 0 else ''}¥{whole}.{abs(fen) % 100:02d}"


def count(number: int | float | None, digits: int = 0) -> str:
    """A number with thousands and exactly `digits` decimals, halves away from zero."""
    if number is None:
        return UNKNOWN
    from babel.numbers import format_decimal

    exact = Decimal(str(number)).quantize(Decimal(1).scaleb(-digits), rounding="ROUND_HALF_UP")
    return str(format_decimal(exact, format="#,##0" + ("." + "0" * digits if digits else ""), locale="en"))


def percent(basis_points: int | None) -> str:
    """4000 basis points are 40%; decimals only where there are some."""
    if basis_points is None:
        return UNKNOWN
    whole, rest = divmod(basis_points, 100)
    return f"{whole}%" if rest == 0 else f"{whole}.{rest:02d}".rstrip("0") + "%"


def memory(size: int | None) -> str:
    """Bytes as GiB, one decimal where it is not whole."""
    if size is None:
        return UNKNOWN
    gib = Decimal(size) / (1 << 30)
    return f"{count(float(gib), 0 if gib == int(gib) else 1)} GiB"


def moment(value: datetime | int | str | None) -> str:
    """An instant (aware, UTC milliseconds, or RFC 3339) as Beijing time to the second: 2026-06-01 12:00:00."""
    if value is None:
        return UNKNOWN
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return str(value)
    if isinstance(value, int):
        value = _EPOCH + timedelta(milliseconds=value)
    try:
        return value.astimezone(ZONE).strftime("%Y-%m-%d %H:%M:%S")
    except OverflowError:  # the calendar's first and last day
        return value.isoformat()


def duration(ms: int | None, lang: str = "zh") -> str:
    """Milliseconds as the two largest units: 2h 5min, 2 小时 5 分; tenths of a second below a minute."""
    if ms is None:
        return UNKNOWN
    if ms < 60_000:
        return text("duration.s", {"s": count(ms / 1000, 1)}, lang)
    minutes, hours, days = ms // 60_000 % 60, ms // 3_600_000 % 24, ms // 86_400_000
    if days:
        return text("duration.dh", {"d": days, "h": hours}, lang)
    if hours:
        return text("duration.hm", {"h": hours, "m": minutes}, lang)
    return text("duration.ms", {"m": minutes, "s": ms // 1000 % 60}, lang)


# --- why a job waits ----------------------------------------------------------------------------------------------


def pending_words(pending: Mapping[str, Any], lang: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """A pending record (scheduler/plan.py) in words: the reason, what is out of how many nodes, what would help."""
    facts = {**pending, **pending.get("facts", {})}
    code = str(pending.get("code"))
    reason = text(f"pending.{code}" if known(f"pending.{code}") else code, facts, lang)
    counts = []
    for item in pending.get("n_of_m") or ():
        said = text(f"count.{item['code']}", item, lang)
        if item.get("until"):
            said += text("count.until", item, lang)
        counts.append(said)
    remedies = [text(f"remedy.{r['code']}", r.get("facts") or {}, lang) for r in pending.get("remedies") or ()]
    return reason, tuple(counts), tuple(remedies)
