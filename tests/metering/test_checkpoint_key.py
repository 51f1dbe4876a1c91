"""The key that seals: made once, introduced once, and nothing altered passes under it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from metering import checkpoint
from metering.checkpoint import load_key, signed_by
from tests.metering.sealing import FILE, sealed_books


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sealed_books(tmp_path_factory.mktemp("sealed"))


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
