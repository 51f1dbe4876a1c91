"""Job file v1: YAML in, JobSpec out. Everything is parsed; what is unknown is refused with the nearest spelling.

One canonical JSON form is stored and hashed; the hash is on the bill.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import yaml

from adapters.accelerator import Origin
from adapters.catalog import load_catalog
from adapters.chain import digest, timestamp
from scheduler.duration import format_duration, format_money, parse_duration, parse_money, parse_size
from scheduler.job import (
    Alternative,
    Array,
    Checkpoint,
    Dependency,
    JobId,
    JobSpec,
    Money,
    Objective,
    Priority,
    Request,
    Retry,
    Variant,
)

SIZE_MAX = 256 * 1024
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
EVENTS = ("preempted", "node_fail", "no_capacity")
STACKS = ("cuda", "cann", "neuware", "dtk", "musa", "maca", "rocm", "corex", "tops", "xpu", "supa", "hggc")
KEYS = (
    "name", "queue", "priority", "nodes", "time_limit", "deadline", "resources", "gang", "variants", "entrypoint",
    "setup", "envs", "secrets", "workload", "inputs", "checkpoint", "retry", "money", "array", "depends_on",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong: where, what was written, what is wrong with it, and the nearest valid spelling."""

    field: str
    value: str
    message: str
    nearest: str | None = None


class JobFileError(ValueError):
    """Everything wrong with a job file, all at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.field}: {p.message}" for p in self.problems))


class _Loader(yaml.SafeLoader):
    """YAML without anchors, duplicate keys or implicit dates."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise JobFileError([Problem(field="/", value="*", message="anchors and aliases are not allowed")])
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise JobFileError([Problem(field=f"/{key}", value=str(key), message="the key stands twice")])
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Reader:
    """Collects problems while values are read, so that all of them are told at once."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def wrong(self, field: str, value: Any, message: str, known: Iterable[str] = ()) -> None:
        words = list(known)
        near = difflib.get_close_matches(str(value), words, n=1, cutoff=0.5)
        self.problems.append(
            Problem(field=field, value=repr(value)[:80], message=message, nearest=near[0] if near else None)
        )

    def keys(self, field: str, value: Any, known: Iterable[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.wrong(field or "/", value, "must be a mapping of keys to values")
            return {}
        words = list(known)
        for key in value:
            if key not in words:
                self.wrong(f"{field}/{key}", key, "unknown key", words)
        return {k: v for k, v in value.items() if k in words}

    def text(self, field: str, value: Any, *, limit: int = 65536) -> str | None:
        if not isinstance(value, str) or not value.strip() or len(value) > limit or "\x00" in value:
            self.wrong(field, value, "must be a text that is not empty")
            return None
        return value

    def whole(self, field: str, value: Any, low: int, high: int) -> int | None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.wrong(field, value, f"must be a whole number from {low} to {high}")
            return None
        return value

    def choice(self, field: str, value: Any, known: Iterable[str]) -> str | None:
        words = list(known)
        if value not in words:
            self.wrong(field, value, f"must be one of {', '.join(words)}", words)
            return None
        return str(value)

    def parsed(self, field: str, value: Any, parse: Callable[[str], int]) -> int | None:
        if not isinstance(value, str):
            self.wrong(field, value, "must be a text with a unit")
            return None
        try:
            return parse(value)
        except ValueError as problem:
            self.wrong(field, value, str(problem))
            return None

    def texts(self, field: str, value: Any) -> dict[str, str]:
        if not isinstance(value, dict):
            self.wrong(field, value, "must be a mapping of names to texts")
            return {}
        found = {}
        for key, text in value.items():
            if not isinstance(key, str) or not isinstance(text, str) or "\x00" in text:
                self.wrong(f"{field}/{key}", text, "must be a text; put it in quotes")
            else:
                found[key] = text
        return found


def parse_job(text: str | bytes) -> JobSpec:
    """The JobSpec of a job file; JobFileError with every problem at once."""
    raw = text.encode() if isinstance(text, str) else text
    if len(raw) > SIZE_MAX:
        raise JobFileError([Problem(field="/", value=f"{len(raw)} bytes", message=f"larger than {SIZE_MAX} bytes")])
    try:
        body = yaml.load(raw.decode(), _Loader)  # noqa: S506 - a SafeLoader, narrowed further
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as problem:
        raise JobFileError([Problem(field="/", value="", message=f"not YAML: {problem}")]) from None
    return from_canonical(body)


def from_canonical(body: Any) -> JobSpec:
    """The JobSpec of a job file's content, or of its canonical form."""
    reader = _Reader()
    values = reader.keys("", body, KEYS)
    for key in ("name", "time_limit", "resources"):
        if key not in values and isinstance(body, dict):
            reader.wrong(f"/{key}", None, "is required")
    spec = _spec(reader, values)
    if reader.problems:
        raise JobFileError(reader.problems)
    assert spec is not None, "no problem was found, so every required part was read"
    return spec


