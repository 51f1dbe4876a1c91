"""Driver: the Ray job that is a lease. It runs in the cluster, beside lease.json, shim.py and confinement.py.

    python driver.py

Standard library and Ray only; no package of the platform is there to be imported. It places one bundle per rank on the
node the rank was granted, has a small actor on each of them, and every actor has a shim (shim.py) run the rank: the
same program that runs members on the platform's own host takes the time, stops on request or at the time limit, and
leaves nothing behind.

Nobody outlives the one above it. The shim dies with the worker process of its actor (prctl(2), PR_SET_PDEATHSIG), the
guard and all below with the shim; actors die with the driver, as Ray ends what a job started, and with their raylet.
An actor that the driver has not asked for SILENCE_S ends itself: the driver may be cut off and the rank run elsewhere.

What is known of the members goes into this job's own entry in the head's key-value store, under the metadata key
`yisuan`, so that whoever lists the jobs reads all leases in one answer; and as a line `yisuan {...}` into the job's log,
should a version of Ray keep its entries elsewhere. A stop request is a package that the platform uploads under the name
`stop` of lease.json: it stands before the job starts, and is seen within POLL_S.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from typing import Any

POLL_S = 0.2
SILENCE_S = 20.0  # below the 15 to 30 s after which Ray's head gives up a silent node by default
UNREACHABLE_S = 60.0  # an actor that cannot be asked for so long is lost
REPORT_MAX = 4096  # bytes of a job's report of itself
REPORT_EVERY_S = 2.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h
JOB_KEY, JOB_NAMESPACE = "_ray_internal_job_info_", "job"  # ray/dashboard/modules/job/common.py, JobInfoStorageClient
# What a job sees of the node's own environment: where programs, libraries and the vendor's toolkit are.
PASSED = ("PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "TZ", "CUDA_HOME", "ROCM_PATH", "NEUWARE_HOME", "MACA_PATH")
PASSED_PREFIXES = ("ASCEND_", "NVIDIA_", "CONDA_", "MUSA_")
# What Ray sets in a worker for the devices it gave it (ray/_private/accelerators).
ASSIGNED = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ASCEND_RT_VISIBLE_DEVICES",
    "ONEAPI_DEVICE_SELECTOR",
    "ZE_AFFINITY_MASK",
    "HABANA_VISIBLE_MODULES",
    "NEURON_RT_VISIBLE_CORES",
)
# The parent is gone between fork and prctl if it is no longer the one that was told.
DIES_WITH_PARENT = (
    f"import ctypes,os,sys; ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG},{int(signal.SIGKILL)},0,0,0)\n"
    "if os.getppid() != int(sys.argv[1]): os._exit(1)\n"
    "os.execv(sys.executable, [sys.executable, '-I', '-S', *sys.argv[2:]])"
)


# --- on a rank's node -------------------------------------------------------------------------------------------------


class Runner:
    """The actor of one rank: starts its shim, says what the shim recorded, passes a stop on. Every method returns at once."""

    def __init__(self, body: dict[str, Any], sources: dict[str, str]) -> None:
        ray = importlib.import_module("ray")
        node = importlib.import_module("ray._private.worker").global_worker.node
        self.home = os.path.join(node.get_session_dir_path(), "yisuan", f"{body['submission']}-{body['rank']}")
        self.directory = os.path.join(self.home, "member")
        self.log = f"{body['submission']}-{body['rank']}.log"
        self.log_path = os.path.join(node.get_logs_dir_path(), self.log)
        self.devices = ray.get_runtime_context().get_accelerator_ids()
        self.body, self.sources = body, sources
        self.shim: subprocess.Popen[bytes] | None = None
        self.asked = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def start(self) -> dict[str, Any]:
        """The rank's shim has been started, once."""
        self.asked = time.monotonic()
        if self.shim is not None:
            return self.look()
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        paths = {name: os.path.join(self.home, name) for name in self.sources}
        for name, text in self.sources.items():
            _write(paths[name], text)
        work = self.body["spec"]["work"]
        _own(os.path.dirname(work), given=True)
        _own(work)
        _own(os.path.join(work, "tmp"))
        spec = {**self.body["spec"], "env": self._environment(), "log": self.log_path}
        spec["confinement_file"] = paths["confinement.py"]
        _write(os.path.join(self.directory, "spec.json"), json.dumps(spec))
        with open(os.path.join(self.directory, "shim.err"), "ab") as errors:
            arguments = [str(os.getpid()), paths["shim.py"], self.directory]
            self.shim = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", DIES_WITH_PARENT, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
            )
        return self.look()

    def look(self) -> dict[str, Any]:
        """What is recorded now. Whether the shim lives is asked first, so that an end in between is not a loss."""
        self.asked = time.monotonic()
        alive = self.shim is not None and self.shim.poll() is None
        started, ended = self._record("member/started.json"), self._record("member/exit.json")
        return {
            "started": started,
            "exit": ended,
            "alive": alive,
            "now_ms": time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
            "log": self.log,
            "report": self._said() if alive and started else None,
            "errors": "" if alive or ended else self._errors(),
        }

    def stop(self, signal_name: str | None, grace_ms: int) -> None:
        """The rank is asked to end; the first request stands. The shim looks every second, at once when poked."""
        self.asked = time.monotonic()
        path = os.path.join(self.home, "stop.json")
        if not os.path.exists(path):
            os.makedirs(self.home, mode=0o700, exist_ok=True)
            _write(path, json.dumps({"signal": signal_name, "grace_ms": grace_ms}))
        heeds = os.path.exists(os.path.join(self.directory, "shim.json"))  # before it is written, the signal kills
        if heeds and self.shim is not None and self.shim.poll() is None:
            os.kill(self.shim.pid, signal.SIGUSR2)

    def clear(self) -> None:
        """The records of a rank that has ended are gone from its node; its log stays."""
        if self.shim is None or self.shim.poll() is not None:
            shutil.rmtree(self.home, ignore_errors=True)

    def _watch(self) -> None:
        while time.monotonic() - self.asked < SILENCE_S:
            time.sleep(1)
        os._exit(1)

    def _environment(self) -> dict[str, str]:
        given = self.body["spec"]["env"]
        found = {k: v for k, v in os.environ.items() if k in PASSED or k.startswith(PASSED_PREFIXES)}
        found.setdefault("PATH", os.defpath)
        assigned = {name: os.environ[name] for name in ASSIGNED if os.environ.get(name) and any(self.devices.values())}
        return {**found, **given, **assigned}

    def _record(self, name: str) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self.home, name), encoding="utf-8") as file:
            return dict(json.load(file))
        return None

    def _errors(self) -> str:
        with contextlib.suppress(OSError), open(os.path.join(self.directory, "shim.err"), "rb") as file:
            return file.read()[-500:].decode("utf-8", "replace").strip()
        return ""

    def _said(self) -> str | None:
        """The job's own file, as it is: a link, a pipe or a large one is not read."""
        try:
            handle = os.open(self.body["spec"]["env"]["YISUAN_PROGRESS"], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            text = os.read(handle, REPORT_MAX + 1) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
        except OSError:
            return None
        finally:
            os.close(handle)
        return text.decode("utf-8", "replace") if 0 < len(text) <= REPORT_MAX else None


def _own(folder: str, *, given: bool = False) -> None:
    """The folder is there and this user's own: somebody else's, or a link, is not written to.

    given: the operator named it; then it may be anybody's, unless anybody could have made it.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    if given and not os.stat(os.path.dirname(folder)).st_mode & stat.S_IWOTH:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.getuid(), 0):
        raise PermissionError(f"{folder} is not a directory of uid {os.getuid()}")


def _write(path: str, text: str) -> None:
    """The file is whole or not there; only its owner reads it."""
    partial = f"{path}.{os.getpid()}"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(partial, path)


# --- beside the head --------------------------------------------------------------------------------------------------


class Member:
    """What the driver knows of one rank. Its milliseconds are the driver's: one clock for the whole gang.

    look: the answer being waited for. offset_ms: driver's clock less the node's boot clock, the least of what the
    answers up to the start bound it by; fixed from then on, so that a run's length is the node's monotonic clock's.
    """

    def __init__(self, rank: int, node: str) -> None:
        self.told: dict[str, Any] = {"rank": rank, "node": node, "phase": "starting"}
        self.actor: Any = None
        self.waiting: Any = None
        self.offset_ms: int | None = None
        self.heard = time.monotonic()
        self.report: str | None = None
        self.stopped = False

    @property
    def over(self) -> bool:
        return self.told["phase"] in ("exited", "lost")

    def end(self, phase: str, *, cause: str | None = None, detail: str | None = None, code: int | None = None) -> None:
        """It has ended, unless it had before."""
        if not self.over:
            self.told.update(phase=phase, cause=cause, detail=detail, exit_code=code)

    def hear(self, answer: dict[str, Any], now_ms: int) -> None:
        """The phase is what the rank's own records say."""
        self.heard = time.monotonic()
        self.told["log"] = answer["log"]
        self.report = answer["report"] or self.report
        offset = now_ms - answer["now_ms"]
        started, ended = answer["started"], answer["exit"]
        if "started_ms" not in self.told:
            self.offset_ms = offset if self.offset_ms is None else min(offset, self.offset_ms)
        if started and "started_ms" not in self.told:
            assert self.offset_ms is not None, "set above"
            self.told.update(phase="running", started_ms=started["started_ms"] + self.offset_ms, pid=started["pid"])
        if ended:
            if ended["ended_ms"] is not None and self.offset_ms is not None:
                self.told["ended_ms"] = ended["ended_ms"] + self.offset_ms
            self.end("exited", cause=ended["cause"], detail=ended["detail"], code=ended["exit_code"])
        elif not answer["alive"] and started:
            self.end("lost", detail="the processes beside it died without recording its end")
        elif not answer["alive"]:
            self.end("exited", code=126, detail=f"its shim failed: {answer['errors']}")


class Driver:
    """One lease, from placing to the last member's end."""

    def __init__(self, lease: dict[str, Any]) -> None:
        # Read at once: Ray may clear a working_dir that raylets of one host share, when one of them is done with it.
        self.sources = {name: _text(name) for name in ("shim.py", "confinement.py")}
        self.ray: Any = importlib.import_module("ray")
        self.kv: Any = importlib.import_module("ray.experimental.internal_kv")
        self.lease = lease
        self.members = [Member(m["rank"], m["node"]) for m in lease["members"]]
        self.base_ms = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000
        self.stopping: dict[str, Any] | None = None
        self.published, self.published_at = "", 0.0

    def run(self) -> None:
        """Every member has ended and that is published, or this process was killed and all of it with it."""
        self.ray.init(log_to_driver=False, logging_level="ERROR")
        signal.signal(signal.SIGTERM, self._terminated)
        self.publish()
        if self._stop_request() is None:
            try:
                self._start()
            except Exception as problem:  # noqa: BLE001 - told as what it is: the members were not started
                self._not_launched(f"{type(problem).__name__}: {problem}")
        else:
            self._never_started()
        while not all(member.over for member in self.members):
            self._look()
            self._pass_stop_on()
            self.publish()
        self.publish(final=True)
        self._clear()

    def now_ms(self) -> int:
        """The wall clock read once, and monotonic since."""
        return self.base_ms + time.monotonic_ns() // 1_000_000

    # --- placing ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Every rank's actor is where the rank was granted, and has been told to start; or none is told."""
        alive = {node["NodeName"]: node for node in self.ray.nodes() if node["Alive"]}
        gone = [m for m in self.members if m.told["node"] not in alive]
        if gone:
            for member in gone:
                member.end("lost", detail=f"node {member.told['node']} is not in the cluster")
            self._never_started()
            return
        nodes = [alive[m.told["node"]] for m in self.members]
        group = self._placement_group(nodes)
        if not self._placed(group, [node["NodeID"] for node in nodes]):
            return
        strategy = importlib.import_module("ray.util.scheduling_strategies").PlacementGroupSchedulingStrategy
        actor = self.ray.remote(Runner)
        head = nodes[0]["NodeManagerAddress"]
        for index, member in enumerate(self.members):
            given = self.lease["members"][index]
            spec = {**self.lease["spec"], "env": {**given["env"], "MASTER_ADDR": head}}
            member.told["node_id"] = nodes[index]["NodeID"]
            options = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": strategy(group, index)}
            amount = dict(given["resources"])
            if "GPU" in amount:
                options["num_gpus"] = amount.pop("GPU")
            options["resources"] = amount
            body = {"submission": self.lease["submission"], "rank": member.told["rank"], "spec": spec}
            member.actor = actor.options(**options).remote(body, self.sources)
            member.waiting = member.actor.start.remote()

    def _placement_group(self, nodes: list[dict[str, Any]]) -> Any:
        """One bundle a rank. Pinned by the node's id where this Ray can, else by the resource that names its address."""
        placing = importlib.import_module("ray.util.placement_group").placement_group
        bundles = [dict(m["resources"]) for m in self.lease["members"]]
        if "bundle_label_selector" in inspect.signature(placing).parameters:
            pins = [{"ray.io/node-id": node["NodeID"]} for node in nodes]
            return placing(bundles, strategy="PACK", bundle_label_selector=pins)
        for bundle, node in zip(bundles, nodes, strict=True):
            bundle[f"node:{node['NodeManagerAddress']}"] = 0.001
        return placing(bundles, strategy="PACK")

    def _placed(self, group: Any, nodes: list[str]) -> bool:
        """Whether Ray holds all bundles; while it does not, a stop, a node's end or the time allowed ends the wait."""
        until = time.monotonic() + self.lease["start_timeout_ms"] / 1000
        while not group.wait(timeout_seconds=POLL_S):
            alive = {node["NodeID"] for node in self.ray.nodes() if node["Alive"]}
            for member, node in zip(self.members, nodes, strict=True):
                if node not in alive:
                    member.end("lost", detail=f"node {member.told['node']} left the cluster")
            if self._stop_request() is not None or any(member.over for member in self.members):
                self._never_started()
                return False
            if time.monotonic() >= until:
                wanted = json.dumps([m["resources"] for m in self.lease["members"]])
                names = ", ".join(m.told["node"] for m in self.members)
                waited = self.lease["start_timeout_ms"]
                self._not_launched(f"Ray did not grant {wanted} on {names} in {waited} ms: others hold it")
                return False
        return True

    def _not_launched(self, detail: str) -> None:
        for member in self.members:
            if member.actor is None:
                member.end("lost", cause="launch_failed", detail=detail)

    def _never_started(self) -> None:
        for member in self.members:
            member.end("exited", cause="cancelled", detail="stopped before it started")

    # --- watching -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Whatever answers there are have been heard; who has none waiting is asked again."""
        begun = time.monotonic()
        waiting = {m.waiting: m for m in self.members if not m.over}
        ready, _ = self.ray.wait(list(waiting), num_returns=len(waiting), timeout=POLL_S)
        for reference in ready:
            self._hear(waiting[reference], reference)
        time.sleep(max(0.0, POLL_S - (time.monotonic() - begun)))
        for member in self.members:
            if not member.over and member.waiting is None:
                member.waiting = member.actor.look.remote()
            if not member.over and time.monotonic() - member.heard > self.lease["start_timeout_ms"] / 1000:
                member.end("lost", detail="its node does not answer")
                self.ray.kill(member.actor)

    def _hear(self, member: Member, reference: Any) -> None:
        errors = self.ray.exceptions
        member.waiting = None
        try:
            member.hear(self.ray.get(reference), self.now_ms())
        except errors.ActorUnavailableError:
            if time.monotonic() - member.heard > UNREACHABLE_S:
                member.end("lost", detail="its node cannot be reached")
        except errors.RayActorError as problem:
            member.end("lost", detail=_first_line(problem))
        except errors.RayTaskError as problem:
            member.end("exited", code=126, detail=f"could not run: {_first_line(problem.cause)}")
            self.ray.kill(member.actor)

    def _pass_stop_on(self) -> None:
        """A gang is whole or over: one member lost ends the rest, as a request does."""
        request = self._stop_request()
        if request is None and any(m.told["phase"] == "lost" for m in self.members):
            request = self.lease["stopping"]
        if request is None:
            return
        for member in self.members:
            if not member.over and not member.stopped and member.actor is not None:
                member.stopped = True
                member.actor.stop.remote(request["signal"], request["grace_ms"])

    def _stop_request(self) -> dict[str, Any] | None:
        """What the platform uploaded, once it has; asked for as long as there is none."""
        if self.stopping is None:
            with contextlib.suppress(Exception):  # the head is away: asked again
                found = self.kv._internal_kv_get(self.lease["stop"])
                self.stopping = dict(json.loads(found)) if found else None
        return self.stopping

    def _terminated(self, *_: object) -> None:
        """`ray job stop`: Ray kills this process 3 s later (RAY_JOB_STOP_WAIT_TIME_S), so members have less."""
        self.stopping = self.stopping or {"signal": None, "grace_ms": 1500}
        for member in self.members:
            member.stopped = False

    # --- telling ------------------------------------------------------------------------------------------------------

    def publish(self, *, final: bool = False) -> None:
        """The job's entry holds what is known, whenever that has changed; the job's log has it as a line."""
        reports = [m.report for m in self.members if m.report and not m.over]
        body = {"members": [m.told for m in self.members], "report": reports[0] if reports else None}
        text = json.dumps(body)
        if text == self.published:
            return
        now = time.monotonic()
        known = json.loads(self.published)["members"] if self.published else None
        if body["members"] == known and now - self.published_at < REPORT_EVERY_S and not final:
            return
        print(f"yisuan {text}", flush=True)
        with contextlib.suppress(Exception):  # the head is away or keeps its entries elsewhere: the log has it
            key = f"{JOB_KEY}{self.lease['submission']}".encode()
            entry = json.loads(self.kv._internal_kv_get(key, namespace=JOB_NAMESPACE))
            if entry["status"] == "RUNNING":
                entry["metadata"] = {**(entry.get("metadata") or {}), "yisuan": text}
                self.kv._internal_kv_put(key, json.dumps(entry).encode(), True, namespace=JOB_NAMESPACE)
        self.published, self.published_at = text, now

    def _clear(self) -> None:
        """Neither records nor the request are left in the cluster."""
        references = [m.actor.clear.remote() for m in self.members if m.actor is not None]
        with contextlib.suppress(Exception):  # a node that is gone has taken them along
            self.ray.wait(references, num_returns=len(references), timeout=2)
        with contextlib.suppress(Exception):
            self.kv._internal_kv_del(self.lease["stop"])


def _text(name: str) -> str:
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name), encoding="utf-8") as file:
        return file.read()


def _first_line(problem: object) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(problem).__name__


if __name__ == "__main__":
    Driver(json.loads(_text("lease.json"))).run()
