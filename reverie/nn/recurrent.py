"""Recurrent cores of the Dreamer line: a GRU, one with layer norm, one in blocks.

Each splits a step in two: `project` depends on the action alone and so runs over a whole
sequence at once; `step` is what must run one moment after another. Imports nn only.

Letters: M deterministic memory, Z stochastic latent, A action as a vector, U hidden units.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from reverie.nn.layers import BlockLinear, Style, dense
from reverie.nn.onepass import gated


class Sizes(NamedTuple):
    """Widths of a recurrent core."""

    memory: int  # M
    latent: int  # Z
    action: int  # A
    hidden: int  # U


class Recurrence(Protocol):
    """memory' = f(memory, z, action)."""

    def __call__(self, *arguments: Any) -> Any:
        """A module."""
        ...

    def project(self, action: Tensor) -> Tensor:
        """(..., P) of actions (..., A)."""
        ...

    def step(self, memory: Tensor, z: Tensor, projected: Tensor) -> Tensor:
        """(N, M) of memory (N, M), z (N, Z) and projected (N, P)."""
        ...


class _Joined(nn.Module):
    """One dense layer over [z, action], as two products so that the action's can run ahead."""

    def __init__(self, sizes: Sizes, style: Style) -> None:
        super().__init__()
        fan = sizes.latent + sizes.action
        self.latent = dense(sizes.latent, sizes.hidden, fan=fan, bias=False)
        self.action = dense(sizes.action, sizes.hidden, fan=fan)
        self.after = nn.Sequential(*style.after(sizes.hidden))

    def forward(self, z: Tensor, projected: Tensor) -> Tensor:
        return self.after(self.latent(z) + projected)


class GRU(nn.Module):
    """A dense layer and a plain GRU cell.

    Source: Hafner et al. 2019, appendix A; Cho et al. 2014.
    """

    def __init__(self, sizes: Sizes, style: Style) -> None:
        super().__init__()
        self.inputs = _Joined(sizes, style)
        self.cell = nn.GRUCell(sizes.hidden, sizes.memory)

    def project(self, action: Tensor) -> Tensor:
        """See `Recurrence`."""
        return self.inputs.action(action)

    def step(self, memory: Tensor, z: Tensor, projected: Tensor) -> Tensor:
        """See `Recurrence`."""
        return self.cell(self.inputs(z, projected), memory)


class LayerNormGRU(nn.Module):
    """A dense layer and a GRU whose three gates are normalised together; it keeps by default.

    Source: Hafner et al. 2021, appendix; the reset gate multiplies the candidate's pre-activation.
    """

    def __init__(self, sizes: Sizes, style: Style) -> None:
        super().__init__()
        self.inputs = _Joined(sizes, style)
        self.gates = dense(sizes.hidden + sizes.memory, 3 * sizes.memory, bias=False)
        self.norm = nn.LayerNorm(3 * sizes.memory)

    def project(self, action: Tensor) -> Tensor:
        """See `Recurrence`."""
        return self.inputs.action(action)

    def step(self, memory: Tensor, z: Tensor, projected: Tensor) -> Tensor:
        """See `Recurrence`."""
        joined = torch.cat([self.inputs(z, projected), memory], -1)
        return gated(self.norm(self.gates(joined)), memory)


class BlockGRU(nn.Module):
    """DreamerV3's: memory in blocks that meet only through a shared projection of all inputs.

    The paper repeats [memory, z, action] projections in front of every block; the same is one
    dense product for what is shared and a block product for each block's own memory.

    Source: Hafner et al. 2025, "Block-diagonal recurrent weights"; reference code.
    """

    blocks = 8

    def __init__(self, sizes: Sizes, style: Style) -> None:
        super().__init__()
        memory, hidden, blocks = sizes.memory, sizes.hidden, self.blocks
        full = memory + 3 * hidden * blocks  # the paper's fan of the repeated input
        self.memory = nn.Sequential(dense(memory, hidden), *style.after(hidden))
        self.latent = nn.Sequential(dense(sizes.latent, hidden), *style.after(hidden))
        self.action = nn.Sequential(dense(sizes.action, hidden), *style.after(hidden))
        self.shared = dense(3 * hidden, memory, fan=full)
        self.own = BlockLinear(memory, memory, blocks, bias=False, fan=full)
        self.after = nn.Sequential(*style.after(memory))
        self.gates = BlockLinear(memory, 3 * memory, blocks)

    def project(self, action: Tensor) -> Tensor:
        """See `Recurrence`."""
        return self.action(action)

    def step(self, memory: Tensor, z: Tensor, projected: Tensor) -> Tensor:
        """See `Recurrence`."""
        shared = self.shared(torch.cat([self.memory(memory), self.latent(z), projected], -1))
        gates = self.gates(self.after(shared + self.own(memory)))
        return gated(gates, memory, self.blocks)
