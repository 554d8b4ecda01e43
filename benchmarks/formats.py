"""How fast data of each format is read, converted and sampled, beside stable-worldmodel's reader.

    python benchmarks/formats.py

Writes results/speed_formats.json and results/speed_store_size.json. The same frames of 64x64x3 lie
in every format. Three things are timed through the public path: reading episodes as they are
(`open_source`), the one conversion that `open_data` makes, and batches of (16, 65) rows drawn from
what it returns. Since that is a store whatever the format was, the batches should come equally
fast; stable-worldmodel draws from its HDF5 columns directly, in turns with ours, if it is
importable. Then a store of 4 GB and one of 1/16 of it are sampled in turns. Page cache warm.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from harness import alternate, rate, speedup

from reverie import evidence
from reverie.core.types import Box
from reverie.data.bulk import write_store
from reverie.data.convert import bytes_at, convert, open_data
from reverie.data.episode import Episode
from reverie.data.formats.registry import open_source
from reverie.data.sample import Sampler
from reverie.data.schema import Schema
from reverie.data.store import Store

BATCH, LENGTH, ROWS = 16, 64, 200  # segments, transitions in each, observations of an episode
SHARE = 16  # the small store is this many times smaller than the large one
FORMATS = ("npz", "hdf5", "hdf5_flat", "minari", "lerobot")
SCHEMA = Schema.of({"image": Box((3, 64, 64), 0.0, 255.0, "uint8")}, Box((3,)), {}, rewards=True)


def episodes(count: int, *, noise: bool) -> Iterator[Episode]:
    """Noise, so that no file system can make it small; or moving stripes, as a video may be."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(64), np.arange(64))
    for number in range(count):
        if noise:
            image = np.frombuffer(rng.bytes(ROWS * 3 * 64 * 64), np.uint8)
            image = image.reshape(ROWS, 3, 64, 64)
        else:
            time_axis = 4 * (np.arange(ROWS) + 50 * number)[:, None, None]
            image = np.repeat(((ramp + time_axis) % 256).astype(np.uint8)[:, None], 3, 1)
        steps = ROWS - 1
        yield Episode(
            obs={"image": image},
            action=rng.uniform(-1, 1, (steps, 3)).astype(np.float32),
            reward=rng.normal(size=steps).astype(np.float32),
            terminated=np.zeros(steps, bool),
            truncated=np.arange(steps) == steps - 1,
        )


def repeat(draw: Callable[[], object], times: int) -> Callable[[], None]:
    """One timed call: so many batches."""

    def call() -> None:
        for _ in range(times):
            draw()

    return call


def sampler(store: Store) -> Sampler:
    """As a recipe draws."""
    return Sampler(store, BATCH, LENGTH, packed=False, prefetch=2)


def rival(path: Path) -> Callable[[], object] | None:
    """Batches of stable-worldmodel's HDF5 reader, one process; None: it does not import."""
    if importlib.util.find_spec("torchvision") is None:  # its import asks, its reader does not
        for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2"):
            sys.modules[name] = MagicMock()
    try:
        from stable_worldmodel.data import HDF5Dataset
    except ImportError as error:
        sys.stdout.write(f"stable-worldmodel is left out: {error}\n")
        return None
    import torch

    data = HDF5Dataset(path=path, num_steps=LENGTH + 1)
    chosen = torch.utils.data.RandomSampler(data, replacement=True, num_samples=10**9)
    batches = iter(torch.utils.data.DataLoader(data, BATCH, sampler=chosen))
    return lambda: next(batches)


def read_all(path: Path) -> float:
    """Frames a second of reading every episode as it is."""
    source = open_source(path)
    begun = time.perf_counter()
    frames = sum(len(source[i]) + 1 for i in range(len(source)))
    return frames / (time.perf_counter() - begun)


