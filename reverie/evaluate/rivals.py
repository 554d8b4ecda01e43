"""Who stands beside a model that predicts: itself without its actions, and the true model.

Every metric of prediction compares the same moments of the same held-out segments. Imports core,
imagine and the forecasts beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reverie.core.model import WorldModel
from reverie.core.types import Heads
from reverie.evaluate.forecast import Forecast, Held, along, beginning, forecast, recorded
from reverie.imagine import rollout


class Rival(NamedTuple):
    """One who predicts, and what it foresaw."""

    heads: Heads
    forecast: Forecast
    horizon: int  # H

    def foreseen(self, head: Callable[..., Tensor]) -> Tensor:
        """(E, H+1, ...) a head of the imagined states."""
        return along(head, self.forecast.imagined, length=self.horizon + 1)

    def known(self, head: Callable[..., Tensor]) -> Tensor:
        """(E, H+1, ...) a head of the states that saw everything."""
        return along(head, self.forecast.followed, length=self.horizon + 1)


def rivals(
    model: WorldModel[Any],
    held: Held,
    *,
    oracle: WorldModel[Any] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Rival]:
    """The model's forecasts beside those that know less or more.

    Args:
        model: any world model.
        held: segments.
        oracle: the true model; it is left out where the segments lack what it reads.
        generator: of the models' randomness.

    Returns:
        "model"; "action-blind", the same model under the actions of another episode, where it
        acts; "oracle", if there is one.
    """
    own, blind = both(model, held, generator=generator)
    found = {"model": Rival(model.heads, own, held.horizon)}
    if blind is not None:
        found["action-blind"] = Rival(model.heads, blind, held.horizon)
    if oracle is not None and set(oracle.observations) <= set(held.batch.obs):
        true = forecast(oracle, held, generator=generator)
        found["oracle"] = Rival(oracle.heads, true, held.horizon)
    return found


@torch.no_grad()
def both(
    model: WorldModel[Any], held: Held, *, generator: torch.Generator | None = None
) -> tuple[Forecast, Forecast | None]:
    """A forecast under the recorded actions, and one under those of the episode before.

    Both draw the same noise, so a model that ignores its actions foresees the same twice.

    Args:
        model: any world model.
        held: segments.
        generator: of the model's randomness.

    Returns:
        The forecast, and its twin; None where nothing acts.
    """
    if model.actions is None:
        return forecast(model, held, generator=generator), None
    actions = recorded(model, held)
    start, followed = beginning(model, held, generator=generator)
    noise = twins(model, generator)
    own, blind = (
        Forecast(rollout(model, start, a, generator=next(noise)).states, followed, a)
        for a in (actions, actions.roll(1, 0))
    )
    return own, blind


def twins(model: WorldModel[Any], generator: torch.Generator | None) -> Iterator[torch.Generator]:
    """Endless generators on the model's device that all draw the same numbers."""
    place = None if generator is None else generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=place))
    while True:
        yield torch.Generator(model.device).manual_seed(seed)
