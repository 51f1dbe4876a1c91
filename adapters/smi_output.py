"""smi output: which of its family's forms a recording has, and its Reading. Pure."""

from __future__ import annotations

import json
from datetime import datetime

from adapters import smi, smi_log, smi_table
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.gpustack import is_detected, parse_detected
from adapters.row import NO_TIME
from adapters.smi import Dialect


def parse_output(text: str, written_at: datetime, catalog: Catalog, dialect: Dialect) -> Reading:
    """The Reading of a recorded output of this vendor's tool, or of gpustack's detector; known by its content.

    AdapterError, which shows how the text begins, when it is neither.
    """
    if is_detected(text):
        return parse_detected(text, written_at, catalog, dialect.vendor)
    refuse_other_json(text, dialect.tool)
    if smi_log.is_xml(text):
        return smi_log.parse_xml(text, written_at, catalog, dialect)
    if smi_log.is_log(text, dialect):
        return smi_log.parse_log(text, written_at, catalog, dialect)
    if smi_table.has_table(text):
        return smi_table.parse_table(text, written_at, catalog, dialect)
    if smi.is_list(text):
        return smi.parse_list(text, written_at, catalog, dialect)
    if smi.has_columns(text, dialect):
        return smi.parse_csv(text, written_at, catalog, dialect)
    if lost := smi.unreached(text, ()):
        return smi.assemble_split(lost, written_at, catalog, dialect, NO_TIME)
    raise AdapterError(
        f"{dialect.tool}: neither its table, its log (`-q`, `-q -x`), its list (`-L`), nor a CSV with a header; "
        f"it begins {show_head(text)!r}"
    )


def refuse_other_json(text: str, tool: str) -> None:
    """AdapterError when the text is JSON: nothing but the detector prints devices so, in this family."""
    if text.lstrip()[:1] not in ("{", "["):
        return
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return  # a line in brackets before something else
    keys = sorted(document)[:6] if isinstance(document, dict) else [type(document).__name__]
    raise AdapterError(f"{tool}: JSON of no known form; it holds {', '.join(map(str, keys))[:120] or 'nothing'}")


def show_head(text: str) -> str:
    """The first line that says something, cut: what an error shows of an unknown layout."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:120]
