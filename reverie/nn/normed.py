"""The layers of TD-MPC2: normed, on simplices, in ensembles, slowed; pictures with random shifts.

Imports nn only. Weights begin as normals of deviation 0.02, biases as 0, as in the reference code.
Letters: N rows, W width, M members of an ensemble, V numbers of a simplex.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from reverie.core.errors import SpaceMismatch
from reverie.core.types import Box, Discrete, Space
from reverie.nn.fused import norm_mish, simplex

Shape = tuple[int, int, int]
_STD = 0.02
_CONVOLUTIONS = ((7, 2), (5, 2), (3, 2), (3, 1))  # kernels and strides
_PAD = 3  # pixels that a picture is shifted by, at most


def linear(inputs: int, outputs: int, std: float = _STD) -> nn.Linear:
    """A dense layer with weights of a deviation, and zero bias.

    Args:
        inputs: numbers that it reads.
        outputs: numbers that it gives.
        std: of the weights; 0 fills them with zeros.
    """
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


class Normed(nn.Module):
    """Linear, layer norm, Mish."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = linear(inputs, outputs)
        self.gain = nn.Parameter(torch.ones(1, outputs))
        self.bias = nn.Parameter(torch.zeros(1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        return norm_mish(self.linear(x), self.gain, self.bias)


class OnSimplices(nn.Module):
    """Linear, layer norm, SimNorm: each V neighbours of the result sum to 1."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.linear, self.norm, self.size = linear(inputs, outputs), nn.LayerNorm(outputs), size

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        return simplex(self.norm(self.linear(x).float()), self.size)


def normed_mlp(inputs: int, layers: int, units: int) -> list[nn.Module]:
    """So many `Normed` layers, to be followed by a last one.

    Args:
        inputs: numbers that the first reads.
        layers: how many.
        units: of each.
    """
    return [Normed(i, o) for i, o in pairwise((inputs, *(units,) * layers))]


class Critics(nn.Module):
    """M MLPs of two normed layers as one: every product is batched over the members.

    Args:
        members: M.
        inputs: numbers that each reads.
        units: of each hidden layer.
        outputs: numbers that each gives; all 0 at first.
        dropout: share of the first layer that is dropped while training.
    """

    def __init__(self, members: int, inputs: int, units: int, outputs: int, dropout: float) -> None:
        super().__init__()
        sizes = list(pairwise((inputs, units, units, outputs)))
        self.members, self.dropout = members, dropout
        self.weights = nn.ParameterList(_STD * torch.randn(members, i, o) for i, o in sizes)
        self.biases = nn.ParameterList(torch.zeros(members, 1, o) for _, o in sizes)
        self.gains = nn.ParameterList(torch.ones(members, units) for _ in range(2))
        self.shifts = nn.ParameterList(torch.zeros(members, units) for _ in range(2))
        nn.init.zeros_(self.weights[2])

    def forward(self, x: Tensor, which: Tensor | slice, *, frozen: bool = False) -> Tensor:
        """(m, N, outputs) of rows (N, inputs).

        Args:
            x: (N, inputs).
            which: (m,) members, or a slice of them.
            frozen: whether gradients reach x alone, and nothing is dropped.
        """

        def pick(parameter: Tensor) -> Tensor:
            return (parameter.detach() if frozen else parameter)[which]

        weights, biases = map(pick, self.weights), map(pick, self.biases)
        x = x.expand(len(self.gains[0][which]), -1, -1)
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if layer == 0 and self.dropout:
                x = F.dropout(x, self.dropout, self.training and not frozen)
            if layer < len(self.gains):
                x = norm_mish(x, pick(self.gains[layer]), pick(self.shifts[layer]))
        return x


class Slow(nn.Module):
    """A module that learns at a share of the rate of those that step with it.

    Adam's steps do not depend on the size of gradients, so a parameter that is stored 1 / share
    times as large, and shrunk on its way in, moves by that share of the rate.

    Args:
        net: its parameters are made larger in place.
        share: of the rate, above 0.
    """

    def __init__(self, net: nn.Module, share: float) -> None:
        super().__init__()
        self.net, self.share = net, share
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.div_(share)

    def forward(self, *given: Any) -> Tensor:
        """What the net says."""
        small = {name: self.share * p for name, p in self.net.named_parameters()}
        return functional_call(self.net, small, given)


class Pictures(nn.Module):
    """Four convolutions of a picture to simplices; while training the picture is shifted a bit.

    Args:
        shape: (C, H, W).
        channels: of each convolution.
        outputs: numbers that it gives; where the convolutions end with others, a dense layer.
        size: V.

    Raises:
        SpaceMismatch: if the picture is too small.
    """

    def __init__(self, shape: Shape, channels: int, outputs: int, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side, before = list(shape[1:]), shape[0]
        for kernel, stride in _CONVOLUTIONS:
            layers += [*[nn.ReLU()] * bool(layers), nn.Conv2d(before, channels, kernel, stride)]
            side, before = [(s - kernel) // stride + 1 for s in side], channels
        if min(side) < 1:
            raise SpaceMismatch(
                f"These convolutions take pictures of at least 39x39, but found {shape}. "
                "Make the environment with size=64."
            )
        flat, self.size = channels * side[0] * side[1], size
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.out = nn.Identity() if flat == outputs else linear(flat, outputs)

    def forward(self, image: Tensor) -> Tensor:
        """(N, outputs) of uint8 pictures (N, C, H, W)."""
        seen = shifted(image) if self.training else image
        x = (seen.float() / 255 - 0.5).contiguous(memory_format=torch.channels_last)
        return simplex(self.out(self.convolutions(x).flatten(1)), self.size)


def shifted(image: Tensor, pad: int = _PAD) -> Tensor:
    """Pictures (N, C, H, W), each moved by up to `pad` pixels; edges are repeated.

    Source: Kostrikov et al. 2020 (DrQ), section 3.1.
    """
    n, _, height, width = image.shape
    moves = torch.randint(2 * pad + 1, (2, n, 1), device=image.device) - pad
    line = torch.arange(max(height, width), device=image.device)
    row = (line[:height] + moves[0]).clamp(0, height - 1)[:, :, None]
    column = (line[:width] + moves[1]).clamp(0, width - 1)[:, None, :]
    rows = torch.arange(n, device=image.device)[:, None, None]
    return image[rows, :, row, column].permute(0, 3, 1, 2)


def joined(*parts: Tensor) -> Tensor:
    """(..., W) side by side, without those of no width.

    Args:
        *parts: (..., W_i).
    """
    some = [part for part in parts if part.shape[-1]]
    return torch.cat(some, -1) if len(some) > 1 else some[0]


class Readable(NamedTuple):
    """Observations by what reads them."""

    pictures: dict[str, Shape]
    vectors: dict[str, int]  # numbers by name
    tasks: int  # that 'task' tells apart; 0: there is no such observation


def readable(owner: str, observations: Mapping[str, Space]) -> Readable:
    """What there is to read.

    Args:
        owner: reads it, for the message.
        observations: by name.

    Raises:
        SpaceMismatch: if there is no brick for one, or no picture or vector.
    """
    pictures: dict[str, Shape] = {}
    vectors: dict[str, int] = {}
    tasks = 0
    for name, space in observations.items():
        if isinstance(space, Discrete) and name == "task":
            tasks = space.n
        elif isinstance(space, Box) and len(space.shape) == 3 and space.dtype == "uint8":
            pictures[name] = space.shape  # type: ignore[assignment]
        elif isinstance(space, Box) and len(space.shape) == 1:
            vectors[name] = space.shape[0]
        else:
            raise SpaceMismatch(
                f"{owner} reads uint8 pictures (C, H, W), vectors (D,) and a Discrete 'task', but "
                f"'{name}' is {space}. Leave it out, or make it one of these."
            )
    if not pictures and not vectors:
        raise SpaceMismatch(
            f"{owner} reads a picture or a vector, but there is only {sorted(observations)}. "
            "Choose data with one."
        )
    return Readable(pictures, vectors, tasks)


class Encoder(nn.Module):
    """Each modality to simplices, and their mean: vectors by one MLP, pictures by convolutions.

    Args:
        readable: what it reads.
        task: E.
        sizes: hidden layers and units of the MLP, channels of the convolutions.
        outputs: L.
        size: V.
    """

    def __init__(
        self, readable: Readable, task: int, sizes: tuple[int, int, int], outputs: int, size: int
    ) -> None:
        super().__init__()
        self.names, (layers, units, channels) = tuple(readable.vectors), sizes
        self.pictures = nn.ModuleDict(
            {k: Pictures(s, channels, outputs, size) for k, s in readable.pictures.items()}
        )
        self.vectors = nn.Sequential()
        if self.names:
            hidden = normed_mlp(sum(readable.vectors.values()) + task, layers, units)
            self.vectors = nn.Sequential(*hidden, OnSimplices(units, outputs, size))

    def forward(self, obs: Mapping[str, Tensor], task: Tensor) -> Tensor:
        """(N, L) of observations (N, ...) and task embeddings (N, E)."""
        found = [net(obs[name]) for name, net in self.pictures.items()]
        if self.names:
            vector = torch.cat([*(obs[name].float() for name in self.names), task], -1)
            found.append(self.vectors(vector))
        return torch.stack(found).mean(0) if len(found) > 1 else found[0]


class Tasks(nn.Embedding):
    """An embedding of each task, of norm 1 at most."""

    def forward(self, task: Tensor) -> Tensor:
        """(N, E) of tasks (N,)."""
        found = super().forward(task)
        return found / found.norm(dim=-1, keepdim=True).clamp(min=1)
