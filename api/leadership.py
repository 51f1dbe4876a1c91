"""Leadership: what the database tells every process about the others: who is the loop, since when, when it last ticked, on
which host its local jobs are, and which key seals.

Rows of `platform`, the loop's written by the loop itself. They say what is; they elect nobody and fence nothing
(scheduler/election.py does). Readiness, doctor and metrics read them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, insert, select, update

from metering import checkpoint
from metering.schema import platform
from scheduler.clock import from_ms
from scheduler.schema import leases

LOOP, HOME, KEY = "loop", "local_home", "checkpoint_key"
TELL_EVERY = timedelta(seconds=2)
QUIET = timedelta(seconds=15)  # a loop that has not ticked for so long does not serve; a takeover takes at most 10 s


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """The loop's own word. ticked_ms: of its last round or of its predecessor's, None before the first of all.

    resigned: it ended in order, and nobody has followed it yet.
    """

    who: str
    epoch: int
    since_ms: int
    ticked_ms: int | None
    resigned: bool = False

    @property
    def since(self) -> datetime:
        return from_ms(self.since_ms)

    @property
    def ticked_at(self) -> datetime | None:
        return None if self.ticked_ms is None else from_ms(self.ticked_ms)


def leader_of(tx: Connection) -> Leader | None:
    """The last loop that said that it is one; None before the first."""
    value = _value(tx, LOOP)
    return Leader(**json.loads(value)) if value else None


def tell(tx: Connection, leader: Leader) -> None:
    """Every process can read it afterwards."""
    _put(tx, LOOP, json.dumps(asdict(leader)))


def begins(tx: Connection, who: str, epoch: int, at_ms: int) -> None:
    """Everybody can read that this process leads since this instant."""
    before = leader_of(tx)
    tell(tx, Leader(who=who, epoch=epoch, since_ms=at_ms, ticked_ms=before.ticked_ms if before else None))


def ends(tx: Connection) -> None:
    """Everybody can read that the loop has ended in order."""
    known = leader_of(tx)
    if known is not None:
        tell(tx, replace(known, resigned=True))


def ticked(tx: Connection, who: str, epoch: int, at_ms: int) -> None:
    """The loop that leads has made a round at this instant; in a term that nobody was told of, its first one."""
    known = leader_of(tx)
    since = known.since_ms if known is not None and known.epoch == epoch else at_ms
    tell(tx, Leader(who=who, epoch=epoch, since_ms=since, ticked_ms=at_ms))


# --- the host of local jobs -----------------------------------------------------------------------------------------


def home_of(data_dir: Path) -> str:
    """The name of this data directory, made once: jobs of the local backend live on the host that has it."""
    path = data_dir / "home"
    if not path.exists():
        partial = path.with_name(f"home.{secrets.token_hex(8)}")
        partial.write_text(secrets.token_hex(16) + "\n", "ascii")
        with contextlib.suppress(FileExistsError):  # whoever links first names it
            os.link(partial, path)
        partial.unlink()
    return path.read_text("ascii").strip()


def local_home(tx: Connection) -> str | None:
    """The data directory whose local backend the loop uses; None before a loop with one has led."""
    return _value(tx, HOME)


def move_home(tx: Connection, home: str) -> bool:
    """The local backend is this data directory's afterwards; False while jobs still run under another one.

    Elsewhere its processes cannot be seen, and would be started a second time.
    """
    known = local_home(tx)
    if known not in (None, home):
        held = select(leases.c.id).where(leases.c.backend == "local", leases.c.released_at_ms.is_(None)).limit(1)
        if tx.execute(held).first() is not None:
            return False
    if known != home:
        _put(tx, HOME, home)
    return True


def public_key(tx: Connection, own: str) -> str:
    """The public key (hex) that seals this database: its newest seal's, else the first one that was ever brought."""
    newest = next(checkpoint.seals(tx), None)
    known = str(newest[1]["key"]) if newest else _value(tx, KEY)
    if known is None:
        _put(tx, KEY, own)
    return known or own


def _value(tx: Connection, key: str) -> str | None:
    found = tx.execute(select(platform.c.value).where(platform.c.key == key)).scalar()
    return None if found is None else str(found)


def _put(tx: Connection, key: str, value: str) -> None:
    if _value(tx, key) is None:
        tx.execute(insert(platform).values(key=key, value=value))
    else:
        tx.execute(update(platform).where(platform.c.key == key).values(value=value))
