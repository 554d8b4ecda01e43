"""Is it a simulator at all, and how much of the past does it need? One line for each.

A model is classified by what was measured, never by its name. Imports core, data and what stands
beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadConfig, BadData, MissingHead
from reverie.core.model import WorldModel
from reverie.core.types import Batch
from reverie.data.store import Store
from reverie.evaluate.bands import Array, band, ratio
from reverie.evaluate.forecast import Held, along, forecast, held_out
from reverie.evaluate.measure import Measure
from reverie.evaluate.statistics import Interval

FOLLOWS = 1 / 3  # controllability: the error rises by half or more under other actions
RIGHTLY = 0.8  # cosine of differences that actions make
CONTEXTS = (1, 2, 4, 8)


def verdict(measures: Sequence[Measure]) -> str:
    """One line that says what the model is.

    Args:
        measures: of a card; "controllability" and "counterfactual" are read.

    Returns:
        "forecaster: ...", "action-conditioned simulator: ..." or "counterfactual simulator: ...".
    """
    known = {measure.name: measure for measure in measures}
    control, fork = known.get("controllability"), known.get("counterfactual")
    if control is None:
        return "forecaster: nothing that it foresees was measured to depend on actions."
    most = control.baselines.get("oracle")
    if most is not None and most.high < FOLLOWS:
        return (
            "undecided: even the true model gains little from the actions here "
            f"({_words('controllability', most)})."
        )
    told = _words("controllability", control.value)
    if control.value.low < FOLLOWS:
        return (
            f"forecaster: its futures hardly depend on the actions ({told}; {FOLLOWS:.2f} asked)."
        )
    if fork is None:
        return (
            f"action-conditioned simulator: its futures follow the actions ({told}); "
            "counterfactuals were not measured."
        )
    differs = _words("cosine of counterfactual differences", fork.value)
    if fork.value.low < RIGHTLY:
        return (
            f"action-conditioned simulator: its futures follow the actions ({told}), but other "
            f"actions do not make the true difference ({differs}; {RIGHTLY} asked)."
        )
    return (
        f"counterfactual simulator: its futures follow the actions ({told}), and other actions "
        f"make the true difference ({differs})."
    )


def _words(name: str, x: Interval) -> str:
    """A number with its interval."""
    return f"{name} {x.value:.2f} [{x.low:.2f}, {x.high:.2f}]"


# --- history --------------------------------------------------------------------------------------


@torch.no_grad()
def knee(
    model: WorldModel[Any],
    store: Store,
    *,
    contexts: Sequence[int] = CONTEXTS,
    horizon: int = 1,
    episodes: int | None = None,
    seed: int = 0,
) -> Measure:
    """How many observations a model must have seen before one more hardly helps.

    The same moments are foreseen from longer and longer pasts.

    Args:
        model: any world model with `decode`, or with `embed`.
        store: of episodes that it did not learn from.
        contexts: numbers of observations given, rising.
        horizon: steps ahead at which the error is taken.
        episodes: at most so many; None: all.
        seed: of where segments begin, and of the model's randomness.

    Returns:
        The smallest context whose error is within a tenth of the best one, or of what history
        gains in all. Its curve is the error, over that of copying, by context.

    Raises:
        BadConfig: if the contexts do not rise.
        BadData: if fewer than 5 episodes are long enough, or nothing moves.
        MissingHead: if the model has neither head.
    """
    if list(contexts) != sorted(set(contexts)) or not contexts or contexts[0] < 1:
        raise BadConfig(f"contexts must rise from 1 or more, but they are {list(contexts)}.")
    longest = contexts[-1]
    held = held_out(
        store,
        context=longest,
        horizon=horizon,
        episodes=episodes,
        seed=seed,
        device=model.device,
    )
    target = _target(model, held, seed)
    error = torch.stack([_lost(model, _last(held, k), target, seed) for k in contexts], 1)
    moved = target.moved[:, None].expand_as(error)
    steps = np.asarray(contexts, dtype=np.float64)

    def place(top: Array, bottom: Array) -> Array:
        curve = ratio(top, bottom)
        best, worst = (f(curve, 1, keepdims=True) for f in (np.nanmin, np.nanmax))
        return steps[(curve <= best + 0.1 * np.maximum(worst - best, best)).argmax(1)]

    curve = band((error, moved), ratio).curve
    copied = band((moved, moved), ratio).curve
    tested = ", ".join(map(str, contexts))
    return Measure(
        name="history_knee",
        group="prediction",
        what="Observations after which more of them gain less than a tenth of the error; "
        f"the curve is its error, over that of copying, after {tested}.",
        unit="observations",
        better="lower",
        value=band((error, moved), place).value,
        curve=curve,
        baseline_curves={"copy": copied},
    )


def _last(held: Held, context: int) -> Held:
    """The same segments with a shorter past."""
    cut = held.context - context
    batch = held.batch
    shorter = Batch(
        obs={name: x[:, cut:] for name, x in batch.obs.items()},
        action=None if batch.action is None else batch.action[:, cut:],
        reward=None if batch.reward is None else batch.reward[:, cut:],
        terminated=batch.terminated[:, cut:],
        truncated=batch.truncated[:, cut:],
        mask=batch.mask[:, cut:],
        first=batch.first[:, cut:],
        extra={},
    )
    return Held(shorter, context)


class _Target:
    """What is foreseen: a way to read it from states, what came, and what was there before."""

    def __init__(self, read: Callable[..., Tensor], came: Tensor, before: Tensor) -> None:
        self.read, self.came = read, came
        self.moved = (came - before).square().mean(-1)
        if not bool(self.moved.sum() > 0):
            raise BadData("knee divides by the error of copying, but nothing moves. Hold out more.")


def _target(model: WorldModel[Any], held: Held, seed: int) -> _Target:
    """The observation that the model decodes, or its embedding of what it saw."""
    generator = torch.Generator(model.device).manual_seed(seed)
    full = forecast(model, held, generator=generator).followed
    decode, embed = model.heads.decode, model.heads.embed
    if decode is not None:
        drawn = decode(tree.unstack(full, held.horizon + 1)[0])
        for name in ("vector", "image"):
            if name in drawn and name in held.batch.obs:
                return _observed(decode, name, held)
    if embed is None:
        raise MissingHead(
            f"knee needs decode of what is observed, or embed; {model.heads.owner} has neither. "
            "Choose another model (`reverie list` shows who has them)."
        )
    seen = along(embed, full, length=held.horizon + 1).double()
    return _Target(embed, seen[:, -1], seen[:, 0])


def _observed(decode: Callable[..., dict[str, Tensor]], name: str, held: Held) -> _Target:
    """An observation as the target."""
    true = held.batch.obs[name].flatten(2).double()
    return _Target(
        lambda state: decode(state)[name].flatten(1), true[:, -1], true[:, held.context - 1]
    )


def _lost(model: WorldModel[Any], held: Held, target: _Target, seed: int) -> Tensor:
    """(E,) squared error of what is foreseen at the last moment."""
    generator = torch.Generator(model.device).manual_seed(seed)
    imagined = forecast(model, held, generator=generator).imagined
    last = tree.unstack(imagined, held.horizon + 1)[-1]
    return (target.read(last).double() - target.came).square().mean(-1)
