"""Readme: the chart's README, its table of values read from the comments of values.yaml. `python helm/readme.py`; --check only looks.

A value is described by the `# --` lines right above it. A mapping without one is described value by value.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent / "yisuan"
HEAD = """\
# yisuan

{description}

    helm install yisuan helm/yisuan --namespace yisuan --create-namespace

That is a trial: one process, SQLite on a volume. [docs/install-kubernetes.md](../../docs/install-kubernetes.md) says how to run it
in earnest, what each alert means, and what must be known before an upgrade. Kubernetes {kubernetes} or later.

Written by `python helm/readme.py` from `values.yaml`; [values.schema.json](values.schema.json) refuses what is not in it.

| Value | Default | What it says |
| --- | --- | --- |
"""
LINE = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][\w.-]*):(?P<rest>.*)$")


def described(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path, description) of every value with a `# --` comment, in the file's order."""
    path: list[tuple[int, str]] = []
    said: list[str] = []
    for line in text.splitlines():
        comment = line.strip()
        if comment.startswith("# -- "):
            said = [comment.removeprefix("# -- ")]
            continue
        if comment.startswith("#") and said:
            said.append(comment.removeprefix("#").strip())
            continue
        match = LINE.match(line)
        if match is None:
            said = []
            continue
        indent = len(match["indent"])
        path = [*((i, key) for i, key in path if i < indent), (indent, match["key"])]
        if said:
            yield tuple(key for _, key in path), " ".join(said)
        said = []


def leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every path to something that is not a mapping with keys."""
    if not isinstance(values, dict) or not values:
        yield path
        return
    for key, value in values.items():
        yield from leaves(value, (*path, key))


def value_at(values: Any, path: Sequence[str]) -> Any:
    """What stands there."""
    for key in path:
        values = values[key]
    return values


def make() -> str:
    """The README."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    values, about = yaml.safe_load(text), yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    kubernetes = about["kubeVersion"].removeprefix(">=").removesuffix("-0")
    made = HEAD.format(description=about["description"], kubernetes=kubernetes)
    for path, said in described(text):
        name, default = path, value_at(values, path)
        if path[:2] == ("agents", "vendors"):  # said of the vendor, at its first value
            name, default = path[:3], value_at(values, path[:3])
        shown = json.dumps(default, ensure_ascii=False)
        made += f"| `{'.'.join(name)}` | `{shown}` | {said.replace('|', '&#124;')} |\n"
    return made


def main(argv: Sequence[str]) -> int:
    """The README is written; with --check nothing is, and 1 says that it differs."""
    path, text = CHART / "README.md", make()
    stale = not path.exists() or path.read_text(encoding="utf-8") != text
    if stale and "--check" not in argv:
        path.write_text(text, encoding="utf-8")
    print(path.name if stale else "nothing to change", file=sys.stderr)
    return int(stale and "--check" in argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
