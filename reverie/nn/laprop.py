"""LaProp with adaptive gradient clipping, DreamerV3's optimizer. Imports torch only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_foreach: Any = torch  # its functions over lists of tensors have no types
_LEAST_NORM = 1e-3  # of a parameter, where it limits the gradient's


class LaProp(torch.optim.Optimizer):
    """Each gradient is first divided by its own size, and only then averaged over time.

    Adam averages raw gradients and divides by a size that lags behind; here a sudden large
    gradient is scaled before it enters the momentum.

    Args:
        params: to step.
        lr: learning rate.
        betas: of the momentum, and of the squared size.
        eps: added to the squared size.
        agc: each tensor's gradient norm is at most so many times the tensor's own norm; None:
            not clipped.

    Source: Ziyin et al. 2020, algorithm 1; Brock et al. 2021, eq. 3, with whole tensors as units.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 4e-5,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        agc: float | None = 0.3,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "agc": agc, "step": 0}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step every parameter that has a gradient.

        Args:
            closure: not used.
        """
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                group["step"] += 1
                self._step(group, params)

    def _step(self, group: dict[str, Any], params: list[nn.Parameter]) -> None:
        """One group's step, all its tensors together."""
        for p in params:
            if not self.state[p]:
                self.state[p] = {"size": torch.zeros_like(p), "momentum": torch.zeros_like(p)}
        size = [self.state[p]["size"] for p in params]
        momentum = [self.state[p]["momentum"] for p in params]
        grads: list[Tensor] = [p.grad for p in params if p.grad is not None]
        if group["agc"] is not None:
            grads = _clipped(grads, params, group["agc"])
        step, (beta1, beta2) = group["step"], group["betas"]
        _foreach._foreach_mul_(size, beta2)
        _foreach._foreach_addcmul_(size, grads, grads, 1 - beta2)
        scale = _foreach._foreach_div(size, 1 - beta2**step)
        _foreach._foreach_add_(scale, group["eps"])
        _foreach._foreach_sqrt_(scale)
        _foreach._foreach_lerp_(momentum, _foreach._foreach_div(grads, scale), 1 - beta1)
        _foreach._foreach_add_(params, momentum, alpha=-group["lr"] / (1 - beta1**step))


def _clipped(grads: list[Tensor], params: list[nn.Parameter], limit: float) -> list[Tensor]:
    """Gradients whose norms are at most so many times their parameters'."""
    own = torch.stack(_foreach._foreach_norm(params)).clamp(min=_LEAST_NORM)
    found = torch.stack(_foreach._foreach_norm(grads)).clamp(min=1e-30)
    factors = (limit * own / found).clamp(max=1.0)
    return list(_foreach._foreach_mul(grads, list(factors.unbind())))
