"""RMS norm with SiLU, a picture's error and a GRU's gates: one pass over memory each, on a CPU.

After each convolution of a picture every pixel is normalised over 8 to 16 channels, and narrow
layers normalise 64 for thousands of dreamed moments. A batch of pictures is some ten megabytes,
and each of torch's passes over it, forward and backward, fetches and clears as much fresh memory.
Together they cost as much as the convolutions do. Here each is one compiled loop each way;
elsewhere it is composed of torch's own functions. Imports torch and numba.

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
_HALF, _ONE, _TWO, _FAR = np.float32(0.5), np.float32(1), np.float32(2), np.float32(80)
_PIXEL = np.float32(1 / 255)
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


def picture_error(raw: Tensor, image: Tensor, *, sigmoid: bool) -> Tensor:
    """Squared error of decoded pictures, summed over channels and pixels.

    Args:
        raw: (N, C, H, W) what a decoder gives.
        image: (N, C, H, W) uint8 that it should have been.
        sigmoid: whether raw numbers pass a sigmoid; else they are 0.5 off.

    Returns:
        (N,) float32, of pictures in [0, 1].
    """
    raw = raw.float()
    if raw.device.type == "cpu":
        return _PictureError.apply(raw, image, sigmoid)  # type: ignore[return-value]
    error = (raw.sigmoid() if sigmoid else raw + 0.5) - image.float() / 255
    return error.square().sum((1, 2, 3))


def gated(gates: Tensor, memory: Tensor, blocks: int = 1) -> Tensor:
    """A GRU's memory, moved towards its candidate; it keeps by default.

    Args:
        gates: (N, 3 M) pre-activations: in each block reset, candidate, update.
        memory: (N, M).
        blocks: that M is divided into.

    Returns:
        (N, M) float32, under autocast too.

    Source: Hafner et al. 2021, reference code: the reset gate multiplies the candidate's
    pre-activation, the update gate's bias is -1.
    """
    gates, memory = gates.float(), memory.float()
    if gates.device.type == "cpu":
        if torch.is_grad_enabled():
            return _Gated.apply(gates, memory, blocks)  # type: ignore[return-value]
        return _moved(gates, memory, blocks)
    reset, fresh, update = gates.unflatten(-1, (blocks, 3, -1)).unbind(-2)
    candidate = (reset.sigmoid() * fresh).tanh().flatten(1)
    return memory + (update.flatten(1) - 1).sigmoid() * (candidate - memory)


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


class _PictureError(torch.autograd.Function):
    """See `picture_error`."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, image: Tensor, sigmoid: Any) -> Tensor:
        raw, image = _last(raw), _last(image)
        error = torch.empty(len(raw))
        _error(_pixels(raw), _pixels(image), sigmoid, error.numpy())
        ctx.save_for_backward(raw, image)
        ctx.sigmoid = sigmoid
        return error

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        raw, image = ctx.saved_tensors
        back = torch.empty_like(raw)  # channels last too
        _error_back(
            *(_pixels(raw), _pixels(image), ctx.sigmoid, grad.contiguous().numpy(), _pixels(back))
        )
        return back, None, None


