"""Whether a model knows how sure it can be: several draws of the future beside the one that came.

What is compared is the embedding (the features, where there is none) of imagined states with that
of states that saw everything. A model whose draws are all alike gives no distribution, and gets
none of these measures. Imports core, imagine and what stands beside it.

Letters: E episodes, N draws, H steps ahead, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadConfig
from reverie.core.model import WorldModel
from reverie.evaluate.bands import Array, band, measured
from reverie.evaluate.forecast import Held, along, forecast
from reverie.evaluate.measure import Measure
from reverie.evaluate.rivals import rivals
from reverie.imagine import rollout

BINS = 15  # of the calibration error of endings


@torch.no_grad()
def measures(
    model: WorldModel[Any],
    held: Held,
    *,
    draws: int = 32,
    oracle: WorldModel[Any] | None = None,
    generator: torch.Generator | None = None,
) -> list[Measure]:
    """How well the spread of a model's futures fits what came.

    Args:
        model: any world model.
        held: segments that it did not learn from.
        draws: N futures of each segment, at least 2.
        oracle: the true model, for its calibration of endings; None: nobody has it.
        generator: of the model's randomness.

    Returns:
        spread_skill and pit_distance of models that draw, and gaussian_nll where their draws
        never coincide; ending_calibration of those that say when episodes end.

    Raises:
        BadConfig: if fewer than 2 draws are asked for.
        BadData: if there are fewer than 5 episodes, or a prediction is not finite.
    """
    if draws < 2:
        raise BadConfig(f"A spread needs at least 2 draws, but {draws} were asked for. Raise it.")
    head = model.heads.embed or model.heads.features
    found = [] if head is None else _spread(model, held, head, draws, generator)
    return [*found, *_endings(model, held, oracle, generator)]


def _spread(
    model: WorldModel[Any],
    held: Held,
    head: Callable[..., Tensor],
    draws: int,
    generator: torch.Generator | None,
) -> list[Measure]:
    """The measures of the drawn futures."""
    futures, came = _futures(model, held, head, draws, generator)
    varies = (futures != futures[:, :1]).flatten(0, 2).any(0)
    if not bool(varies.any()):
        return []
    futures, came = futures[..., varies], came[..., varies]
    found = [_skill(futures, came), _pit(futures, came)]
    if bool((futures != futures[:, :1]).any(1).all()):  # no Gaussian fits draws that are all alike
        found.append(_likelihood(futures, came))
    return found


def _futures(
    model: WorldModel[Any],
    held: Held,
    head: Callable[..., Tensor],
    draws: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """(E, N, H, D) drawn and (E, H, D) real."""
    own, horizon = forecast(model, held, generator=generator), held.horizon
    start = tree.repeat(tree.unstack(own.imagined, horizon + 1)[0], draws)
    actions = None if own.actions is None else own.actions.repeat_interleave(draws, 0)
    run = rollout(model, start, actions, horizon=horizon, generator=generator)
    drawn = along(head, run.states, length=horizon + 1).double().unflatten(0, (-1, draws))
    return drawn[:, :, 1:], along(head, own.followed, length=horizon + 1).double()[:, 1:]


# --- spread against skill -------------------------------------------------------------------------


def _skill(futures: Tensor, came: Tensor) -> Measure:
    """The ratio of what the model expects to be off by to what it is off by."""
    n = futures.shape[1]
    columns = (futures.var(1).sum(-1), (futures.mean(1) - came).square().sum(-1))
    ratio = band(columns, lambda spread, error: spread_skill(spread, error, n)).value
    sure = "as it should be" if ratio.low <= 1 <= ratio.high else "too narrow"
    sure = "too wide" if ratio.low > 1 else sure
    return measured(
        {"model": columns},
        lambda spread, error: np.abs(np.log(spread_skill(spread, error, n))),
        name="spread_skill",
        group="prediction",
        what=f"|ln| of the spread of {n} draws over the error of their mean, 0 if calibrated; "
        f"the ratio is {ratio.value:.2f}: {sure}.",
        unit="|ln ratio|",
        better="lower",
    )


def spread_skill(spread: Array, error: Array, draws: int) -> Array:
    """Standard deviation of the draws over the error of their mean: 1 if the draws are right.

    Args:
        spread: (R, H) mean variance of the draws, unbiased.
        error: (R, H) mean squared error of their mean.
        draws: N; the mean of N draws is itself off by 1/N of their variance.

    Returns:
        (R, H).

    Source:
        Fortin et al. 2014, eq. 15.
    """
    tiny = np.finfo(np.float64).tiny
    return np.sqrt((1 + 1 / draws) * np.maximum(spread, tiny) / np.maximum(error, tiny))


# --- the rank of what came ------------------------------------------------------------------------


def _pit(futures: Tensor, came: Tensor) -> Measure:
    """How far the ranks are from uniform, beside ranks that are."""
    n = futures.shape[1]
    below = (futures < came[:, None]).sum(1)
    alike = (futures == came[:, None]).sum(1)
    random = torch.Generator().manual_seed(0)
    chosen = torch.rand(below.shape, generator=random).to(below.device)
    ranks = below + (chosen * (alike + 1)).long()  # among equals, any place
    fair = torch.randint(n + 1, (*ranks.shape[:2], 1), generator=random)
    return measured(
        {"model": (_shares(ranks, n),), "calibrated": (_shares(fair, n),)},
        pit_distance,
        name="pit_distance",
        group="prediction",
        what="Largest distance of the distribution of what came, ranked among the draws, from "
        "uniform; beside it that of as many episodes of uniform ranks, alike in each dimension.",
        unit="share",
        better="lower",
    )


def _shares(ranks: Tensor, draws: int) -> Tensor:
    """(E, H, N+1) share of the dimensions that have each rank."""
    count = torch.zeros((*ranks.shape[:2], draws + 1), dtype=torch.float64, device=ranks.device)
    one = torch.ones(ranks.shape, dtype=torch.float64, device=ranks.device)
    return count.scatter_add(2, ranks, one) / ranks.shape[2]


def pit_distance(shares: Array) -> Array:
    """Kolmogorov's distance of ranks from uniform.

    Args:
        shares: (R, H, N+1) of each rank.

    Returns:
        (R, H).

    Source:
        Gneiting et al. 2007 (the PIT); Hamill 2001 (its histogram of ranks).
    """
    places = shares.shape[-1]
    return np.abs(shares.cumsum(-1) - np.arange(1, places + 1) / places).max(-1)


# --- likelihood -----------------------------------------------------------------------------------


def _likelihood(futures: Tensor, came: Tensor) -> Measure:
    """NLL of what came under a Gaussian fitted to the draws, beside one fitted to all episodes."""
    n = futures.shape[1]
    mean, spread = came.mean((0, 1)), came.flatten(0, 1).var(0).clamp(min=1e-12)
    own = gaussian_nll(came, futures.mean(1), (1 + 1 / n) * futures.var(1))
    constant = gaussian_nll(came, mean.expand_as(came), spread.expand_as(came))
    return measured(
        {"model": (own,), "mean": (constant,)},
        name="gaussian_nll",
        group="prediction",
        what=f"Negative log-likelihood of the embedding under a Gaussian fitted to {n} draws, for "
        "each dimension; beside it one fitted to all that came.",
        unit="nats",
        better="lower",
    )


def gaussian_nll(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """-log N(x; mean, variance), a mean over the last axis."""
    log = variance.log() + (x - mean).square() / variance + np.log(2 * np.pi)
    return 0.5 * log.mean(-1)


# --- endings --------------------------------------------------------------------------------------


def _endings(
    model: WorldModel[Any],
    held: Held,
    oracle: WorldModel[Any] | None,
    generator: torch.Generator | None,
) -> list[Measure]:
    """ECE of `cont` on foreseen states, if some episode ends."""
    ended = held.batch.terminated[:, held.context - 1 :]
    if model.heads.cont is None or not bool(ended.any()):
        return []
    columns = {}
    for who, rival in rivals(model, held, oracle=oracle, generator=generator).items():
        head = rival.heads.cont
        if head is not None:
            columns[who] = (_bins(rival.foreseen(head)[:, 1:], ~ended),)
    return [
        measured(
            columns,
            calibration_error,
            name="ending_calibration",
            group="prediction",
            what=f"Expected calibration error of the probability that the episode goes on, "
            f"{BINS} bins.",
            unit="probability",
            better="lower",
        )
    ]


def _bins(chance: Tensor, goes_on: Tensor) -> Tensor:
    """(E, 3, bins) a bin's share of the steps, of the probability, and of what came."""
    index = (chance.double() * BINS).long().clamp(0, BINS - 1)
    one = torch.ones_like(chance, dtype=torch.float64)
    parts = torch.stack([one, chance.double(), goes_on.double()], 1)
    blank = torch.zeros((len(chance), 3, BINS), dtype=torch.float64, device=chance.device)
    return blank.scatter_add(2, index[:, None].expand_as(parts), parts) / chance.shape[1]


def calibration_error(bins: Array) -> Array:
    """The mean over bins of |mean probability - rate|, each as often as it is used.

    Args:
        bins: (R, 3, bins) shares of the steps, of the probability, and of what came.

    Returns:
        (R,).

    Source:
        Naeini et al. 2015.
    """
    return np.abs(bins[:, 1] - bins[:, 2]).sum(1) / bins[:, 0].sum(1)
