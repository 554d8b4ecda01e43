"""The cross-entropy method: sample plans, keep the best, fit, again. Imports core and `score`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from reverie.core import tree
from reverie.core.errors import BadConfig
from reverie.core.model import WorldModel
from reverie.core.types import Box, Discrete, Plan
from reverie.planners.objective import Objective
from reverie.planners.score import Candidates, Warm, box, check_numbers, top


@dataclass(frozen=True)
class CEM:
    """A Gaussian over plans in a Box, or one categorical a step over Discrete actions.

    The plan is the mean (the likeliest action of each step) of the last fit.

    Raises:
        BadConfig: if a number makes no sense.

    Source:
        Rubinstein 1999; de Boer et al. 2005, "A tutorial on the cross-entropy method", section 5.
    """

    horizon: int = 12  # H, planned actions
    samples: int = 256  # N, candidates an iteration
    iterations: int = 5
    elites: int = 32  # candidates that are fitted
    std: float = 0.6  # of a Box's actions at first
    std_min: float = 0.02
    momentum: float = 0.0  # of the fit: the part of the last one that is kept
    repeat: int = 1  # world steps for which each action is held
    particles: int = 1  # trajectories of each candidate

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense (BadConfig)."""
        counts = ("horizon", "samples", "iterations", "elites", "repeat", "particles")
        check_numbers("CEM", **{name: getattr(self, name) for name in counts})
        if self.elites > self.samples or not 0 <= self.momentum < 1:
            raise BadConfig(
                f"CEM needs elites <= samples and 0 <= momentum < 1, but has {self.elites} elites "
                f"of {self.samples} samples and momentum {self.momentum}."
            )

    def plan(
        self,
        model: WorldModel[Any],
        state: Any,
        objective: Objective,
        *,
        warm: Warm | None = None,
        generator: torch.Generator | None = None,
    ) -> Plan:
        """See `Planner.plan`."""
        given = Candidates(model, state, objective, self.repeat, self.particles, generator)
        if isinstance(model.actions, Discrete):
            return self._categorical(given, model.actions.n, warm or {})
        return self._gaussian(given, box(model, "CEM"), warm or {})

    def _gaussian(self, given: Candidates, space: Box, warm: Warm) -> Plan:
        shape = (self.horizon, *space.shape)
        mean = warm.get(
            "warm_mean", torch.zeros(tree.size(given.state), *shape, device=given.model.device)
        )
        std = torch.full_like(mean, self.std)
        for _ in range(self.iterations):
            noise = given.normal(1, self.samples, *shape)
            actions = (mean[:, None] + std[:, None] * noise).clamp(space.low, space.high)
            elite, _ = top(actions, given.score(actions), self.elites)
            mean = torch.lerp(elite.mean(1), mean, self.momentum)
            spread = elite.std(1, unbiased=False)
            std = torch.lerp(spread, std, self.momentum).clamp(min=self.std_min)
        return given.plan(mean, {"warm_mean": mean})

    def _categorical(self, given: Candidates, n: int, warm: Warm) -> Plan:
        start = torch.zeros(tree.size(given.state), self.horizon, n, device=given.model.device)
        share = warm.get("warm_logits", start).softmax(-1)  # (B, H, n)
        floor = 0.5 / (self.elites + n)  # no action dies out
        for _ in range(self.iterations):
            uniform = given.uniform(1, self.samples, self.horizon, 1)
            actions = (uniform >= share.cumsum(-1)[:, None, :, :-1]).sum(-1)  # (B, N, H)
            elite, _ = top(actions, given.score(actions), self.elites)
            counts = F.one_hot(elite, n).float().mean(1).clamp(min=floor)
            share = torch.lerp(counts, share, self.momentum)
            share = share / share.sum(-1, keepdim=True)
        return given.plan(share.argmax(-1), {"warm_logits": share.log()})
