"""What the nodes and slots of a search's trees stand for: the model's states and actions.

`States` keeps the states of all nodes on the model's device. `Listed` and `Sampled` say what
actions the slots of a node are: all of a Discrete space, or draws from the policy over a Box.
Rows of a node are given as the trees have them: node * B + b. Imports core.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import SpaceMismatch
from reverie.core.model import WorldModel
from reverie.core.types import Box, Discrete, Objects, check_shape


class States:
    """The model's states of all nodes; node m of row b is row m * B + b."""

    def __init__(self, root: Any, count: int) -> None:
        self._batch, self._all = tree.size(root), root
        self._grows = any(isinstance(leaf, Objects) for leaf in tree.leaves(root))
        if not self._grows:
            rows = count * self._batch
            self._all = tree.map(lambda x: x.new_empty((rows, *x.shape[1:])), root)
            self.put(0, root)

    def take(self, row: Tensor) -> Any:
        """(B, ...) states."""
        if self._grows:
            return tree.take(self._all, row)
        return tree.map(lambda x: x.index_select(0, row), self._all)

    def put(self, m: int, state: Any) -> None:
        """The states of nodes m."""
        if self._grows:
            self._all = tree.cat([self._all, state])
            return
        rows = slice(m * self._batch, (m + 1) * self._batch)
        tree.map(lambda store, x: store[rows].copy_(x), self._all, state)


class Listed:
    """Slots are the actions 0..n-1."""

    candidates = None

    def __init__(self, actions: Discrete, device: torch.device) -> None:
        self._count, self.device = actions.n, device

    def offer(self, m: int, policy: Any) -> Tensor:
        """(B, A) logits of nodes m."""
        del m
        return check_shape("logits of the policy", policy.logits, (None, self._count))

    def take(self, row: Tensor, slot: Tensor) -> Tensor:
        """(B,) actions of slots of nodes."""
        del row
        return slot

    def seeded(self, generator: torch.Generator | None) -> AbstractContextManager[None]:
        """Nothing is drawn."""
        del generator
        return nullcontext()


class Sampled:
    """Slots of a node are draws from its policy, clipped to the Box, and all alike."""

    def __init__(self, actions: Box, device: torch.device, shape: tuple[int, int, int]) -> None:
        self._space, self.device = actions, device
        self._all = torch.empty((*shape, *actions.shape), device=device)  # (M, B, A, ...)

    @property
    def candidates(self) -> Tensor:
        """(B, A, ...) of the roots."""
        return self._all[0].clone()

    def offer(self, m: int, policy: Any) -> Tensor:
        """(B, A) logits of nodes m, whose actions are drawn."""
        drawn = policy.sample((self._all.shape[2],)).transpose(0, 1)
        check_shape("draws from the policy", drawn, tuple(self._all.shape[1:]))
        self._all[m] = drawn.clamp(self._space.low, self._space.high)
        return torch.zeros(drawn.shape[:2], device=self.device)

    def take(self, row: Tensor, slot: Tensor) -> Tensor:
        """(B, ...) actions of slots of nodes."""
        return self._all.flatten(0, 1)[row, slot]

    @contextmanager
    def seeded(self, generator: torch.Generator | None) -> Iterator[None]:
        """Torch's distributions draw from its default generator: lend it the given one's seed."""
        if generator is None:
            yield
            return
        number, cuda = seed_of(generator), self.device.type == "cuda"
        with torch.random.fork_rng([self.device] if cuda else []):
            torch.default_generator.manual_seed(number)
            if cuda:
                torch.cuda.manual_seed(number)
            yield


def slots_of(
    model: WorldModel[Any], mask: Tensor | None, samples: int, nodes: int, batch: int
) -> Listed | Sampled:
    """What the slots of a tree stand for."""
    actions = model.actions
    if isinstance(actions, Discrete):
        return Listed(actions, model.device)
    if actions is None or mask is not None:
        raise SpaceMismatch(
            f"MCTS{' with a mask' if mask is not None else ''} chooses among actions, but "
            f"{model.heads.owner} acts in {actions}. "
            + ("Nothing can be planned there." if actions is None else "Leave the mask out.")
        )
    return Sampled(actions, model.device, (nodes, batch, samples))


def seed_of(generator: torch.Generator | None) -> int:
    """A number that is drawn."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))