def _spec(reader: _Reader, values: Mapping[str, Any]) -> JobSpec | None:
    name = reader.text("/name", values["name"]) if "name" in values else None
    if name is not None and not NAME.fullmatch(name):
        reader.wrong(
            "/name", name, "must be 1 to 63 letters, digits, '.', '_', '-' or '/', beginning with one of the first"
        )
    queue = reader.text("/queue", values.get("queue", "default"))
    nodes = reader.whole("/nodes", values.get("nodes", 1), 1, 100_000) or 1
    gang = reader.keys("/gang", values.get("gang", {}), ("min_nodes",))
    least = reader.whole("/gang/min_nodes", gang.get("min_nodes", nodes), 1, nodes) or nodes
    limit = reader.parsed("/time_limit", values.get("time_limit"), parse_duration) if "time_limit" in values else None
    request = _request(reader, values["resources"]) if "resources" in values else None
    priority = reader.choice("/priority", values.get("priority", "normal"), [p.value for p in Priority])
    variants = _variants(reader, values.get("variants", {}))
    spec = {
        "deadline": _deadline(reader, values.get("deadline")),
        "variants": variants,
        "entrypoint": reader.text("/entrypoint", values["entrypoint"]) if "entrypoint" in values else None,
        "setup": reader.text("/setup", values["setup"]) if "setup" in values else None,
        "envs": reader.texts("/envs", values.get("envs", {})),
        "secrets": _names(reader, "/secrets", values.get("secrets", [])),
        "workload": reader.text("/workload", values["workload"]) if "workload" in values else None,
        "inputs": reader.texts("/inputs", values.get("inputs", {})),
        "checkpoint": _checkpoint(reader, values.get("checkpoint")),
        "retry": _retry(reader, values.get("retry")),
        "money": _money(reader, values.get("money", {})),
        "array": _array(reader, values.get("array")),
        "depends_on": _depends(reader, values.get("depends_on", [])),
    }
    if spec["entrypoint"] is None and not any(variant.run for variant in variants.values()):
        reader.wrong("/entrypoint", None, "is required where no variant gives a run")
    if None in (name, queue, limit, request, priority) or reader.problems:
        return None
    return JobSpec(
        name=name, queue=queue, priority=Priority(priority), nodes=nodes, gang_min_nodes=least,  # type: ignore[arg-type]
        time_limit_ms=limit, request=request, **spec,  # type: ignore[arg-type]
    )  # fmt: skip


