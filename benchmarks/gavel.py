"""Training jobs on unlike models under Gavel's semantics: completion times, makespan, utilisation, decision time.

python -m benchmarks gavel --data DIR --trace FILE --cluster A:B:C [--limit N] [--policy NAME] [--restart-s 30]
    [--noise SIGMA] [--seed S] [--sweep] [--decisions FILE] [--no-bound] [-o json]
DIR holds Gavel's simulation_throughputs.json(.gz) and the trace; A:B:C counts v100, p100 and k80 devices.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gavel_baselines import BASELINES
from benchmarks.gavel_bounds import makespan_s, mean_jct_s
from benchmarks.gavel_simulation import ROUND_S, Decide, Run, simulate
from benchmarks.gavel_state import Planned
from benchmarks.gavel_trace import MODELS, Ints, Trace, read_table, read_trace
from benchmarks.run import commit, machine
from scheduler.policies.rounds import Rounds
from scheduler.rounds import RoundWeights

SWEEP = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # multiples of the default tail weights
OURS = "rounds"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gavel", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the throughput table and the trace")
    parser.add_argument("--trace", required=True, help="file in that folder, 10 or 7 columns, gzipped or not")
    parser.add_argument("--cluster", type=cluster, required=True, help="A:B:C devices of v100, p100 and k80")
    parser.add_argument("--limit", type=int, help="the first N rows of the trace")
    parser.add_argument("--policy", choices=[OURS, *BASELINES], default=OURS)
    parser.add_argument("--restart-s", type=float, default=0.0, help="seconds a job loses when it starts or moves")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="sigma of a log-normal factor on remaining work as told"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--sweep", action="store_true", help="the frontier: the tail weights times 0 to 4")
    parser.add_argument("--decisions", type=Path, help="write every placement with its interval as CSV")
    parser.add_argument("--no-bound", action="store_true", help="leave the lower bounds out")
    parser.add_argument("-o", dest="output", choices=["json", "table"], default="table")
    asked = parser.parse_args(arguments)
    try:
        trace = read_trace(asked.data / asked.trace, read_table(table_path(asked.data)), asked.limit)
        refuse_unplaceable(trace, asked.cluster)
        document = measure(trace, asked)
    except (OSError, ValueError) as error:
        print(f"gavel: {error}", file=sys.stderr)
        return 2
    print(json.dumps(document) if asked.output == "json" else table(document))
    return 0


def measure(trace: Trace, asked: argparse.Namespace) -> dict[str, Any]:
    import scipy.optimize  # noqa: F401 - loaded before anything is timed

    capacity: Ints = asked.cluster
    factor = np.exp(np.random.default_rng(asked.seed).normal(0, asked.noise, len(trace))) if asked.noise else None
    run = simulate(trace, capacity, decision(asked, trace), restart_s=asked.restart_s, factor=factor)
    if asked.decisions:
        write_decisions(asked.decisions, trace, run)
    document: dict[str, Any] = {
        "benchmark": "gavel", "trace": Path(asked.trace).name, "limit": asked.limit, "dropped": trace.dropped,
        "cluster": dict(zip(MODELS, capacity.tolist(), strict=True)), "restart_s": asked.restart_s,
        "noise": asked.noise, "seed": asked.seed, "jobs": len(trace), "policy": asked.policy, **figures(run),
        "bound": None if asked.no_bound else bounds(trace, capacity), "commit": commit(), "machine": machine(),
    }  # fmt: skip
    if asked.sweep:
        document["sweep"] = [
            {"tail": multiple, **figures(simulate(
                trace, capacity, Planned(trace, capacity, rounds(asked, multiple)), restart_s=asked.restart_s, factor=factor
            ))}
            for multiple in SWEEP
        ]  # fmt: skip
    return document


def decision(asked: argparse.Namespace, trace: Trace) -> Decide:
    if asked.policy in BASELINES:
        return BASELINES[asked.policy]()
    return Planned(trace, asked.cluster, rounds(asked))


def rounds(asked: argparse.Namespace, multiple: float = 1.0) -> Rounds:
    weights = RoundWeights()
    weights = replace(
        weights, makespan=weights.makespan * multiple, giant=weights.giant * multiple, age=weights.age * multiple
    )
    return Rounds(weights, restart_ms=round(asked.restart_s * 1000))


def figures(run: Run) -> dict[str, Any]:
    jct, took = run.jct_h, np.array(run.decision_s) * 1000
    return {
        "jct_mean_h": rounded(jct.mean()), "jct_p50_h": rounded(np.percentile(jct, 50)),
        "jct_p99_h": rounded(np.percentile(jct, 99)), "jct_max_h": rounded(jct.max()),
        "makespan_h": rounded((run.finish_s.max() - run.arrival_s.min()) / 3600),
        "utilisation": rounded(run.busy_device_s / run.available_device_s), "starts": run.restarts,
        "rounds": len(run.decision_s), "decision_ms": {
            "mean": rounded(took.mean()), "p99": rounded(np.percentile(took, 99)), "max": rounded(took.max()),
        },
    }  # fmt: skip


def bounds(trace: Trace, capacity: Ints) -> dict[str, float]:
    least = makespan_s(trace, capacity)
    return {
        "jct_mean_h": rounded(mean_jct_s(trace, capacity, 1.5 * least) / 3600),
        "makespan_h": rounded(least / 3600),
        "no_contention_jct_mean_h": rounded(float((trace.steps / trace.rate.max(axis=1)).mean()) / 3600),
    }


def write_decisions(path: Path, trace: Trace, run: Run) -> None:
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["row", "workload", "arrival_s", "model", "devices", "start_s", "end_s", "steps"])
        for one in run.intervals:
            writer.writerow([
                int(trace.row[one.row]), trace.workload[one.row], float(trace.arrival_s[one.row]), MODELS[one.model],
                one.devices, one.start_s, one.end_s, one.steps,
            ])  # fmt: skip


def table(document: dict[str, Any]) -> str:
    head = f"{document['trace']}  {document['jobs']} jobs  {document['cluster']}  rounds of {ROUND_S:.0f} s"
    names = ("jct_mean_h", "jct_p50_h", "jct_p99_h", "makespan_h", "utilisation")
    lines = [head, f"{'':24}" + "".join(f"{name:>14}" for name in names) + f"{'decision ms':>14}"]
    shown = [(document["policy"], document)]
    shown += [(f"tail weights x {row['tail']}", row) for row in document.get("sweep", ())]
    for label, row in shown:
        cells = "".join(f"{row[name]:>14.3f}" for name in names)
        lines.append(f"{label:24}{cells}{row['decision_ms']['mean']:>14.2f}")
    if document["bound"]:
        bound = document["bound"]
        lines.append(f"{'lower bound':24}{bound['jct_mean_h']:>14.3f}{'':>28}{bound['makespan_h']:>14.3f}")
    return "\n".join(lines)


def cluster(text: str) -> Ints:
    parts = text.split(":")
    if len(parts) != len(MODELS) or not all(part.isdigit() for part in parts) or not any(int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected three counts as v100:p100:k80, e.g. 8:16:24")
    return np.array([int(part) for part in parts], dtype=np.int64)


def refuse_unplaceable(trace: Trace, capacity: Ints) -> None:
    fits = (trace.rate > 0) & (trace.gang[:, None] <= capacity)
    if not fits.any(axis=1).all():
        row = int(np.flatnonzero(~fits.any(axis=1))[0])
        raise ValueError(
            f"line {int(trace.row[row]) + 1}: {trace.workload[row]} on {int(trace.gang[row])} devices fits no model"
        )


def table_path(data: Path) -> Path:
    found = [data / f"simulation_throughputs.json{end}" for end in ("", ".gz")]
    return next((path for path in found if path.exists()), found[-1])


def rounded(value: float) -> float:
    return round(float(value), 4)


if __name__ == "__main__":
    sys.exit(main())
