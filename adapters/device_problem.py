"""Device problem: what an adapter says of a device, as a code with facts, so that people read it in their own language. Pure.

Adapters keep saying it in plain English, in `Accelerator.problems`, and that text is always among the facts (`said`). What no row here
knows has the code OTHER and is shown as it was said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class DeviceProblem:
    """code: one of CODES; facts: the names in its text, and `said`, the adapter's own words."""

    code: str
    facts: Mapping[str, str]


_BUS = r"the bus has (?P<ids>[0-9a-f]{4}:[0-9a-f]{4}) at (?P<bdf>\S+)"
_ROWS = (  # adapters/pci.py, fault.py, agent.py, smi.py, binding.py, gpustack.py, row.py, reading rows of single tools
    ("NOT_ON_BUS", r"the tool lists it at (?P<bdf>.+), where the bus has nothing"),
    ("BUS_OTHER_VENDOR", _BUS + r", which is (?P<holder>.+), not (?P<vendor>.+)"),
    ("BUS_OTHER_DEVICE", _BUS + r"; the tool says (?P<says>.+)"),
    ("BUS_NO_ACCELERATOR", _BUS + r", of class (?P<kind>[0-9a-f]+), which is no accelerator"),
    ("DRIVER_OF_ANOTHER", r"kernel driver (?P<driver>.+) is bound to it, which is not (?P<vendor>.+)'s"),
    ("EVENT_FATAL", r"(?P<event>.+) at (?P<when>\S+): no work until it was reset or replaced"),
    ("EVENT_WARNING", r"(?P<event>.+) at (?P<when>\S+): somebody should look at it"),
    ("NOT_READ_NOW", r"its adapter cannot read it now; this is what it showed before"),
    ("LIBRARY_SILENT", r"the library cannot read it: (?P<reason>.*)"),
    ("CANNOT_BE_READ", r"cannot be read: (?P<reason>.*)"),
    ("SPLIT_ON", r"MIG is on: jobs get its partitions, which are listed where the output names them"),
    ("SPLIT", r"the device is split; .*"),
    ("DUE_FOR_EXCHANGE", r"the tool says that the card is due for exchange \(RMA\)"),
    ("NO_UUID", r"the device's uuid cannot be read"),
    ("NO_NAME", r"the output does not say which model it is"),
    ("MEMORY_IMPOSSIBLE", r"memory used, (?P<used>.+), is more than there is, (?P<total>.+); read as unknown"),
    ("BUS_ADDRESS_UNREAD", r"its bus address cannot be read; it is taken as failed"),
)
_KNOWN = tuple((code, re.compile(pattern, re.S)) for code, pattern in _ROWS)
CODES = (*(code for code, _ in _ROWS), OTHER)


def coded(said: str) -> DeviceProblem:
    """The problem's code and facts; OTHER for words that no row knows."""
    for code, pattern in _KNOWN:
        match = pattern.fullmatch(said)
        if match is not None:
            return DeviceProblem(code, {**match.groupdict(), "said": said})
    return DeviceProblem(OTHER, {"said": said})