def _request(reader: _Reader, value: Any) -> Request | None:
    values = reader.keys("/resources", value, ("accelerators", "share", "topology"))
    at = "/resources/accelerators"
    if "accelerators" not in values:
        reader.wrong(at, None, "is required")
        return None
    asked, ordered = values["accelerators"], False
    if isinstance(asked, dict) and ("any_of" in asked or "ordered" in asked):
        ordered = "ordered" in asked
        inner = reader.keys(at, asked, ("ordered" if ordered else "any_of",))
        asked = inner.get("ordered" if ordered else "any_of")
        if not isinstance(asked, list) or not asked:
            reader.wrong(at, asked, "must be a list of at least one alternative")
            return None
    terms = asked if isinstance(asked, list) else [asked]
    found = [_alternative(reader, f"{at}/{index}" if len(terms) > 1 else at, term) for index, term in enumerate(terms)]
    share, topology = values.get("share", "whole"), values.get("topology", {})
    memory = cores = None
    if share != "whole":
        parts = reader.keys("/resources/share", share, ("memory", "cores"))
        memory = reader.parsed("/resources/share/memory", parts["memory"], parse_size) if "memory" in parts else None
        cores = reader.parsed("/resources/share/cores", parts["cores"], _percent) if "cores" in parts else None
        if not parts:
            reader.wrong("/resources/share", share, "must be whole, or {memory: 16GiB, cores: 25%}", ["whole"])
    domains = reader.keys("/resources/topology", topology, ("required", "preferred"))
    words = ("nvlink", "hccs", "node", "rack", "region")
    required, preferred = (
        reader.choice(f"/resources/topology/{k}", domains[k], words) if k in domains else None
        for k in ("required", "preferred")
    )
    if any(term is None for term in found):
        return None
    return Request(
        alternatives=tuple(term for term in found if term is not None),
        ordered=ordered,
        share_memory_bytes=memory,
        share_cores_permille=cores,
        topology_required=required,
        topology_preferred=preferred,
    )


def _percent(text: str) -> int:
    match = re.fullmatch(r"(\d{1,3})%", text)
    if match is None or not 1 <= int(match[1]) <= 100:
        raise ValueError("cores are a percentage from 1% to 100%")
    return int(match[1]) * 10


def _alternative(reader: _Reader, field: str, term: Any) -> Alternative | None:
    catalog = load_catalog()
    if isinstance(term, dict):
        values = reader.keys(field, term, ("origin", "count", "memory", "model"))
        count = reader.whole(f"{field}/count", values.get("count"), 1, 64)
        origin = (
            reader.choice(f"{field}/origin", values["origin"], ("domestic", "foreign")) if "origin" in values else None
        )
        memory = reader.parsed(f"{field}/memory", values["memory"], parse_size) if "memory" in values else None
        models: tuple[str, ...] = ()
        if "model" in values:
            models = _models(reader, f"{field}/model", values["model"])
        text = ", ".join(f"{k}: {values[k]}" for k in ("model", "origin", "memory", "count") if k in values)
        if count is None:
            return None
        return Alternative(
            text="{" + text + "}",
            count=count,
            models=models,
            origin=Origin(origin) if origin else None,
            memory_bytes_min=memory,
        )
    if not isinstance(term, str):
        reader.wrong(field, term, "must name a model and a count, such as Ascend910B3:8")
        return None
    name, _, number = term.rpartition(":")
    if not name or not number.isdigit() or not 1 <= int(number) <= 64:
        near = f"{catalog.nearest(term.split(':')[0])}:8"
        reader.wrong(field, term, "must be MODEL:COUNT with a count from 1 to 64", [near])
        return None
    models = _models(reader, field, name)
    return Alternative(text=term, count=int(number), models=models) if models else None


def _models(reader: _Reader, field: str, name: Any) -> tuple[str, ...]:
    catalog = load_catalog()
    found = catalog.resolve(str(name))
    if not found:
        generic = str(name).lower() in ("gpu", "npu", "gcu", "mlu", "dcu", "accelerator", "card")
        message = "names no model; a count needs a model or an origin" if generic else "unknown model"
        near = catalog.nearest(str(name))
        reader.wrong(field, name, message, [near] if near else [])
    return found


