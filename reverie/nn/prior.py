"""How the actions of a space enter networks, and how a policy learns to please a critic of them.

`Reals` for a Box, `Choices` for Discrete actions. Imports core and nn.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import SpaceMismatch
from reverie.core.types import Box, Discrete, Space
from reverie.nn.policy import OneOf, TanhNormal


class Reals:
    """Box actions: the policy is the tanh of a normal, and gradients pass through Q's action."""

    def __init__(self, space: Box) -> None:
        self.space, self.size = space, prod(space.shape)
        self.width = TanhNormal.width(space)

    def policy(self, raw: Tensor) -> TanhNormal:
        """The distribution that raw numbers (N, 2A) say."""
        return TanhNormal(raw, self.space)

    def numbers(self, action: Tensor) -> Tensor:
        """(..., A) of actions."""
        return action.flatten(action.dim() - len(self.space.shape))

    def worth(self, policy: TanhNormal, q: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """(N,) Q of an action that is drawn, and the entropy times A; q reads (N, A)."""
        action, log_prob = policy.drawn()
        return q(self.numbers(action)), -self.size * log_prob


class Choices:
    """Discrete actions, as one-hot: the expectation of Q is exact, and no gradient passes Q."""

    def __init__(self, space: Discrete) -> None:
        self.space, self.size, self.width = space, space.n, space.n

    def policy(self, raw: Tensor) -> OneOf:
        """The distribution that raw numbers (N, A) say."""
        return OneOf(raw, self.space)

    def numbers(self, action: Tensor) -> Tensor:
        """(..., A) of actions."""
        return F.one_hot(action, self.size).float()

    def worth(self, policy: OneOf, q: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """(N,) expected Q, and the entropy."""
        rows, device = len(policy.probs), policy.probs.device
        every = torch.eye(self.size, device=device)
        with torch.no_grad():
            found = [q(one.expand(rows, -1)) for one in every]
        return (policy.probs * torch.stack(found, -1)).sum(-1), policy.entropy()


def acted(owner: str, actions: Space | None) -> Reals | Choices:
    """How actions of the space enter.

    Args:
        owner: chooses them, for the message.
        actions: the space.

    Raises:
        SpaceMismatch: if there are none, or a tanh does not reach them.
    """
    if isinstance(actions, Discrete):
        return Choices(actions)
    if actions is None:
        raise SpaceMismatch(
            f"{owner} chooses actions, but the world has none. Choose a school that learns from "
            "video alone (see `reverie list`)."
        )
    if (actions.low, actions.high) != (-1.0, 1.0):
        raise SpaceMismatch(
            f"{owner} acts in [-1, 1], but the Box is {actions.low}..{actions.high}. "
            "Make the environment with reverie.envs.make, which scales it."
        )
    return Reals(actions)
