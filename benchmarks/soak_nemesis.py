"""The soak's nemesis: what breaks, when and for how long, all from the seed; and a proxy whose connections can be cut."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass

QUIET_S = 5.0  # at the start, so that the first jobs are there

# deed: weight, seconds until it is healed (from, to)
EVERYWHERE: Mapping[str, tuple[int, float, float]] = {
    "kill_api": (4, 0.5, 4.0),
    "kill_leader": (4, 0.5, 8.0),
    "kill_standby": (2, 0.5, 4.0),
    "end_leader": (2, 0.5, 4.0),
    "freeze_leader": (4, 2.0, 14.0),
    "kill_database": (3, 0.3, 5.0),
}
OF_BACKEND: Mapping[str, Mapping[str, tuple[int, float, float]]] = {
    "local": {},
    "ray": {"kill_raylet": (4, 1.0, 6.0), "cut_head": (4, 1.0, 12.0)},
    "kubernetes": {"kill_apiserver": (4, 0.5, 5.0), "cut_apiserver": (3, 1.0, 12.0), "lose_node": (2, 12.0, 20.0)},
}


@dataclass(frozen=True, slots=True, order=True)
class Deed:
    """Something breaks at_s seconds after the start and is healed for_s later. dice: for what is chosen only then."""

    at_s: float
    what: str
    for_s: float
    dice: int


def plan(seed: int, backend: str, seconds: float, gap_s: float = 7.0) -> tuple[Deed, ...]:
    """The same deeds for the same seed, in order of time; none in the first QUIET_S."""
    chance = random.Random(f"{seed}-nemesis")
    known = {**EVERYWHERE, **OF_BACKEND[backend]}
    found, at = [], QUIET_S
    while (at := at + chance.expovariate(1 / gap_s)) < seconds:
        what = chance.choices(list(known), [weight for weight, _, _ in known.values()])[0]
        _, low, high = known[what]
        found.append(Deed(round(at, 2), what, round(chance.uniform(low, high), 2), chance.randrange(1 << 30)))
    return tuple(found)


class Proxy:
    """A TCP door to a port of this host. cut(): every connection through it is reset and new ones are refused, until mend()."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._pairs: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._cut = threading.Event()
        self._closed = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nothing gets through."""
        self._cut.set()
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for one in pairs:
            _break(one)

    def mend(self) -> None:
        """New connections get through again."""
        self._cut.clear()

    def close(self) -> None:
        """The door is gone."""
        self._closed.set()
        self.cut()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                inner, _ = self._server.accept()
            except OSError:
                return
            if self._cut.is_set():
                _break(inner)
                continue
            try:
                outer = socket.create_connection(("127.0.0.1", self.target), timeout=5)
                outer.settimeout(None)
            except OSError:
                _break(inner)
                continue
            with self._lock:
                self._pairs |= {inner, outer}
            for one, other in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            _break(source)
            _break(sink)
        finally:
            with self._lock:
                self._pairs.discard(source)


def _break(one: socket.socket) -> None:
    """The connection is reset, not closed in order; a thread that waits on it wakes."""
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        one.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        one.close()
