"""A device that is split, or set to be split, is not leased whole; its parts are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from adapters.accelerator import Accelerator, Partition, PartitionKind, Source
from adapters.smi import MIG_ON
from scheduler import places
from scheduler.schema import devices
from tests.fakes import NOON
from tests.platform import make_platform

WHOLE = Accelerator(uuid="GPU-0", index=0, vendor="nvidia", model_raw="H800", model="H800", source=Source.LIBRARY)
PART = replace(
    WHOLE, uuid="MIG-0", index=1, partition=Partition(kind=PartitionKind.MIG, parent_uuid="GPU-0", profile="1g.10gb"),
    problems=(),
)  # fmt: skip
ON = replace(WHOLE, problems=(MIG_ON,))


@pytest.mark.parametrize(
    ("inventory", "leasable"),
    [
        ((WHOLE,), {"GPU-0"}),
        ((replace(WHOLE, problems=("something else",)),), {"GPU-0"}),
        ((ON,), set()),
        ((ON, PART), {"MIG-0"}),
        ((WHOLE, PART), {"MIG-0"}),
        ((replace(PART, problems=(MIG_ON,)),), {"MIG-0"}),
    ],
)
def test_what_can_be_leased(tmp_path: Path, inventory: tuple[Accelerator, ...], leasable: set[str]) -> None:
    platform = make_platform(tmp_path)
    with platform.database.write() as tx:
        assert places.add_node(tx, id="n1", pool="h800", devices=inventory, now=NOON) is None
        rows = tx.execute(select(devices.c.uuid).where(devices.c.node == "n1", devices.c.leasable == 1)).scalars()
        assert set(rows) == leasable
        assert places.heartbeat(tx, "n1", (WHOLE,), NOON) is None
        rows = tx.execute(select(devices.c.uuid).where(devices.c.node == "n1", devices.c.leasable == 1)).scalars()
        assert set(rows) == {"GPU-0"}, "MIG was turned off again"
    platform.database.close()
