"""What a model foresees on episodes that it never learned from, beside what was really seen.

`held_out` cuts one segment out of each episode; `follow` is what the model knows having seen
everything, `forecast` what it imagines having seen only the context. All prediction metrics start
from here. Imports core, imagine and data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadConfig, BadData
from reverie.core.model import WorldModel
from reverie.core.types import Batch, check_obs
from reverie.data.sample import gather
from reverie.data.store import Store
from reverie.evaluate.statistics import LEAST
from reverie.imagine import rollout


class Held(NamedTuple):
    """Segments that no model learned from, each within an episode of its own."""

    batch: Batch  # (E, K - 1 + H) transitions between K + H observations
    context: int  # K >= 1: the observations 0..K-1 are given

    @property
    def horizon(self) -> int:
        """H: steps to predict after the last given observation."""
        return self.batch.mask.shape[1] - self.context + 1


class Forecast(NamedTuple):
    """States from the last given observation on: index 0 is known, 1..H are foreseen."""

    imagined: Any  # (E, H+1, ...) predicted without looking
    followed: Any  # (E, H+1, ...) the same moments, having seen everything
    actions: Tensor | None  # (E, H, ...) under which it was imagined


def held_out(
    store: Store,
    *,
    context: int,
    horizon: int,
    episodes: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Held:
    """One random segment from each episode that is long enough.

    Args:
        store: of episodes that the model did not learn from.
        context: K, observations given.
        horizon: H, steps predicted.
        episodes: at most so many; None: all.
        seed: of where segments begin.
        device: where the tensors go.

    Raises:
        BadConfig: if context or horizon is below 1.
        BadData: if fewer than 5 episodes are long enough for an interval.
    """
    if context < 1 or horizon < 1:
        raise BadConfig(
            f"A context and a horizon of at least 1 are needed, but they are {context} and "
            f"{horizon}. Raise them."
        )
    length = context - 1 + horizon
    long = np.flatnonzero(store.lengths >= length)[:episodes]
    if len(long) < LEAST:
        raise BadData(
            f"Segments of {length} steps were asked for, but only {len(long)} of the "
            f"{len(store)} episodes in {store.path} are that long, and an interval needs {LEAST}. "
            "Shorten the horizon or collect more."
        )
    random = np.random.default_rng(seed)
    starts = store.starts[long] + random.integers(store.lengths[long] - length + 1)
    batch = gather(store, starts, length)
    return Held(tree.to(batch, device), context)


@torch.no_grad()
def follow(
    model: WorldModel[Any], batch: Batch, *, generator: torch.Generator | None = None
) -> Any:
    """The states of a model that sees every observation.

    Args:
        model: any world model.
        batch: (B, T); every row begins where its first observation is.
        generator: of the model's randomness.

    Returns:
        (B, T+1, ...) states.

    Raises:
        SpaceMismatch: if the model reads what the segments do not have.
    """
    return tree.stack(_states(model, batch, generator))


def _states(model: WorldModel[Any], batch: Batch, generator: torch.Generator | None) -> list[Any]:
    """T+1 states (B, ...), one an observation."""
    names = model.observations
    check_obs(batch.obs, names, tuple(batch.first.shape))
    state, states = None, []
    for t in range(batch.first.shape[1]):
        h = model.encode({name: batch.obs[name][:, t] for name in names})
        action = None if t == 0 or batch.action is None else batch.action[:, t - 1]
        first = torch.ones_like(batch.first[:, t]) if t == 0 else batch.first[:, t]
        state = model.observe(state, action, h, first=first, generator=generator)
        states.append(state)
    return states


@torch.no_grad()
def forecast(
    model: WorldModel[Any],
    held: Held,
    *,
    actions: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Forecast:
    """Follow the context, then imagine the rest.

    Args:
        model: any world model.
        held: segments.
        actions: (E, H, ...) in place of the recorded ones; None: the recorded ones.
        generator: of the model's randomness.

    Returns:
        Imagined and followed states of the same H+1 moments.

    Raises:
        BadData: if the model acts and the segments have no actions.
        SpaceMismatch: if the model reads what the segments do not have.
    """
    start, followed = beginning(model, held, generator=generator)
    if model.actions is None:
        run = rollout(model, start, None, horizon=held.horizon, generator=generator)
        return Forecast(run.states, followed, None)
    if actions is None:
        actions = recorded(model, held)
    run = rollout(model, start, actions, generator=generator)
    return Forecast(run.states, followed, actions)


@torch.no_grad()
def beginning(
    model: WorldModel[Any], held: Held, *, generator: torch.Generator | None = None
) -> tuple[Any, Any]:
    """What is known after the context, and what is known later on.

    Args:
        model: any world model.
        held: segments.
        generator: of the model's randomness.

    Returns:
        The state (E, ...) after the context, and the states (E, H+1, ...) from it on.
    """
    states = _states(model, held.batch, generator)[held.context - 1 :]
    return states[0], tree.stack(states)


def recorded(model: WorldModel[Any], held: Held) -> Tensor:
    """The actions (E, H, ...) after the context.

    Raises:
        BadData: if the segments have none.
    """
    if held.batch.action is None:
        raise BadData(
            f"{model.heads.owner} predicts under actions, but these segments have none. "
            "Record episodes with actions."
        )
    return held.batch.action[:, held.context - 1 :]


def along(head: Callable[..., Tensor], *trees: Any, length: int) -> Tensor:
    """What a head says at every step, one step at a time, so that memory stays that of a step.

    Args:
        head: of (B, ...) trees, to (B, ...).
        trees: (B, length, ...) states or actions.
        length: of the time axis.

    Returns:
        (B, length, ...).
    """
    steps = zip(*(tree.unstack(x, length) for x in trees), strict=True)
    return torch.stack([head(*step) for step in steps], 1)
