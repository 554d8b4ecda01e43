"""Several MLPs of one shape as one: every product is batched over the members. Imports nn only."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nn.layers import initialise

_ACTIVATIONS = {"silu": F.silu, "relu": F.relu}
_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # (gradient, argument) -> gradient
    "silu": torch.ops.aten.silu_backward,
    "relu": lambda grad, x: grad * (x > 0),
}


class Members(nn.Module):
    """E MLPs that share nothing but their shape; weights are cut normals of std 1 / (2 sqrt(fan)).

    Args:
        members: E.
        inputs: numbers that each reads.
        outputs: numbers that each gives.
        layers: hidden ones.
        units: of each.
        activation: after each hidden layer.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        *,
        layers: int,
        units: int,
        activation: Literal["silu", "relu"] = "silu",
    ) -> None:
        super().__init__()
        sizes = list(pairwise((inputs, *(units,) * layers, outputs)))
        self.members, self._activation = members, _ACTIVATIONS[activation]
        self._slope = _SLOPES[activation]
        self.weights = nn.ParameterList(torch.empty(members, i, o) for i, o in sizes)
        self.biases = nn.ParameterList(torch.zeros(members, 1, o) for _, o in sizes)
        # Lists of parameters are slow to walk through: the same ones, as a tuple of pairs.
        self._layers = tuple(zip(self.weights, self.biases, strict=True))
        for weight, (fan, _) in zip(self.weights, sizes, strict=True):
            initialise(weight, fan, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(E, N, outputs) of rows (E, N, inputs), or of (N, inputs) for every member alike."""
        if x.dim() == 2:
            x = x.expand(self.members, -1, -1)
        last = len(self._layers) - 1
        for k, (weight, bias) in enumerate(self._layers):
            x = torch.baddbmm(bias, x, weight)
            if k < last:
                x = self._activation(x)
        return x

    @torch.no_grad()
    def traced(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """`forward` of (E, N, inputs) without a graph, and what `pull` needs to know of it."""
        trace: list[tuple[Tensor, Tensor]] = []
        for weight, bias in self._layers:
            x = self._activation(trace[-1][1]) if trace else x
            trace.append((x, torch.baddbmm(bias, x, weight)))
        return trace[-1][1], trace

    @torch.no_grad()
    def pull(self, trace: list[tuple[Tensor, Tensor]], grad: Tensor) -> None:
        """Write the parameters' gradients, over what was there: all must have a `grad`.

        Args:
            trace: of `traced`.
            grad: (E, N, outputs) by what it returned.
        """
        for k in reversed(range(len(trace))):
            weight, bias = self._layers[k]
            torch.bmm(trace[k][0].transpose(1, 2), grad, out=weight.grad)
            torch.sum(grad, 1, keepdim=True, out=bias.grad)
            if k:
                grad = self._slope(torch.bmm(grad, weight.transpose(1, 2)), trace[k - 1][1])

    def of(self, x: Tensor, member: Tensor) -> Tensor:
        """(N, outputs) of rows (N, inputs), each through one member only.

        The rows of a member stand together, padded to those of the busiest one: with members
        drawn at random that costs E times less than asking all of them about every row.

        Args:
            x: (N, inputs).
            member: (N,) int64 in 0..E-1.
        """
        every = torch.arange(self.members, device=member.device)
        rank = (member == every[:, None]).cumsum(1) - 1  # (E, N) place among the member's rows
        room = int(rank[:, -1].max()) + 1  # waits for the device
        place = rank.gather(0, member[None])[0] + member * room
        packed = x.new_zeros(self.members * room, x.shape[1]).index_copy(0, place, x)
        return self(packed.view(self.members, room, -1)).flatten(0, 1)[place]
