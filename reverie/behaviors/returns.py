"""Returns of sequences: lambda-returns, and how far a sequence is reached.

Pure functions on (B, H) tensors. Imports torch only.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_returns(reward: Tensor, goes_on: Tensor, value: Tensor, lam: float | Tensor) -> Tensor:
    """R[t] = r[t] + g[t] ((1 - lam) v[t] + lam R[t+1]), where R[H] = v[H-1].

    lam 0 gives one step and the value, lam 1 all rewards and the last value.

    Args:
        reward: (B, H) of transition t.
        goes_on: (B, H) discount times the probability that the episode goes on after it.
        value: (B, H) of the state that transition t leads to; it counts no reward up to there.
        lam: in [0, 1], or (B, H) one for each transition.

    Returns:
        (B, H) from the state before transition t.

    Source: Sutton & Barto 2018, section 12.1; Hafner et al. 2023, eq. 7.
    """
    mix = torch.as_tensor(lam, device=reward.device, dtype=reward.dtype).expand_as(reward)
    now = reward + goes_on * (1 - mix) * value
    decay = goes_on * mix
    after, found = value[:, -1], []
    for one, keep in zip(now.unbind(1)[::-1], decay.unbind(1)[::-1], strict=True):
        after = one + keep * after
        found.append(after)
    return torch.stack(found[::-1], 1)


def reached(start: Tensor, goes_on: Tensor) -> Tensor:
    """How much the state before each transition counts: (B, H).

    Args:
        start: (B,) 0 where an episode is over before the first transition, else 1.
        goes_on: (B, H) as in `lambda_returns`.
    """
    return torch.cat([start.unsqueeze(1), goes_on[:, :-1]], 1).cumprod(1)
