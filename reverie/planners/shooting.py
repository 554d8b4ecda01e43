"""Random shooting: many plans at random, the best is taken. Imports core and `score`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from reverie.core import tree
from reverie.core.errors import SpaceMismatch
from reverie.core.model import WorldModel
from reverie.core.types import Box, Discrete, Plan
from reverie.planners.objective import Objective
from reverie.planners.score import Candidates, Warm, check_numbers, top


@dataclass(frozen=True)
class RandomShooting:
    """Uniform plans, for Box and Discrete actions alike: the simplest planner, and a baseline."""

    horizon: int = 12  # H, planned actions
    samples: int = 256  # N, candidates
    repeat: int = 1  # world steps for which each action is held
    particles: int = 1  # trajectories of each candidate

    def __post_init__(self) -> None:
        """Refuse numbers below 1 (BadConfig)."""
        check_numbers("RandomShooting", **vars(self))

    def plan(
        self,
        model: WorldModel[Any],
        state: Any,
        objective: Objective,
        *,
        warm: Warm | None = None,
        generator: torch.Generator | None = None,
    ) -> Plan:
        """See `Planner.plan`; nothing is kept between calls."""
        del warm
        given = Candidates(model, state, objective, self.repeat, self.particles, generator)
        space, shape = model.actions, (1, self.samples, self.horizon)
        if isinstance(space, Discrete):
            actions = (given.uniform(*shape) * space.n).long().clamp(max=space.n - 1)
        elif isinstance(space, Box):
            unit = given.uniform(*shape, *space.shape)
            actions = space.low + (space.high - space.low) * unit
        else:
            raise SpaceMismatch("RandomShooting plans actions, but this model has none.")
        actions = actions.expand(tree.size(state), *actions.shape[1:])
        best, worth = top(actions, given.score(actions), 1)
        return Plan(best[:, 0].repeat_interleave(self.repeat, 1), worth[:, 0], {})
