"""A Gaussian's likelihood under softly bounded variances, with its gradients, in one pass.

Torch needs some sixty small functions for it, forward and backward, and they take as long as the
products of a small ensemble. For CPUs; imports numba and torch.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

_FAR = 30.0  # beyond it a softplus is its argument, or its exponential


def soft_nll(
    raw: Tensor, target: Tensor, lower: Tensor, upper: Tensor, least: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Twice the negative log-likelihood without its constant, and what it pulls at.

    The variance's logarithm v is bounded on both sides: v becomes upper - softplus(upper - v),
    that becomes lower + softplus(v - lower), and lower is at least `least`.

    Args:
        raw: (E, N, 2 O) means, then log-variances, contiguous float32 on a CPU.
        target: (E, N, O).
        lower: (O,).
        upper: (O,).
        least: that lower counts for, if it is less.

    Returns:
        The mean over N and O for each member (E,), and the gradients of their sum by raw, lower
        and upper.

    Source: Chua et al. 2018, appendix A.1.
    """
    nll, pull = torch.empty(len(raw)), torch.empty_like(raw)
    ends = torch.zeros(2, len(lower))
    given = raw.detach().numpy(), target.detach().numpy()
    bounds = lower.detach().numpy(), upper.detach().numpy()
    _soft_nll(given, bounds, least, nll.numpy(), pull.numpy(), ends.numpy())
    return nll, pull, ends[0], ends[1]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _soft_nll(
    given: Any, bounds: Any, least: float, nll: np.ndarray, pull: np.ndarray, ends: np.ndarray
) -> None:  # pragma: no cover - compiled
    """See `soft_nll`; given is raw and target, bounds are lower and upper."""
    (raw, target), (lower, upper) = given, bounds
    members, rows, size = target.shape
    share = 1.0 / (rows * size)
    for e in range(members):
        total = 0.0
        for n in range(rows):
            for o in range(size):
                low = max(lower[o], least)
                above, over = _softplus(upper[o] - raw[e, n, size + o])
                v = upper[o] - above
                above, under = _softplus(v - low)
                v = low + above
                off, weight = raw[e, n, o] - target[e, n, o], math.exp(-v)
                total += off * off * weight + v
                by_v = (1.0 - off * off * weight) * share
                pull[e, n, o] = 2.0 * off * weight * share
                pull[e, n, size + o] = by_v * under * over
                ends[1, o] += by_v * under * (1.0 - over)
                if lower[o] >= least:
                    ends[0, o] += by_v * (1.0 - under)
        nll[e] = total * share


@numba.njit(inline="always")
def _softplus(x: float) -> tuple[float, float]:  # pragma: no cover - compiled
    """And its slope."""
    if x > _FAR:
        return x, 1.0
    e = math.exp(x)
    return math.log1p(e), e / (1.0 + e)
