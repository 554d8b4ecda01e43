"""What keeps a learned representation from collapsing: terms that any JEPA adds to its loss.

A model that predicts its own embeddings can always win by making them all equal. Each `Term` here
is an object with a weight that looks at `Seen` (embeddings, and what was done between them) and
gives one number; a school is a tuple of them. `EMATarget` is the other way out: predict a slow
copy. `alarms` says in three numbers whether an encoder has collapsed. Imports torch only.

Axes: B segments, L moments of each, D dimensions, A numbers that say what was done between two
moments.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STD_ALARM = 0.05  # mean deviation of a dimension below which an encoder says nothing
RANK_ALARM = 0.1  # effective rank, as a share of D, below which it says one thing
MOTION_ALARM = 0.003  # share of the variance in steps below which it ignores what moves


class Seen(NamedTuple):
    """What the terms of a loss look at."""

    z: Tensor  # (B, L, D) embeddings of L moments
    action: Tensor  # (B, L-1, A) what was done between two moments
    valid: Tensor  # (B, L-1) bool: both moments lie in one episode


class Term(nn.Module, abc.ABC):
    """One weighed addend of a loss.

    Args:
        weight: of its value in the total.
    """

    name: ClassVar[str]  # in the metrics

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    @abc.abstractmethod
    def forward(self, seen: Seen) -> Tensor:
        """() its value, unweighted.

        Args:
            seen: see `Seen`.
        """


class SIGReg(Term):
    """Every moment's embeddings must look like draws from a standard normal, along any line.

    Random directions are drawn anew at every call. Each moment is tested by itself over the batch,
    never time and batch together: that would make the moments of one segment repel each other.

    Args:
        weight: of the statistic, which grows with B where it is violated.
        slices: random directions.

    Source:
        Balestriero & LeCun 2025, arXiv:2511.08544; Maes et al. 2026, arXiv:2603.19312, section 3.1.
    """

    name = "sigreg"

    def __init__(self, weight: float, *, slices: int = 256) -> None:
        super().__init__(weight)
        self._slices = slices

    def forward(self, seen: Seen) -> Tensor:
        """See `Term`."""
        z = seen.z
        directions = torch.randn(z.shape[-1], self._slices, device=z.device)
        return epps_pulley(z.transpose(0, 1), F.normalize(directions, dim=0)).mean()


def epps_pulley(z: Tensor, directions: Tensor) -> Tensor:
    """How far samples are from a standard normal along each direction.

    N times the weighed squared distance between the empirical and the normal characteristic
    function. Location and scale are part of the test. Normal samples give about 1.05 at any N, all
    equal to zero 0.402 N.

    Args:
        z: (..., N, D) samples.
        directions: (D, M) of length 1.

    Returns:
        (..., M) float32.

    Source:
        Epps & Pulley 1983; quadrature (17 knots on [0, 3], trapezoid) as Balestriero & LeCun 2025.
    """
    with torch.autocast(z.device.type, enabled=False):
        line = z.float() @ directions.float()  # (..., N, M)
    total = torch.zeros_like(line[..., 0, :])
    knots, step = 17, 3 / 16
    for k in range(knots):
        t = k * step
        normal = math.exp(-t * t / 2)
        weight = (
            step * normal * (1 if k in (0, knots - 1) else 2)
        )  # both halves of an even function
        angle = t * line
        real, imaginary = angle.cos().mean(-2), angle.sin().mean(-2)
        total = total + weight * ((real - normal).square() + imaginary.square())
    return total * z.shape[-2]


class Variance(Term):
    """Every dimension must vary over the batch: a hinge on its deviation at 1.

    Source:
        Bardes et al. 2022, arXiv:2105.04906, equation 1.
    """

    name = "variance"

    def forward(self, seen: Seen) -> Tensor:
        """See `Term`."""
        return F.relu(1 - (seen.z.float().var(0) + 1e-4).sqrt()).mean()


class Covariance(Term):
    """No two dimensions may say the same: the mean squared covariance of different ones.

    Source:
        Bardes et al. 2022, arXiv:2105.04906, equation 3, divided by D (D - 1) as in PLDM
        (Sobal et al. 2025, arXiv:2502.14819).
    """

    name = "covariance"

    def forward(self, seen: Seen) -> Tensor:
        """See `Term`."""
        centred = (seen.z - seen.z.mean(0)).transpose(0, 1).float()  # (L, B, D)
        size = centred.shape[-1]
        covariance = centred.transpose(1, 2) @ centred / (centred.shape[1] - 1)
        diagonal = covariance.diagonal(dim1=1, dim2=2)
        squares = covariance.square().sum((1, 2)) - diagonal.square().sum(1)
        return (squares / (size * (size - 1))).mean()


class TemporalSimilarity(Term):
    """Moments that follow each other must lie close: distances become nearly those of the walk.

    Source:
        Sobal et al. 2025, arXiv:2502.14819, equation 5.
    """

    name = "temporal_similarity"

    def forward(self, seen: Seen) -> Tensor:
        """See `Term`."""
        step = seen.z.float().diff(dim=1).square().mean(-1)
        return masked_mean(step, seen.valid)


class InverseDynamics(Term):
    """What was done must be readable from the two moments around it.

    It keeps an encoder from resting on what never moves.

    Args:
        weight: of the squared error.
        latent: D.
        action: A.
        hidden: width of the reader.

    Source:
        Sobal et al. 2025, arXiv:2502.14819, equation 6.
    """

    name = "inverse_dynamics"

    def __init__(self, weight: float, *, latent: int, action: int, hidden: int = 128) -> None:
        super().__init__(weight)
        self.read = nn.Sequential(
            nn.Linear(2 * latent, hidden), nn.ReLU(), nn.Linear(hidden, action)
        )

    def forward(self, seen: Seen) -> Tensor:
        """See `Term`."""
        guess = self.read(torch.cat([seen.z[:, :-1], seen.z[:, 1:]], -1))
        return masked_mean((guess - seen.action).float().square().mean(-1), seen.valid)


class EMATarget(nn.Module):
    """A slow copy of a module, to be predicted in place of the module itself. It never learns.

    Args:
        module: is copied.
        momentum: share of the copy that stays at each `update`; 0: it follows at once. It may be
            set between updates, to a number or a tensor ().

    Source:
        Grill et al. 2020, arXiv:2006.07733.
    """

    def __init__(self, module: nn.Module, *, momentum: float = 0.99) -> None:
        super().__init__()
        self.copy = deepcopy(module).requires_grad_(requires_grad=False)
        self.momentum: float | Tensor = momentum

    @torch.no_grad()
    def forward(self, *args: Any, **more: Any) -> Any:
        """What the copy gives, without gradient."""
        return self.copy(*args, **more)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Follow the module; buffers are taken over as they are.

        Args:
            module: as the one that was copied, a step later.
        """
        for slow, fast in zip(self.copy.parameters(), module.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.momentum)
        for slow, fast in zip(self.copy.buffers(), module.buffers(), strict=True):
            slow.copy_(fast)


