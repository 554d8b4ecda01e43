"""Layer norm with Mish, and SimNorm: each as one pass over memory where a CPU computes them.

On a CPU torch's Mish costs ten times its SiLU, and a softmax over a last axis of eight more than
the matrix product before it. Here both are compiled loops that LLVM turns into vector code, with
their backward passes. Elsewhere the same is composed of torch's own functions. Imports torch.

All compiled code is in this one file, because numba's cache looks for changes in the file of the
function that is called only. Letters: N rows, W width, M members of an ensemble.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_EPS = np.float32(1e-5)  # of the layer norm
_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_LEAST, _MOST = np.float32(-30), np.float32(30)  # beyond them Mish is 0 and x
_LOG2_E = np.float32(math.log2(math.e))
_T = tuple(np.float32(math.log(2) ** n / math.factorial(n)) for n in range(1, 7))  # of 2^f
_FAR = np.float32(-80)  # this far below its neighbours a number counts for nothing
_USUAL = 8  # numbers of a simplex
_SHIFT, _BIAS = np.int32(23), np.int32(127)  # of the exponent in a float32
# Sums may be reordered, which lets them be vectorised; NaN and infinity keep their meaning.
_FAST = {"contract", "reassoc", "arcp", "nsz"}


def norm_mish(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Mish of the layer norm over the last axis, in float32.

    Args:
        x: (N, W), or (M, N, W) for members with parameters of their own.
        gain: (M, W) that the normed rows are multiplied by; M is 1 for (N, W).
        bias: (M, W) that is added then.

    Returns:
        The shape of x, float32.

    Source: Ba et al. 2016, eq. 4; Misra 2020, x tanh(softplus(x)).
    """
    if x.device.type == "cpu":
        if torch.is_grad_enabled():
            return _NormMish.apply(x.float(), gain, bias)  # type: ignore[return-value]
        return _computed(x.float().contiguous(), gain, bias)[0]  # a third of the time, if small
    normed = F.layer_norm(x.float(), x.shape[-1:], eps=float(_EPS))
    wide = (gain, bias) if x.dim() == 2 else (gain[:, None], bias[:, None])
    return F.mish(normed * wide[0] + wide[1])


def simplex(x: Tensor, size: int) -> Tensor:
    """SimNorm: a softmax over each `size` neighbours, in float32.

    Args:
        x: (..., W), W a multiple of size.
        size: numbers that sum to 1 together.

    Returns:
        The shape of x, float32.

    Source: Hansen et al. 2024, eq. 5.
    """
    if x.device.type == "cpu":
        return _Simplex.apply(x.float(), size)  # type: ignore[return-value]
    return x.float().unflatten(-1, (-1, size)).softmax(-1).flatten(-2)


class _NormMish(torch.autograd.Function):
    """See `norm_mish`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        x = x.detach().contiguous()
        y, stats = _computed(x, gain, bias)
        ctx.save_for_backward(x, gain, bias, stats)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        x, gain, bias, stats = ctx.saved_tensors
        dx, layer, learns = torch.empty_like(x), (_rows(gain), _rows(bias)), ctx.needs_input_grad[1]
        own = x.new_zeros(2, len(gain) if learns else 0, x.shape[-1])
        rows = _rows(x), layer, _rows(stats), _rows(grad.contiguous()), _rows(dx)
        _norm_mish_back(rows, own.numpy())
        return (dx, *own.unbind()) if learns else (dx, None, None)  # type: ignore[return-value]


class _Simplex(torch.autograd.Function):
    """See `simplex`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> Tensor:
        x = x.detach().contiguous()
        y = torch.empty_like(x)
        _softmaxes(_rows(x), size, _rows(y))
        ctx.save_for_backward(y)
        ctx.size = size
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        dx = torch.empty_like(y)
        _softmaxes_back(_rows(y), ctx.size, _rows(grad.contiguous()), _rows(dx))
        return dx, None


