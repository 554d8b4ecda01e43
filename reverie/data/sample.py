"""Segments of stores as batches, gathered by a background thread. Imports core and data only.

    sampler = Sampler(store, batch=16, length=64, seed=0)
    for batch in sampler: ...

Which segments batch k holds depends on nothing but the seed, k, and what the store (and its
priorities) held when it was drawn, which is `prefetch` batches before it is handed out. Draws
happen in the caller's thread and only the copying in the other, so a run that saves
`state_dict` resumes exactly.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core.errors import BadCheckpoint, BadConfig, BadData, SpaceMismatch
from reverie.core.types import Batch
from reverie.data.store import Store
from reverie.data.strategy import Draw, Prioritized, Strategy, named

Columns = dict[str, np.ndarray]


class _Segments:
    """The segments of so many transitions that a store holds, by number."""

    def __init__(self, store: Store, length: int, *, packed: bool) -> None:
        self.store, self._length, self._packed = store, length, packed
        self._episodes = -1
        self._ends = np.zeros(0, np.int64)

    def count(self) -> int:
        """How many there are now."""
        if self._packed:
            return max(0, self.store.rows - self._length)
        if self._episodes != len(self.store):
            self._episodes = len(self.store)
            self._ends = np.cumsum(np.maximum(0, self.store.lengths - self._length + 1))
        return int(self._ends[-1]) if len(self._ends) else 0

    def starts(self, index: np.ndarray) -> np.ndarray:
        """(n,) numbers to the rows at which they begin."""
        if self._packed:
            return index
        episode = np.searchsorted(self._ends, index, side="right")
        before = np.concatenate([[0], self._ends])[episode]
        return self.store.starts[episode] + index - before


class Sampler(Iterator[Batch]):
    """An endless iterator of batches.

    Packed segments are any `length + 1` rows in a row: they run on from one episode into the
    next, where `mask` is False at the seam and `first` True behind it, so that short episodes
    cost nothing and every step is seen as often. Segments that are not packed lie inside one
    episode; shorter episodes are left out.

    Args:
        stores: one, or several with equal spaces; segments are drawn from all together. All but
            the last are used as they are now; the last may grow.
        batch: B.
        length: T transitions; 0 gives single observations.
        strategy: "uniform", "recent" or an object of `reverie.data.strategy`.
        packed: whether segments may cross from one episode into the next.
        modalities: the observations to read; None: all of them.
        seed: not negative.
        prefetch: batches that are gathered ahead, by a background thread; 0: no thread.
        device: where the tensors go; for cuda they are pinned and copied without waiting.

    Raises:
        BadConfig: if a number or the strategy cannot be used.
        SpaceMismatch: if a modality is not there or the stores differ.
    """

    def __init__(
        self,
        stores: Store | Sequence[Store],
        batch: int,
        length: int,
        *,
        strategy: str | Strategy = "uniform",
        packed: bool = True,
        modalities: Sequence[str] | None = None,
        seed: int = 0,
        prefetch: int = 2,
        device: torch.device | str = "cpu",
    ) -> None:
        stores = [stores] if isinstance(stores, Store) else list(stores)
        _check_numbers(stores=len(stores), batch=batch)
        _check_numbers(least=0, length=length, seed=seed, prefetch=prefetch)
        self.batch, self.length, self.seed, self.prefetch = batch, length, seed, prefetch
        self.modalities = _common(stores, modalities)
        self.strategy = named(strategy)
        self.device = torch.device(device)
        self.last: Draw | None = None  # what the batch that was handed out last holds
        self._segments = [_Segments(store, length, packed=packed) for store in stores]
        self._fixed = [segments.count() for segments in self._segments[:-1]]
        self._drawn = 0
        self._pending: deque[tuple[Draw, Future[Batch]]] = deque()
        self._buffers = Buffers()
        self._thread = ThreadPoolExecutor(1, "reverie-sampler") if prefetch else None

    def __next__(self) -> Batch:
        """Hand out the next batch.

        Raises:
            BadData: if the stores hold no segment of this length.
        """
        while len(self._pending) <= self.prefetch:
            self._submit(self._draw())
        draw, future = self._pending.popleft()
        batch = future.result()
        self.last = draw
        return batch if self.device.type == "cpu" else _to(batch, self.device)

    def update(self, index: np.ndarray, priority: np.ndarray | Tensor) -> None:
        """Set the priorities of segments that were drawn: `sampler.update(sampler.last.index, p)`.

        Args:
            index: (B,) of a `Draw`.
            priority: (B,) not negative.

        Raises:
            BadConfig: if the strategy has no priorities.
            BadData: if a value cannot be one.
        """
        if not isinstance(self.strategy, Prioritized):
            raise BadConfig(
                f"Priorities were given, but the strategy is {type(self.strategy).__name__}. "
                "Make the sampler with strategy=Prioritized()."
            )
        if isinstance(priority, Tensor):
            priority = priority.detach().cpu().numpy()
        self.strategy.update(index, priority)

    def state_dict(self) -> dict[str, Any]:
        """All that the sequence of batches depends on: tensors, numbers and nested dicts."""
        index = [draw.index for draw, _ in self._pending]
        weight = [draw.weight for draw, _ in self._pending]
        shape = (len(index), self.batch)
        return {
            "seed": self.seed,
            "batch": self.batch,
            "length": self.length,
            "drawn": self._drawn,
            "index": torch.from_numpy(np.array(index, np.int64).reshape(shape)),
            "weight": torch.from_numpy(np.array(weight, np.float32).reshape(shape)),
            "strategy": self.strategy.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            BadCheckpoint: if it is another sampler's, or the stores hold less than then.
        """
        for name in ("seed", "batch", "length"):
            if state[name] != getattr(self, name):
                raise BadCheckpoint(
                    f"The sampler has {name} {getattr(self, name)}, but the checkpoint has "
                    f"{state[name]}. Resume with the configuration that the run began with."
                )
        index, weight = state["index"].cpu().numpy(), state["weight"].cpu().numpy()
        count = sum(self._counts())
        if index.size and index.max() >= count:
            raise BadCheckpoint(
                f"The checkpoint drew segment {index.max()}, but the stores hold {count}. "
                "Resume with the data that the run had."
            )
        self._discard()
        self.strategy.load_state_dict(state["strategy"])
        self._drawn, self.last = state["drawn"], None
        for draw in zip(index, weight, strict=True):
            self._submit(Draw(*draw))

    def close(self) -> None:
        """Stop the background thread; also done when the sampler is collected."""
        self._discard()
        if self._thread:
            self._thread.shutdown()

    # --- drawing, in the caller's thread ------------------------------------------------------

    def _counts(self) -> list[int]:
        """Segments in each store."""
        return [*self._fixed, self._segments[-1].count()]

    def _draw(self) -> Draw:
        """Draw the segments of the next batch."""
        count = sum(self._counts())
        if not count:
            raise BadData(
                f"Segments of {self.length} transitions were asked for, but "
                f"{', '.join(str(s.store.path) for s in self._segments)} has none "
                f"({sum(len(s.store) for s in self._segments)} episodes, "
                f"{sum(s.store.steps for s in self._segments)} steps). Collect more, or shorten."
            )
        rng = np.random.default_rng([self.seed, self._drawn])
        self._drawn += 1
        return self.strategy.draw(rng, count, self.batch)

    def _submit(self, draw: Draw) -> None:
        """Have a draw gathered."""
        which = np.searchsorted(np.cumsum(self._counts()), draw.index, side="right")
        before = np.cumsum([0, *self._fixed])
        pieces = []
        for i, segments in enumerate(self._segments):
            rows = np.flatnonzero(which == i)
            if len(rows):
                starts = segments.starts(draw.index[rows] - before[i])
                pieces.append((segments.store.columns, rows, starts))
        empty = _pinned if self.device.type == "cuda" else self._buffers.empty
        args = pieces, self.length, self.modalities, empty
        if self._thread:
            future = self._thread.submit(_gather, *args)
        else:
            future = Future()
            future.set_result(_gather(*args))
        self._pending.append((draw, future))

    def _discard(self) -> None:
        """Forget what was gathered ahead."""
        for _, future in self._pending:
            future.cancel()
        self._pending.clear()


