"""The inverse-dynamics probe: do actions and rewards stand where they should? Imports data only.

action[t] leads from o[t] to o[t+1]. So of all pairs of neighbours, (o[t+k], o[t+k+1]) explains
action[t] best at k = 0, whatever the policy is: that pair holds both what the policy saw and what
came of it. If another k wins on held-out episodes, the recording is shifted by k. The same holds
for reward[t]. The fit is ridge regression on principal components of the two observations and of
their change, on how images move, and on random cosine features of all these.

Source: image motion as in Lucas and Kanade 1981; random features as in Rahimi and Recht 2007.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reverie.data.episode import Episode

Pair = tuple[np.ndarray, np.ndarray]  # (n, ...) observations and those that follow
Fit = dict[int, float]  # shift k -> share of variance explained on held-out episodes

SHIFTS = (-1, 0, 1)
_SIDE = 16  # images are averaged down to about so many pixels a side
_WIDTH = 256  # elements of a vector that are looked at
_COMPONENTS = 32  # directions kept of an observation, and of a change
_CELLS = 3  # motion is measured in so many cells a side, and in the whole image
_FEATURES = 512  # random features of a pair
_RIDGES = (1e-3, 1e-1, 1e1)
_MARGIN = 0.1  # of the variance that is left unexplained: less is no difference
_LEAST = 0.02  # of the whole variance: the same
_FEWEST = 100  # transitions on either side of the split
_CLASSES = 64  # most actions that are told apart


class Window(NamedTuple):
    """Steps in a row out of one episode, with small observations."""

    obs: list[np.ndarray]  # each modality: (L+1, D) or (L+1, C, H, W) float32
    action: np.ndarray | None  # (L, A) float32, or (L,) int64
    reward: np.ndarray | None  # (L,) float32

    @classmethod
    def of(cls, episode: Episode, steps: int, rng: np.random.Generator) -> Window:
        """At most so many steps, from a random place."""
        start = int(rng.integers(max(1, len(episode) - steps + 1)))
        stop = min(start + steps, len(episode))
        return cls(
            [_small(value[start : stop + 1]) for value in episode.obs.values()],
            None if episode.action is None else episode.action[start:stop],
            None if episode.reward is None else episode.reward[start:stop],
        )


def fit_shifts(
    name: str, windows: Sequence[Window], rng: np.random.Generator
) -> tuple[Fit, str, str]:
    """Fit a column at every shift.

    Args:
        name: "action" or "reward".
        windows: of different episodes.
        rng: of the split and the random features.

    Returns:
        The fit (empty if there is too little), a sentence on what is wrong, and one on what
        cannot be told; either may be empty.
    """
    windows = [w for w in windows if _usable(w, name)]
    windows = [w for w in windows if _shapes(w, name) == _shapes(windows[0], name)]
    held = rng.permutation(len(windows)) < 3 * len(windows) / 10
    test = np.repeat(held, [len(w.obs[0]) - len(SHIFTS) for w in windows])
    if min(test.sum(), (~test).sum()) < _FEWEST:
        return {}, "", f"There is too little {name} data in separate episodes to prove alignment."
    target = _target(np.concatenate([getattr(w, name)[1:-1] for w in windows]))
    if not np.isfinite(target).all() or (target == target[0]).all():
        return {}, "", ""  # the survey says so
    pairs = {k: _pairs(windows, k) for k in SHIFTS}
    basis = _Basis(pairs[0], rng)
    fit = {k: _explained(basis(pair), target, test) for k, pair in pairs.items()}
    finding, note = _verdict(name, fit)
    return fit, finding, note


def _verdict(name: str, fit: Fit) -> tuple[str, str]:
    """A sentence on what is wrong, and one on what cannot be told."""
    at_zero = max(fit[0], 0.0)
    best = max(fit, key=lambda k: fit[k])
    other = max(fit[k] for k in fit if k != 0)
    if fit[best] - at_zero > max(_LEAST, _MARGIN * (1 - at_zero)):
        there = "o[t+1] -> o[t+2]" if best == 1 else "o[t-1] -> o[t]"
        return (
            f"{name.capitalize()}s look shifted by {best:+d}: {name}[t] explains {there} "
            f"({fit[best]:.2f} of its variance) better than o[t] -> o[t+1] ({fit[0]:.2f})."
        ), ""
    if fit[0] - other < max(_LEAST, _MARGIN * (1 - other)):
        return "", (
            f"The probe cannot tell whether {name}s are aligned: the pair of observations around "
            f"{name}[t] explains {fit[0]:.2f} of its variance, the next best {other:.2f}."
        )
    return "", ""


def _usable(window: Window, name: str) -> bool:
    """Whether it has the column, finite observations, and steps that have neighbours."""
    there = getattr(window, name) is not None and len(window.obs[0]) > len(SHIFTS)
    return there and all(np.isfinite(x).all() for x in window.obs)


def _shapes(window: Window, name: str) -> list[tuple[int, ...]]:
    """Of one row of each modality and of the column."""
    return [x.shape[1:] for x in (*window.obs, getattr(window, name))]


def _pairs(windows: Sequence[Window], k: int) -> list[Pair]:
    """(n, ...) o[t+k] and o[t+k+1] of each modality, for every t that has neighbours."""
    pairs = []
    for rows in zip(*(w.obs for w in windows), strict=True):
        before = [x[1 + k : len(x) - 2 + k] for x in rows]
        after = [x[2 + k : len(x) - 1 + k] for x in rows]
        pairs.append((np.concatenate(before), np.concatenate(after)))
    return pairs


def _target(value: np.ndarray) -> np.ndarray:
    """(n, K) what is to be explained: one-hot if discrete."""
    if value.dtype.kind == "f":
        return value.reshape(len(value), -1).astype(np.float64)
    value = np.clip(value, 0, _CLASSES - 1)
    return np.eye(int(value.max()) + 1)[value]


class _Basis:
    """Features of pairs of observations, the same for every shift."""

    def __init__(self, pairs: list[Pair], rng: np.random.Generator) -> None:
        self._views = [_components(view, rng) for pair in pairs for view in _views(*pair)]
        width = sum(axes.shape[1] for _, axes in self._views)
        self._weight = rng.normal(size=(width, _FEATURES)) / np.sqrt(max(1, width))
        self._phase = rng.uniform(0, 2 * np.pi, _FEATURES)

    def __call__(self, pairs: list[Pair]) -> np.ndarray:
        """(n, F) of the pairs of all modalities."""
        views = [view for pair in pairs for view in _views(*pair)]
        parts = [(v - mean) @ axes for v, (mean, axes) in zip(views, self._views, strict=True)]
        x = np.concatenate(parts, axis=1)
        return np.concatenate([x, np.cos(x @ self._weight + self._phase), np.ones((len(x), 1))], 1)


def _views(before: np.ndarray, after: np.ndarray) -> list[np.ndarray]:
    """What is looked at in pairs of one modality, each (n, D)."""
    views = [x.reshape(len(x), -1) for x in (before, after, after - before)]
    if before.ndim == 4:
        views += [_motion(before, after, cells) for cells in (1, _CELLS)]
    return views


def _motion(before: np.ndarray, after: np.ndarray, cells: int) -> np.ndarray:
    """How far each of cells x cells parts of (n, C, H, W) images moved, in pixels: (n, D)."""
    middle = (before + after) / 2
    x, y, t = np.gradient(middle, axis=3), np.gradient(middle, axis=2), after - before

    def total(product: np.ndarray) -> np.ndarray:
        for axis in (1, 2):
            size = product.shape[1 + axis]
            edges = np.unique(np.linspace(0, size, cells, endpoint=False).astype(int))
            product = np.add.reduceat(product, edges, axis=1 + axis)
        return product.sum(1).reshape(len(product), -1)

    xx, yy, xy, xt, yt = (total(a * b) for a, b in ((x, x), (y, y), (x, y), (x, t), (y, t)))
    floor = 1e-3 * (xx + yy).mean() + 1e-6
    xx, yy = xx + floor, yy + floor
    across, down = xy * yt - yy * xt, xy * xt - xx * yt
    moved = np.concatenate([across, down], 1) / np.tile(xx * yy - xy**2, 2)
    return np.clip(moved, -4, 4)


def _components(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,) and the axes (D, C) that make the leading components of unit variance."""
    x = x[rng.permutation(len(x))[:3_000]].astype(np.float64)
    mean = x.mean(0)
    variance, axes = np.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    variance, axes = variance[::-1][:_COMPONENTS], axes[:, ::-1][:, :_COMPONENTS]
    kept = variance > 1e-10 * max(variance[0], 1e-12)
    return mean, axes[:, kept] / np.sqrt(variance[kept])


