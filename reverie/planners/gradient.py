"""Planning by gradient: climb the objective through the model's own predictions.

Imports core and `score`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from reverie.core import tree
from reverie.core.errors import BadConfig
from reverie.core.model import WorldModel
from reverie.core.types import Plan
from reverie.planners.objective import Objective
from reverie.planners.score import Candidates, Warm, box, check_numbers, score_candidates, top


@dataclass(frozen=True)
class Gradient:
    """Gradient ascent on the actions, from several starts; the best plan seen is taken.

    The first start is the last plan, or no action at all; the others are that plus noise. After
    each step actions are clipped to their bounds.

    Raises:
        BadConfig: if a number makes no sense.

    Source:
        Henaff et al. 2017, "Model-based planning with discrete and continuous actions".
    """

    horizon: int = 12  # H, planned actions
    starts: int = 8  # N, plans that climb at the same time
    steps: int = 40  # of the optimizer
    lr: float = 0.1
    optimizer: Literal["adam", "sgd"] = "adam"
    std: float = 0.5  # of the noise at the start
    repeat: int = 1  # world steps for which each action is held
    particles: int = 1  # trajectories of each candidate

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense (BadConfig)."""
        counts = ("horizon", "starts", "steps", "repeat", "particles")
        check_numbers("Gradient", **{name: getattr(self, name) for name in counts})
        if self.optimizer not in ("adam", "sgd") or self.lr <= 0:
            raise BadConfig(
                f"Gradient climbs by 'adam' or 'sgd' with lr above 0, but got {self.optimizer!r} "
                f"and {self.lr}."
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
        space = box(model, "Gradient")
        given = Candidates(
            model, tree.detach(state), objective, self.repeat, self.particles, generator
        )
        shape = (self.horizon, *space.shape)
        blank = torch.zeros(tree.size(state), *shape, device=model.device)
        mean = (warm or {}).get("warm_mean", blank)
        noise = self.std * given.normal(1, self.starts, *shape)
        noise[:, 0] = 0
        actions = (mean[:, None] + noise).clamp(space.low, space.high).requires_grad_()
        kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        climb = kinds[self.optimizer]([actions], lr=self.lr)
        best, worth = (
            actions.detach().clone(),
            torch.full_like(actions[:, :, 0].flatten(2)[..., 0], -torch.inf),
        )
        for _ in range(self.steps):
            with torch.enable_grad():
                score = score_candidates(given, actions)
                (slope,) = torch.autograd.grad(score.sum(), [actions])
            better = score.detach() > worth
            worth = torch.where(better, score.detach(), worth)
            best = torch.where(
                better.view(*better.shape, *(1,) * len(shape)), actions.detach(), best
            )
            actions.grad = -slope
            climb.step()
            with torch.no_grad():
                actions.clamp_(space.low, space.high)
        plan, worth = top(best, worth, 1)
        return Plan(
            plan[:, 0].repeat_interleave(self.repeat, 1), worth[:, 0], {"warm_mean": plan[:, 0]}
        )
