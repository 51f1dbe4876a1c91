"""Confinement: a job cannot open the platform's private directories, although it may run under the platform's uid.

Standard library only and no import of ours: the shim loads this file by its path. Three methods, as `auto` tries them:

namespace  The job has a mount and a pid namespace of its own (mount_namespaces(7), pid_namespaces(7)); an empty
           read-only tmpfs lies over each private directory, /proc shows its own processes only, and no capability is
           left that could undo it (capabilities(7)). It can signal nobody outside.
landlock   A file system allow-list of everything but the private directories (landlock(7)); it cannot trace, nor read
           through /proc, any process outside. An ancestor of a private directory can be neither listed nor written by
           the job, and what others create in it later stays closed. The kernel checks opening, making, removing and
           truncating, not chmod(2) or stat(2). From Linux 6.12 (ABI 6) it can signal nobody outside; before, a job
           under the platform's own uid can.
uid        Another user, and private directories of mode 0700. The job's own directory must not lie inside one of them.

Run by root, the first two also hide block devices and make kernel settings read-only: no raw disk, no core_pattern.
They do not keep root from writing the host's other files; only a uid of the job's own does.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

METHODS = ("namespace", "landlock", "uid")

# linux/sched.h, linux/mount.h, linux/prctl.h, linux/capability.h
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522
# What a job run by root keeps: CHOWN, DAC_OVERRIDE, FOWNER, KILL, IPC_LOCK (memory pinned for RDMA). Without
# SYS_ADMIN, SYS_PTRACE, DAC_READ_SEARCH, MKNOD, SYS_RAWIO and the rest it can neither unmount what covers the
# directories nor reach them through another process, a file handle or a device.
KEPT_CAPABILITIES = frozenset({0, 1, 3, 5, 14})

# linux/landlock.h; the three calls have these numbers on every architecture
SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_EXECUTE, LANDLOCK_WRITE_FILE, LANDLOCK_READ_FILE, LANDLOCK_READ_DIR = 1, 2, 4, 8
LANDLOCK_ABI1 = (1 << 13) - 1
LANDLOCK_REFER, LANDLOCK_TRUNCATE = 1 << 13, 1 << 14  # ABI 2, ABI 3
LANDLOCK_SCOPE_SIGNAL = 2  # ABI 6
KERNEL_TREES = ("/proc", "/sys")  # read, never written, by a confined job

_libc = ctypes.CDLL(None, use_errno=True)


class ConfinementError(Exception):
    """A step that the kernel refused; the message names it."""


# --- the three steps of every method ----------------------------------------------------------------------------------


def separate(method: str) -> None:
    """The next process this one forks is the first of a pid namespace of its own, if the method has one."""
    if method != "namespace":
        return
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        _check(_libc.unshare(CLONE_NEWPID), "unshare(pid)")
        return
    _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWPID), "unshare(user, pid)")
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")


def enclose(method: str, private: Sequence[str], work: str) -> None:
    """This process, and all it forks, sees nothing under `private` but `work`; it keeps its privileges."""
    if method != "namespace":
        return
    _check(_libc.unshare(CLONE_NEWNS), "unshare(mount)")
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    work = os.path.realpath(work)
    kept = os.open(work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for path in [*_outermost(private), *_block_devices()]:
        if os.path.isdir(path):
            _cover(path, work, kept)
        else:
            _mount("/dev/null", path, None, MS_BIND)
    os.close(kept)
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if os.getuid() == 0:
        for path in ("/proc/sys", "/proc/sysrq-trigger"):
            if os.path.exists(path):
                _mount(path, path, None, MS_BIND)
                _mount("none", path, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
        for path in _mounts_under("/sys"):
            _mount("none", path, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    os.chdir(work)  # by path, so that `..` is the cover and not what it hides


def restrict(method: str, private: Sequence[str], work: str, uid: int | None) -> None:
    """This process has given up, for good, whatever could undo the method; it runs as `uid` if one is given."""
    if method not in (*METHODS, "none"):
        raise ConfinementError(f"unknown method {method!r}; one of {', '.join(METHODS)}, none")
    if method == "uid" and uid is None:
        raise ConfinementError("method uid needs a uid of the job's own")
    rules = _landlock_rules(_outermost(private), os.path.realpath(work)) if method == "landlock" else None
    if method in ("namespace", "landlock"):
        _drop_bounding_capabilities()
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if method in ("namespace", "landlock"):
        _drop_capabilities()
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if rules is not None:
        _check(_libc.syscall(SYS_LANDLOCK_RESTRICT, rules, 0), "landlock_restrict_self")
        os.close(rules)


# --- namespace --------------------------------------------------------------------------------------------------------


def _cover(directory: str, work: str, kept: int) -> None:
    """An empty read-only tmpfs over the directory; `work`, kept open, reappears at its path if it lies inside."""
    _mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=0755")
    if os.path.commonpath([directory, work]) == directory:
        os.makedirs(work, exist_ok=True)
        _mount(f"/proc/self/fd/{kept}", work, None, MS_BIND)
    _mount("none", directory, None, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [os.fsencode(text) if text is not None else None for text in (source, target, kind, data)]
    result = _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _check(result, f"mount on {target}")


def _mounts_under(top: str) -> list[str]:
    """Mount points at or below a directory, parents first (proc_pid_mountinfo(5), field 5)."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    found = {line.split(" ")[4] for line in lines}
    return sorted(path for path in found if path == top or path.startswith(top + "/"))


