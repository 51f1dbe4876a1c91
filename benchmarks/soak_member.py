"""A member of a soak's job: it writes down by itself when it ran and which devices it was shown, and ends as it was told.

    python -I -S soak_member.py FOLDER SECONDS CODE WHO [resume]

One line of JSON per event in FOLDER/<lease>-<rank>.jsonl: start, beat every BEAT_S, stop. WHO ends with CODE after SECONDS: `all`,
or `last`, the highest rank, while the others go on until they are stopped. resume: time that earlier attempts ran counts. Standard
library only: it runs on nodes where the platform is not installed.
"""

import json
import os
import signal
import sys
import time

BEAT_S = 0.2
FOREVER_S = 3600.0


def main() -> int:
    """The exit code; 128 + n after signal n."""
    folder, seconds, code, who = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    lease, rank, world = (os.environ[key] for key in ("YISUAN_LEASE", "YISUAN_RANK", "YISUAN_WORLD_SIZE"))
    run = f"{time.time_ns()}-{os.urandom(4).hex()}"
    shown = next((os.environ[key] for key in sorted(os.environ) if key.endswith("_VISIBLE_DEVICES")), None)
    out = os.open(f"{folder}/{lease}-{rank}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    saved = f"{folder}/{os.environ['YISUAN_JOB']}-{rank}.saved" if "resume" in sys.argv[5:] else None

    def say(what: str, **more: object) -> None:
        clock = {
            "boot_ms": time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
            "at_ms": time.time_ns() // 1_000_000,
        }
        line = {"what": what, "lease": lease, "rank": int(rank), "run": run, **clock, **more}
        os.write(out, (json.dumps(line) + "\n").encode())

    def end(number: int, _frame: object) -> None:
        say("stop", code=128 + number)
        os._exit(128 + number)

    say("start", shown=shown, count=int(os.environ.get("YISUAN_DEVICES", "0")), pid=os.getpid())
    signal.signal(signal.SIGTERM, end)
    ends = who == "all" or int(rank) == int(world) - 1
    done = _read(saved)
    limit = seconds if ends else FOREVER_S
    while done < limit:
        time.sleep(min(BEAT_S, limit - done))
        done += BEAT_S
        say("beat")
        if saved:
            _write(saved, done)
    say("stop", code=code)
    return code


def _read(path: str | None) -> float:
    if path is None or not os.path.exists(path):
        return 0.0
    with open(path, encoding="ascii") as stream:
        return float(stream.read())


def _write(path: str, done: float) -> None:
    with open(path + ".new", "w", encoding="ascii") as stream:
        stream.write(str(done))
    os.replace(path + ".new", path)


if __name__ == "__main__":
    sys.exit(main())
