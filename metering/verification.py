"""Verification: many Ed25519 signatures at once, here or in processes beside, as one verification fills a processor.

A verifier is any function from claims to whether each holds, in order; what it costs is no part of what it answers.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from adapters.event import public_key

Claim = tuple[str, bytes, bytes]  # the key as `adapters.event.public_text` writes it, the message, its signature
Verifier = Callable[[Sequence[Claim]], list[bool]]
APART_FROM = 64  # claims; below, handing them over costs more than it saves


def verify_here(claims: Sequence[Claim]) -> list[bool]:
    """Whether each message was signed by its key (RFC 8032 §5.1.7). EventInvalid for what is no key."""
    return [_holds(_opened(key), message, signature) for key, message, signature in claims]


class Processes:
    """A verifier with processes of its own, started at the first batch worth it and ended with this one.

    workers: how many; None: one per processor. A process that dies takes nothing with it: its batch is verified here.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def __call__(self, claims: Sequence[Claim]) -> list[bool]:
        if len(claims) < APART_FROM or self.workers < 2:
            return verify_here(claims)
        share = -(-len(claims) // self.workers)
        parts = [claims[at : at + share] for at in range(0, len(claims), share)]
        try:
            return [held for part in self._started().map(verify_here, parts) for held in part]
        except (BrokenProcessPool, OSError):
            self.close()
            return verify_here(claims)

    def close(self) -> None:
        """Its processes end; the next batch starts new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                apart = multiprocessing.get_context("spawn")  # never fork: this process has threads and connections
                self._pool = ProcessPoolExecutor(self.workers, apart, _end_with_parent)
            return self._pool


@functools.cache
def processes() -> Processes:
    """The one of this process."""
    return Processes()


def _end_with_parent() -> None:
    """A worker outlives neither a killed parent nor obeys a Ctrl-C meant for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


@functools.lru_cache(maxsize=4096)
def _opened(key: str) -> Ed25519PublicKey:
    return public_key(key)


def _holds(key: Ed25519PublicKey, message: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
