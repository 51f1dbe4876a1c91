"""Year: the local year of an instant in the policy's zone, and where it begins. Pure; years 1 to 9999.

The Gregorian calendar repeats after 400 years = 146097 days, and so do zone rules far from today: near both
ends of what a datetime can hold the question is asked one cycle away.
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta, tzinfo

_CYCLE_YEARS = 400
_CYCLE = timedelta(days=146_097)


def local_year(at: datetime, zone: tzinfo) -> int:
    """The year on a calendar in `zone` at the instant (aware UTC); 0 and 10000 are possible."""
    if at.year <= 1:
        return (at + _CYCLE).astimezone(zone).year - _CYCLE_YEARS
    if at.year >= 9999:
        return (at - _CYCLE).astimezone(zone).year + _CYCLE_YEARS
    return at.astimezone(zone).year


@functools.lru_cache(maxsize=16_384)
def year_start(year: int, zone: tzinfo) -> datetime:
    """The instant (UTC) at which the local year begins. OverflowError if no datetime can hold it."""
    if year <= 1:
        return datetime(year + _CYCLE_YEARS, 1, 1, tzinfo=zone).astimezone(UTC) - _CYCLE
    if year >= 9999:
        return datetime(year - _CYCLE_YEARS, 1, 1, tzinfo=zone).astimezone(UTC) + _CYCLE
    return datetime(year, 1, 1, tzinfo=zone).astimezone(UTC)


def years_begun_within(start: datetime, end: datetime, zone: tzinfo) -> list[datetime]:
    """The instants strictly between start and end at which a local year begins, in order."""
    first, last = local_year(start, zone), local_year(end, zone)
    if first == last:
        return []
    found = (year_start(year, zone) for year in range(first + 1, last + 1))
    return [at for at in found if start < at < end]
