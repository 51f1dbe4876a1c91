"""Explain: one number as a tree, from the clause down to the evidence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.commands.connection import connect, one
from api.commands.console import REFUSED, USAGE, Failure, Output, emit, language, talk, word

if TYPE_CHECKING:
    from rich.tree import Tree

Explained = Mapping[str, Any]


def explain(
    amount: Annotated[
        str | None, typer.Argument(metavar="AMOUNT-ID", help="Such as settlement:JOB:1#payable_fen.")
    ] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="A tree for people; json or yaml for programs.")] = (
        Output.TABLE
    ),
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of `-o json` and exit.")] = False,
) -> None:
    """Clause, parameter, arithmetic, record, evidence. Exit 1 if a record was altered or a number comes out otherwise."""
    if schema:
        emit(_schema())
        return
    if amount is None:
        raise Failure(word("cli.explain.none"), do="yisuan explain settlement:JOB:1#payable_fen", code=USAGE)
    with connect("firm") as client:
        found = one(client, "/v1/explain", amount=amount)
    if output in (Output.JSON, Output.YAML):
        emit(found, output)
    elif output is Output.CSV:
        raise Failure(word("cli.explain.csv"), do=f"yisuan explain {amount} -o json", code=USAGE)
    else:
        _tell(found["tree"])
        talk(word("cli.explain.ok" if found["ok"] else "cli.explain.broken"))
    if not found["ok"]:
        raise typer.Exit(REFUSED)


def _schema() -> Any:
    """The published schema: beside the checkout's packages, or in the wheel."""
    from importlib.resources import files

    for folder in (Path(__file__).parents[2] / "docs" / "schemas", Path(str(files("api"))) / "published"):
        if (folder / "explanation.json").is_file():
            return json.loads((folder / "explanation.json").read_text(encoding="utf-8"))
    raise Failure(word("cli.schema.none", name="explanation"))


def _tell(node: Explained) -> None:
    import os
    import sys

    from rich.console import Console

    piped = not sys.stdout.isatty()
    console = Console(no_color="NO_COLOR" in os.environ, width=240 if piped else None, highlight=False)
    console.print(_branch(node))


def _branch(node: Explained) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(_mark(node) + said(node)))
    for child in node["children"]:
        tree.children.append(_branch(child))
    return tree


def _mark(node: Explained) -> str:
    if node.get("verified") is False or node.get("mismatch"):
        return "✗ "
    return "✓ " if node.get("verified") or node.get("recomputed") is not None else ""


def said(node: Explained) -> str:
    """One node in the chosen language; of a number both yuan and fen, of a record every field shown."""
    kind, title = str(node["kind"]), str(node["title"])
    if kind == "amount":
        text = f"{title} = {_quantity(node['value'], str(node['unit']))}"
        if node["mismatch"]:
            text += word("explain.mismatch", recomputed=_quantity(node["recomputed"], str(node["unit"])))
        return text
    if kind == "clause":
        return word("explain.clause", number=title, notice=node["notice"], gist=(node["gist"] or {}).get(language()))
    if kind == "parameter":
        return _parameter(node)
    if kind == "arithmetic":
        return f"{word(f'explain.formula.{title}', year=node.get('year'))}  {node['text']}"
    if kind == "record":
        fields = "  ".join(f"{key}={value}" for key, value in node["fields"].items() if value is not None)
        problem = word("explain.altered", problem=node["problem"]) if "problem" in node else ""
        return f"{title}  sha256={node['hash']}  {fields}{problem}"
    if kind == "evidence":
        content = json.dumps(node["evidence"], ensure_ascii=False, sort_keys=True)
        return word("explain.evidence", name=title, content=content)
    return word(title, **node.get("facts", {})) if kind == "note" else title


def _parameter(node: Explained) -> str:
    return word(
        "explain.parameter",
        key=node["title"],
        value=_quantity(node["value"], "basis_point" if node["unit"] == "basis_point" else "")
        if not str(node["unit"]).startswith("fen")
        else _quantity(node["value"], "fen"),
        since=node.get("valid_from"),
        until=node.get("valid_to"),
        policy=node["policy"],
        bundle=node["bundle_sha256"],
    )


def _quantity(value: Any, unit: str) -> str:
    from api.texts import UNKNOWN, money, percent

    if value is None:
        return UNKNOWN
    if unit == "basis_point":
        return percent(value)
    if unit == "ms":
        return f"{value} ms"
    if unit.startswith("fen"):
        return f"{money(value)} ({value} fen)"
    return str(value)
