"""Bands over episodes: functions of means, and AUC, with 95% bootstrap intervals.

Episodes are drawn again, never single steps: steps of one episode are no independent facts. One
matrix of weights resamples every column at once, so a curve of 50 points costs one product.
Imports core and the records beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from reverie.core.errors import BadData
from reverie.evaluate.measure import Group, Measure
from reverie.evaluate.statistics import LEAST, Interval

RESAMPLES = 1_000

Array = NDArray[np.float64]
Column = Tensor | NDArray[Any]  # (E, ...) something known of each episode
Statistic = Callable[..., Array]  # means (R, ...), one a column -> (R, H), or (R,): no curve


class Band(NamedTuple):
    """A statistic of episodes with its intervals."""

    value: Interval  # of a curve: the mean over its points
    curve: tuple[Interval, ...]  # by steps ahead; empty if the statistic is one number


def band(columns: Sequence[Column], statistic: Statistic = lambda mean: mean) -> Band:
    """A function of means over episodes, with percentile intervals of 1,000 resamples.

    Args:
        columns: (E, ...) each; E >= 5.
        statistic: of the columns' means, each (R, ...); R resamples at once.

    Returns:
        The value and, where the statistic gives (R, H), its curve.

    Raises:
        BadData: if there are fewer than 5 episodes, or a number is not finite.
    """
    arrays = [_array(column) for column in columns]
    weights = _weights(len(arrays[0]))
    means = [(weights @ a.reshape(len(a), -1)).reshape(-1, *a.shape[1:]) for a in arrays]
    drawn = np.asarray(statistic(*means))
    if drawn.ndim == 1:
        return Band(_interval(drawn), ())
    return Band(_interval(drawn.mean(1)), tuple(_interval(x) for x in drawn.T))


def ratio(top: Array, bottom: Array) -> Array:
    """top / bottom; NaN, which no interval counts, where a resample has nothing to divide by."""
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def explained(error: Array, first: Array, second: Array) -> Array:
    """R2 by steps ahead, a mean over dimensions; the variance is that of all steps together.

    Args:
        error: (R, H, D) mean squared errors.
        first: (R, D) means of what was to be told.
        second: (R, D) means of its squares.

    Returns:
        (R, H); NaN where a resample has no variance.
    """
    spread = second - first**2
    spread = np.where(spread > 1e-9 * second, spread, np.nan)  # less is rounding
    return 1 - (error / spread[:, None]).mean(-1)


def told(guess: Column, true: Column) -> tuple[Array, Array, Array]:
    """The columns of `explained`: squared errors and moments of each episode.

    Args:
        guess: (E, H, D), or what broadcasts to it.
        true: (E, H, D).
    """
    wanted = _array(true)
    return (_array(guess) - wanted) ** 2, wanted.mean(1), (wanted**2).mean(1)


def measured(
    columns: Mapping[str, Sequence[Column]],
    statistic: Statistic = lambda mean: mean,
    *,
    name: str,
    group: Group,
    what: str,
    unit: str,
    better: Literal["higher", "lower"],
) -> Measure:
    """One measure of the model and the same of all who stand beside it.

    Args:
        columns: of "model" and of the baselines, by name.
        statistic: see `band`.
        name: see `Measure`, like all that follow.
        group: of the report card.
        what: one sentence.
        unit: of the value.
        better: "higher" or "lower".
    """
    bands = {who: band(known, statistic) for who, known in columns.items()}
    own = bands.pop("model")
    return Measure(
        name=name,
        group=group,
        what=what,
        unit=unit,
        better=better,
        value=own.value,
        curve=own.curve,
        baselines={who: b.value for who, b in bands.items()},
        baseline_curves={who: b.curve for who, b in bands.items() if b.curve},
    )


def beats(positive: Column, negative: Column) -> Array:
    """(E, E) 1 where positive[e] > negative[f], a half where they are equal, else 0.

    Args:
        positive: (E,) scores, one an episode.
        negative: (E,) scores.
    """
    high, low = _array(positive)[:, None], _array(negative)[None]
    return (high > low) + 0.5 * (high == low)


def auc(won: Array, pairs: Array) -> Interval:
    """The share of pairs that are won, with an interval over episodes.

    Args:
        won: (E, E) pairs of a positive of episode e and a negative of episode f that were ordered
            rightly; see `beats`.
        pairs: (E, E) how many such pairs there are; not all 0.

    Returns:
        The area under the ROC curve.
    """
    weights = _weights(len(won))
    top = np.einsum("re,ef,rf->r", weights, won, weights, optimize=True)
    bottom = np.einsum("re,ef,rf->r", weights, pairs, weights, optimize=True)
    return _interval(ratio(top, bottom))


def _array(column: Column) -> Array:
    """The column as finite float64."""
    tensor = column.detach().cpu().numpy() if isinstance(column, Tensor) else column
    array = np.asarray(tensor, dtype=np.float64)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise BadData(
            f"A metric got {bad} of {array.size} numbers that are not finite. "
            "Look at what the model predicts; a model that diverges has no score."
        )
    return array


def _weights(episodes: int) -> Array:
    """(1 + R, E) rows that sum to 1: the episodes as they are, then resampled."""
    if episodes < LEAST:
        raise BadData(
            f"A metric needs at least {LEAST} episodes for an interval, but got {episodes}. "
            "Hold out more of them."
        )
    random = np.random.default_rng(0)
    drawn = random.multinomial(episodes, np.full(episodes, 1 / episodes), size=RESAMPLES)
    return np.concatenate([np.ones((1, episodes)), drawn]) / episodes


def _interval(drawn: Array) -> Interval:
    """The first number, and the quantiles of the others; the interval holds the number."""
    value = float(drawn[0])
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Interval(value, min(value, float(low)), max(value, float(high)))
