"""Intervals: what a mean, a success rate and a ratio of means are worth. Imports core only.

Every number in `results/` carries a 95% interval from here. Too few values are refused: an
interval that nobody should trust is worse than none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from reverie.core.errors import BadData

LEAST = 5  # values below which a bootstrap interval means nothing


class Interval(NamedTuple):
    """A number with the interval that it is known to."""

    value: float
    low: float
    high: float

    def apart(self, other: Interval) -> bool:
        """Whether the two intervals do not touch."""
        return self.low > other.high or self.high < other.low

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def mean_interval(
    x: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The mean with its bias-corrected and accelerated bootstrap interval.

    Args:
        x: (n,) independent values, one an episode or a repeat; n >= 5.
        level: of confidence, in (0, 1).
        resamples: bootstrap draws.
        seed: of the draws.

    Returns:
        The mean and its interval; both ends equal the mean if all values are equal.

    Raises:
        BadData: if there are fewer than 5 values, or one is not finite.

    Source:
        Efron 1987, "Better bootstrap confidence intervals".
    """
    values = _values("mean_interval", x)
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    return _bootstrap((values,), np.mean, mean, level, resamples, seed)


def seeds_interval(
    groups: Sequence[ArrayLike], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The mean over training seeds with a two-level bootstrap interval.

    Seeds are resampled, then the episodes of each: how much trainings differ counts, not only how
    much episodes do.

    Args:
        groups: for each training seed, (n,) values of its episodes, n >= 5; at least 2 seeds.
        level: of confidence, in (0, 1).
        resamples: bootstrap draws.
        seed: of the draws.

    Returns:
        The mean of the seeds' means and its percentile interval.

    Raises:
        BadData: if there are too few seeds or episodes, or a value is not finite.

    Source:
        Davison & Hinkley 1997, section 3.8 (hierarchical data).
    """
    if len(groups) < 2:
        raise BadData(
            f"seeds_interval needs at least 2 seeds, but got {len(groups)}. Train more of them."
        )
    values = [_values("seeds_interval", group) for group in groups]
    random = np.random.default_rng(seed)
    drawn = np.zeros(resamples)
    for _ in values:
        means = [g[random.integers(len(g), size=(resamples, len(g)))].mean(1) for g in values]
        drawn += np.stack(means)[random.integers(len(values), size=resamples), range(resamples)]
    drawn /= len(values)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    mean = float(np.mean([g.mean() for g in values]))
    return Interval(mean, min(mean, float(low)), max(mean, float(high)))


def ratio_interval(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """mean(a) / mean(b) of two independent samples with its bootstrap interval.

    Args:
        a: (n,) values; n >= 5.
        b: (m,) positive values; m >= 5.
        level: of confidence, in (0, 1).
        resamples: bootstrap draws.
        seed: of the draws.

    Raises:
        BadData: if a sample is too small, not finite, or b is not positive.
    """
    top, bottom = _values("ratio_interval", a), _values("ratio_interval", b)
    if bottom.min() <= 0:
        raise BadData(
            f"ratio_interval divides by the mean of b, and b holds {bottom.min():.4g}. "
            "Give positive values (times, tics, counts)."
        )
    ratio = float(top.mean() / bottom.mean())
    if np.ptp(top) == 0 and np.ptp(bottom) == 0:
        return Interval(ratio, ratio, ratio)

    def statistic(x: NDArray[Any], y: NDArray[Any], axis: int = -1) -> NDArray[Any]:
        return x.mean(axis=axis) / y.mean(axis=axis)

    return _bootstrap((top, bottom), statistic, ratio, level, resamples, seed)


def wilson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """A success rate with Wilson's score interval, sound at 0 and at n.

    Args:
        successes: episodes that succeeded, 0..n.
        n: episodes, >= 1.
        level: of confidence, in (0, 1).

    Raises:
        BadData: if there is no episode, or more successes than episodes.

    Source:
        Wilson 1927.
    """
    if n < 1 or not 0 <= successes <= n:
        raise BadData(
            f"wilson was asked for {successes} successes in {n} episodes. "
            "Give at least 1 episode and 0..n successes."
        )
    interval = stats.binomtest(int(successes), int(n)).proportion_ci(level, method="wilson")
    return Interval(successes / n, float(interval.low), float(interval.high))


def _values(who: str, x: ArrayLike) -> NDArray[np.float64]:
    """(n,) finite float64 with n >= LEAST, or BadData."""
    values = np.asarray(x, dtype=np.float64).reshape(-1)
    if values.size < LEAST:
        raise BadData(
            f"{who} needs at least {LEAST} values for an interval, but got {values.size}. "
            "Run more episodes or repeats."
        )
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise BadData(f"{who} got {bad} values that are not finite. Find the episode they are of.")
    return values


def _bootstrap(
    samples: tuple[NDArray[Any], ...],
    statistic: Any,
    value: float,
    level: float,
    resamples: int,
    seed: int,
) -> Interval:
    """BCa interval of a statistic of independent samples."""
    found = stats.bootstrap(
        samples,
        statistic,
        confidence_level=level,
        n_resamples=resamples,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high))
