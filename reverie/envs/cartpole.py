"""The true model of CartPole-v1, from its equations. Imports core only.

What Gymnasium's environment computes, batched: planners and evaluations have an oracle on a world
that is not a toy. Reads 'vector' (x, x', theta, theta').
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from reverie.core.model import WorldModel
from reverie.core.types import Box, Card, Discrete, Heads, Space

GRAVITY, CART, POLE, LENGTH = 9.8, 1.0, 0.1, 0.5  # LENGTH: half the pole's
FORCE, STEP = 10.0, 0.02
X_LIMIT, ANGLE_LIMIT = 2.4, 12 * 2 * math.pi / 360


class CartPoleState(NamedTuple):
    """State of `CartPole`."""

    vector: Tensor  # (B, 4) x, x', theta, theta'; metres, radians, seconds


class CartPole(WorldModel[CartPoleState]):
    """The cart, the pole, and Euler's method with steps of 0.02 s.

    Source:
        Barto, Sutton & Anderson 1983; the numbers are those of Gymnasium's CartPole-v1.
    """

    card = Card(
        name="cartpole",
        title="True model of CartPole-v1",
        family="oracle",
        state="cart and pole: places and speeds",
        z="none",
        objective="none: it is true",
        policy="none",
        couplings=("planning", "imagination"),
        heads=("reward", "cont", "decode", "embed", "features"),
        paper="Barto et al. 1983, doi:10.1109/TSMC.1983.6313077",
    )
    observations: ClassVar[dict[str, Space]] = {"vector": Box((4,), -math.inf, math.inf)}
    actions = Discrete(2)

    def encode(self, obs: dict[str, Tensor]) -> CartPoleState:
        """The state from obs['vector'] (B, 4)."""
        return CartPoleState(obs["vector"])

    def observe(
        self,
        state: CartPoleState | None,
        action: Tensor | None,
        h: CartPoleState,
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> CartPoleState:
        """The state that was seen. See `WorldModel.observe`."""
        del state, action, first, generator
        return h

    def predict(
        self,
        state: CartPoleState,
        action: Tensor | None,
        *,
        z: None = None,
        generator: torch.Generator | None = None,
    ) -> CartPoleState:
        """One step under a push to the left (0) or right (1); None pushes not at all."""
        del z, generator
        x, speed, angle, turning = state.vector.unbind(-1)
        force = torch.zeros_like(x) if action is None else FORCE * (2 * action.to(x.dtype) - 1)
        sin, cos, mass = angle.sin(), angle.cos(), CART + POLE
        push = (force + POLE * LENGTH * turning.square() * sin) / mass
        spin = (GRAVITY * sin - cos * push) / (LENGTH * (4 / 3 - POLE * cos.square() / mass))
        pull = push - POLE * LENGTH * spin * cos / mass
        after = (x + STEP * speed, speed + STEP * pull, angle + STEP * turning)
        return CartPoleState(torch.stack([*after, turning + STEP * spin], -1))

    @property
    def heads(self) -> Heads:
        """All but a policy and a value; a step earns 1, the last one too."""
        return Heads(
            owner=self.card.name,
            reward=lambda s, a, n: torch.ones_like(n.vector[:, 0]),
            cont=_stands,
            decode=lambda s: {"vector": s.vector},
            embed=lambda s: s.vector,
            features=lambda s: s.vector,
        )


def _stands(state: CartPoleState) -> Tensor:
    """1 where the cart is on the track and the pole upright, else 0."""
    x, angle = state.vector[:, 0].abs(), state.vector[:, 2].abs()
    return ((x <= X_LIMIT) & (angle <= ANGLE_LIMIT)).float()