def _computed(x: Tensor, gain: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """See `norm_mish`, and the mean and reciprocal deviation (N, 2) of each row."""
    y, stats = torch.empty_like(x), x.new_empty(x.numel() // x.shape[-1], 2)
    _norm_mish(_rows(x), _rows(gain), _rows(bias), _rows(stats), _rows(y))
    return y, stats


def _rows(x: Tensor) -> np.ndarray:
    """The same memory as (rows, W)."""
    x = x.detach()
    return x.numpy() if x.dim() == 2 else x.view(-1, x.shape[-1]).numpy()


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _norm_mish(
    x: np.ndarray, gain: np.ndarray, bias: np.ndarray, stats: np.ndarray, y: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Rows (N, W) to y; their means and reciprocal deviations to stats (N, 2)."""
    rows, width = x.shape
    per = rows // len(gain)
    bits = np.empty(width, np.int32)
    power = bits.view(np.float32)
    for i in range(rows):
        k = i // per
        total, square = _ZERO, _ZERO
        for j in range(width):
            total += x[i, j]
        mean = total / np.float32(width)
        for j in range(width):
            square += (x[i, j] - mean) * (x[i, j] - mean)
        scale = _ONE / np.sqrt(square / np.float32(width) + _EPS)
        stats[i, 0], stats[i, 1] = mean, scale
        for j in range(width):
            v = (x[i, j] - mean) * scale * gain[k, j] + bias[k, j]
            t = min(max(v, _LEAST), _MOST) * _LOG2_E
            n = np.floor(t + _HALF)
            bits[j] = (np.int32(n) + _BIAS) << _SHIFT
            e = _ONE + _power_of_two(t - n) * power[j]
            y[i, j] = v - _TWO * v / (e * e + _ONE)


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _norm_mish_back(given: Any, own: np.ndarray) -> None:  # pragma: no cover - compiled
    """Gradients of rows to dx; those of gain and bias are added to own (2, M, W), if M > 0.

    `given` is (x, (gain, bias), stats, gradient of y, dx).
    """
    x, (gain, bias), stats, grad, dx = given
    rows, width = x.shape
    per = rows // len(gain)
    bits = np.empty(width, np.int32)
    power = bits.view(np.float32)
    normed, slope = np.empty(width, np.float32), np.empty(width, np.float32)
    for i in range(rows):
        k = i // per
        mean, scale = stats[i, 0], stats[i, 1]
        first, second = _ZERO, _ZERO
        for j in range(width):
            normed[j] = (x[i, j] - mean) * scale
            v = normed[j] * gain[k, j] + bias[k, j]
            t = min(max(v, _LEAST), _MOST) * _LOG2_E
            n = np.floor(t + _HALF)
            bits[j] = (np.int32(n) + _BIAS) << _SHIFT
            e = _power_of_two(t - n) * power[j]
            u = _TWO / ((_ONE + e) * (_ONE + e) + _ONE)  # 1 - tanh(softplus(v))
            slope[j] = grad[i, j] * (_ONE - u + v * u * (_TWO - u) * e / (_ONE + e))
        if own.shape[1]:
            for j in range(width):
                own[0, k, j] += slope[j] * normed[j]
                own[1, k, j] += slope[j]
        for j in range(width):
            slope[j] *= gain[k, j]
            first += slope[j]
            second += slope[j] * normed[j]
        first, second = first / np.float32(width), second / np.float32(width)
        for j in range(width):
            dx[i, j] = scale * (slope[j] - first - normed[j] * second)


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _softmaxes(x: np.ndarray, size: int, y: np.ndarray) -> None:  # pragma: no cover - compiled
    """Each `size` neighbours of the rows (N, W) as shares of 1, to y."""
    if size == _USUAL:
        _softmaxes_of(x, _USUAL, y)
    else:
        _softmaxes_of(x, size, y)


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _softmaxes_back(
    y: np.ndarray, size: int, grad: np.ndarray, dx: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Gradients of rows to dx, from the shares y."""
    if size == _USUAL:
        _softmaxes_back_of(y, _USUAL, grad, dx)
    else:
        _softmaxes_back_of(y, size, grad, dx)


@numba.njit(inline="always")
def _softmaxes_of(x: np.ndarray, size: int, y: np.ndarray) -> None:  # pragma: no cover - compiled
    """See `_softmaxes`; a size that is known when this is compiled needs no loop."""
    rows, width = x.shape
    bits, high = np.empty(width, np.int32), np.empty(width, np.float32)
    power = bits.view(np.float32)
    for i in range(rows):
        for g in range(0, width, size):
            most = x[i, g]
            for j in range(1, size):
                most = max(most, x[i, g + j])
            for j in range(size):
                high[g + j] = most
        for j in range(width):
            t = max(x[i, j] - high[j], _FAR) * _LOG2_E
            n = np.floor(t + _HALF)
            bits[j] = (np.int32(n) + _BIAS) << _SHIFT
            y[i, j] = _power_of_two(t - n) * power[j]
        for g in range(0, width, size):
            total = _ZERO
            for j in range(size):
                total += y[i, g + j]
            share = _ONE / total
            for j in range(size):
                y[i, g + j] *= share


@numba.njit(inline="always")
def _softmaxes_back_of(
    y: np.ndarray, size: int, grad: np.ndarray, dx: np.ndarray
) -> None:  # pragma: no cover - compiled
    """See `_softmaxes_back`."""
    rows, width = y.shape
    for i in range(rows):
        for g in range(0, width, size):
            total = _ZERO
            for j in range(size):
                total += grad[i, g + j] * y[i, g + j]
            for j in range(size):
                dx[i, g + j] = y[i, g + j] * (grad[i, g + j] - total)


@numba.njit(inline="always")
def _power_of_two(f: Any) -> Any:  # pragma: no cover - compiled
    """2^f for f in [-1/2, 1/2], to seven digits."""
    return _ONE + f * (_T[0] + f * (_T[1] + f * (_T[2] + f * (_T[3] + f * (_T[4] + f * _T[5])))))
