"""Convolutions of kernel 5 that run as others, exactly: the same sums, in a faster order.

A picture is taken as blocks of 2x2 pixels, or of 1x2; a convolution of kernel 5 is then one of
kernel 3 over blocks, whose weights are the 5x5 weights laid out anew. On a CPU this matters:
where a stride of 2 scatters (forward in a transposed convolution, backward in a plain one) the
native kernels take three to four times as long. Pictures lie channels last. Imports nn only.

Letters: O channels out, C channels in, p and q place in a block, i and j block, k and l tap.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reverie.nn.layers import initialise

_convolution_backward: Any = torch.ops.aten.convolution_backward  # without types


class Doubled(nn.Module):
    """Enlarge by 2 (nearest), then a convolution of kernel 5.

    Each of the four pixels that one becomes sees 3x3 of the small picture, under sums of the
    5x5 weights: four times the channels at a quarter of the places, 2.8 times fewer products.

    Args:
        inputs: channels.
        outputs: channels.
    """

    fold: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 5, 5))
        self.bias = nn.Parameter(torch.zeros(outputs))
        initialise(self.weight, 25 * inputs)
        self.register_buffer("fold", _NEAREST.clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', 2H, 2W)."""
        fold = self.fold
        weight = torch.einsum("pik,ockl,qjl->pqocij", fold, self.weight, fold).flatten(0, 2)
        return _unpacked(F.conv2d(x, _last(weight), self.bias.repeat(4), padding=1))


class Halved(nn.Conv2d):
    """Kernel 5, stride 2: half the side.

    Args:
        inputs: channels.
        outputs: channels.
    """

    fold: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 5, 2, padding=2)
        self.register_buffer("fold", _SCATTER.clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / 2, W / 2)."""
        return _Shrink.apply(*_cast(x, self.weight, self.bias, self.fold))  # type: ignore[return-value]


class Transposed(nn.ConvTranspose2d):
    """Kernel 5, stride 2, transposed: twice the side.

    Args:
        inputs: channels.
        outputs: channels.
    """

    fold: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 5, 2, padding=2, output_padding=1)
        self.register_buffer("fold", _SCATTER.clone(), persistent=False)

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        """(N, C, H, W) -> (N, C', 2H, 2W)."""
        del output_size
        return _Enlarge.apply(*_cast(x, self.weight, self.bias, self.fold))  # type: ignore[return-value]


class Same(nn.Conv2d):
    """Kernel 5, stride 1: the same side.

    Few channels leave most of a vector register empty; two neighbours in a row then run as one
    place with twice the channels, which channels last they already are in memory.

    Args:
        inputs: channels.
        outputs: channels.
    """

    fold: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 5, padding=2)
        self.register_buffer("fold", _PAIR.clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        if self.in_channels > _FEW or x.shape[-1] % 2:
            return super().forward(x)
        weight = torch.einsum("ockl,Qqjl->Qoqckj", self.weight, self.fold)
        weight = weight.flatten(2, 3).flatten(0, 1)
        y = F.conv2d(_paired(x), _last(weight), self.bias.repeat(2), padding=(2, 1))  # type: ignore
        n, _, h, w = y.shape
        return y.permute(0, 2, 3, 1).reshape(n, h, 2 * w, -1).permute(0, 3, 1, 2)


_FEW = 4  # channels


class _Shrink(torch.autograd.Function):
    """The native kernel, but for the gradient of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, fold: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, fold)
        return F.conv2d(x, weight, bias, 2, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, fold = ctx.saved_tensors
        found = _native(ctx, grad, x, weight, enlarge=False, needs_input=False)
        back = _enlarged(_last(grad), weight, fold) if ctx.needs_input_grad[0] else None
        return back, *found[1:], None


class _Enlarge(torch.autograd.Function):
    """Folded forward; the native gradients, which are plain convolutions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, fold: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _enlarged(x, weight, fold, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[0]
        found = _native(ctx, _last(grad), *ctx.saved_tensors, enlarge=True, needs_input=needed)
        return *found, None


def _native(
    ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, *, enlarge: bool, needs_input: bool
) -> tuple[Tensor | None, ...]:
    """Torch's gradients of input, weight and bias, those that are needed."""
    sizes = [weight.shape[1 if enlarge else 0]]
    mask = [needs_input, *ctx.needs_input_grad[1:3]]
    rest = ([2, 2], [2, 2], [1, 1], enlarge, [int(enlarge)] * 2, 1, mask)
    return _convolution_backward(grad, x, weight, sizes, *rest)


def _enlarged(x: Tensor, weight: Tensor, fold: Tensor, bias: Tensor | None = None) -> Tensor:
    """A transposed convolution of stride 2: x (N, C, H, W), weight (C, O, 5, 5)."""
    weight = torch.einsum("pik,cokl,qjl->pqocij", fold, weight, fold).flatten(0, 2)
    bias = None if bias is None else bias.repeat(4)
    return _unpacked(F.conv2d(x, _last(weight), bias, padding=1))


def _unpacked(y: Tensor) -> Tensor:
    """Blocks (N, 4 O, H, W), channels in the order p, q, O, as pixels (N, O, 2H, 2W)."""
    n, channels, h, w = y.shape
    rows = y.permute(0, 2, 3, 1).reshape(n, h, w, 2, channels // 2).transpose(2, 3)
    return rows.reshape(n, 2 * h, 2 * w, channels // 4).permute(0, 3, 1, 2)


def _paired(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N, 2 C, H, W / 2), channels in the order q, C."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, h, w // 2, 2 * c).permute(0, 3, 1, 2)


def _last(x: Tensor) -> Tensor:
    """Channels last."""
    return x.contiguous(memory_format=torch.channels_last)


def _cast(*tensors: Tensor | None) -> list[Tensor | None]:
    """As autocast would have it: a custom function is not cast by itself."""
    device = "cpu" if tensors[0] is None else tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [None if x is None else x.to(dtype) for x in tensors]


# (place in a block, block, tap): which of 5 taps fall on which of 3 blocks.
_NEAREST = torch.tensor(
    [
        [[1.0, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]],
        [[1.0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]],
    ]
)
_SCATTER = torch.tensor(
    [
        [[0.0, 0, 0, 0, 1], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0]],
        [[0.0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 1, 0, 0, 0]],
    ]
)
# (place out, place in, block, tap): tap k at place Q meets the pixel at 2 j + q = Q + k - 2.
_PAIR = torch.zeros(2, 2, 3, 5)
for _place in (0, 1):
    for _tap in range(5):
        _PAIR[_place, (_place + _tap) % 2, (_place + _tap) // 2, _tap] = 1.0
