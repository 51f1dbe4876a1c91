"""Where the members of a gang go, and which devices of a node."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.topology import LEVELS, TopologyError, choose, devices, level_of

Case = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], dict[str, npt.NDArray[np.int64]], int, npt.NDArray[np.int64]]
LEVEL = st.none() | st.sampled_from(LEVELS)


def ints(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


@st.composite
def zones(draw: st.DrawFn) -> Case:
    n = draw(st.integers(1, 7))

    def some(low: int, high: int) -> npt.NDArray[np.int64]:
        return ints(*draw(st.lists(st.integers(low, high), min_size=n, max_size=n)))

    domains = {"group": some(-1, 2), "rack": some(0, 2), "region": some(0, 1)}
    if draw(st.booleans()):
        del domains["group"]
    rows = ints(*draw(st.lists(st.integers(0, 30), min_size=n, max_size=n, unique=True).map(sorted)))
    return rows, some(0, 1), domains, draw(st.integers(1, 4)), some(0, 9)


def labels(case: Case, level: str) -> dict[int, int]:
    """Domain of each row id; unknown ones apart."""
    rows, _, domains, _, _ = case
    found = rows if level == "node" else domains.get(level, np.full(len(rows), -1))
    return {int(r): (int(d) if level == "node" or d >= 0 else -100 - int(r)) for r, d in zip(rows, found, strict=True)}


def every_choice(case: Case, required: str | None) -> list[tuple[int, ...]]:
    rows, capacity, _, nodes, _ = case
    able = [int(r) for r, c in zip(rows, capacity, strict=True) if c]
    found = list(itertools.combinations(able, nodes))
    if required:
        of = labels(case, required)
        unknown = {r for r, d in of.items() if d < 0}
        found = [s for s in found if len({of[r] for r in s}) == 1 and not unknown & set(s)]
    return found


@given(zones(), LEVEL, LEVEL)
@settings(max_examples=400)
def test_a_choice_is_found_when_there_is_one_and_uses_the_fewest_domains(
    case: Case, required: str | None, preferred: str | None
) -> None:
    rows, capacity, domains, nodes, score = case
    able = every_choice(case, required)
    found = choose(rows, capacity, domains, nodes, required, preferred, score)
    if not able:
        assert found is None
        return
    assert found is not None
    chosen = tuple(found.tolist())
    assert chosen in able
    if preferred:
        of = labels(case, preferred)
        assert len({of[r] for r in chosen}) == min(len({of[r] for r in s}) for s in able)


@given(zones(), LEVEL)
@settings(max_examples=200)
def test_without_a_preference_the_score_decides(case: Case, required: str | None) -> None:
    rows, capacity, domains, nodes, score = case
    able, price = every_choice(case, required), dict(zip(rows.tolist(), score.tolist(), strict=True))
    found = choose(rows, capacity, domains, nodes, required, None, score)
    if found is not None:
        assert sum(price[r] for r in found.tolist()) == min(sum(price[r] for r in s) for s in able)


@given(zones(), LEVEL, LEVEL, st.randoms())
def test_order_of_rows_has_no_meaning(case: Case, required: str | None, preferred: str | None, random: object) -> None:
    rows, capacity, domains, nodes, score = case
    found = choose(rows, capacity, domains, nodes, required, preferred, score)
    mixed = list(range(len(rows)))
    random.shuffle(mixed)  # type: ignore[attr-defined]
    again = choose(
        rows[mixed],
        capacity[mixed],
        {k: v[mixed] for k, v in domains.items()},
        nodes,
        required,
        preferred,
        score[mixed],
    )
    assert (None if found is None else found.tolist()) == (None if again is None else again.tolist())


RACKS = {"rack": ints(0, 0, 0, 1, 1, 2, 2), "region": ints(0, 0, 0, 0, 0, 1, 1)}
ROWS, ALL, EVEN = np.arange(7, dtype=np.int64), np.ones(7, dtype=np.int64), np.zeros(7, dtype=np.int64)


def chosen(
    nodes: int, required: str | None = None, preferred: str | None = None, capacity: npt.NDArray[np.int64] = ALL
) -> list[int] | None:
    found = choose(ROWS, capacity, RACKS, nodes, required, preferred, EVEN)
    return None if found is None else found.tolist()


def test_a_rack_is_filled_and_the_large_one_left_whole() -> None:
    assert chosen(2, "rack") == [3, 4]
    assert chosen(3, "rack") == [0, 1, 2]
    assert chosen(4, "rack") is None
    assert chosen(2, None, "rack") == [3, 4]


def test_two_racks_of_one_region_before_two_of_different_ones() -> None:
    assert chosen(5, None, "rack") == [0, 1, 2, 3, 4]
    assert chosen(4, "region", "rack") == [0, 1, 2, 3]
    assert chosen(6, "region", "rack") is None
    assert chosen(7, None, "rack") == list(range(7))


def test_preferred_is_no_condition_and_required_is() -> None:
    spread = ints(1, 0, 0, 1, 0, 1, 0)
    assert chosen(2, None, "rack", spread) == [0, 3]
    assert chosen(2, "rack", None, spread) is None


def test_rows_that_host_several_members() -> None:
    assert chosen(2, "node", None, ints(1, 1, 2, 0, 3, 0, 0)) == [2, 2]
    assert chosen(4, None, "node", ints(1, 1, 2, 0, 3, 0, 0)) == [0, 4, 4, 4]
    assert chosen(2, "node") is None


def test_a_level_nobody_knows() -> None:
    assert chosen(1, "nvlink") is None
    assert chosen(2, None, "hccs") == [3, 4]  # as many groups as rows anywhere: one rack then
    assert choose(ROWS, ALL, {"rack": ints(-1, -1, 4, 4, -1, -1, -1)}, 3, "rack", None, EVEN) is None


def test_two_unknown_rows_are_not_together() -> None:
    groups = {"group": ints(-1, -1, 3, 3)}
    found = choose(np.arange(4), np.ones(4, dtype=np.int64), groups, 2, None, "group", ints(0, 0, 5, 5))
    assert found is not None
    assert found.tolist() == [2, 3]


def test_words_for_levels() -> None:
    assert [level_of(w) for w in ("nvlink", "hccs", "node", "rack", "region")] == [
        "group",
        "group",
        "node",
        "rack",
        "region",
    ]
    with pytest.raises(TopologyError, match="topology: 'racks' is no level; nearest: rack"):
        chosen(1, "racks")


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.data())
def test_devices_of_the_fewest_groups(links: list[int], data: st.DataObject) -> None:
    free = data.draw(st.lists(st.integers(0, len(links) - 1), unique=True))
    count = data.draw(st.integers(1, 8))
    able = list(itertools.combinations(sorted(free), count))
    found = devices(free, links, count)
    assert (found is None) == (not able)
    if found is not None:
        groups = min(len({links[d] for d in s}) for s in able)
        assert found in able
        assert len({links[d] for d in found}) == groups
        assert devices(free, links, count, required=True) == (found if groups == 1 else None)


def test_the_smallest_group_that_has_enough() -> None:
    links = [0, 0, 0, 0, 1, 1, 1, 1]
    assert devices([1, 2, 3, 6, 7], links, 2) == (6, 7)
    assert devices([1, 2, 3, 6, 7], links, 3) == (1, 2, 3)
    assert devices([1, 2, 3, 6, 7], links, 4) == (1, 2, 3, 6)
    assert devices([5, 2, 3], (), 2) == (2, 3)
    with pytest.raises(TopologyError, match="links: 2 entries for device 5; nearest: one entry for each device"):
        devices([0, 5], [0, 0], 1)


def test_among_nodes_of_unknown_domain_the_order_of_rows_has_no_meaning() -> None:
    rows, room, unknown = np.arange(3), np.array([1, 0, 1]), np.full(3, -1)
    equal = np.zeros(3, dtype=np.int64)
    chosen = [
        choose(rows[order], room[order], {"group": unknown}, 1, None, "group", equal)
        for order in (slice(None), slice(None, None, -1))
    ]
    assert [None if one is None else one.tolist() for one in chosen] == [[2], [2]]
