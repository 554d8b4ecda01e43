"""iCEM: CEM with coloured noise, elites that are kept, and fewer samples as it narrows.

Imports core and `score`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadConfig
from reverie.core.model import WorldModel
from reverie.core.types import Plan
from reverie.planners.objective import Objective
from reverie.planners.score import Candidates, Warm, box, check_numbers, top


@dataclass(frozen=True)
class ICEM:
    """CEM that needs far fewer samples. The plan is the best candidate that was ever scored.

    Raises:
        BadConfig: if a number makes no sense.

    Source:
        Pinneri et al. 2020, "Sample-efficient cross-entropy method for real-time planning",
        algorithm 1.
    """

    horizon: int = 12  # H, planned actions
    samples: int = 128  # candidates of the first iteration
    iterations: int = 4
    elites: int = 10  # candidates that are fitted
    keep: float = 0.3  # of the elites, for the next iteration and the next call
    decay: float = 1.25  # candidates of an iteration over those of the next
    beta: float = 2.0  # exponent of the noise: 0 white, 1 pink, 2 red
    std: float = 0.5  # of the actions at first
    std_min: float = 0.02
    momentum: float = 0.1  # of the fit: the part of the last one that is kept
    repeat: int = 1  # world steps for which each action is held
    particles: int = 1  # trajectories of each candidate

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense (BadConfig)."""
        counts = ("horizon", "samples", "iterations", "elites", "repeat", "particles")
        check_numbers("ICEM", **{name: getattr(self, name) for name in counts})
        if self.elites > self.samples or not 0 <= self.keep <= 1 or self.decay < 1:
            raise BadConfig(
                f"ICEM needs elites <= samples, keep in [0, 1] and decay >= 1, but has "
                f"{self.elites} of {self.samples}, {self.keep} and {self.decay}."
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
        space, warm = box(model, "ICEM"), warm or {}
        given = Candidates(model, state, objective, self.repeat, self.particles, generator)
        shape = (self.horizon, *space.shape)
        blank = torch.zeros(tree.size(state), *shape, device=model.device)
        mean, kept = warm.get("warm_mean", blank), warm.get("warm_elites", blank[:, None])
        std = torch.full_like(mean, self.std)
        many = max(1, round(self.keep * self.elites))
        for i in range(self.iterations):
            n = max(2 * self.elites, round(self.samples / self.decay**i))
            noise = coloured(given.normal(1, n, *shape), self.beta)
            actions = mean[:, None] + std[:, None] * noise
            last = [mean[:, None]] if i == self.iterations - 1 else []
            actions = torch.cat([actions, kept, *last], 1).clamp(space.low, space.high)
            elite, score = top(actions, given.score(actions), self.elites)
            mean = torch.lerp(elite.mean(1), mean, self.momentum)
            std = torch.lerp(elite.std(1, unbiased=False), std, self.momentum)
            std, kept = std.clamp(min=self.std_min), elite[:, :many]
        found = {"warm_mean": mean, "warm_elites": kept}
        return Plan(elite[:, 0].repeat_interleave(self.repeat, 1), score[:, 0], found)


def coloured(white: Tensor, beta: float) -> Tensor:
    """Gaussian noise whose power falls with frequency as 1 / f^beta along axis 2.

    Args:
        white: (1, N, H, ...) standard normal.
        beta: 0 leaves it white; 1 is pink, 2 red.

    Returns:
        The same shape; each element is normal with mean 0 and variance 1.

    Source:
        Timmer & Koenig 1995, "On generating power law noise".
    """
    steps = white.shape[2]
    if beta == 0 or steps < 2:
        return white
    frequency = torch.fft.rfftfreq(steps, device=white.device)
    scale = frequency.clamp(min=1 / steps) ** (-beta / 2)
    twice = torch.full_like(scale, 2.0)  # all but the ends stand for two frequencies
    twice[0] = 1.0
    if steps % 2 == 0:
        twice[-1] = 1.0
    scale = scale / ((twice * scale.square()).sum() / steps).sqrt()
    spectrum = torch.fft.rfft(white, dim=2)
    return torch.fft.irfft(spectrum * scale.view(-1, *(1,) * (white.dim() - 3)), n=steps, dim=2)
