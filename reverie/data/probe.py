"""The inverse-dynamics probe: do actions and rewards stand where they should? Imports data only.

action[t] leads from o[t] to o[t+1]. So of all pairs of neighbours, (o[t+k], o[t+k+1]) explains
action[t] best at k = 0, whatever the policy is: that pair holds both what the policy saw and what
came of it. If another k wins on held-out episodes, the recording is shifted by k. The same holds
for reward[t]. The fit is ridge regression on principal components and random cosine features.

Source: random features as in Rahimi and Recht 2007.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reverie.data.episode import Episode

Fit = dict[int, float]  # shift k -> share of variance explained on held-out episodes

SHIFTS = (-1, 0, 1)
_SIDE = 16  # images are averaged down to about so many pixels a side
_WIDTH = 256  # elements of a vector that are looked at
_COMPONENTS = 32  # directions kept of an observation, and of a change
_FEATURES = 512  # random features of a pair
_RIDGES = (1e-3, 1e-1, 1e1)
_MARGIN = 0.1  # of the variance that is left unexplained: less is no difference
_LEAST = 0.02  # of the whole variance: the same
_FEWEST = 100  # transitions on either side of the split
_CLASSES = 64  # most actions that are told apart


class Window(NamedTuple):
    """Steps in a row out of one episode, with small observations."""

    obs: np.ndarray  # (L+1, D) float32
    action: np.ndarray | None  # (L, A) float32, or (L,) int64
    reward: np.ndarray | None  # (L,) float32

    @classmethod
    def of(cls, episode: Episode, steps: int, rng: np.random.Generator) -> Window:
        """At most so many steps, from a random place."""
        start = int(rng.integers(max(1, len(episode) - steps + 1)))
        stop = min(start + steps, len(episode))
        small = [_small(value[start : stop + 1]) for value in episode.obs.values()]
        return cls(
            np.concatenate(small, axis=1),
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
    windows = [w for w in windows if getattr(w, name) is not None and np.isfinite(w.obs).all()]
    windows = [w for w in windows if len(w.obs) > len(SHIFTS)]
    held = rng.permutation(len(windows)) < 3 * len(windows) / 10
    test = np.repeat(held, [len(w.obs) - len(SHIFTS) for w in windows])
    if min(test.sum(), (~test).sum()) < _FEWEST:
        return {}, "", f"There is too little {name} data in separate episodes to prove alignment."
    target = _target(np.concatenate([getattr(w, name)[1:-1] for w in windows]))
    if not np.isfinite(target).all() or (target == target[0]).all():
        return {}, "", ""  # the survey says so
    pairs = {k: _pairs(windows, k) for k in SHIFTS}
    before, after = (np.concatenate([pair[i] for pair in pairs.values()]) for i in (0, 1))
    basis = _Basis(before, after, rng)
    fit = {k: _explained(basis(*pair), target, test) for k, pair in pairs.items()}
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


def _pairs(windows: Sequence[Window], k: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, D) o[t+k] and (n, D) o[t+k+1] for every t that has neighbours."""
    before = [w.obs[1 + k : len(w.obs) - 2 + k] for w in windows]
    after = [w.obs[2 + k : len(w.obs) - 1 + k] for w in windows]
    return np.concatenate(before), np.concatenate(after)


def _target(value: np.ndarray) -> np.ndarray:
    """(n, K) what is to be explained: one-hot if discrete."""
    if value.dtype.kind == "f":
        return value.reshape(len(value), -1).astype(np.float64)
    value = np.clip(value, 0, _CLASSES - 1)
    return np.eye(int(value.max()) + 1)[value]


class _Basis:
    """Features of pairs of observations, the same for every shift."""

    def __init__(self, before: np.ndarray, after: np.ndarray, rng: np.random.Generator) -> None:
        self._frame = _components(np.concatenate([before, after]), rng)
        self._change = _components(after - before, rng)
        width = 2 * self._frame[1].shape[1] + self._change[1].shape[1]
        self._weight = rng.normal(size=(width, _FEATURES)) / np.sqrt(width)
        self._phase = rng.uniform(0, 2 * np.pi, _FEATURES)

    def __call__(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """(n, D) and (n, D) to (n, F)."""
        parts = [(before, self._frame), (after, self._frame), (after - before, self._change)]
        x = np.concatenate([(value - mean) @ axes for value, (mean, axes) in parts], axis=1)
        return np.concatenate([x, np.cos(x @ self._weight + self._phase), np.ones((len(x), 1))], 1)


def _components(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,) and the axes (D, C) that make the leading components of unit variance."""
    x = x[rng.permutation(len(x))[:4_000]].astype(np.float64)
    mean = x.mean(0)
    _, scale, axes = np.linalg.svd(x - mean, full_matrices=False)
    scale = scale / np.sqrt(len(x))
    kept = min(_COMPONENTS, int((scale > 1e-6 * max(scale[0], 1e-12)).sum()))
    return mean, axes[:kept].T / scale[:kept]


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
    """(L, ...) observations as (L, D) float32 with small D."""
    value = value.astype(np.float32)
    if value.ndim == 4:  # (L, C, H, W): average over blocks, channels together
        step = max(1, value.shape[2] // _SIDE), max(1, value.shape[3] // _SIDE)
        high, wide = (value.shape[2] // step[0]) * step[0], (value.shape[3] // step[1]) * step[1]
        blocks = value[:, :, :high, :wide].reshape(
            len(value), value.shape[1], high // step[0], step[0], wide // step[1], step[1]
        )
        value = blocks.mean((1, 3, 5))
    return value.reshape(len(value), -1)[:, :_WIDTH]