def _explained(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> float:
    """The share of the variance of y (n, K) on test rows that a ridge on the others explains."""
    mean = y[~test].mean(0)
    gram, moment = x[~test].T @ x[~test], x[~test].T @ (y[~test] - mean)
    scale = np.trace(gram) / len(gram)
    total = ((y[test] - mean) ** 2).sum()
    errors = []
    for ridge in _RIDGES:
        weight = np.linalg.solve(gram + ridge * scale * np.eye(len(gram)), moment)
        errors.append(((y[test] - mean - x[test] @ weight) ** 2).sum())
    return float(1 - min(errors) / max(total, 1e-12))


def _small(value: np.ndarray) -> np.ndarray:
    """(L, ...) observations as float32: images averaged over blocks, all else flat and cut."""
    value = value.astype(np.float32)
    if value.ndim != 4:
        return value.reshape(len(value), -1)[:, :_WIDTH]
    step = max(1, value.shape[2] // _SIDE), max(1, value.shape[3] // _SIDE)
    rows, columns = value.shape[2] // step[0], value.shape[3] // step[1]
    blocks = value[:, :, : rows * step[0], : columns * step[1]]
    blocks = blocks.reshape(*value.shape[:2], rows, step[0], columns, step[1])
    return blocks.mean((3, 5))