def _deadline(reader: _Reader, value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        found = None
    if found is None or found.tzinfo is None:
        reader.wrong("/deadline", value, "must be a time with an offset, such as 2026-10-01T08:00+08:00")
        return None
    return found


def _variants(reader: _Reader, value: Any) -> dict[str, Variant]:
    found = {}
    for stack, body in reader.keys("/variants", value, STACKS).items():
        at = f"/variants/{stack}"
        parts = reader.keys(at, body, ("run", "image", "envs"))
        found[stack] = Variant(
            run=reader.text(f"{at}/run", parts["run"]) if "run" in parts else None,
            image=reader.text(f"{at}/image", parts["image"]) if "image" in parts else None,
            envs=reader.texts(f"{at}/envs", parts.get("envs", {})),
        )
    return found


def _names(reader: _Reader, field: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) and NAME.fullmatch(v) for v in value):
        reader.wrong(field, value, "must be a list of names")
        return ()
    return tuple(value)


def _checkpoint(reader: _Reader, value: Any) -> Checkpoint | None:
    if value is None:
        return None
    parts = reader.keys("/checkpoint", value, ("path", "interval", "signal", "grace"))
    path = reader.text("/checkpoint/path", parts.get("path"))
    times = {
        key: reader.parsed(f"/checkpoint/{key}", parts[key], parse_duration) if key in parts else None
        for key in ("interval", "grace")
    }
    signal = reader.choice("/checkpoint/signal", parts["signal"], SIGNALS) if "signal" in parts else None
    return Checkpoint(path=path or "", interval_ms=times["interval"], signal=signal, grace_ms=times["grace"])


def _retry(reader: _Reader, value: Any) -> Retry | None:
    if value is None:
        return None
    parts = reader.keys("/retry", value, ("on_events", "limit"))
    events = parts.get("on_events", [])
    if not isinstance(events, list) or not events:
        reader.wrong("/retry/on_events", events, "must be a list of events", EVENTS)
        events = []
    kept = [reader.choice("/retry/on_events", event, EVENTS) for event in events]
    limit = reader.whole("/retry/limit", parts.get("limit"), 1, 100)
    return Retry(on_events=tuple(e for e in kept if e), limit=limit or 1)


def _money(reader: _Reader, value: Any) -> Money:
    parts = reader.keys("/money", value, ("voucher", "objective", "max_net_cost", "contract"))
    voucher = reader.choice("/money/voucher", parts.get("voucher", "auto"), ("auto", "none"))
    objective = reader.choice("/money/objective", parts.get("objective", "net_cost"), [o.value for o in Objective])
    limit = (
        reader.parsed("/money/max_net_cost", parts["max_net_cost"], parse_money) if "max_net_cost" in parts else None
    )
    contract = reader.text("/money/contract", parts["contract"]) if "contract" in parts else None
    return Money(
        voucher=voucher or "auto", objective=Objective(objective or "net_cost"), max_net_fen=limit, contract=contract
    )


def _array(reader: _Reader, value: Any) -> Array | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,7})-(\d{1,7})(?:%(\d{1,7}))?", value) if isinstance(value, str) else None
    if match is None or int(match[1]) > int(match[2]) or match[3] == "0":
        reader.wrong("/array", value, "must be FIRST-LAST or FIRST-LAST%PARALLEL, such as 0-99%10")
        return None
    return Array(first=int(match[1]), last=int(match[2]), parallel=int(match[3]) if match[3] else None)


def _depends(reader: _Reader, value: Any) -> tuple[Dependency, ...]:
    if not isinstance(value, list):
        reader.wrong("/depends_on", value, "must be a list of {job, when}")
        return ()
    found = []
    for index, body in enumerate(value):
        at = f"/depends_on/{index}"
        parts = reader.keys(at, body, ("job", "when"))
        job = reader.text(f"{at}/job", parts.get("job"))
        when = reader.choice(f"{at}/when", parts.get("when", "succeeded"), ("succeeded", "failed", "ended"))
        if job and when:
            found.append(Dependency(job=job, when=when))
    return tuple(found)