def formats(folder: Path, options: argparse.Namespace) -> None:
    """Read, convert and sample each format."""
    begun = time.perf_counter()
    count = max(1, options.frames // ROWS)
    write_store(folder / "store", SCHEMA, episodes(count, noise=False))
    paths = {"store": folder / "store"}
    for name in FORMATS:
        paths[name] = folder / (f"{name}.h5" if name.startswith("hdf5") else name)
        convert(folder / "store", paths[name], to=name)
    table: dict[str, dict[str, float]] = {}
    draws: dict[str, Callable[[], object]] = {}
    for name, path in paths.items():
        table[name] = {"megabytes": bytes_at(path) / 1e6, "read_frames_s": read_all(path)}
        start = time.perf_counter()
        store = open_data(path)
        if name != "store":
            table[name]["convert_frames_s"] = store.rows / (time.perf_counter() - start)
        draws[name] = sampler(store).__next__
    theirs = rival(paths["hdf5_flat"])
    if theirs:
        draws["stable-worldmodel"] = theirs
        table["stable-worldmodel"] = {}
    calls = {name: repeat(draw, options.batches) for name, draw in draws.items()}
    seconds = alternate(calls, repeats=options.repeats, warmup=2)
    for name, spent in seconds.items():
        table[name]["batches_s"] = rate(options.batches, spent).value
    show(table)
    slowest = min((name for name in paths), key=lambda name: table[name]["batches_s"])
    worst = rate(options.batches, seconds[slowest])
    record(
        "speed_formats",
        options,
        begun,
        what=(
            f"Batches of ({BATCH}, {LENGTH}) slices of 64x64x3 through open_data from the slowest "
            f"of {len(paths)} formats ({slowest}), {options.frames:,} frames."
        ),
        metric="batches a second",
        value=worst,
        target=None,
        baselines={"stable-worldmodel": table["stable-worldmodel"]["batches_s"]} if theirs else {},
        config={"batch": BATCH, "length": LENGTH, "frames": options.frames, "table": table},
    )


def sizes(folder: Path, options: argparse.Namespace) -> None:
    """Sample a large store and a small one in turns."""
    begun = time.perf_counter()
    frame = 3 * 64 * 64
    count = max(SHARE, int(options.gigabytes * 1e9 / frame / ROWS))
    for name, episode_count in (("large", count), ("small", count // SHARE)):
        write_store(folder / name, SCHEMA, episodes(episode_count, noise=True))
    draws = {name: sampler(Store.open(folder / name)).__next__ for name in ("small", "large")}
    calls = {name: repeat(draw, options.batches) for name, draw in draws.items()}
    seconds = alternate(calls, repeats=options.repeats, warmup=3)
    ratio = speedup(seconds["large"], seconds["small"])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    sys.stdout.write(f"speed of {options.gigabytes:g} GB beside 1/{SHARE} of it: {ratio}\n")
    record(
        "speed_store_size",
        options,
        begun,
        what=(
            f"Sampling a store of {options.gigabytes:g} GB as a share of the speed of one of "
            f"1/{SHARE} of it, in turns; the machine has {memory:.0f} GB of memory."
        ),
        metric="share of the small store's speed",
        value=ratio,
        target=0.8,
        baselines={},
        config={"gigabytes": options.gigabytes, "share": SHARE, "memory_gigabytes": memory},
    )


def show(table: dict[str, dict[str, float]]) -> None:
    """The table, a line a format."""
    keys = ("megabytes", "read_frames_s", "convert_frames_s", "batches_s")
    sys.stdout.write(f"{'':20}" + "".join(f"{key:>18}" for key in keys) + "\n")
    for name, row in table.items():
        cells = "".join(f"{row[key]:18,.0f}" if key in row else f"{'-':>18}" for key in keys)
        sys.stdout.write(f"{name:20}{cells}\n")


def record(
    name: str,
    options: argparse.Namespace,
    begun: float,
    *,
    value: Any,
    target: float | None,
    **told: Any,
) -> None:
    """Write one result down, unless it is only a try."""
    if options.dry:
        return
    evidence.record(
        name,
        value=value.value,
        low=value.low,
        high=value.high,
        better="higher",
        target=target,
        seeds=[0],
        steps=options.batches * options.repeats,
        seconds=time.perf_counter() - begun,
        command="python benchmarks/formats.py",
        folder=options.results,
        **told,
    )


def main() -> None:
    """Time everything and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of the large store")
    parser.add_argument("--batches", type=int, default=100, help="in one timed call")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--scratch", type=Path, help="where the data goes for the time being")
    parser.add_argument("--dry", action="store_true", help="show, but write no result")
    parser.add_argument("--results", type=Path, default=evidence.FOLDER)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        formats(Path(folder), options)
        sizes(Path(folder), options)


if __name__ == "__main__":
    main()
