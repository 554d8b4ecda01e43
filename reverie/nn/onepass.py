"""RMS norm over few channels and SiLU, as one pass over memory where a CPU computes them.

After each convolution of a picture every pixel is normalised over 8 to 16 channels, and narrow
layers normalise 64 for thousands of dreamed moments. Torch does that in a dozen passes over it
all, forward and backward, which cost as much as the convolutions do. Here it is one compiled loop
each way; elsewhere, for many channels or few rows, it is composed of torch's own functions.
Imports torch and numba.

All compiled code is in this one file, because numba's cache looks for changes in the file of the
function that is called only. Letters: N rows, C channels.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_EPS = 1e-4  # of the norm
_MOST = 64  # channels; a row of more is long enough for torch
_LEAST = 256  # rows; fewer are done before a compiled function is called
_ROWS = 64  # that are worked on while they are in the cache
_LOG2_E = np.float32(math.log2(math.e))
_T = tuple(np.float32(math.log(2) ** n / math.factorial(n)) for n in range(1, 7))  # of 2^f
_ONE, _HALF, _FAR = np.float32(1), np.float32(0.5), np.float32(80)
_LITTLE = np.float32(_EPS)
_SHIFT, _BIAS = np.int32(23), np.int32(127)  # of the exponent in a float32
# Sums may be reordered, which lets them be vectorised; NaN and infinity keep their meaning.
_FAST = {"contract", "reassoc", "arcp", "nsz"}


def rms_silu(x: Tensor, gain: Tensor) -> Tensor:
    """SiLU of the RMS norm over the last axis, in float32.

    Args:
        x: (..., C).
        gain: (C,) that the normed rows are multiplied by.

    Returns:
        The shape of x, float32.

    Source: Zhang & Sennrich 2019, eq. 4; Hendrycks & Gimpel 2016.
    """
    width = x.shape[-1]
    if x.device.type == "cpu" and width <= _MOST and x.numel() >= _LEAST * width:
        return _RmsSilu.apply(x.float(), gain)  # type: ignore[return-value]
    return F.silu(F.rms_norm(x.float(), gain.shape, gain, _EPS))


class _RmsSilu(torch.autograd.Function):
    """See `rms_silu`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        _forward(_rows(x), gain.detach().numpy(), _rows(y))
        ctx.save_for_backward(x, gain)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, gain = ctx.saved_tensors
        dx, own = torch.empty_like(x), np.zeros(len(gain), np.float64)
        _backward(_rows(x), gain.detach().numpy(), _rows(grad.contiguous()), _rows(dx), own)
        return dx, torch.from_numpy(own).to(gain.dtype)


def _rows(x: Tensor) -> np.ndarray:
    """The same memory as (N, C)."""
    return x.detach().view(-1, x.shape[-1]).numpy()


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _forward(x: np.ndarray, gain: np.ndarray, y: np.ndarray) -> None:  # pragma: no cover
    """Rows (N, C) to y."""
    width = x.shape[1]
    if width == 8:
        _forward_of(x, gain, 8, y)
    elif width == 12:
        _forward_of(x, gain, 12, y)
    elif width == 16:
        _forward_of(x, gain, 16, y)
    else:
        _forward_of(x, gain, width, y)


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _backward(
    x: np.ndarray, gain: np.ndarray, grad: np.ndarray, dx: np.ndarray, own: np.ndarray
) -> None:  # pragma: no cover
    """Gradients of rows to dx; that of the gain is added to own."""
    width = x.shape[1]
    if width == 8:
        _backward_of(x, gain, grad, 8, dx, own)
    elif width == 12:
        _backward_of(x, gain, grad, 12, dx, own)
    elif width == 16:
        _backward_of(x, gain, grad, 16, dx, own)
    else:
        _backward_of(x, gain, grad, width, dx, own)


