"""The Containerfile, as far as it can be judged without building it: what it copies is there, and who it runs as."""

from __future__ import annotations

import fnmatch
import re
import shlex
import tomllib

from tests.chart.chart import CHART, ROOT

LINES = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (ROOT / "Containerfile").read_text(encoding="utf-8"), flags=re.M))
STEPS = [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in LINES.splitlines() if line.strip())]
IGNORED = [
    line for line in (ROOT / ".containerignore").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"
]
KNOWN = {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "LABEL", "VOLUME", "USER", "EXPOSE"} | {
    *("STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD")
}


def of(word: str) -> list[str]:
    return [rest for step, rest in STEPS if step == word]


def final() -> list[tuple[str, str]]:
    """The steps of the last stage."""
    last = max(i for i, (word, _) in enumerate(STEPS) if word == "FROM")
    return STEPS[last:]


def ignored(path: str) -> bool:
    """The last pattern that matches a path or a folder above it decides, as in Docker's and Podman's reading."""
    parts = path.strip("/").split("/")
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    out = False
    for line in IGNORED:
        pattern = line.lstrip("!").rstrip("/").removeprefix("**/")
        names = parts if line.lstrip("!").startswith("**/") else above
        if any(fnmatch.fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for name in names):
            out = not line.startswith("!")
    return out


def test_every_step_is_one_that_there_is() -> None:
    assert {word for word, _ in STEPS} <= KNOWN
    assert STEPS[0] == ("ARG", "BASE=docker.io/library/python:3.11-slim-bookworm")
    assert of("FROM") == ["${BASE} AS build", "${BASE}"]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    for rest in of("COPY"):
        words = shlex.split(rest)
        if any(word.startswith("--from") for word in words):
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert not ignored(source), source
    assert not ignored("docs/schemas/job.json")
    assert not ignored("api/pages/package-lock.json")


def test_what_must_stay_out_is_ignored() -> None:
    for path in (
        ".git",
        ".venv",
        ".demo",
        "tests",
        "docs/kubernetes.md",
        "helm",
        "api/pages/static/vendor",
        "yisuan-data",
    ):
        assert ignored(path), path
    assert ignored("api/__pycache__")


def test_the_wheel_has_what_it_needs() -> None:
    copied = {word.strip("/") for rest in of("COPY") for word in shlex.split(rest)[:-1]}
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = build["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["packages"]) | set(wheel["force-include"]) <= copied
    assert build["project"]["readme"] in copied
    assert any("api.pages.build" in rest for rest in of("RUN"))


def test_every_package_comes_by_its_hash() -> None:
    for rest in of("RUN"):
        for command in re.split(r"&&", rest):
            if "pip install" in command:
                assert "--require-hashes" in command or "--no-deps /dist/" in command, command
    locks = {name for rest in of("RUN") for name in re.findall(r"locks/([a-z]+)\.txt", rest)} | {"engines"}
    for name in locks:
        assert "--hash=sha256:" in (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8"), name


def test_it_runs_as_nobody_in_particular_and_needs_no_shell() -> None:
    steps = dict(final())
    assert steps["USER"] == "10001:10001"
    assert "RUN" not in steps
    assert steps["ENTRYPOINT"].startswith("[")
    assert steps["CMD"].startswith("[")
    assert steps["HEALTHCHECK"] == "NONE"
    assert "runAs: 10001" in (CHART / "values.yaml").read_text(encoding="utf-8")


def test_the_chart_finds_the_programs_where_the_image_has_them() -> None:
    path = next(word for rest in of("ENV") for word in shlex.split(rest) if word.startswith("PATH="))
    assert path.startswith("PATH=/opt/yisuan/bin:")
    assert "/opt/yisuan/bin:" in (CHART / "templates" / "agents.yaml").read_text(encoding="utf-8")
    home = next(word for rest in of("ENV") for word in shlex.split(rest) if word.startswith("HOME="))
    assert home.removeprefix("HOME=") in (CHART / "templates" / "_helpers.tpl").read_text(encoding="utf-8")