# --- gathering, in the background thread -------------------------------------------------------

Pieces = list[tuple[Columns, np.ndarray, np.ndarray]]  # (columns, batch rows, their first rows)
Empty = Callable[[tuple[int, ...], np.dtype], Tensor]  # (shape, dtype) -> a tensor to fill


class Buffers:
    """Memory of batches that nobody holds any more, for those to come.

    A fresh buffer of megabytes costs a page fault every four kilobytes, more than the copy into
    it. One comes back here when the last tensor that shares it is gone, so what was handed out is
    never written to.

    Args:
        spare: buffers of one shape that are kept.
    """

    def __init__(self, spare: int = 4) -> None:
        self._spare = spare
        self._free: dict[tuple[tuple[int, ...], np.dtype], list[np.ndarray]] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
        """A tensor with anything in it.

        Args:
            shape: of the tensor.
            dtype: as numpy names it.
        """
        free = self._free.setdefault((shape, dtype), [])
        buffer = free.pop() if free else np.empty(shape, dtype)
        lent = buffer.view()
        weakref.finalize(lent, self._back, free, buffer).atexit = False
        return torch.from_numpy(lent)  # holds `lent` as long as any tensor shares it

    def _back(self, free: list[np.ndarray], buffer: np.ndarray) -> None:
        if len(free) < self._spare:
            free.append(buffer)


