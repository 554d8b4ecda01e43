"""Numbers of a run: from the device to the host (`Meter`), from the host to the disk (`MetricLog`).

`Meter` reads every update's metrics without making the device wait, and finds the first that is
not finite. `MetricLog` writes rows to `metrics.jsonl` and to TensorBoard; both files can be cut
back to where they were at a checkpoint, so that a resumed run leaves the files of a run that
never stopped. Imports core and `checkpoint` (for the full-disk error) only.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import torch
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor

from reverie.checkpoint import storage
from reverie.core.errors import BadCheckpoint

_LAG = 4  # updates a device may run ahead of the host's reading


class Reading(NamedTuple):
    """The metrics of one update on their way to the host."""

    update: int
    batch: Any
    known: dict[str, float]  # numbers that were on the host
    names: list[str]  # of `values`
    values: Tensor  # (len(names),) on the host, filled once `ready`
    ready: torch.cuda.Event | None  # None: filled already


class Meter:
    """Averages metrics between two rows of the log and stops at the first that is not finite.

    On a CPU every update is read at once. On a GPU an update's metrics are copied beside the
    computation and read a few updates later: the device never waits, yet the first bad update is
    known exactly and its batch is still at hand. `drain` reads all that is under way; it must be
    called before anything is kept (a checkpoint, an episode, a score).

    Args:
        fail: called with (update, name, value, batch) of the first value that is not finite;
            it raises.
    """

    def __init__(self, fail: Callable[[int, str, float, Any], NoReturn]) -> None:
        self._fail = fail
        self._waiting: deque[Reading] = deque()
        self._sums: dict[str, list[float]] = {}  # name -> [sum, count]

    def push(self, update: int, batch: Any, metrics: Mapping[str, Tensor | float]) -> None:
        """Take in one update's metrics."""
        reading = _read(update, batch, metrics)
        self._waiting.append(reading)
        while self._waiting and (reading.ready is None or len(self._waiting) > _LAG):
            self._take(self._waiting.popleft())

    def drain(self) -> None:
        """Read all that is under way."""
        while self._waiting:
            self._take(self._waiting.popleft())

    def means(self) -> dict[str, float]:
        """The mean of each metric since the last call, in order of appearance."""
        self.drain()
        result = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        return result

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last `means`."""
        self.drain()
        return {name: list(pair) for name, pair in self._sums.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._sums = {name: list(pair) for name, pair in state.items()}

    def _take(self, reading: Reading) -> None:
        """Add one update to the sums."""
        if reading.ready is not None:
            reading.ready.synchronize()
        values = dict(zip(reading.names, reading.values.tolist(), strict=True))
        for name, value in (values | reading.known).items():
            if not math.isfinite(value):
                self._fail(reading.update, name, value, reading.batch)
            pair = self._sums.setdefault(name, [0.0, 0])
            pair[0] += value
            pair[1] += 1


def _read(update: int, batch: Any, metrics: Mapping[str, Tensor | float]) -> Reading:
    """Start the way of metrics to the host."""
    far = {k: v for k, v in metrics.items() if isinstance(v, Tensor) and v.is_cuda}
    rest = {k: v for k, v in metrics.items() if k not in far}
    near = {k: v.item() if isinstance(v, Tensor) else float(v) for k, v in rest.items()}
    if not far:
        return Reading(update, batch, near, [], torch.empty(0), None)
    values = torch.stack([value.detach().float().reshape(()) for value in far.values()])
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return Reading(update, batch, near, list(far), host, ready)


class MetricLog:
    """`metrics.jsonl` and `tensorboard/` of a run's folder.

    A row is ``{"stage": ..., "update": ..., "seconds": ..., name: value, ...}``; `seconds` is the
    time that the run has worked. A value that is not finite (a score of nothing) is written null.

    Args:
        folder: of the run; exists.
        sizes: what `sizes` gave at the checkpoint from which the run goes on; rows written
            after it are cut off. None: begin anew.

    Raises:
        StorageFull: the disk is full.
        BadCheckpoint: a file is shorter than it was at the checkpoint.
    """

    def __init__(self, folder: str | Path, sizes: Mapping[str, int] | None = None) -> None:
        folder = Path(folder)
        with storage(folder):
            (folder / "tensorboard").mkdir(exist_ok=True)
            self._files: dict[str, BinaryIO] = {}
            for name in ("metrics.jsonl", "tensorboard/events.out.tfevents.0.reverie"):
                self._files[name] = _open_cut(folder / name, (sizes or {}).get(name, 0))
            self._rows, self._board = self._files.values()
            self._events = RecordWriter(self._board)
            if self._board.tell() == 0:
                self._event(file_version="brain.Event:2")

    def write(self, stage: str, update: int, seconds: float, values: Mapping[str, float]) -> None:
        """Append one row.

        Args:
            stage: that produced it; TensorBoard shows ``stage/name``.
            update: how many updates of the stage were done.
            seconds: that the run has worked.
            values: by name.

        Raises:
            StorageFull: the disk is full; the row is cut off when the run goes on.
        """
        row: dict[str, Any] = {"stage": stage, "update": update, "seconds": round(seconds, 3)}
        row |= {name: v if math.isfinite(v) else None for name, v in values.items()}
        tags = [Summary.Value(tag=f"{stage}/{k}", simple_value=v) for k, v in values.items()]
        with storage(self._rows.name):
            self._rows.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            self._event(step=update, summary=Summary(value=tags))
            for file in self._files.values():
                file.flush()

    def sizes(self) -> dict[str, int]:
        """How long the files are: what to give a log that goes on from here."""
        return {name: file.tell() for name, file in self._files.items()}

    def sync(self) -> None:
        """Put all rows safely on the disk."""
        with storage(self._rows.name):
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())

    def close(self) -> None:
        """Close the files."""
        with storage(self._rows.name), ExitStack() as stack:
            for file in self._files.values():
                stack.callback(file.close)

    def _event(self, **fields: Any) -> None:
        """Append one TensorBoard record."""
        self._events.write(Event(wall_time=time.time(), **fields).SerializeToString())


def _open_cut(path: Path, size: int) -> BinaryIO:
    """Open a file for appending, cut to a size."""
    found = path.stat().st_size if path.exists() else 0
    if found < size:
        raise BadCheckpoint(
            f"{path} has {found} bytes, but the checkpoint was taken when it had {size}. "
            "Put the file back, or start anew in another folder."
        )
    file = open(path, "ab")  # noqa: SIM115
    file.truncate(size)
    file.seek(size)
    return file
