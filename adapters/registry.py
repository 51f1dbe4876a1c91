"""Registry: the names of registered vendors, and their adapters, each imported when first asked for.

Nothing is imported or probed while names are listed. A vendor is one file and one line under
`yisuan.vendors`.
"""

from __future__ import annotations

import difflib
import functools
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import cast

from adapters.adapter import Adapter

GROUP = "yisuan.vendors"


class UnknownVendor(ValueError):
    """No adapter is registered under this name; the message names the nearest that is."""


def vendors() -> dict[str, EntryPoint]:
    """Every registered vendor name and where its adapter lives, in name order. Imports no adapter."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    return {name: found[name] for name in sorted(found)}


def load_adapter(name: str) -> Adapter:
    """A fresh adapter of the vendor, imported now if it was not. UnknownVendor when there is none."""
    if name not in _known():
        _known.cache_clear()  # a distribution may have been installed since
    found = _known()
    if name not in found:
        close = difflib.get_close_matches(name, found, n=1)
        hint = f"nearest is {close[0]!r}" if close else f"registered are {', '.join(found) or 'none'}"
        raise UnknownVendor(f"vendor: {name!r} is not registered under {GROUP}; {hint}")
    return cast(Adapter, found[name].load()())


@functools.cache
def _known() -> MappingProxyType[str, EntryPoint]:
    """Read once: a scan of all installed metadata takes milliseconds, and the loop asks for every lease."""
    return MappingProxyType(vendors())
