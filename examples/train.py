"""Train a small network on handwritten digits with numpy, resuming from its checkpoint.

The data are the 1,797 8x8 digits that scikit-learn ships: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
Digits", UCI Machine Learning Repository, licensed CC BY 4.0. Each gang member trains on its own shard.
Run it anywhere: `python train.py --epochs 30`. With --shuffle-labels there is nothing to learn and accuracy falls to chance.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

CLASSES = 10
HIDDEN = 64


def load_digits(seed: int, shuffle_labels: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images in 0..1 and labels, split 80/20 by a fixed permutation; labels permuted if asked."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        sys.exit("train.py needs scikit-learn for its data set: pip install scikit-learn")
    table = np.loadtxt(Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(table))
    images, labels = table[order, :-1] / 16.0, table[order, -1].astype(int)
    if shuffle_labels:
        labels = rng.permutation(labels)
    cut = len(table) * 4 // 5
    return images[:cut], labels[:cut], images[cut:], labels[cut:]


def init(rng: np.random.Generator, pixels: int) -> dict[str, np.ndarray]:
    return {
        "w1": rng.normal(0, np.sqrt(2 / pixels), (pixels, HIDDEN)),
        "b1": np.zeros(HIDDEN),
        "w2": rng.normal(0, np.sqrt(2 / HIDDEN), (HIDDEN, CLASSES)),
        "b2": np.zeros(CLASSES),
    }


def forward(model: dict[str, np.ndarray], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hidden = np.maximum(images @ model["w1"] + model["b1"], 0)
    scores = hidden @ model["w2"] + model["b2"]
    scores -= scores.max(axis=1, keepdims=True)
    odds = np.exp(scores)
    return hidden, odds / odds.sum(axis=1, keepdims=True)


def train_epoch(
    model: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray, rng: np.random.Generator, rate: float
) -> float:
    """One pass of mini-batch gradient descent; returns the mean cross-entropy."""
    losses = []
    for batch in np.array_split(rng.permutation(len(images)), max(1, len(images) // 32)):
        x, y = images[batch], labels[batch]
        hidden, odds = forward(model, x)
        losses.append(float(-np.log(odds[np.arange(len(y)), y] + 1e-12).mean()))
        error = odds.copy()
        error[np.arange(len(y)), y] -= 1
        error /= len(y)
        back = (error @ model["w2"].T) * (hidden > 0)
        model["w2"] -= rate * hidden.T @ error
        model["b2"] -= rate * error.sum(axis=0)
        model["w1"] -= rate * x.T @ back
        model["b1"] -= rate * back.sum(axis=0)
    return float(np.mean(losses))


def accuracy(model: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray) -> float:
    return float((forward(model, images)[1].argmax(axis=1) == labels).mean())


def save(path: Path, epoch: int, model: dict[str, np.ndarray]) -> None:
    """The checkpoint is the old one or the new one, never half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, epoch=epoch, **model)
    os.replace(partial, path)


def resume(path: Path) -> tuple[int, dict[str, np.ndarray]] | None:
    if not path.exists():
        return None
    with np.load(path) as stored:
        return int(stored["epoch"]), {k: stored[k] for k in ("w1", "b1", "w2", "b2")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument(
        "--pace", type=float, default=0.0, help="least seconds per epoch, so that there is time to watch"
    )
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shuffle-labels", action="store_true", help="train on noise: accuracy must fall to chance")
    parser.add_argument("--fail-at", type=int, help="stop with exit code 3 after this epoch")
    args = parser.parse_args()
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    with Path("starts.log").open("a") as starts:  # one line per start: nothing may start twice
        starts.write(f"{os.environ.get('YISUAN_LEASE', 'alone')} rank {rank} pid {os.getpid()}\n")
    devices = os.environ.get("YISUAN_VISIBLE_DEVICES") or os.environ.get("CUDA_VISIBLE_DEVICES") or "none"
    print(f"rank {rank} of {world}, devices {devices}", flush=True)

    images, labels, test_images, test_labels = load_digits(args.seed, args.shuffle_labels)
    images, labels = images[rank::world], labels[rank::world]
    rng = np.random.default_rng(args.seed + 1000 * rank)
    path = Path(os.environ.get("YISUAN_CHECKPOINT", "checkpoint")) / f"rank{rank}.npz"
    found = resume(path)
    epoch, model = found if found else (0, init(rng, images.shape[1]))
    if found:
        print(f"resumed from epoch {epoch}", flush=True)

    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    signal.signal(signal.SIGUSR1, lambda *_: stopping.append(True))
    while epoch < args.epochs and not stopping:
        began = time.monotonic()
        loss = train_epoch(model, images, labels, rng, args.rate)
        epoch += 1
        save(path, epoch, model)
        print(f"epoch {epoch} loss {loss:.4f} accuracy {accuracy(model, test_images, test_labels):.4f}", flush=True)
        if args.fail_at is not None and epoch >= args.fail_at:
            print("this job was written to fail here", file=sys.stderr, flush=True)
            return 3
        time.sleep(max(0.0, args.pace - (time.monotonic() - began)))
    print(f"done: epoch {epoch} accuracy {accuracy(model, test_images, test_labels):.4f}", flush=True)
    return 0 if not stopping else 143


if __name__ == "__main__":
    sys.exit(main())