def _block_devices(top: str = "/dev") -> list[str]:
    """Disks: whoever may open one can read every file on it."""
    found = []
    try:
        entries = list(os.scandir(top))
    except OSError:
        return []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            found += [] if os.path.ismount(entry.path) else _block_devices(entry.path)
        elif stat.S_ISBLK(entry.stat(follow_symlinks=False).st_mode):
            found.append(entry.path)
    return sorted(found)


# --- capabilities -----------------------------------------------------------------------------------------------------


def _kept() -> frozenset[int]:
    return KEPT_CAPABILITIES if os.getuid() == 0 else frozenset()


def _drop_bounding_capabilities() -> None:
    """No program executed later can gain more than is kept. Without CAP_SETPCAP no_new_privs does that alone."""
    for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii")) + 1):
        if capability not in _kept() and _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 and os.getuid() == 0:
            raise ConfinementError(f"drop capability {capability}: {os.strerror(ctypes.get_errno())}")


def _drop_capabilities() -> None:
    _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    held = ctypes.create_string_buffer(24)
    header = ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION_3, 0))
    _check(_libc.capget(header, held), "capget")
    _, low, _, _, high, _ = struct.unpack("=6I", held.raw)
    mask = sum(1 << capability for capability in _kept()) & (low | high << 32)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    wanted = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0), 24)
    _check(_libc.capset(header, wanted), "capset")


# --- landlock ---------------------------------------------------------------------------------------------------------


def _landlock_rules(private: Sequence[str], work: str) -> int:
    """A descriptor of the rule set: everything that exists now, but `private` and block devices; and `work`."""
    abi = _check(_libc.syscall(SYS_LANDLOCK_CREATE, None, 0, 1), "landlock ABI")
    access = LANDLOCK_ABI1 | (LANDLOCK_REFER if abi >= 2 else 0) | (LANDLOCK_TRUNCATE if abi >= 3 else 0)
    scoped = LANDLOCK_SCOPE_SIGNAL if abi >= 6 else 0
    body = struct.pack("=QQQ", access, 0, scoped)[: 24 if abi >= 6 else 8]
    rules = _check(
        _libc.syscall(SYS_LANDLOCK_CREATE, ctypes.create_string_buffer(body, len(body)), len(body), 0),
        "landlock_create_ruleset",
    )
    reading = LANDLOCK_EXECUTE | LANDLOCK_READ_FILE | LANDLOCK_READ_DIR
    on_files = LANDLOCK_EXECUTE | LANDLOCK_WRITE_FILE | LANDLOCK_READ_FILE | (access & LANDLOCK_TRUNCATE)
    for path in [*_siblings([*private, *_block_devices()]), work]:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # gone, or not ours to see
        granted = reading if path in KERNEL_TREES else access
        granted &= access if os.path.isdir(path) else on_files
        rule = ctypes.create_string_buffer(struct.pack("=Qi", granted, descriptor), 12)
        result = _libc.syscall(SYS_LANDLOCK_ADD, rules, 1, rule, 0)
        os.close(descriptor)
        _check(result, f"landlock_add_rule {path}")
    return rules


