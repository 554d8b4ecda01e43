"""One mixture of Gaussians per dimension: its likelihood and its draws. Imports torch only.

Parameters come as one tensor (..., 3, K, D): mixture logits, means, log standard deviations of K
components in D dimensions. K lies before D so that every reduction runs over whole rows.
"""

from __future__ import annotations

import math

from torch import Tensor

LEAST_LOG_STD = -5.0  # of a component: a density must not run away


def mixture_nll(raw: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood under one mixture of Gaussians per dimension.

    Args:
        raw: (..., 3, K, D) mixture logits, means, log standard deviations.
        target: (..., D).

    Returns:
        (..., D) nats.

    Source: Ha & Schmidhuber 2018, appendix A.2; Bishop 1994.
    """
    logit, mean, log_std = raw.unbind(-3)
    log_std = log_std.clamp(min=LEAST_LOG_STD)
    scaled = (target.unsqueeze(-2) - mean) * (-log_std).exp()
    log_normal = -0.5 * (scaled * scaled) - log_std - 0.5 * math.log(2 * math.pi)
    return -((logit + log_normal).logsumexp(-2) - logit.logsumexp(-2))


def mixture_sample(raw: Tensor, z: tuple[Tensor, Tensor], temperature: float) -> Tensor:
    """Draw from one mixture of Gaussians per dimension at a temperature.

    Args:
        raw: (B, 3, K, D) mixture logits, means, log standard deviations.
        z: uniform in [0, 1) and standard normal, (B, D) each: the randomness itself.
        temperature: divides the logits; the noise is multiplied by its square root.

    Returns:
        (B, D).

    Source: Ha & Schmidhuber 2018, section 4.1 and appendix A.2.
    """
    uniform, normal = z
    logit = raw[:, 0]
    weight = ((logit - logit.amax(1, keepdim=True)) / temperature).exp()
    edges = weight.cumsum(1)
    component = (edges[:, :-1] <= (uniform * edges[:, -1])[:, None]).sum(1, keepdim=True)
    mean = raw[:, 1].gather(1, component)[:, 0]
    log_std = raw[:, 2].gather(1, component)[:, 0].clamp(min=LEAST_LOG_STD)
    return mean + log_std.exp() * normal * math.sqrt(temperature)
