"""The Kalman filter as a world model: the true model of the linear-Gaussian toy world.

The state is the belief, `observe` is the filter's update, and `predict` moves the belief as an
observation that is drawn would. Imports core and the rules.

Letters: D size of the hidden x, P of the observation y, A of the action u; matrices as in
`rules.LinearSystem`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reverie.core.model import WorldModel
from reverie.core.types import Box, Card, Heads
from reverie.envs import rules


class Belief(NamedTuple):
    """State of `LinearGaussian`: a Gaussian over what is not seen."""

    mean: Tensor  # (B, D)
    cov: Tensor  # (B, D, D)


class LinearGaussian(WorldModel[Belief]):
    """The Kalman filter as a world model: `observe` is its update.

    `predict` draws what will be seen and takes it in, so that an imagined belief moves as a real
    one does; z (B, P) is the standard normal behind the draw. Rewards are expectations under the
    belief, so an imagined return is an unbiased estimate of the real one.

    Args:
        system: the matrices; None: the world's default.
    """

    card = Card(
        name="toy/linear_gaussian",
        title="True model of the linear Gaussian world",
        family="oracle",
        state="belief (mean, covariance)",
        z="innovation of the next observation",
        objective="none: it is true",
        policy="none",
        couplings=("planning", "imagination"),
        heads=("reward", "decode", "embed", "features"),
        paper="Kalman 1960, doi:10.1115/1.3662552",
    )
    _A: Tensor  # (D, D)
    _B: Tensor  # (D, A)
    _C: Tensor  # (P, D)
    _Q: Tensor  # (D, D)
    _R: Tensor  # (P, P)
    _W: Tensor  # (D, D)
    _U: Tensor  # (A, A)
    _mean: Tensor  # (D,)
    _cov: Tensor  # (D, D)

    def __init__(self, system: rules.LinearSystem | None = None) -> None:
        super().__init__()
        self.system = system or rules.LinearSystem()
        self.observations = {"vector": Box((self.system.C.shape[0],), -np.inf, np.inf)}
        self.actions = Box((self.system.B.shape[1],))
        for name in ("A", "B", "C", "Q", "R", "W", "U", "mean", "cov"):
            self.register_buffer(f"_{name}", torch.as_tensor(getattr(self.system, name)).float())

    def encode(self, obs: dict[str, Tensor]) -> Tensor:
        """The observation (B, P) itself."""
        return obs["vector"]

    def observe(
        self,
        state: Belief | None,
        action: Tensor | None,
        h: Tensor,
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Belief:
        """The Kalman filter's step. See `WorldModel.observe`."""
        del generator
        prior = Belief(
            self._mean.expand(len(h), -1), self._cov.expand(len(h), *self._cov.shape).contiguous()
        )
        if state is not None and action is not None:
            moved = self._moved(state, action)
            if first is not None:
                keep = ~first[:, None]
                mean = torch.where(keep, moved.mean, prior.mean)
                moved = Belief(mean, torch.where(keep[..., None], moved.cov, prior.cov))
            prior = moved
        gain, _ = self._gain(prior)
        return self._corrected(prior, gain, h - prior.mean @ self._C.T)

    def predict(
        self,
        state: Belief,
        action: Tensor | None,
        *,
        z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Belief:
        """The belief after an observation that is drawn. See the class."""
        prior = self._moved(state, action)
        gain, seen = self._gain(prior)
        if z is None:
            shape = (len(prior.mean), len(self._C))
            z = torch.randn(shape, generator=generator, device=prior.mean.device)
        innovation = (torch.linalg.cholesky(seen) @ z[..., None])[..., 0]
        return self._corrected(prior, gain, innovation)

    @property
    def heads(self) -> Heads:
        """Expected reward under the belief; decode, embed and features from its mean."""
        return Heads(
            owner=self.card.name,
            reward=self._reward,
            decode=lambda s: {"vector": s.mean @ self._C.T},
            embed=lambda s: s.mean,
            features=lambda s: s.mean,
        )

    def _reward(self, state: Belief, action: Tensor, after: Belief) -> Tensor:
        """-(E[x' W x] + u' U u)."""
        del after
        spread = (self._W * state.cov).sum((-2, -1))
        place = ((state.mean @ self._W) * state.mean).sum(-1)
        return -(place + spread + ((action @ self._U) * action).sum(-1))

    def _moved(self, state: Belief, action: Tensor | None) -> Belief:
        """The belief after the action, before the observation."""
        mean = state.mean @ self._A.T
        if action is not None:
            mean = mean + action @ self._B.T
        return Belief(mean, self._A @ state.cov @ self._A.T + self._Q)

    def _gain(self, prior: Belief) -> tuple[Tensor, Tensor]:
        """The Kalman gain (B, D, P) and the innovation's covariance (B, P, P)."""
        crossed = self._C @ prior.cov
        seen = crossed @ self._C.T + self._R
        return torch.linalg.solve(seen, crossed).mT, seen

    def _corrected(self, prior: Belief, gain: Tensor, innovation: Tensor) -> Belief:
        """The belief after an observation that is off by the innovation (B, P)."""
        mean = prior.mean + (gain @ innovation[..., None])[..., 0]
        return Belief(mean, prior.cov - gain @ self._C @ prior.cov)
