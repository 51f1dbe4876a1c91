"""The tables of fragmentation give what its definition gives, shape by shape and device by device."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.fragmentation import Nodes, gain, tables_of, waste
from scheduler.snapshot import MixShape

MODELS = ("A", "B")
shapes = st.builds(
    MixShape,
    weight=st.integers(1, 9),
    count=st.integers(0, 4),
    share_permille=st.just(1000),
    cpu_milli=st.sampled_from([0, 2000, 6000]),
    models=st.sampled_from([(), ("A",), ("B",)]),
) | st.builds(
    MixShape,
    weight=st.integers(1, 9),
    count=st.just(1),
    share_permille=st.sampled_from([190, 500, 999]) | st.integers(1, 999),  # often exactly what is free
    cpu_milli=st.sampled_from([0, 2000, 6000]),
    models=st.sampled_from([(), ("A",)]),
)
frees = st.lists(st.sampled_from([0, 190, 500, 999, 1000]), min_size=4, max_size=4)


def defined(mix: list[MixShape], free: list[int], cpu: int, model: str) -> float:
    """Idle thousandths that a member drawn from the mix cannot have on the node."""
    total = 0.0
    for shape in mix:
        usable = [f for f in free if f >= shape.share_permille]
        runs = shape.count and (not shape.models or model in shape.models) and cpu >= shape.cpu_milli
        can = runs and len(usable) >= shape.count
        total += shape.weight * (sum(free) - (sum(usable) if can else 0))
    return total / sum(shape.weight for shape in mix)


@given(
    mix=st.lists(shapes, min_size=1, max_size=6), free=frees, cpu=st.integers(0, 9000), model=st.sampled_from(MODELS)
)
def test_waste_is_its_definition(mix: list[MixShape], free: list[int], cpu: int, model: str) -> None:
    tables = tables_of(mix, MODELS, 4)
    nodes = Nodes(np.array([free]), np.array([cpu]), np.array([MODELS.index(model)]))
    assert waste(tables, nodes)[0] == pytest.approx(defined(mix, free, cpu, model))


@given(
    mix=st.lists(shapes, min_size=1, max_size=6), free=frees, cpu=st.integers(2000, 9000), model=st.sampled_from(MODELS),
    asked=st.sampled_from([(0, 1000), (1, 1000), (3, 1000), (1, 190), (1, 400), (1, 999)]),
)  # fmt: skip
def test_gain_is_waste_before_less_waste_after_the_best_device(
    mix: list[MixShape], free: list[int], cpu: int, model: str, asked: tuple[int, int]
) -> None:
    count, share = asked
    tables = tables_of(mix, MODELS, 4)
    nodes = Nodes(np.array([free]), np.array([cpu]), np.array([MODELS.index(model)]))
    better, device = gain(tables, nodes, waste(tables, nodes), count, share, 2000)
    before = defined(mix, free, cpu, model)
    if share < 1000:
        places = [i for i, f in enumerate(free) if f >= share]
        after = [defined(mix, [*free[:i], free[i] - share, *free[i + 1 :]], cpu - 2000, model) for i in places]
    else:
        full = [i for i, f in enumerate(free) if f == 1000][:count]
        left = [0 if i in full else f for i, f in enumerate(free)]
        after = [defined(mix, left, cpu - 2000, model)] if len(full) == count else []
    if not after:
        assert better[0] == -np.inf
        return
    assert better[0] == pytest.approx(before - min(after))
    if share < 1000:
        assert free[int(device[0])] >= share
