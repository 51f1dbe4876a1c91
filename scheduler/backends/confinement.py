"""Confinement: a job cannot open the platform's private directories, although it may run under the same uid.

Standard library only and no import of ours: the shim loads this file by its path. Three methods, tried in this order:
namespace  an empty read-only tmpfs over each private directory in a mount namespace of its own, then no capability that
           could undo it (mount_namespaces(7), capabilities(7)).
landlock   a file system allow-list of everything but the private directories (landlock(7)); names created later beside
           their ancestors are not visible to the job.
uid        another user; private directories are 0700.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
# What a job run by root keeps: work on files it could own. Without SYS_ADMIN, SYS_PTRACE, DAC_READ_SEARCH, MKNOD and
# the rest it can neither unmount what covers the directories nor reach them through another process or a device.
KEPT_CAPABILITIES = frozenset({0, 1, 3, 5})  # CHOWN, DAC_OVERRIDE, FOWNER, KILL
CAPABILITY_VERSION_3 = 0x20080522
SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT = 444, 445, 446
ACCESS_FS_ABI1 = (1 << 13) - 1
METHODS = ("namespace", "landlock", "uid")

_libc = ctypes.CDLL(None, use_errno=True)


class ConfinementError(Exception):
    """A step the kernel refused; the message names it."""


def _check(result: int, what: str) -> int:
    if result < 0:
        raise ConfinementError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def confine(method: str, private: Sequence[str], work: str, uid: int | None) -> None:
    """This process can open nothing under `private` (but `work`) afterwards, nor can what it executes."""
    if method == "namespace":
        _namespace([os.path.realpath(p) for p in private], os.path.realpath(work))
    elif method == "landlock":
        _landlock([os.path.realpath(p) for p in private], os.path.realpath(work))
    elif method != "uid" and method != "none":
        raise ConfinementError(f"unknown method {method!r}")
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    elif method == "uid":
        raise ConfinementError("method uid needs a uid of the job's own")
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def _namespace(private: Sequence[str], work: str) -> None:
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        _check(_libc.unshare(CLONE_NEWNS), "unshare(mount)")
    else:
        _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare(user, mount)")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _mount("none", "/", None, MS_REC | MS_PRIVATE, None)
    kept = os.open(work, os.O_PATH | os.O_DIRECTORY)
    for directory in private:
        inside = os.path.commonpath([directory, work]) == directory
        _mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=0755")
        if inside:
            os.makedirs(work, exist_ok=True)
            _mount(f"/proc/self/fd/{kept}", work, None, MS_BIND, None)
        _mount("none", directory, None, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, None)
    os.close(kept)
    os.chdir(work)
    drop_capabilities()


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None) -> None:
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags),
        data.encode() if data else None,
    )  # fmt: skip
    _check(result, f"mount on {target}")


def drop_capabilities() -> None:
    """Only KEPT_CAPABILITIES are left, in every set, for root; an ordinary user keeps none."""
    kept = KEPT_CAPABILITIES if os.getuid() == 0 else frozenset()
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        if capability not in kept:
            _check(_libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), f"drop capability {capability}")
    _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    mask = sum(1 << c for c in kept)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION_3, 0))
    data = ctypes.create_string_buffer(struct.pack("=IIIIII", low, low, 0, high, high, 0))
    _check(_libc.capset(header, data), "capset")


def _landlock(private: Sequence[str], work: str) -> None:
    access = ACCESS_FS_ABI1
    ruleset = _check(
        _libc.syscall(SYS_LANDLOCK_CREATE, ctypes.create_string_buffer(struct.pack("=Q", access)), 8, 0),
        "landlock_create_ruleset",
    )
    for path in sorted(_allowed(private)) + [work]:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        granted = access if os.path.isdir(path) else access & 0b111  # files: execute, write, read
        rule = ctypes.create_string_buffer(struct.pack("=Qi", granted, descriptor))
        _check(_libc.syscall(SYS_LANDLOCK_ADD, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
        os.close(descriptor)
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _check(_libc.syscall(SYS_LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def _allowed(private: Sequence[str]) -> set[str]:
    """Siblings along every private directory's ancestors: all that exists, but the private directories."""
    ancestors = {str(parent) for p in private for parent in Path(p).parents}
    found = set()
    for ancestor in ancestors:
        for name in os.listdir(ancestor):
            path = os.path.join(ancestor, name)
            if path not in ancestors and path not in private:
                found.add(path)
    return found


def unavailable(method: str, private: Sequence[str], work: str, uid: int | None) -> str | None:
    """Why the method does not work here, tried for real in a forked child; None when it does."""
    return _in_child(lambda: confine(method, private, work, uid))


def _in_child(act: Callable[[], None]) -> str | None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child's coverage is not collected
        problem = ""
        try:
            act()
        except BaseException as raised:  # noqa: BLE001 - whatever it is, the parent must hear of it
            problem = str(raised) or type(raised).__name__
        os.write(writer, problem.encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        problem = pipe.read().decode()
    os.waitpid(pid, 0)
    return problem or None


def protect_process() -> None:
    """Other processes of the same user cannot read this one's memory or reach files through /proc/PID (prctl(2))."""
    _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
