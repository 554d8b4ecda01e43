"""How fast segments come out of a store on disk, beside torchrl's SliceSampler.

    python benchmarks/replay.py

Writes results/speed_replay.json. Both hold the same 100,000 frames of 64x64x3 and the same small
columns, memory-mapped from the same disk with a warm page cache, and hand out the same (16, 65)
rows through their public samplers, each with a thread that gathers ahead, timed in turns. torchrl
(Bou et al. 2023, arXiv 2306.00577) must be importable: `make bench` makes an environment for it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from harness import alternate, rate, speedup
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, ReplayBuffer
from torchrl.data.replay_buffers.samplers import SliceSampler

from reverie import evidence
from reverie.core.types import Box
from reverie.data.episode import Episode
from reverie.data.sample import Sampler
from reverie.data.store import Store

BATCH, LENGTH = 16, 64  # segments, transitions in each
ROWS = 500  # observations of an episode
PREFETCH = 2
OURS = 10  # times as many batches in one of our turns, so that turns last about as long and the
# batches that the other one still gathers ahead weigh little


def episodes(frames: int, seed: int = 0) -> Iterator[Episode]:
    """Noise, so that no file system can make it small."""
    rng = np.random.default_rng(seed)
    for _ in range(frames // ROWS):
        steps = ROWS - 1
        yield Episode(
            obs={"image": rng.integers(0, 256, (ROWS, 3, 64, 64), dtype=np.uint8)},
            action=rng.uniform(-1, 1, (steps, 3)).astype(np.float32),
            reward=rng.normal(size=steps).astype(np.float32),
            terminated=np.zeros(steps, bool),
            truncated=np.arange(steps) == steps - 1,
        )


def fill_ours(path: Path, frames: int) -> Store:
    """The episodes in a store."""
    pixels = {"image": Box((3, 64, 64), 0, 255, "uint8")}
    with Store.create(path, pixels, Box((3,))) as store:
        for episode in episodes(frames):
            store.append(episode)
    return Store.open(path)


def fill_theirs(path: Path, store: Store) -> ReplayBuffer:
    """The same rows, column by column, in torchrl's buffer."""
    buffer = ReplayBuffer(
        storage=LazyMemmapStorage(store.rows, scratch_dir=str(path)),
        sampler=SliceSampler(slice_len=LENGTH + 1, traj_key="episode", cache_values=True),
        batch_size=BATCH * (LENGTH + 1),
        prefetch=PREFETCH,
    )
    for i, start in enumerate(store.starts.tolist()):
        rows = slice(start, start + ROWS)
        columns = {name: torch.from_numpy(x[rows].copy()) for name, x in store.columns.items()}
        del columns["first"]
        data = TensorDict({**columns, "episode": torch.full((ROWS,), i)}, batch_size=[ROWS])
        buffer.extend(data)
    return buffer


def check(batch: torch.Tensor, store: Store) -> None:
    """Refuse to time rows that are not segments of the store."""
    images = store.columns["obs.image"]
    first = batch[:, 0].flatten(1)[:, :64]
    heads = torch.from_numpy(images.reshape(len(images), -1)[:, :64].copy())
    for segment, head in zip(batch, first, strict=True):
        (row,) = (heads == head).all(1).nonzero().flatten().tolist()
        if not np.array_equal(images[row : row + LENGTH + 1], segment.numpy()):
            raise RuntimeError(f"The batch is not the segment at row {row}.")


def repeat(draw: Callable[[], object], times: int) -> Callable[[], None]:
    """One timed call: so many batches."""

    def call() -> None:
        for _ in range(times):
            draw()

    return call


def main() -> None:
    """Time both and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=40, help="in one timed call")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--results", type=Path, default=evidence.FOLDER)
    options = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        store = fill_ours(Path(folder) / "ours", options.frames)
        theirs = fill_theirs(Path(folder) / "theirs", store)
        ours = Sampler(store, BATCH, LENGTH, packed=False, prefetch=PREFETCH)
        check(next(ours).obs["image"], store)
        check(theirs.sample()["obs.image"].unflatten(0, (BATCH, LENGTH + 1)), store)
        seconds = alternate(
            {
                "reverie": repeat(lambda: next(ours), OURS * options.batches),
                "torchrl": repeat(theirs.sample, options.batches),
            },
            repeats=options.repeats,
            warmup=3,
        )
        ours.close()
    mine = rate(OURS * options.batches, seconds["reverie"])
    other = rate(options.batches, seconds["torchrl"])
    ratio = speedup([s / OURS for s in seconds["reverie"]], seconds["torchrl"])
    sys.stdout.write(f"reverie: {mine} batches/s\ntorchrl: {other} batches/s\nratio: {ratio}\n")
    evidence.record(
        "speed_replay",
        what=(
            f"Batches of ({BATCH}, {LENGTH}) slices of 64x64x3 from {options.frames:,} frames on "
            f"disk; torchrl's SliceSampler, in turns, takes {ratio.value:.1f} "
            "times as long (10 is the aim)."
        ),
        metric="batches a second",
        value=mine.value,
        low=mine.low,
        high=mine.high,
        better="higher",
        target=500,
        baselines={"torchrl SliceSampler": other.value},
        seeds=[0],
        steps=OURS * options.batches * options.repeats,
        seconds=time.perf_counter() - began,
        command="python benchmarks/replay.py",
        config={
            "batch": BATCH,
            "length": LENGTH,
            "frames": options.frames,
            "prefetch": PREFETCH,
            "ratio": [ratio.value, ratio.low, ratio.high],
        },
        folder=options.results,
    )


if __name__ == "__main__":
    main()