def gather(store: Store, starts: np.ndarray, length: int) -> Batch:
    """The segments of so many transitions that begin at given rows of a store.

    Args:
        store: holds them.
        starts: (B,) rows.
        length: T.
    """
    pieces = [(store.columns, np.arange(len(starts)), starts)]
    return _gather(pieces, length, tuple(store.observations), Buffers().empty)


def _pinned(shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
    """A tensor in page-locked memory; torch keeps such memory for reuse itself."""
    return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=True)


def _gather(pieces: Pieces, length: int, modalities: tuple[str, ...], empty: Empty) -> Batch:
    """Copy segments out of the columns into a batch."""
    columns = pieces[0][0]
    states = {f"obs.{name}" for name in modalities} | {"first"}
    steps = {n for n in columns if not n.startswith("obs.")} - {"first"}
    rows = [(c, at, start[:, None] + np.arange(length + 1)) for c, at, start in pieces]
    before = [(c, at, r[:, :-1]) for c, at, r in rows]
    got = {name: _take(name, rows, empty) for name in states}
    got |= {name: _take(name, before, empty) for name in steps}
    extra = [name for name in steps if name.startswith("extra.")]
    return Batch(
        obs={name: got[f"obs.{name}"] for name in modalities},
        action=got.get("action"),
        reward=got.get("reward"),
        terminated=got["terminated"],
        truncated=got["truncated"],
        mask=~got["first"][:, 1:],
        first=got["first"],
        extra={name.removeprefix("extra."): got[name] for name in extra},
    )


def _take(name: str, pieces: Pieces, empty: Empty) -> Tensor:
    """Rows (n, L) of one column of each store as a tensor (B, L, ...)."""
    column = pieces[0][0][name]
    batch = sum(len(at) for _, at, _ in pieces)
    shape = (batch, pieces[0][2].shape[1], *column.shape[1:])
    out = empty(shape, column.dtype)
    if len(pieces) == 1:
        np.take(column, pieces[0][2], axis=0, out=out.numpy(), mode="clip")
    else:
        for columns, at, rows in pieces:
            out.numpy()[at] = columns[name][rows]
    return out


def _to(batch: Batch, device: torch.device) -> Batch:
    """The batch on another device, without waiting for the copy."""

    def move(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: move(x) for name, x in value.items()}
        return value if value is None else value.to(device, non_blocking=True)

    return Batch(*(move(value) for value in batch))


def _check_numbers(least: int = 1, **numbers: int) -> None:
    """Refuse a number that is too small."""
    for name, value in numbers.items():
        if value < least:
            raise BadConfig(
                f"Sampler.{name} must be at least {least}, but it is {value}. Raise it."
            )


def _common(stores: Sequence[Store], modalities: Sequence[str] | None) -> tuple[str, ...]:
    """The observations to read, if every store has them and all else is equal."""
    names = tuple(stores[0].observations) if modalities is None else tuple(modalities)
    for store in stores:
        absent = sorted(set(names) - set(store.observations))
        if absent:
            raise SpaceMismatch(
                f"Observations {absent} were asked for, but {store.path} has "
                f"{sorted(store.observations)}. Choose among these, or compute them first."
            )
        for what, mine, others in (
            (
                "observations",
                {n: store.observations[n] for n in names},
                {n: stores[0].observations[n] for n in names},
            ),
            ("actions", store.actions, stores[0].actions),
            ("rewards", store.schema.rewards, stores[0].schema.rewards),
            ("extra", store.schema.extra, stores[0].schema.extra),
        ):
            if mine != others:
                raise SpaceMismatch(
                    f"Stores are sampled together only if they agree, but {store.path} has {what} "
                    f"{mine} and {stores[0].path} has {others}. Sample them apart."
                )
    return names