def _siblings(hidden: Sequence[str]) -> list[str]:
    """All that exists beside the hidden paths and their ancestors.

    Symbolic links are left out: a rule holds for what a path leads to, and a link may lead into what is hidden.
    """
    ancestors = {str(parent) for path in hidden for parent in Path(path).parents} or {"/"}
    found = []
    for ancestor in sorted(ancestors):
        try:
            entries = list(os.scandir(ancestor))
        except OSError:
            continue
        found += [e.path for e in entries if e.path not in ancestors and e.path not in hidden and not e.is_symlink()]
    return found


# --- paths and trying -------------------------------------------------------------------------------------------------


def _outermost(paths: Sequence[str]) -> list[str]:
    """Real paths, without those that lie inside another of them."""
    real = sorted({os.path.realpath(path) for path in paths})
    return [p for p in real if not any(p != other and os.path.commonpath([p, other]) == other for other in real)]


def _check(result: int, what: str) -> int:
    if result < 0:
        raise ConfinementError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def unavailable(method: str, private: Sequence[str], work: str, uid: int | None) -> str | None:
    """Why the method does not work here, or None; tried for real, by a process of its own that then looks."""
    case = json.dumps({"method": method, "private": list(private), "work": work, "uid": uid})
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
    tried = subprocess.run(command, input=case, capture_output=True, text=True, timeout=30, check=False, env={})
    if tried.returncode == 0:
        return None
    return tried.stdout.strip() or tried.stderr.strip().rpartition("\n")[2] or f"exit code {tried.returncode}"


def protect_process() -> None:
    """Processes of the same user can no longer trace this one or read its files through /proc/PID (prctl(2))."""
    _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def _try(method: str, private: Sequence[str], work: str, uid: int | None) -> None:
    """ConfinementError unless, once confined, nothing in `private` opens and `work` takes a file."""
    secrets = list(_entries(_outermost(private), os.path.realpath(work)))
    enclose(method, private, work)
    restrict(method, private, work, uid)
    for path in secrets:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        except OSError:
            continue
        raise ConfinementError(f"{path} can still be opened")
    try:
        probe = os.path.join(os.path.realpath(work), f".confinement-{os.getpid()}")
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(probe)
    except OSError as problem:
        raise ConfinementError(f"the job's own directory cannot be used: {problem}") from problem


def _entries(private: Sequence[str], work: str) -> Iterator[str]:
    for path in private:
        if not os.path.isdir(path):
            yield path
            continue
        for name in os.listdir(path):
            entry = os.path.join(path, name)
            if os.path.commonpath([entry, work]) != entry:
                yield entry


def _main() -> int:
    case = json.load(sys.stdin)
    try:
        separate(case["method"])
        pid = os.fork()  # single-threaded here, unlike the platform
        if pid == 0:
            try:
                _try(case["method"], case["private"], case["work"], case["uid"])
            except (ConfinementError, OSError) as problem:
                print(problem, flush=True)
                os._exit(1)
            os._exit(0)
    except (ConfinementError, OSError) as problem:
        print(problem)
        return 1
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.exit(_main())
