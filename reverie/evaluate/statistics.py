"""Intervals and comparisons: what a mean, a rate, a difference or a rank correlation is worth.

Every number in `results/` carries a 95% interval from here. Too few values are refused: an
interval that nobody should trust is worse than none. Imports core only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


# --- over runs and tasks -------------------------------------------------------------------------


def iqm(scores: Sequence[ArrayLike]) -> Interval:
    """Interquartile mean over runs and tasks, with a stratified bootstrap interval.

    The mean of the middle half of all scores: as robust as the median, and less wasteful. Runs are
    resampled within their task.

    Args:
        scores: for each task, (n,) normalised scores of its runs; at least 5 in all.

    Raises:
        BadData: if there are too few scores, or one is not finite.

    Source:
        Agarwal et al. 2021, arXiv:2108.13264.
    """
    return _stratified("iqm", scores, lambda x: stats.trim_mean(x, 0.25, axis=-1))


def optimality_gap(scores: Sequence[ArrayLike], *, target: float = 1.0) -> Interval:
    """How far scores fall short of a target on average; what is above it does not make up.

    Args:
        scores: as in `iqm`.
        target: normalised score that is good enough.

    Raises:
        BadData: as `iqm`.

    Source:
        Agarwal et al. 2021, arXiv:2108.13264.
    """
    return _stratified(
        "optimality_gap", scores, lambda x: target - np.minimum(x, target).mean(axis=-1)
    )


def probability_of_improvement(
    ours: Sequence[ArrayLike], theirs: Sequence[ArrayLike], *, resamples: int = 2_000, seed: int = 0
) -> Interval:
    """How likely a run of ours beats one of theirs, on a task drawn at random; a tie is half.

    Args:
        ours: for each task, (n,) scores; at least 5.
        theirs: for each task, (m,) scores; at least 5.
        resamples: bootstrap draws.
        seed: of the draws.

    Returns:
        The mean over tasks of Mann and Whitney's U / (n m), with a stratified percentile interval.

    Raises:
        BadData: if the tasks differ in number, scores are too few, or one is not finite.

    Source:
        Agarwal et al. 2021, arXiv:2108.13264.
    """
    who = "probability_of_improvement"
    if len(ours) != len(theirs) or not ours:
        raise BadData(
            f"{who} compares scores task by task, but got {len(ours)} and {len(theirs)} tasks. "
            "Give the same ones."
        )
    pairs = [(_values(who, x), _values(who, y)) for x, y in zip(ours, theirs, strict=True)]
    random = np.random.default_rng(seed)
    drawn = [_wins(_again(x, resamples, random), _again(y, resamples, random)) for x, y in pairs]
    value = float(np.mean([_wins(x[None], y[None])[0] for x, y in pairs]))
    return _percentiles(value, np.mean(drawn, axis=0))


def _wins(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """(R,) Mann and Whitney's U / (n m) of samples (R, n) and (R, m), by counting."""
    ordered, n, m = np.sort(y, axis=1), x.shape[1], y.shape[1]
    rows = zip(x, ordered, strict=True)
    both = [np.searchsorted(b, a, "left") + np.searchsorted(b, a, "right") for a, b in rows]
    return np.array([count.sum() for count in both]) / (2 * n * m)


# --- the same starts, two agents -----------------------------------------------------------------


class Paired(NamedTuple):
    """Two agents on the same starts."""

    difference: Interval  # of the means, ours minus theirs
    p: float  # two-sided: how often so large a difference is luck
    test: str  # "McNemar" | "Wilcoxon"


def paired(ours: ArrayLike, theirs: ArrayLike) -> Paired:
    """Whether one agent does better than another on the very same starts.

    Successes (bool) get McNemar's exact test, other scores Wilcoxon's signed ranks.

    Args:
        ours: (n,) bool or float, one a start; n >= 5.
        theirs: (n,) the same starts in the same order.

    Raises:
        BadData: if the lengths differ, or there are fewer than 5 pairs.

    Source:
        McNemar 1947; Wilcoxon 1945.
    """
    x, y = np.asarray(ours), np.asarray(theirs)
    if x.shape != y.shape:
        raise BadData(
            f"paired compares episode by episode, but got {x.size} and {y.size} of them. "
            "Give both agents the same starts."
        )
    difference = mean_interval(x.astype(np.float64) - y.astype(np.float64))
    if x.dtype == bool and y.dtype == bool:
        return Paired(difference, mcnemar(int((x & ~y).sum()), int((y & ~x).sum())), "McNemar")
    if np.array_equal(x, y):
        return Paired(difference, 1.0, "Wilcoxon")
    p: Any = stats.wilcoxon(x, y)[1]
    return Paired(difference, float(p), "Wilcoxon")


def mcnemar(only_ours: int, only_theirs: int) -> float:
    """The two-sided p value of McNemar's exact test.

    Args:
        only_ours: starts from which only our agent succeeded.
        only_theirs: starts from which only theirs did.

    Source:
        McNemar 1947.
    """
    both = only_ours + only_theirs
    return float(stats.binomtest(only_ours, both).pvalue) if both else 1.0


def spearman(x: ArrayLike, y: ArrayLike, *, level: float = 0.95) -> Interval:
    """Spearman's rank correlation with its interval, by Fisher's z with Bonett and Wright's error.

    A perfect order is known no better than to one swap of neighbours: from there its interval is
    reckoned.

    Args:
        x: (n,) one a model or checkpoint; n >= 5.
        y: (n,).
        level: of confidence, in (0, 1).

    Raises:
        BadData: if there are fewer than 5 pairs, or all values of one side are equal.

    Source:
        Bonett & Wright 2000, doi:10.1007/BF02294183.
    """
    a, b = _values("spearman", x), _values("spearman", y)
    if a.size != b.size or np.ptp(a) == 0 or np.ptp(b) == 0:
        raise BadData(
            f"spearman ranks two measures of the same things, but got {a.size} and {b.size} values "
            f"with spreads {np.ptp(a):.3g} and {np.ptp(b):.3g}. Give pairs that differ."
        )
    found: Any = stats.spearmanr(a, b)[0]
    rho = float(found)
    n = a.size
    bounded = float(np.clip(rho, -1 + 12 / (n**3 - n), 1 - 12 / (n**3 - n)))
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt((1 + bounded**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(bounded) + np.array([-half, half]))
    return Interval(rho, min(rho, float(low)), max(rho, float(high)))


# --- bootstrap -----------------------------------------------------------------------------------


def _stratified(
    who: str,
    scores: Sequence[ArrayLike],
    statistic: Callable[[NDArray[Any]], NDArray[Any]],
    resamples: int = 10_000,
) -> Interval:
    """A statistic of all scores (..., n), with runs resampled within each task."""
    tasks = [np.asarray(task, dtype=np.float64).reshape(-1) for task in scores]
    everything = _values(who, np.concatenate([*tasks, np.empty(0)]))
    random = np.random.default_rng(0)
    drawn = np.concatenate([_again(task, resamples, random) for task in tasks], axis=1)
    return _percentiles(float(statistic(everything)), statistic(drawn))


def _again(x: NDArray[Any], resamples: int, random: np.random.Generator) -> NDArray[Any]:
    """(R, n) draws with replacement."""
    return x[random.integers(len(x), size=(resamples, len(x)))]


def _percentiles(value: float, drawn: NDArray[Any]) -> Interval:
    """The 95% percentile interval, which holds the value."""
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(value, min(value, float(low)), max(value, float(high)))


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
