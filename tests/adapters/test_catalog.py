"""The catalogue's table is sound, and its names lead where people and tools mean."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.accelerator import Accelerator, Origin, Source
from adapters.catalog import CatalogError, load_catalog, parse_catalog

MIB = 1024 * 1024
HEAD = "version: 1\nas_of: 2026-08-31\nchips:\n"
ROW = "- {model: X1, vendor: v, origin: foreign, family: X, stack: s, source: a page, confidence: low"


def test_every_row_has_a_source_and_no_figure_is_zero() -> None:
    chips = list(load_catalog())

    assert len(chips) >= 80
    assert sum(chip.origin is Origin.DOMESTIC for chip in chips) >= 49
    for chip in chips:
        assert chip.source
        assert not re.search(r"\s", chip.model)
        figures = (chip.memory_bytes, chip.fp16_tflops, chip.memory_bandwidth_gbs, chip.tdp_watts)
        assert all(figure is None or figure > 0 for figure in figures), chip.model


def test_every_key_alias_and_family_resolves_to_its_own_row() -> None:
    catalog = load_catalog()

    for chip in catalog:
        assert catalog.resolve(chip.model) == (chip.model,)
        assert all(catalog.resolve(alias) == (chip.model,) for alias in chip.aliases), chip.model
        assert catalog.resolve(chip.family), chip.family
        assert catalog.get(chip.model) is chip


@pytest.mark.parametrize(
    ("term", "models"),
    [
        ("H100", ("H100",)),  # a key, though a family bears the name too
        ("A100", ("A100-40GB", "A100-80GB", "A100-PCIe-80GB")),
        ("Ascend910B", ("Ascend910B1", "Ascend910B2", "Ascend910B3", "Ascend910B4")),
        ("910b3", ("Ascend910B3",)),
        ("ascend 910B3", ("Ascend910B3",)),
        ("910B2C", ("Ascend910B2",)),
        ("Ascend910", ("Ascend910C",)),
        ("NVIDIA H100 80GB HBM3", ("H100",)),
        ("rtx-4090", ("RTX4090",)),
        ("H20", ("H20-96GB", "H20-141GB")),
        ("MLU590", ("MLU590",)),
        ("P100", ()),
        ("", ()),
        ("nvidia", ()),
    ],
)
def test_a_term_resolves_to_key_then_alias_then_family(term: str, models: tuple[str, ...]) -> None:
    assert load_catalog().resolve(term) == models


@pytest.mark.parametrize(
    ("vendor", "raw", "memory_mib", "model"),
    [
        ("nvidia", "NVIDIA H800", 81559, "H800"),
        ("nvidia", "NVIDIA H20", 97871, "H20-96GB"),
        ("nvidia", "NVIDIA H20", 143771, "H20-141GB"),
        ("nvidia", "NVIDIA H20", None, None),  # two rows fit
        ("nvidia", "Tesla T4", 15360, "T4"),
        ("nvidia", "NVIDIA GeForce RTX 4090", 24564, "RTX4090"),
        ("nvidia", "NVIDIA GeForce RTX 4090", 49140, None),  # twice the memory that was sold
        ("ascend", "310P3", 21534, "Ascend310P3"),
        ("ascend", "310P3", 44278, "Ascend310P3-Duo"),
        ("ascend", "Ascend910", 65536, "Ascend910C"),  # one die of two
        ("ascend", "910A", 21534, None),
        ("ascend", "NVIDIA H800", 81559, None),  # another maker's name
        ("mthreads", "MTT S5000", 81920, "MTT-S5000"),
        ("metax", "MXC500", 65536, "C500"),
    ],
)
def test_a_device_is_identified_by_name_and_memory(
    vendor: str, raw: str, memory_mib: int | None, model: str | None
) -> None:
    memory = None if memory_mib is None else memory_mib * MIB

    assert load_catalog().identify(vendor, raw, memory) == model


@pytest.mark.parametrize(("mib", "model"), [(13108, "T4"), (13107, None), (16711, "T4"), (16712, None)])
def test_memory_fits_from_four_fifths_to_a_fiftieth_above(mib: int, model: str | None) -> None:
    assert load_catalog().identify("nvidia", "Tesla T4", mib * MIB) == model


def test_a_device_without_a_row_says_which_name_and_memory_it_showed() -> None:
    device = Accelerator(
        uuid="u",
        index=0,
        vendor="ascend",
        model_raw="910A",
        memory_total_bytes=21534 * MIB,
        source=Source.CLI,
    )

    labelled = load_catalog().label(device)

    assert labelled.model is None
    assert labelled.problems == (
        "model '910A' with 21534 MiB of memory contradicts the catalogue: Ascend910A has 32768",
    )


@pytest.mark.parametrize(("term", "near"), [("H10O", "H100"), ("Ascend910B33", "Ascend910B3"), ("MLU59", "MLU590")])
def test_the_nearest_spelling_of_a_slip_is_the_key(term: str, near: str) -> None:
    assert load_catalog().nearest(term) == near


def test_nothing_is_near_to_nonsense() -> None:
    assert load_catalog().nearest("%%%") is None
    assert load_catalog().nearest("qqqqqqqqqqqq") is None


@given(st.text(max_size=30))
def test_any_term_resolves_to_known_keys_only(term: str) -> None:
    catalog = load_catalog()

    assert all(model in catalog for model in catalog.resolve(term))
    assert catalog.identify("nvidia", term, None) in {None, *(chip.model for chip in catalog)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + f"{ROW}}}\n{ROW}}}\n", "'X1' is listed twice"),
        (HEAD + f"{ROW}}}\n{ROW.replace('X1', 'X2')}, aliases: [x-1]}}\n", "'x-1' of X2 names X1"),
        (HEAD + f"{ROW}, fp16_tflop: 3}}\n", "nearest is 'fp16_tflops'"),
        (HEAD + f"{ROW}, fp16_tflops: 0}}\n", "0 is not a positive number"),
        (HEAD + f"{ROW}, memory_bytes: 1.5}}\n", "1.5 is not a positive number"),
        (HEAD + f"{ROW}, dies: true}}\n", "True is not a positive number"),
        (HEAD + ROW.replace("foreign", "abroad") + "}\n", "'abroad' is not one of domestic, foreign"),
        (HEAD + ROW.replace("a page", '""') + "}\n", "chips[0].source"),
        (HEAD + ROW.replace("X1", "X 1") + "}\n", "holds a space"),
        ("version: 2\nas_of: 2026-08-31\nchips: []\n", "version: 2"),
        ("version: 1\nchips: []\n", "as_of: None"),
        ("[", "not YAML"),
    ],
)
def test_a_table_that_breaks_a_rule_is_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(CatalogError, match=re.escape(said)):
        parse_catalog(text)


def test_an_absent_figure_stays_unknown() -> None:
    chip = parse_catalog(HEAD + ROW + "}\n").get("X1")

    assert chip is not None
    assert (chip.memory_bytes, chip.fp16_tflops, chip.tdp_watts) == (None, None, None)
    assert load_catalog().fp16_tflops("BW1000") is None
    assert load_catalog().fp16_tflops("Ascend910B3") == 313.0