def canonical_form(spec: JobSpec) -> dict[str, Any]:
    """The one JSON form of a job that is stored and hashed: every value spelled out, nothing that is not set."""
    body: dict[str, Any] = {
        "name": spec.name,
        "queue": spec.queue,
        "priority": spec.priority.value,
        "nodes": spec.nodes,
        "gang": {"min_nodes": spec.gang_min_nodes},
        "time_limit": format_duration(spec.time_limit_ms),
        "resources": _resources(spec.request),
        "money": {"voucher": spec.money.voucher, "objective": spec.money.objective.value},
    }
    if spec.money.max_net_fen is not None:
        body["money"]["max_net_cost"] = format_money(spec.money.max_net_fen)
    if spec.money.contract is not None:
        body["money"]["contract"] = spec.money.contract
    optional: dict[str, Any] = {
        "deadline": timestamp(spec.deadline) if spec.deadline else None,
        "variants": {
            stack: {k: v for k, v in (("run", x.run), ("image", x.image), ("envs", dict(x.envs))) if v}
            for stack, x in sorted(spec.variants.items())
        },
        "entrypoint": spec.entrypoint,
        "setup": spec.setup,
        "envs": dict(sorted(spec.envs.items())),
        "secrets": list(spec.secrets),
        "workload": spec.workload,
        "inputs": dict(sorted(spec.inputs.items())),
        "array": _array_text(spec.array) if spec.array else None,
        "depends_on": [{"job": d.job, "when": d.when} for d in spec.depends_on],
    }
    if spec.checkpoint:
        times = {"interval": spec.checkpoint.interval_ms, "grace": spec.checkpoint.grace_ms}
        optional["checkpoint"] = {
            "path": spec.checkpoint.path,
            **({"signal": spec.checkpoint.signal} if spec.checkpoint.signal else {}),
            **{k: format_duration(v) for k, v in times.items() if v is not None},
        }
    if spec.retry:
        optional["retry"] = {"on_events": list(spec.retry.on_events), "limit": spec.retry.limit}
    return body | {key: value for key, value in optional.items() if value}


def _resources(request: Request) -> dict[str, Any]:
    terms = [_term(a) for a in request.alternatives]
    body: dict[str, Any] = {"accelerators": {"ordered" if request.ordered else "any_of": terms}}
    if not request.whole:
        body["share"] = {}
        if request.share_memory_bytes is not None:
            body["share"]["memory"] = f"{request.share_memory_bytes // (1 << 10)}KiB"
        if request.share_cores_permille is not None:
            body["share"]["cores"] = f"{request.share_cores_permille // 10}%"
    domains = {"required": request.topology_required, "preferred": request.topology_preferred}
    if any(domains.values()):
        body["topology"] = {k: v for k, v in domains.items() if v}
    return body


def _term(alternative: Alternative) -> Any:
    if not alternative.text.startswith("{"):
        return alternative.text
    inner = dict(part.split(": ", 1) for part in alternative.text[1:-1].split(", "))
    return {**inner, "count": alternative.count}


def _array_text(array: Array) -> str:
    return f"{array.first}-{array.last}" + (f"%{array.parallel}" if array.parallel else "")


def elements_of(job: JobId, spec: JobSpec) -> Iterator[tuple[int | None, JobId, JobSpec]]:
    """The jobs a job file asks for, each with its index and id: itself, or the elements of its array in order.

    An element is an ordinary job that finds its place in YISUAN_ARRAY, YISUAN_ARRAY_INDEX, _FIRST and _LAST.
    """
    array = spec.array
    if array is None:
        yield None, job, spec
        return
    digits = len(str(array.last))
    for index in range(array.first, array.last + 1):
        place = {"": job, "_INDEX": str(index), "_FIRST": str(array.first), "_LAST": str(array.last)}
        envs = {**spec.envs, **{f"YISUAN_ARRAY{key}": value for key, value in place.items()}}
        yield index, JobId(f"{job}-{index:0{digits}d}"), replace(spec, array=None, envs=envs)


def spec_hash(spec: JobSpec) -> str:
    """SHA-256 of the canonical form; printed on the bill."""
    return digest(canonical_form(spec))