class _Gated(torch.autograd.Function):
    """See `gated`."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, memory: Tensor, blocks: int) -> Tensor:
        gates, memory = gates.contiguous(), memory.contiguous()
        ctx.save_for_backward(gates, memory)
        ctx.blocks = blocks
        return _moved(gates, memory, blocks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gates, memory = ctx.saved_tensors
        back, kept = torch.empty_like(gates), torch.empty_like(memory)
        given = _rows(gates), _rows(memory), _rows(grad.contiguous())
        _move_back(*given, _rows(back), _rows(kept), ctx.blocks)
        return back, kept, None


def _moved(gates: Tensor, memory: Tensor, blocks: int) -> Tensor:
    """See `gated`, on a CPU."""
    gates, memory = gates.contiguous(), memory.contiguous()
    after = torch.empty_like(memory)
    _move(_rows(gates), _rows(memory), blocks, _rows(after))
    return after


def _last(x: Tensor) -> Tensor:
    """Channels last."""
    return x.contiguous(memory_format=torch.channels_last)


def _pixels(x: Tensor) -> np.ndarray:
    """The memory of pictures that lie channels last, (N, H W C)."""
    return x.detach().permute(0, 2, 3, 1).flatten(1).numpy()


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
    power = bits.view(np.float32)
    for start in range(0, x.shape[0], _ROWS):
        rows = min(_ROWS, x.shape[0] - start)
        _norm(x[start : start + rows], width, scale, normed)
        for k in range(rows * width):
            share[k] = _sigmoid(normed[k] * many[k], bits, power, k)
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
    power = bits.view(np.float32)
    for start in range(0, x.shape[0], _ROWS):
        rows = min(_ROWS, x.shape[0] - start)
        _norm(x[start : start + rows], width, scale, normed)
        for k in range(rows * width):
            share[k] = _sigmoid(normed[k] * many[k], bits, power, k)
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


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _error(
    raw: np.ndarray, image: np.ndarray, squash: Any, error: np.ndarray
) -> None:  # pragma: no cover
    """Squared errors, summed over rows (N, D)."""
    width = raw.shape[1]
    bits, shown = np.empty(width, np.int32), np.empty(width, np.float32)
    power = bits.view(np.float32)
    for r in range(raw.shape[0]):
        x, seen, total = raw[r], image[r], np.float32(0)
        for k in range(width):
            shown[k] = _sigmoid(x[k], bits, power, k) if squash else x[k] + _HALF
        for k in range(width):
            off = shown[k] - np.float32(seen[k]) * _PIXEL
            total += off * off
        error[r] = total


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _error_back(
    raw: np.ndarray, image: np.ndarray, squash: Any, grad: np.ndarray, back: np.ndarray
) -> None:  # pragma: no cover
    """Gradients of rows to back."""
    width = raw.shape[1]
    bits = np.empty(width, np.int32)
    power = bits.view(np.float32)
    for r in range(raw.shape[0]):
        x, seen, to, twice = raw[r], image[r], back[r], grad[r] + grad[r]
        if squash:
            for k in range(width):
                s = _sigmoid(x[k], bits, power, k)
                off = s - np.float32(seen[k]) * _PIXEL
                to[k] = twice * off * s * (_ONE - s)
        else:
            for k in range(width):
                to[k] = twice * (x[k] + _HALF - np.float32(seen[k]) * _PIXEL)


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _move(
    gates: np.ndarray, memory: np.ndarray, blocks: int, after: np.ndarray
) -> None:  # pragma: no cover
    """See `gated`."""
    m = memory.shape[1] // blocks
    bits = np.empty(m, np.int32)
    power = bits.view(np.float32)
    for r in range(memory.shape[0]):
        for g in range(blocks):
            x, held, to = gates[r, 3 * g * m :], memory[r, g * m :], after[r, g * m :]
            for j in range(m):
                reset = _sigmoid(x[j], bits, power, j)
                candidate = _tanh(reset * x[m + j], bits, power, j)
                write = _sigmoid(x[2 * m + j] - _ONE, bits, power, j)
                to[j] = held[j] + write * (candidate - held[j])


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _move_back(
    gates: np.ndarray,
    memory: np.ndarray,
    grad: np.ndarray,
    back: np.ndarray,
    kept: np.ndarray,
    blocks: int,
) -> None:  # pragma: no cover
    """Gradients of the gates to back and of the memory to kept."""
    m = memory.shape[1] // blocks
    bits = np.empty(m, np.int32)
    power = bits.view(np.float32)
    for r in range(memory.shape[0]):
        for g in range(blocks):
            x, held, given = gates[r, 3 * g * m :], memory[r, g * m :], grad[r, g * m :]
            to, keep = back[r, 3 * g * m :], kept[r, g * m :]
            for j in range(m):
                reset = _sigmoid(x[j], bits, power, j)
                candidate = _tanh(reset * x[m + j], bits, power, j)
                write = _sigmoid(x[2 * m + j] - _ONE, bits, power, j)
                inside = given[j] * write * (_ONE - candidate * candidate)
                to[j] = inside * x[m + j] * reset * (_ONE - reset)
                to[m + j] = inside * reset
                to[2 * m + j] = given[j] * (candidate - held[j]) * write * (_ONE - write)
                keep[j] = given[j] * (_ONE - write)


@numba.njit(inline="always")
def _tanh(x: Any, bits: np.ndarray, power: np.ndarray, k: int) -> Any:  # pragma: no cover
    """By way of the sigmoid."""
    return _TWO * _sigmoid(_TWO * x, bits, power, k) - _ONE


@numba.njit(inline="always")
def _sigmoid(x: Any, bits: np.ndarray, power: np.ndarray, k: int) -> Any:  # pragma: no cover
    """Of a number; bits is room for an exponent at k, and power the same memory as floats.

    NaN stays NaN: both comparisons are false.
    """
    t = -x
    t = -_FAR if t < -_FAR else t
    t = (_FAR if t > _FAR else t) * _LOG2_E
    n = np.floor(t + _HALF)
    bits[k] = (np.int32(n) + _BIAS) << _SHIFT
    f = t - n
    e = _T[2] + f * (_T[3] + f * (_T[4] + f * _T[5]))
    return _ONE / (_ONE + (_ONE + f * (_T[0] + f * (_T[1] + f * e))) * power[k])
