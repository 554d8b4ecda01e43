"""Parameters and gradients side by side in memory, so that an optimizer steps one tensor.

Imports torch only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def side_by_side(params: Sequence[nn.Parameter]) -> nn.Parameter:
    """Move parameters into one, which holds them and their gradients.

    The parameters stay what they were, as views of it. Gradients are written in place from then
    on (`grad.zero_()`, never None), or the one would not see them.

    Args:
        params: on one device, of one dtype.

    Returns:
        The one, with a gradient of zeros.
    """
    every = torch.cat([p.detach().flatten() for p in params])
    flat, at = nn.Parameter(every), 0
    flat.grad = torch.zeros_like(every)
    for p in params:
        part = slice(at, at + p.numel())
        p.data, p.grad = every[part].view_as(p), flat.grad[part].view_as(p)
        at = part.stop
    return flat
