"""The spool: what was said is on disk, is sent until it is taken, and is never lost without a word."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters import spool as module
from adapters.event import Kind, parse
from adapters.spool import EventWriter, Spool, SpoolBusy, SpoolDamaged, SpoolFull, deliver

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
NOON = datetime(2026, 6, 1, 4, tzinfo=UTC)


class Host:
    """An agent's host: clocks that are set, and an agent that can die and come back."""

    def __init__(self, path: Path, **more: Any) -> None:
        self.path, self.more, self.ms, self.boot = path, more, 1_000, "b1"
        self.come_back()

    def come_back(self) -> None:
        self.spool = Spool(self.path, **self.more)
        self.writer = EventWriter(
            node="n1", boot=self.boot, key=KEY, agent_version="0.1", spool=self.spool,
            now=lambda: NOON + timedelta(milliseconds=self.ms), boot_ms=lambda: self.ms,
        )  # fmt: skip

    def die(self) -> None:
        self.spool.close()  # what the kernel does for a killed process: descriptors and locks go, nothing is written

    @property
    def ids(self) -> list[str]:
        return [document["id"] for document in self.spool.waiting(10_000)]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path / "spool" / "events.jsonl")
    yield made
    made.die()


def platform(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": document["id"], "status": "accepted"} for document in batch]


def test_a_stream_is_counted_chained_and_cumulative(host: Host) -> None:
    host.writer.started("a.1", ["d0"], share_permille=500, model="M")
    host.ms += 60_000
    host.writer.heartbeat(["a.1"])
    host.ms += 1
    host.writer.migrated("a.1", ["d1"])
    host.writer.stopped("a.1")
    told = [parse(document) for document in host.spool.waiting()]

    assert [s.event.kind for s in told] == [Kind.STARTED, Kind.HEARTBEAT, Kind.MIGRATED, Kind.STOPPED]
    assert [s.event.seq for s in told] == [1, 2, 3, 4]
    assert [s.event.monotonic_ms for s in told] == [0, 60_000, 60_001, 60_001]
    assert [s.event.devices for s in told] == [("d0",), ("d0",), ("d1",), ("d1",)]
    assert all(after.event.prev_hash == before.hash for before, after in pairwise(told))
    with pytest.raises(KeyError):
        host.writer.heartbeat(["a.1"])


def test_an_agent_that_comes_back_goes_on_where_it_was(host: Host) -> None:
    first = host.writer.started("a.1", ["d0"])
    deliver(host.spool, platform)
    host.die()
    host.ms += 5_000
    host.come_back()

    assert host.writer.started("a.1", ["d0"]) == first
    beat = host.writer.heartbeat(["a.1"])[0]
    assert (beat.event.seq, beat.event.monotonic_ms, beat.event.prev_hash) == (2, 5_000, first.hash)
    assert host.ids == ["n1:b1:a.1:2"]


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_line_that_a_crash_tore_off_never_counted(host: Host, cut: int) -> None:
    host.writer.started("a.1", ["d0"])
    host.writer.heartbeat(["a.1"])
    host.die()
    content = host.path.read_bytes()
    host.path.write_bytes(content[:-cut])
    host.come_back()

    assert host.ids == ["n1:b1:a.1:1"]
    host.writer.heartbeat(["a.1"])  # the same place in the chain, said anew
    assert host.ids == ["n1:b1:a.1:1", "n1:b1:a.1:2"]


def test_a_damaged_line_that_had_counted_is_an_error_with_its_place(host: Host) -> None:
    host.writer.started("a.1", ["d0"])
    host.writer.heartbeat(["a.1"])
    host.die()
    lines = host.path.read_bytes().splitlines(keepends=True)
    host.path.write_bytes(lines[0].replace(b'"seq":1', b'"seq":7') + lines[1])
    with pytest.raises(SpoolDamaged) as raised:
        host.come_back()
    assert raised.value.line == 1
    host.path.write_bytes(b"".join(lines))
    host.come_back()


def test_what_is_not_taken_is_sent_again(host: Host) -> None:
    host.writer.started("a.1", ["d0"])
    host.writer.heartbeat(["a.1"])
    sent: list[list[str]] = []

    def deaf(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        sent.append([document["id"] for document in batch])
        raise ConnectionError

    for _ in range(2):
        with pytest.raises(ConnectionError):
            deliver(host.spool, deaf)
    assert sent == [["n1:b1:a.1:1", "n1:b1:a.1:2"]] * 2
    assert deliver(host.spool, lambda batch: platform(batch)[1:]) == 1
    assert (host.ids, deliver(host.spool, lambda batch: [])) == (["n1:b1:a.1:1"], 0)
    assert (deliver(host.spool, platform), len(host.spool)) == (1, 0)


def test_an_answer_for_something_else_takes_nothing_off(host: Host) -> None:
    host.writer.started("a.1", ["d0"])

    assert deliver(host.spool, lambda batch: [{"id": "n1:b1:other:1"}]) == 0
    assert len(host.spool) == 1


def test_a_full_spool_says_so_and_keeps_room_for_the_stop(tmp_path: Path) -> None:
    host = Host(tmp_path / "e.jsonl", capacity=10)
    host.writer.started("a.1", ["d0"])
    for _ in range(8):
        host.writer.heartbeat(["a.1"])
    with pytest.raises(SpoolFull):
        host.writer.heartbeat(["a.1"])
    host.ms += 90_000
    stop = host.writer.stopped("a.1")

    assert (stop.event.seq, stop.event.monotonic_ms) == (10, 90_000)  # the heartbeat that found no room left no gap
    with pytest.raises(SpoolFull):
        host.writer.started("b.1", ["d0"])
    assert len(host.spool) == 10
    host.die()


def test_a_full_disk_leaves_what_was_there(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.writer.started("a.1", ["d0"])
    real = module._write

    def full(handle: int, text: bytes) -> None:
        real(handle, text[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(OSError, match="No space"):
        host.writer.heartbeat(["a.1"])
    monkeypatch.undo()
    host.writer.heartbeat(["a.1"])
    host.die()
    host.come_back()
    assert host.ids == ["n1:b1:a.1:1", "n1:b1:a.1:2"]


def test_two_agents_do_not_share_a_spool(host: Host) -> None:
    with pytest.raises(SpoolBusy):
        Spool(host.path)


def test_compaction_keeps_what_waits_and_where_open_streams_stand(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_AT", 20)
    host.writer.started("gone.1", ["d1"])
    host.writer.stopped("gone.1")
    host.writer.started("old.1", ["d2"])
    host.writer.started("a.1", ["d0"])
    for _ in range(40):
        host.writer.heartbeat(["a.1"])
    kept = ["n1:b1:gone.1:1", "n1:b1:a.1:40"]
    host.spool.acknowledge([i for i in host.ids if i not in kept])
    last = host.spool.tail(("urn:yisuan:agent:n1", "b1", "a.1"))

    assert len(host.path.read_bytes().splitlines()) == 4  # two tails, two that wait
    for _ in range(2):
        assert host.ids == kept
        assert [stream[2] for stream in host.spool.open_streams()] == ["a.1", "old.1"]
        assert host.spool.tail(("urn:yisuan:agent:n1", "b1", "a.1")) == last
        host.die()
        host.come_back()
    assert host.writer.heartbeat(["a.1"])[0].event.seq == 42


def test_streams_of_an_earlier_boot_can_be_given_up(host: Host) -> None:
    host.writer.started("a.1", ["d0"])
    host.die()
    host.boot, host.ms = "b2", 10
    host.come_back()
    assert host.writer.started("a.1", ["d0"]).event.id == "n1:b2:a.1:1"
    host.spool.abandon(("urn:yisuan:agent:n1", "b1", "a.1"))
    host.die()
    host.come_back()

    assert [stream[1] for stream in host.spool.open_streams()] == ["b2"]
    assert len(host.spool) == 2  # what was said is still sent


CHILD = """
import sys, itertools
from datetime import UTC, datetime
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from adapters.spool import EventWriter, Spool
ticks = itertools.count(1)
writer = EventWriter(node="n1", boot="b1", key=Ed25519PrivateKey.from_private_bytes(b"k" * 32), agent_version="0.1",
    spool=Spool(Path(sys.argv[1])), now=lambda: datetime(2026, 6, 1, tzinfo=UTC), boot_ms=lambda: next(ticks))
writer.started("a.1", ["d0"])
print(1, flush=True)
while True:
    print(writer.heartbeat(["a.1"])[0].event.seq, flush=True)
"""


def test_whatever_was_said_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = 0
    for line in child.stdout:
        said = int(line)
        if said >= 50:
            os.kill(child.pid, signal.SIGKILL)
            break
    rest = child.stdout.read().split("\n")
    said = max([said, *(int(number) for number in rest[:-1] if number)])
    child.wait()
    child.stdout.close()
    with Spool(path) as spool:
        told = [parse(document) for document in spool.waiting(100_000)]

    assert [s.event.seq for s in told][:said] == list(range(1, said + 1))
    assert len(told) <= said + 1
    assert all(after.event.prev_hash == before.hash for before, after in pairwise(told))


def test_the_file_holds_documents_as_they_are_sent(host: Host) -> None:
    signed = host.writer.started("a.1", ["d0"])

    assert json.loads(host.path.read_text())["event"] == signed.document()
    assert host.path.stat().st_mode & 0o077 == 0
