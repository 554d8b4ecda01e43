"""MPPI as TD-MPC2 plans: elites weighted by their worth, proposals from a policy.

Imports core, imagine and `score`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadConfig
from reverie.core.model import WorldModel, need
from reverie.core.types import Heads, Plan
from reverie.imagine import imagine
from reverie.planners.objective import Objective
from reverie.planners.score import Candidates, Warm, box, check_numbers, top


@dataclass(frozen=True)
class MPPI:
    """Model predictive path integral control over elites.

    The plan is the weighted mean, or, as TD-MPC2 acts, one elite drawn by its weight; to explore,
    with noise of the deviation that is left. The next call's warm start is the mean all the same.

    Raises:
        BadConfig: if a number makes no sense.

    Source:
        Williams et al. 2015; Hansen et al. 2024 (TD-MPC2), section 3.2 and algorithm 1.
    """

    horizon: int = 12  # H, planned actions
    samples: int = 256  # N, candidates an iteration, proposals included
    iterations: int = 6
    elites: int = 64  # candidates that are weighted
    temperature: float = 0.5  # the weight of an elite is exp(temperature * (worth - best))
    std: float = 0.8  # of the actions at first
    std_min: float = 0.05
    proposals: int = 0  # of the candidates, those that the policy head draws
    repeat: int = 1  # world steps for which each action is held
    particles: int = 1  # trajectories of each candidate
    choose: Literal["mean", "elite", "noisy"] = "mean"  # what the plan is
    heads: Heads | None = None  # for the policy, in place of the model's own

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense (BadConfig)."""
        counts = ("horizon", "samples", "iterations", "elites", "repeat", "particles")
        check_numbers("MPPI", **{name: getattr(self, name) for name in counts})
        if not max(self.elites, self.proposals) <= self.samples or self.temperature <= 0:
            raise BadConfig(
                f"MPPI needs elites and proposals within its samples and a temperature above 0, "
                f"but has {self.elites} and {self.proposals} of {self.samples}, and "
                f"{self.temperature}."
            )
        if self.choose not in ("mean", "elite", "noisy"):
            raise BadConfig(f"MPPI.choose is '{self.choose}'. Choose 'mean', 'elite' or 'noisy'.")

    def plan(
        self,
        model: WorldModel[Any],
        state: Any,
        objective: Objective,
        *,
        warm: Warm | None = None,
        generator: torch.Generator | None = None,
    ) -> Plan:
        """See `Planner.plan`.

        Raises:
            MissingHead: if there are to be proposals, but no policy.
        """
        space = box(model, "MPPI")
        given = Candidates(model, state, objective, self.repeat, self.particles, generator)
        shape = (self.horizon, *space.shape)
        blank = torch.zeros(tree.size(state), *shape, device=model.device)
        mean = (warm or {}).get("warm_mean", blank)
        std = torch.full_like(mean, self.std)
        proposed = [self._proposals(given)] if self.proposals else []
        elite = weight = score = blank  # every iteration finds them anew
        for _ in range(self.iterations):
            noise = given.normal(1, self.samples - self.proposals, *shape)
            actions = mean[:, None] + std[:, None] * noise
            actions = torch.cat([actions, *proposed], 1).clamp(space.low, space.high)
            elite, score = top(actions, given.score(actions), self.elites)
            weight = (self.temperature * (score - score[:, :1])).softmax(1)
            wide = weight.view(*weight.shape, *(1,) * len(shape))
            mean = (wide * elite).sum(1)
            std = (wide * (elite - mean[:, None]).square()).sum(1).sqrt().clamp(min=self.std_min)
        if self.choose == "mean":
            return given.plan(mean, {"warm_mean": mean})
        drawn = (weight / -given.uniform(1, self.elites).clamp(min=1e-20).log()).argmax(1)
        rows = torch.arange(len(drawn), device=drawn.device)
        plan = elite[rows, drawn]
        if self.choose == "noisy":
            plan = (plan + std * given.normal(1, *shape)).clamp(space.low, space.high)
        held = plan.repeat_interleave(self.repeat, 1)
        return Plan(held, score[rows, drawn], {"warm_mean": mean})

    @torch.no_grad()
    def _proposals(self, given: Candidates) -> Tensor:
        """(B, proposals, H, A) actions that the policy takes in the model's imagination."""
        heads = self.heads or given.model.heads
        (policy,) = need(heads, "policy", what="MPPI with proposals")
        start = tree.repeat(given.state, self.proposals)
        seed = int(torch.randint(2**62, (), generator=given.generator, device=given.model.device))
        with torch.random.fork_rng():  # distributions draw from the default generator
            torch.manual_seed(seed)
            run = imagine(
                given.model,
                start,
                lambda s: policy(s).sample(),
                self.horizon * self.repeat,
                generator=given.generator,
            )
        drawn = run.actions[:, :: self.repeat]  # type: ignore[index]
        return drawn.unflatten(0, (-1, self.proposals))
