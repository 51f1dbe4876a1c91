"""Lower bounds of a trace: no schedule without co-location can be better, whatever it knows. Linear programs (HiGHS).

Both may cut time into fewer pieces than there are arrivals; a job is then let in earlier than it came, which only lowers
the bound.
"""

from __future__ import annotations

import numpy as np

from benchmarks.gavel_trace import Floats, Ints, Trace

WINDOWS = 32
SLOTS = (12, 60)


def makespan_s(trace: Trace, capacity: Ints) -> float:
    """min T: time per job, model and window between arrivals; all work done, the last window open until T."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    arrival = trace.arrival_s - trace.arrival_s[0]
    starts = np.unique(arrival)
    if len(starts) > WINDOWS:
        starts = np.unique(np.quantile(starts, np.linspace(0, 1, WINDOWS), method="lower"))
    first = np.searchsorted(starts, arrival, side="right") - 1
    unit: float = max(float(starts[-1]), float(np.mean(1 / pace_of(trace).max(axis=1))), 1.0)
    lengths = np.append(np.diff(starts), 0.0) / unit
    pace = pace_of(trace) * unit
    job, model, window = (axis.ravel() for axis in np.indices((*trace.rate.shape, len(starts))))
    kept = (pace[job, model] > 0) & (window >= first[job]) & (trace.gang[job] <= capacity[model])
    job, model, window = job[kept], model[kept], window[kept]
    count, windows, wide = len(trace), len(starts), len(job) + 1
    at = np.arange(len(job))
    last = np.arange(count) * windows + windows - 1
    last_model = count * windows + np.arange(len(capacity)) * windows + windows - 1
    rows = np.concatenate([job * windows + window, count * windows + model * windows + window, last, last_model])
    columns = np.concatenate([at, at, np.full(count + len(capacity), wide - 1)])
    entries = np.concatenate([np.ones(len(job)), trace.gang[job], -np.ones(count), -capacity])
    limits = coo_array((entries, (rows, columns)), shape=((count + len(capacity)) * windows, wide)).tocsr()
    room = np.concatenate([np.tile(lengths, count), np.outer(capacity, lengths).ravel()])
    work = coo_array((pace[job, model], (job, at)), shape=(count, wide)).tocsr()
    cost = np.append(np.zeros(len(job)), 1.0)
    found = linprog(cost, A_ub=limits, b_ub=room, A_eq=work, b_eq=np.ones(count), bounds=(0, None), method="highs")
    if found.status != 0:
        raise ValueError(f"makespan bound of {count} jobs: {found.message}")
    open_s = float(found.x[-1]) * unit
    alone = arrival + 1 / pace_of(trace).max(axis=1)
    contended = float(starts[-1]) + open_s if open_s > 0 else 0.0
    return max(contended, float(alone.max()))


def mean_jct_s(trace: Trace, capacity: Ints, horizon_s: float) -> float:
    """Time-indexed program: min sum of z, z >= the least duration, z >= sum of progress x (slot start - arrival) + half
    the least duration. The last slot never ends. Valid with preemption and with moves between models."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    count, models = trace.rate.shape
    slots = int(np.clip(5000 // count, *SLOTS))
    starts = np.linspace(0, horizon_s, slots, endpoint=False)
    width = horizon_s / slots
    arrival = trace.arrival_s - trace.arrival_s[0]
    pace = pace_of(trace)
    least = 1 / pace.max(axis=1)
    job, model, slot = (axis.ravel() for axis in np.indices((count, models, slots)))
    ends = np.append(starts[1:], np.inf)
    kept = (pace[job, model] > 0) & (ends[slot] > arrival[job]) & (trace.gang[job] <= capacity[model])
    job, model, slot = job[kept], model[kept], slot[kept]
    at, wide = np.arange(len(job)), len(job) + count
    # variables: slot widths of time, then z in hours
    done = pace[job, model] * width
    delay = np.maximum(starts[slot] - arrival[job], 0) / 3600
    serial, shared = count + job * slots + slot, count + count * slots + model * slots + slot
    rows = np.concatenate([job, np.arange(count), serial, shared])
    columns = np.concatenate([at, len(job) + np.arange(count), at, at])
    entries = np.concatenate([done * delay, -np.ones(count), np.ones(len(job)), trace.gang[job]])
    room = np.ones((count + models, slots))
    room[count:] *= capacity[:, None]
    room[:, -1] = np.inf
    limits = coo_array((entries, (rows, columns)), shape=(count + (count + models) * slots, wide)).tocsr()
    bound = np.concatenate([-least / 7200, room.ravel()])
    finite = np.isfinite(bound)
    work = coo_array((done, (job, at)), shape=(count, wide)).tocsr()
    cost = np.append(np.zeros(len(job)), np.ones(count))
    floor = np.append(np.zeros(len(job)), least / 3600)
    found = linprog(
        cost, A_ub=limits[finite], b_ub=bound[finite], A_eq=work, b_eq=np.ones(count),
        bounds=np.column_stack([floor, np.full(wide, np.inf)]), method="highs",
    )  # fmt: skip
    if found.status != 0:
        raise ValueError(f"mean completion time bound of {count} jobs: {found.message}")
    total = float(np.asarray(found.fun))
    return total / len(trace) * 3600


def pace_of(trace: Trace) -> Floats:
    """Fraction of the whole job done in a second."""
    return np.asarray(trace.rate / trace.steps[:, None])
