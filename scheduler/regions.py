"""Regions: what it takes to run a job far from its data, what its electricity costs and emits there, and what a choice
saved. Pure.

Prices and factors are values that the zone records with where they come from; this module holds none. Money in fen, time
in milliseconds, carbon in grams of CO2 equivalent; None = unknown, and an unknown figure is never counted as nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from scheduler.clock import to_ms

if TYPE_CHECKING:
    from scheduler.snapshot import Link

MS_PER_HOUR = 3_600_000
CHINA_MS = 8 * MS_PER_HOUR  # electricity tariffs by hour run on UTC+8 in every province
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionFacts:
    """Electricity of a region. price_source, carbon_source: the document each figure was read from.

    price_micro_yuan_per_kwh: of each hour of the day, UTC+8; () = unknown. carbon_mg_per_kwh: average emission factor of the
    grid; None = unknown. pue_permille: energy of the site for each unit that its computers take, 1000 = no overhead.
    energy_weight_permille: how much of the electricity counts in a choice beside the price of the devices; 0 = that price
    holds it already, and it decides among equals alone. carbon_fen_per_t: what a tonne counts for in a choice; no bill has it.
    """

    region: str
    price_micro_yuan_per_kwh: tuple[int, ...] = ()
    price_source: str = ""
    carbon_mg_per_kwh: int | None = None
    carbon_source: str = ""
    pue_permille: int = 1000
    energy_weight_permille: int = 0
    carbon_fen_per_t: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for figures that cannot be, or that do not say where they come from."""
        prices = self.price_micro_yuan_per_kwh
        at = f"regions/{self.region}"
        if prices and len(prices) != 24:
            raise ValueError(f"{at}/price_micro_yuan_per_kwh: {len(prices)} values; nearest: 24, one for each hour")
        if prices and not self.price_source:
            raise ValueError(f"{at}/price_source: '' for a price; nearest: the tariff it was read from")
        if self.carbon_mg_per_kwh is not None and not self.carbon_source:
            raise ValueError(f"{at}/carbon_source: '' for a factor; nearest: the notice it was read from")
        if self.carbon_mg_per_kwh is not None and self.carbon_mg_per_kwh < 0:
            raise ValueError(f"{at}/carbon_mg_per_kwh: {self.carbon_mg_per_kwh} is below 0; nearest: 0")
        if self.pue_permille < 1000:
            raise ValueError(f"{at}/pue_permille: {self.pue_permille} is below 1000; nearest: 1000")
        if not 0 <= self.energy_weight_permille <= 1000:
            near = min(1000, max(0, self.energy_weight_permille))
            raise ValueError(
                f"{at}/energy_weight_permille: {self.energy_weight_permille} is not 0 to 1000; nearest: {near}"
            )
        if self.carbon_fen_per_t < 0:
            raise ValueError(f"{at}/carbon_fen_per_t: {self.carbon_fen_per_t} is below 0; nearest: 0")

    def weighed_fen(self, energy: int | None, grams: int | None) -> int:
        """What this electricity and this carbon add to a choice, half up; what is unknown adds nothing."""
        weighed = (energy or 0) * self.energy_weight_permille * 1000 + (grams or 0) * self.carbon_fen_per_t
        return _half_up(weighed, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Running one job in one region. net_fen: what the firm pays for the devices after the voucher.

    start_ms: when it has the devices; then its inputs come for transfer_ms and it runs for duration_ms. energy_fen: of the
    electricity, part of the devices' price and shown beside. energy_fen, carbon_g: None = unknown.
    """

    region: str
    pool: str
    net_fen: int
    transfer_ms: int
    transfer_fen: int
    start_ms: int
    duration_ms: int
    energy_fen: int | None = None
    carbon_g: int | None = None

    @property
    def total_fen(self) -> int:
        """What the firm pays: the devices and the moving of its data."""
        return self.net_fen + self.transfer_fen


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What the chosen option spared against the next best one, `against`; below 0 = it took more. None = unknown."""

    against: str
    pool: str
    fen: int
    ms: int | None
    carbon_g: int | None


class Network:
    """The links of a zone, ready for many questions. Of several links between two regions the fastest counts, then the
    cheapest; a link of 0 megabit/s carries nothing."""

    def __init__(self, links: Iterable[Link]) -> None:
        self._best: dict[frozenset[str], Link] = {}
        self._known: dict[tuple[tuple[tuple[str, int], ...], str], tuple[int, int] | None] = {}
        for one in links:
            if one.megabit_per_s > 0:
                ends = frozenset((one.a, one.b))
                best = min(self._best.get(ends, one), one, key=lambda k: (-k.megabit_per_s, k.price_fen_per_gib))
                self._best[ends] = best

    def transfer(self, data: Mapping[str, int], region: str) -> tuple[int, int] | None:
        """As the function of that name, worked out once for the same data and region."""
        key = (tuple(sorted(data.items())), region)
        if key not in self._known:
            self._known[key] = self._transfer(data, region)
        return self._known[key]

    def _transfer(self, data: Mapping[str, int], region: str) -> tuple[int, int] | None:
        slowest, price = 0, 0
        for source, size in data.items():
            if size < 0:
                raise ValueError(f"data/{source}: {size} bytes is below 0; nearest: 0")
            if source == region or not size:
                continue
            link = self._best.get(frozenset((source, region)))
            if link is None:
                return None
            slowest = max(slowest, -(-size * 8 // (link.megabit_per_s * 1000)))
            price += size * link.price_fen_per_gib
        return slowest, (2 * price + GIB) // (2 * GIB)


def transfer(data: Mapping[str, int], region: str, links: Iterable[Link]) -> tuple[int, int] | None:
    """Milliseconds and fen of bringing the inputs to `region`; (0, 0) when all lie there, None when a link is missing.

    data: bytes by region. Links carry at once, so the time is that of the slowest; each is rounded up. The price is summed
    over the links and rounded half up once.
    """
    return Network(links).transfer(data, region)


def carbon_g(device_w: int | None, ms: int, facts: RegionFacts | None) -> int | None:
    """Grams emitted by `device_w` watts for `ms`: W x h / 1000 x PUE x factor, half up; None when a figure is unknown."""
    if device_w is None or facts is None or facts.carbon_mg_per_kwh is None:
        return None
    milligrams = device_w * ms * facts.pue_permille * facts.carbon_mg_per_kwh
    return _half_up(milligrams, MS_PER_HOUR * 1000 * 1000 * 1000)


def energy_fen(device_w: int | None, start: datetime, ms: int, facts: RegionFacts | None) -> int | None:
    """What the electricity of `device_w` watts in [start, start + ms) costs at the price of each hour; None = unknown.

    W x h / 1000 x PUE x price, summed exactly over the hours and rounded half up once.
    """
    if device_w is None or facts is None or not facts.price_micro_yuan_per_kwh:
        return None
    prices = facts.price_micro_yuan_per_kwh
    at = to_ms(start) + CHINA_MS
    end = at + ms
    days, ms_left = divmod(ms, 24 * MS_PER_HOUR)
    weighted = days * MS_PER_HOUR * sum(prices)
    end = at + ms_left  # whole days cost the same whenever they begin
    while at < end:
        until = min(end, (at // MS_PER_HOUR + 1) * MS_PER_HOUR)
        weighted += (until - at) * prices[at // MS_PER_HOUR % 24]
        at = until
    # W x ms x permille x micro-yuan per kWh; a fen is 10,000 micro-yuan
    return _half_up(device_w * facts.pue_permille * weighted, MS_PER_HOUR * 1000 * 1000 * 10_000)


def finish_ms(option: Option) -> int:
    """When the job would be done: its inputs come once it has the devices, which it holds meanwhile."""
    return option.start_ms + option.transfer_ms + option.duration_ms


def order(options: Iterable[Option], carbon_fen_per_t: int = 0) -> tuple[Option, ...]:
    """The options, best first: what the firm pays (and, at a price, the carbon), then when it is done, then carbon and name.

    carbon_fen_per_t: what a tonne counts for in the choice; no bill has it. At a price an option whose carbon is unknown
    counts with the most that any of the others emits, or is equal to them if none is known.
    """
    found = list(options)
    known = [o.carbon_g for o in found if o.carbon_g is not None]
    most = max(known, default=0)

    def key(option: Option) -> tuple[int, int, int, str, str]:
        grams = most if option.carbon_g is None else option.carbon_g
        weighed = option.total_fen * 1_000_000 + grams * carbon_fen_per_t
        return weighed, finish_ms(option), grams, option.region, option.pool

    return tuple(sorted(found, key=key))


def saved(chosen: Option, options: Iterable[Option], carbon_fen_per_t: int = 0) -> Saved | None:
    """What `chosen` saves against the best of the other options, in another region if there is one; None without others."""
    others = [o for o in options if (o.region, o.pool) != (chosen.region, chosen.pool)]
    elsewhere = [o for o in others if o.region != chosen.region]
    ranked = order(elsewhere or others, carbon_fen_per_t)
    if not ranked:
        return None
    other = ranked[0]
    unknown = chosen.carbon_g is None or other.carbon_g is None
    return Saved(
        against=other.region,
        pool=other.pool,
        fen=other.total_fen - chosen.total_fen,
        ms=finish_ms(other) - finish_ms(chosen),
        carbon_g=None if unknown else (other.carbon_g or 0) - (chosen.carbon_g or 0),
    )


def _half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
