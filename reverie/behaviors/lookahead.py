"""One step of policy improvement at the moment of deciding: try each action in the dream.

For every action, hold it for a while, then let the policy go on, many times over; take the action
whose dreams earn most. Whatever policy the dream has trained acts better for it, at the price of
dreaming before each decision. Imports core and imagine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.model import WorldModel, need
from reverie.core.types import Discrete
from reverie.imagine import expected_return


@dataclass(frozen=True)
class LookaheadConfig:
    """How far and how often."""

    horizon: int = 40  # steps of each dream
    hold: int = 4  # of them, the steps for which the action is held
    particles: int = 16  # dreams of each action
    survival: float = 1.0  # reward of a step survived, where the model predicts no reward
    precision: Literal["float32", "bf16"] = "float32"  # of the dream's matrix products


class Lookahead:
    """A policy, improved by dreaming what follows each of its possible actions.

    Every action of a row is tried under the same model; all rows, actions and particles are one
    batch.

    Args:
        model: needs `cont` or `reward`, and Discrete actions.
        policy: state (B, ...) -> action (B,): what goes on after the action.
        config: how far and how often.

    Raises:
        SpaceMismatch: if the actions are not Discrete.
        MissingHead: if the model cannot say what a dream is worth.
        BadConfig: if a number is below 1, or an action would be held beyond the horizon.

    Source:
        Tesauro & Galperin 1996, "On-line policy improvement using Monte-Carlo search".
    """

    def __init__(
        self, model: WorldModel, policy: Callable[[Any], Tensor], config: LookaheadConfig
    ) -> None:
        if not isinstance(model.actions, Discrete):
            raise SpaceMismatch(
                f"Lookahead tries each of Discrete actions, but these are {model.actions}. "
                "Plan with CEM instead."
            )
        if model.heads.reward is None:
            need(model.heads, "cont", what="Lookahead")
        if config.particles < 1 or not 1 <= config.hold <= config.horizon:
            raise BadConfig(
                f"Lookahead needs at least one particle and 1 <= hold <= horizon, but got "
                f"particles={config.particles}, hold={config.hold}, horizon={config.horizon}."
            )
        self._model, self._policy, self._config = model, policy, config
        self._count = model.actions.n

    def __call__(self, state: Any, generator: torch.Generator | None = None) -> Tensor:
        """The action (B,) int64 whose dreams earn most."""
        return self.values(state, generator).argmax(1)

    @torch.no_grad()
    def values(self, state: Any, generator: torch.Generator | None = None) -> Tensor:
        """(B, actions) what each action earns on average, in the world's reward units.

        Args:
            state: (B, ...).
            generator: of the dreams.
        """
        config, device = self._config, self._model.device
        rows, each = tree.size(state), self._count * config.particles
        tried = torch.arange(self._count, device=device).repeat_interleave(config.particles)
        tried = tried.repeat(rows)  # (B * actions * particles,)
        start = tree.take(state, torch.arange(rows, device=device).repeat_interleave(each))

        def act(state: Any, t: int) -> Tensor:
            return tried if t < config.hold else self._policy(state)

        with torch.autocast(device.type, torch.bfloat16, config.precision == "bf16"):
            earned = expected_return(
                *(self._model, self._model.heads, start, act, config.horizon),
                survival=config.survival,
                generator=generator,
            )
        return earned.view(rows, self._count, config.particles).mean(-1)
