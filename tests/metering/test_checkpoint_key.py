"""The key that seals: made once, introduced once, and nothing altered passes under it."""

from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import pytest

from metering import checkpoint
from metering.checkpoint import load_key, seal, signed_by
from metering.store import set_price
from tests.metering.sealing import FILE, settle
from tests.platform import make_platform


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settled job, a seal, a head line, another settled job, a second seal, and a price after it."""
    directory = tmp_path_factory.mktemp("sealed")
    platform = make_platform(directory)
    key = load_key(directory / "checkpoint.key")
    for name, accelerators in (("a", "Ascend910B3:8"), ("b", "H800:8")):
        settle(platform, name, accelerators)
        with platform.database.write() as tx:
            checkpoint.take(tx, directory / FILE, platform.clock.now())
            seal(tx, directory / FILE, platform.clock.now(), f"clearing:{name}", key)
    with platform.database.write() as tx:
        now = platform.clock.now()
        set_price(tx, pool="h800", model="H800", fen=1900, start=now + timedelta(days=1), by="op", now=now)
    platform.database.close()
    return directory


# --- the key ----------------------------------------------------------------------------------------------------------


def test_the_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    first = load_key(tmp_path / "k")

    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    assert load_key(tmp_path / "k").public == first.public
    assert load_key(tmp_path / "other").public != first.public


@pytest.mark.parametrize("content", ["", "zz", "ab" * 31, "ab" * 33])
def test_a_key_file_that_is_none_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / "k").write_text(content)

    with pytest.raises(ValueError, match="not an Ed25519 private key"):
        load_key(tmp_path / "k")
    assert (tmp_path / "k").read_text() == content


def test_the_file_introduces_the_key_once_before_the_first_seal(sealed: Path) -> None:
    lines = checkpoint.read_file(sealed / FILE)
    introduced = [i for i, line in enumerate(lines) if "introduces" in line]

    assert len(introduced) == 1
    assert introduced[0] < next(i for i, line in enumerate(lines) if "seal" in line)
    assert lines[introduced[0]]["introduces"] == load_key(sealed / "checkpoint.key").public


@pytest.mark.parametrize("part", ["at_ms", "reason", "heads", "roots", "merkle_root", "key", "signature"])
def test_any_altered_part_of_a_seal_breaks_its_signature(sealed: Path, part: str) -> None:
    public = load_key(sealed / "checkpoint.key").public
    line = checkpoint.read_file(sealed / FILE)[-1]
    altered = {
        "at_ms": 1,
        "reason": "x",
        "heads": {},
        "roots": {},
        "merkle_root": "00",
        "key": "00" * 32,
        "signature": "zz",
    }

    assert signed_by(line, public)
    assert not signed_by({**line, part: altered[part]}, public)
    assert not signed_by({k: v for k, v in line.items() if k != part}, public)
