"""Catalogue: the known models, what people and tools call them, and what their makers say of them.

Pure apart from `load_catalog`, which reads the packaged table once.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from adapters.accelerator import Accelerator, Origin

# Makers' words before a product name ("NVIDIA A10", "Tesla T4"): a name matches with and without them.
BRANDS = (
    *(
        "nvidia",
        "tesla",
        "geforce",
        "amd",
        "instinct",
        "intel",
        "huawei",
        "ascend",
        "cambricon",
        "hygon",
        "dcu",
    ),
    *(
        "moore threads",
        "mtt",
        "metax",
        "iluvatar",
        "enflame",
        "cloudblazer",
        "kunlunxin",
        "biren",
        "t-head",
        "sophgo",
    ),
)
# Drivers keep part of the memory: 21534 of 24576 MiB on a 310P3 with ECC is the largest share seen (0.876).
MEMORY_FIT = (0.80, 1.02)


class CatalogError(ValueError):
    """The table breaks one of its own rules; the message names row, field and value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One catalogue row. Figures are of the whole package, dense, None where no defensible figure exists.

    model: the key people write. vendor: the adapter's name for the maker. origin: a hint, never a verdict.
    stack: key of a job file's `variants`. dies: devices that the vendor's tool lists for one package.
    memory_bytes: as sold. fp16_tflops: peak FP16 or BF16, 10^12 operations a second. memory_bandwidth_gbs:
    10^9 bytes a second. tdp_watts: watts. source: where the figures come from. confidence: high, medium or
    low.
    """

    model: str
    vendor: str
    origin: Origin
    family: str
    stack: str
    aliases: tuple[str, ...] = ()
    dies: int = 1
    memory_bytes: int | None = None
    fp16_tflops: float | None = None
    memory_bandwidth_gbs: float | None = None
    tdp_watts: float | None = None
    source: str
    confidence: str


class Catalog:
    """All chips, found by key, alias or family. Iteration is in table order."""

    def __init__(self, chips: Sequence[Chip], *, as_of: date) -> None:
        self.as_of = as_of
        self._chips: dict[str, Chip] = {}
        self._names: dict[str, str] = {}  # folded key or alias → key
        self._families: dict[str, tuple[str, ...]] = {}  # folded family → keys
        for chip in chips:
            self._admit(chip)
        self._spellings = _spellings(chips)

    def get(self, model: str) -> Chip | None:
        """The chip with exactly this key; None when there is none (aliases are for `resolve`)."""
        return self._chips.get(model)

    def resolve(self, term: str) -> tuple[str, ...]:
        """The keys a written term stands for: an exact key, else one alias, else a family; () if none.

        Aliases and families match whatever the letter case, spaces and dashes.
        """
        if term in self._chips:
            return (term,)
        for folded in _folded(term):
            if folded in self._names:
                return (self._names[folded],)
        return next((self._families[folded] for folded in _folded(term) if folded in self._families), ())

    def nearest(self, term: str) -> str | None:
        """The known spelling closest to `term`, a key before an alias before a family.

        None when nothing is close.
        """
        folded = _fold(term)
        close = difflib.get_close_matches(folded, self._spellings, n=1, cutoff=0.5) if folded else []
        return self._spellings[close[0]] if close else None

    def identify(self, vendor: str, model_raw: str, memory_total_bytes: int | None) -> str | None:
        """The key of a device from the name its tool prints and the memory it reports.

        None when no row of this vendor has the name, when the memory contradicts it (below 0.80 or above 1.02
        of the figure as sold, per die), or when several rows fit: an unsure model is an unknown one.
        """
        for names in (self._named(model_raw), self._members(model_raw)):
            mine = [self._chips[name] for name in names if self._chips[name].vendor == vendor]
            fit = [chip.model for chip in mine if _memory_fits(chip, memory_total_bytes)]
            if len(fit) == 1:
                return fit[0]
        return None

    def label(self, device: Accelerator) -> Accelerator:
        """The device with its key, or with a problem that says what the catalogue does not know."""
        model = self.identify(device.vendor, device.model_raw, device.memory_total_bytes)
        if model is not None:
            return replace(device, model=model)
        memory = device.memory_total_bytes
        held = "unknown memory" if memory is None else f"{memory >> 20} MiB of memory"
        named = [self._chips[name] for name in self._named(device.model_raw)]
        sold = [chip for chip in named if chip.vendor == device.vendor and chip.memory_bytes is not None]
        problem = f"model {device.model_raw!r} with {held} is not in the catalogue"
        if sold and sold[0].memory_bytes is not None:
            mib = sold[0].memory_bytes // sold[0].dies >> 20
            problem = f"model {device.model_raw!r} with {held} contradicts the catalogue: {sold[0].model} has {mib}"
        return replace(device, model=None, problems=(*device.problems, problem))

    def fp16_tflops(self, model: str) -> float | None:
        """Peak dense FP16 of a model in 10^12 operations a second.

        None when the model or the figure is unknown.
        """
        chip = self._chips.get(model)
        return chip.fp16_tflops if chip else None

    def __iter__(self) -> Iterator[Chip]:
        return iter(self._chips.values())

    def __len__(self) -> int:
        return len(self._chips)

    def __contains__(self, model: object) -> bool:
        return model in self._chips

    def _named(self, term: str) -> tuple[str, ...]:
        return next(((self._names[folded],) for folded in _folded(term) if folded in self._names), ())

    def _members(self, term: str) -> tuple[str, ...]:
        return next((self._families[folded] for folded in _folded(term) if folded in self._families), ())

    def _admit(self, chip: Chip) -> None:
        if chip.model in self._chips:
            raise CatalogError(f"chips: model {chip.model!r} is listed twice; keys are unique")
        self._chips[chip.model] = chip
        for spelling in (chip.model, *chip.aliases):
            for folded in _folded(spelling):
                holder = self._names.setdefault(folded, chip.model)
                if holder != chip.model:
                    raise CatalogError(f"chips: {spelling!r} of {chip.model} names {holder}; aliases are unique")
        for folded in _folded(chip.family):
            self._families[folded] = (*self._families.get(folded, ()), chip.model)


@functools.cache
def load_catalog() -> Catalog:
    """The packaged table, read and checked once a process."""
    return parse_catalog((Path(__file__).parent / "catalog.yaml").read_text(encoding="utf-8"))


def parse_catalog(text: str) -> Catalog:
    """The catalogue a YAML text spells. Unknown keys, wrong types and repeated names raise CatalogError."""
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CatalogError(f"not YAML: {error}") from error
    document = _mapping(loaded, "catalogue")
    _only(document, ("version", "as_of", "chips"), "catalogue")
    if document.get("version") != 1:
        raise CatalogError(f"version: {document.get('version')!r} is not known; the version is 1")
    as_of = document.get("as_of")
    if type(as_of) is not date:
        raise CatalogError(f"as_of: {as_of!r} is not a date; write YYYY-MM-DD")
    rows = document.get("chips")
    if not isinstance(rows, list) or not rows:
        raise CatalogError("chips: a list with at least one row is required")
    return Catalog([_chip(row, f"chips[{index}]") for index, row in enumerate(rows)], as_of=as_of)


_WORDS = ("model", "vendor", "family", "stack", "source")
_FIGURES = ("fp16_tflops", "memory_bandwidth_gbs", "tdp_watts")
_COUNTS = ("memory_bytes", "dies")
_CONFIDENCE = ("high", "medium", "low")


def _chip(value: object, where: str) -> Chip:
    row = _mapping(value, where)
    _only(row, tuple(field.name for field in fields(Chip)), where)
    found: dict[str, Any] = {name: _word(row.get(name), f"{where}.{name}") for name in _WORDS}
    if re.search(r"\s", found["model"]):
        raise CatalogError(f"{where}.model: {found['model']!r} holds a space; keys hold none")
    for name in _FIGURES:
        if name in row:
            found[name] = float(_positive(row[name], (int, float), f"{where}.{name}"))
    for name in _COUNTS:
        if name in row:
            found[name] = int(_positive(row[name], (int,), f"{where}.{name}"))
    aliases = row.get("aliases", [])
    if not isinstance(aliases, list):
        raise CatalogError(f"{where}.aliases: {aliases!r} is not a list")
    found["aliases"] = tuple(_word(alias, f"{where}.aliases") for alias in aliases)
    found["origin"] = Origin(_choice(row.get("origin"), tuple(Origin), f"{where}.origin"))
    found["confidence"] = _choice(row.get("confidence"), _CONFIDENCE, f"{where}.confidence")
    return Chip(**found)


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CatalogError(f"{where}: {value!r} is not a mapping")
    return value


def _only(row: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in row:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; nearest is {close[0]!r}" if close else f"; known are {', '.join(known)}"
            raise CatalogError(f"{where}: key {name!r} is not known{hint}")


def _word(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise CatalogError(f"{where}: {value!r} is not a non-empty text")
    return value


def _choice(value: object, known: Sequence[str], where: str) -> str:
    if value not in known:
        raise CatalogError(f"{where}: {value!r} is not one of {', '.join(known)}")
    return str(value)


def _positive(value: object, kinds: tuple[type, ...], where: str) -> Any:
    if type(value) not in kinds or not value > 0:  # type: ignore[operator]
        raise CatalogError(f"{where}: {value!r} is not a positive number; leave an unknown figure out")
    return value


def _fold(term: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", term.lower())


def _folded(term: str) -> tuple[str, ...]:
    """The folded term, and the same without the makers' words before it."""
    whole, bare = _fold(term), _bare(term)
    return tuple(dict.fromkeys(part for part in (whole, bare) if part))


def _bare(term: str) -> str:
    folded = _fold(term)
    for brand in [_fold(brand) for brand in BRANDS] * 2:  # twice: "NVIDIA Tesla", "AMD Instinct"
        folded = folded.removeprefix(brand) or folded
    return folded


def _memory_fits(chip: Chip, memory_total_bytes: int | None) -> bool:
    if memory_total_bytes is None or chip.memory_bytes is None:
        return True
    low, high = MEMORY_FIT
    return low * chip.memory_bytes <= memory_total_bytes * chip.dies <= high * chip.memory_bytes


def _spellings(chips: Sequence[Chip]) -> dict[str, str]:
    ordered = [chip.model for chip in chips]
    ordered += [alias for chip in chips for alias in chip.aliases]
    ordered += [chip.family for chip in chips]
    found: dict[str, str] = {}
    for spelling in ordered:
        found.setdefault(_fold(spelling), spelling)
    return found
