"""Rates: what a device-hour costs by list, as dated prices: a line is cut where a price changes. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Fen per device-hour over [start, end); end None = until another is written."""

    start: datetime
    end: datetime | None = None
    fen_per_device_hour: int


class NoPrice(LookupError):
    """Usage at an instant for which the rate card has no price. The message names the key and the instant."""


@dataclass(frozen=True, slots=True)
class RateCard:
    """Rate key → its prices, sorted, without overlap; a hole between two is an instant without a price.

    `_starts` and `_edges` hold each key's instants ready for bisection.
    """

    prices: Mapping[str, tuple[Price, ...]]
    _starts: dict[str, list[datetime]] = field(init=False, repr=False, compare=False)
    _edges: dict[str, list[datetime]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        starts = {key: [price.start for price in prices] for key, prices in self.prices.items()}
        edges = {key: sorted({*starts[key], *_ends(prices)}) for key, prices in self.prices.items()}
        object.__setattr__(self, "_starts", starts)
        object.__setattr__(self, "_edges", edges)
        for key, prices in self.prices.items():
            for price in prices:
                if price.fen_per_device_hour < 0:
                    raise ValueError(f"rate {key!r}: {price.fen_per_device_hour} fen is below 0")
            for before, after in pairwise(prices):
                if before.end is None or before.end > after.start:
                    raise ValueError(f"rate {key!r}: two prices hold at {after.start.isoformat()}")

    def price_at(self, key: str, at: datetime) -> int:
        """Fen per device-hour at the instant; NoPrice if the card has none."""
        prices = self.prices.get(key)
        if prices is None:
            raise NoPrice(f"rate card has no key {key!r}")
        index = bisect_right(self._starts[key], at) - 1
        if index < 0 or not _covers(prices[index], at):
            raise NoPrice(f"rate {key!r} has no price at {at.isoformat()}")
        return prices[index].fen_per_device_hour

    def edges_within(self, key: str, start: datetime, end: datetime) -> list[datetime]:
        """Where the price may change strictly between start and end."""
        edges = self._edges.get(key, [])
        if not edges or edges[-1] <= start:
            return []
        return edges[bisect_right(edges, start) : bisect_left(edges, end)]


def _ends(prices: Iterable[Price]) -> Iterable[datetime]:
    return (price.end for price in prices if price.end is not None)


def _covers(price: Price, at: datetime) -> bool:
    return price.end is None or at < price.end
