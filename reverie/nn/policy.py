"""Distributions over actions, as the raw outputs of an actor say them. Imports core and torch.

`OneOf` for Discrete actions; for a Box `Clipped` (a normal whose tails lie on the edges),
`Squashed` or `TanhNormal` (the tanh of a normal). All have `sample`, `mode`, `log_prob` and
`entropy`, and draw from a generator that is passed; a Box's samples carry gradients.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.types import Box, Discrete, Space

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
_WIDE = math.log(math.expm1(5.0))  # a raw standard deviation of 0 is 5
_EDGE = 1e-6  # a squashed action this near to the edge counts as this near


class Actions(Protocol):
    """A distribution over the actions of one space."""

    mode: Tensor  # (..., A) or (...,): the likeliest action, nearly

    def sample(
        self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """(*sample_shape, ..., A) float32 in [-1, 1], or (*sample_shape, ...) int64."""
        ...

    def log_prob(self, action: Tensor) -> Tensor:
        """(...,) log density or log probability of actions."""
        ...

    def entropy(self) -> Tensor:
        """(...,) nats; for a Box that of the normal behind it."""
        ...


class OneOf:
    """One of n actions, each with at least a small share.

    Args:
        raw: (..., n) logits.
        space: Discrete.
        unimix: share of the uniform distribution.
    """

    def __init__(self, raw: Tensor, space: Space, unimix: float = 0.01) -> None:
        del space
        share = raw.float().softmax(-1)
        self.probs = (1 - unimix) * share + unimix / raw.shape[-1]
        self.logits = self.probs.log()
        self.mode = self.logits.argmax(-1)

    @staticmethod
    def width(space: Discrete) -> int:
        """Raw numbers that an actor gives."""
        return space.n

    def sample(
        self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """See `Actions`."""
        shape = (*sample_shape, *self.probs.shape)
        uniform = torch.rand(shape, generator=generator, device=self.probs.device)
        return (self.probs / -uniform.log().clamp(max=-1e-20)).argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """See `Actions`."""
        return self.logits.gather(-1, action.unsqueeze(-1))[..., 0]

    def entropy(self) -> Tensor:
        """See `Actions`."""
        return -(self.probs * self.logits).sum(-1)


class _Normal:
    """What the two distributions over a Box share: a normal before the edges."""

    mean: Tensor  # (..., A) flat
    std: Tensor

    def __init__(self, space: Space) -> None:
        self._shape = space.shape if isinstance(space, Box) else ()

    @staticmethod
    def width(space: Box) -> int:
        """Raw numbers that an actor gives."""
        return 2 * math.prod(space.shape)

    def entropy(self) -> Tensor:
        """See `Actions`."""
        return (self.std.log() + _HALF_LOG_TAU + 0.5).sum(-1)

    def _drawn(self, sample_shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Before the edges, (*sample_shape, ..., A)."""
        shape = (*sample_shape, *self.mean.shape)
        noise = torch.randn(shape, generator=generator, device=self.mean.device)
        return self.mean + self.std * noise

    def _folded(self, flat: Tensor) -> Tensor:
        """(..., A) in the space's shape."""
        return flat.unflatten(-1, self._shape)

    def _flat(self, action: Tensor) -> Tensor:
        """(..., *shape) as (..., A)."""
        return action.flatten(action.dim() - len(self._shape))

    def _log_density(self, x: Tensor) -> Tensor:
        """(..., A) of x before the edges."""
        return -0.5 * ((x - self.mean) / self.std).square() - self.std.log() - _HALF_LOG_TAU


class Clipped(_Normal):
    """A normal clipped to [-1, 1]: what lies beyond an edge is an action at the edge.

    The mean is a tanh and the deviation between 0.1 and 1, as in DreamerV3. There the sample may
    leave the space and whoever takes it clips; here an action at an edge has the probability of
    all that is clipped to it, which leaves the policy gradient's mean and lowers its variance.

    Args:
        raw: (..., 2A).
        space: Box.

    Source: Hafner et al. 2023 ("bounded normal"); Fujita & Maeda 2018, eq. 7.
    """

    def __init__(self, raw: Tensor, space: Space) -> None:
        super().__init__(space)
        mean, std = raw.float().chunk(2, -1)
        self.mean, self.std = mean.tanh(), 0.1 + 0.9 * (std + 2).sigmoid()
        self.mode = self._folded(self.mean)

    def sample(
        self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """See `Actions`; gradients pass the edges."""
        drawn = self._drawn(sample_shape, generator)
        return self._folded(drawn + (drawn.clamp(-1, 1) - drawn).detach())

    def log_prob(self, action: Tensor) -> Tensor:
        """See `Actions`."""
        a = self._flat(action)
        low = torch.special.log_ndtr((-1 - self.mean) / self.std)
        high = torch.special.log_ndtr((self.mean - 1) / self.std)
        inside = self._log_density(a)
        return torch.where(a <= -1, low, torch.where(a >= 1, high, inside)).sum(-1)


class _Tanh(_Normal):
    """What the tanh of a normal is, whatever its mean and deviation come from."""

    def sample(
        self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """See `Actions`."""
        return self._folded(self._drawn(sample_shape, generator).tanh())

    def log_prob(self, action: Tensor) -> Tensor:
        """See `Actions`."""
        a = self._flat(action).clamp(_EDGE - 1, 1 - _EDGE)
        return (self._log_density(a.atanh()) - (1 - a.square()).log()).sum(-1)


class Squashed(_Tanh):
    """The tanh of a normal that begins wide, as in Dreamer.

    Args:
        raw: (..., 2A).
        space: Box.

    Source: Hafner et al. 2020, eq. 3 and reference code; the mode is the tanh of the mean.
    """

    def __init__(self, raw: Tensor, space: Space) -> None:
        super().__init__(space)
        mean, std = raw.float().chunk(2, -1)
        self.mean, self.std = 5 * (mean / 5).tanh(), F.softplus(std + _WIDE) + 1e-4
        self.mode = self._folded(self.mean.tanh())


class TanhNormal(_Tanh):
    """The tanh of a normal whose log deviation lies within bounds, as in SAC and TD-MPC2.

    Args:
        raw: (..., 2A).
        space: Box.
        bounds: of the log deviation; a raw number of 0 is the middle.

    Source: Haarnoja et al. 2018, appendix C; the bounds are passed through a tanh.
    """

    def __init__(
        self, raw: Tensor, space: Space, bounds: tuple[float, float] = (-10.0, 2.0)
    ) -> None:
        super().__init__(space)
        self.mean, log_std = raw.float().chunk(2, -1)
        low, high = bounds
        self.std = (low + (high - low) * (2 * log_std).sigmoid()).exp()
        self.mode = self._folded(self.mean.tanh())

    def drawn(self, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """An action (..., A) and its log density (...,), exact near the edges; both have gradients.

        Args:
            generator: of the draw.
        """
        x = self._drawn((), generator)
        log_slope = 2 * (math.log(2) - x - F.softplus(-2 * x))  # of the tanh
        return self._folded(x.tanh()), (self._log_density(x) - log_slope).sum(-1)