@torch.no_grad()
def alarms(seen: Seen) -> dict[str, Tensor]:
    """Three signs of collapse; each alone can look healthy.

    The deviation is blind to copies of one dimension, the rank to scale, and both to an encoder
    that tells the episodes apart and ignores all that moves in them.

    Args:
        seen: see `Seen`; its actions are not looked at.

    Returns:
        () each: `std`, the mean deviation of a dimension; `rank`, the effective rank of the
        covariance, (sum of eigenvalues)^2 / sum of their squares, in 1..D; `motion`, half the mean
        squared step from moment to moment as a share of the variance: 1 for moments that know
        nothing of each other, 0 where nothing moves.

    Source:
        Effective rank as the participation ratio, Gao et al. 2017, doi:10.1101/214262; motion as
        von Neumann's ratio, 1941.
    """
    flat = seen.z.float().flatten(0, 1)
    centred = flat - flat.mean(0)
    covariance = centred.T @ centred / len(flat)
    total = covariance.trace()
    step = masked_mean(seen.z.float().diff(dim=1).square().sum(-1), seen.valid)
    tiny = torch.finfo(torch.float32).tiny
    return {
        "std": covariance.diagonal().sqrt().mean(),
        "rank": total.square() / covariance.square().sum().clamp(min=tiny),
        "motion": step / (2 * total).clamp(min=tiny),
    }


def ringing(values: Mapping[str, float], latent: int) -> tuple[str, ...]:
    """The alarms that ring.

    Args:
        values: what `alarms` gave, or means of it over updates.
        latent: D.

    Returns:
        Their names: any of "std", "rank", "motion".
    """
    least = {"std": STD_ALARM, "rank": RANK_ALARM * latent, "motion": MOTION_ALARM}
    return tuple(name for name, value in least.items() if values[name] < value)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x where the mask holds; 0 if nowhere.

    Args:
        x: of any shape.
        mask: bool, of the same shape.
    """
    return (x * mask).sum() / mask.sum().clamp(min=1)
