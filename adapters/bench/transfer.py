"""Transfer: what the links carry between host and device and between two devices, in bytes of payload a second."""

from __future__ import annotations

from adapters.bench.memory import places, vector
from adapters.bench.stack import Array, Stack, Transfer, Unsupported

VECTOR_BYTES = 256 << 20
DIRECTIONS = ("host_to_device", "device_to_host", "device_to_device")


def movement(stack: Stack, direction: str, other: int | None, count: int, seed: int) -> tuple[Transfer, Array, Array]:
    """The transfer, the places to look at, and what must be there afterwards. other: the second device's number."""
    held, where = vector(count, seed), places(count, seed)
    if direction == "host_to_device":
        return stack.upload(held), where, held[where]
    if direction == "device_to_host":
        return stack.download(held), where, held[where]
    if direction != "device_to_device":
        raise ValueError(f"direction: {direction!r} is none of {', '.join(DIRECTIONS)}")
    if other is None:
        raise Unsupported("a link between devices needs a second device")
    return stack.peer(held, other), where, held[where]