@numba.njit(inline="always")
def _forward_of(
    x: np.ndarray, gain: np.ndarray, width: int, y: np.ndarray
) -> None:  # pragma: no cover
    """See `_forward`; a width that is known when this is compiled needs no loop."""
    many, scale = _repeated(gain, width), np.empty(_ROWS, np.float32)
    normed, share = np.empty(_ROWS * width, np.float32), np.empty(_ROWS * width, np.float32)
    bits = np.empty(_ROWS * width, np.int32)
    for start in range(0, x.shape[0], _ROWS):
        rows = min(_ROWS, x.shape[0] - start)
        _norm(x[start : start + rows], width, scale, normed)
        _sigmoids(normed, many, bits, rows * width, share)
        to = y[start : start + rows].reshape(-1)
        for k in range(rows * width):
            to[k] = normed[k] * many[k] * share[k]


@numba.njit(inline="always")
def _backward_of(
    x: np.ndarray, gain: np.ndarray, grad: np.ndarray, width: int, dx: np.ndarray, own: np.ndarray
) -> None:  # pragma: no cover
    """See `_backward`."""
    many, scale = _repeated(gain, width), np.empty(_ROWS, np.float32)
    normed, share = np.empty(_ROWS * width, np.float32), np.empty(_ROWS * width, np.float32)
    bits, total = np.empty(_ROWS * width, np.int32), np.zeros(_ROWS * width, np.float64)
    for start in range(0, x.shape[0], _ROWS):
        rows = min(_ROWS, x.shape[0] - start)
        _norm(x[start : start + rows], width, scale, normed)
        _sigmoids(normed, many, bits, rows * width, share)
        given = grad[start : start + rows].reshape(-1)
        for k in range(rows * width):
            s = share[k]
            slope = given[k] * s * (_ONE + normed[k] * many[k] * (_ONE - s))
            total[k] += slope * normed[k]
            share[k] = slope * many[k]
        to = dx[start : start + rows]
        for r in range(rows):
            dot = np.float32(0)
            for j in range(width):
                dot += share[r * width + j] * normed[r * width + j]
            dot /= np.float32(width)
            for j in range(width):
                k = r * width + j
                to[r, j] = (share[k] - normed[k] * dot) * scale[r]
    for k in range(_ROWS * width):
        own[k % width] += total[k]


@numba.njit(inline="always")
def _repeated(gain: np.ndarray, width: int) -> np.ndarray:  # pragma: no cover
    """The gain once for each of some rows, flat."""
    many = np.empty(_ROWS * width, np.float32)
    for k in range(_ROWS * width):
        many[k] = gain[k % width]
    return many


@numba.njit(inline="always")
def _norm(
    x: np.ndarray, width: int, scale: np.ndarray, normed: np.ndarray
) -> None:  # pragma: no cover
    """The scales of some rows, and the rows normed, flat."""
    for r in range(x.shape[0]):
        square = np.float32(0)
        for j in range(width):
            square += x[r, j] * x[r, j]
        scale[r] = _ONE / np.sqrt(square / np.float32(width) + _LITTLE)
    for r in range(x.shape[0]):
        for j in range(width):
            normed[r * width + j] = x[r, j] * scale[r]


@numba.njit(inline="always")
def _sigmoids(
    normed: np.ndarray, many: np.ndarray, bits: np.ndarray, count: int, to: np.ndarray
) -> None:  # pragma: no cover
    """Sigmoids of so many products; bits is room for as many."""
    power = bits.view(np.float32)
    for k in range(count):
        t = min(max(-normed[k] * many[k], -_FAR), _FAR) * _LOG2_E
        n = np.floor(t + _HALF)
        bits[k] = (np.int32(n) + _BIAS) << _SHIFT
        f = t - n
        e = _T[2] + f * (_T[3] + f * (_T[4] + f * _T[5]))
        to[k] = _ONE / (_ONE + (_ONE + f * (_T[0] + f * (_T[1] + f * e))) * power[k])
