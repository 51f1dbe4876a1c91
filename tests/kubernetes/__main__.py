"""`python -m tests.kubernetes`: a control plane with nodes to try things on, until interrupted. Prints its KUBECONFIG.

k1 and k2 run pods as processes of this host; --fake N adds N nodes whose pods only say that they run.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.plane import NoPlane, Plane


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes", description=__doc__)
    parser.add_argument("--resource", default="nvidia.com/gpu", help="what k1, k2 and the fake nodes have eight of")
    parser.add_argument("--product", default="NVIDIA-H800", help="the label nvidia.com/gpu.product of k1 and k2")
    parser.add_argument("--fake", type=int, default=0, metavar="N", help="nodes run by kwok")
    parser.add_argument("--folder", type=Path, help="where it keeps its files; default: a temporary one")
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        plane = Plane(given.folder)
    except NoPlane as problem:
        sys.exit(str(problem))
    labels = {"nvidia.com/gpu.product": given.product}
    with plane, Kubelet(plane, {name: {given.resource: 8} for name in ("k1", "k2")}, {"k1": labels, "k2": labels}):
        if given.fake:
            plane.kwok()
            plane.fake_nodes(given.fake, {given.resource: 8})
        print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
