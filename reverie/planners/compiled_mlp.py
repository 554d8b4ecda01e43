"""A small MuZero network as arrays, for a search that is one compiled call. Imports core, search.

The generic search asks a torch model once a simulation; at small batches most of that time is
torch's own. `CompiledMLP` holds the weights of two MLPs, MuZero's g and f, and the compiled
search multiplies them itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie.core.errors import BadConfig, ShapeMismatch
from reverie.planners.search import root_mlp, search_mlp
from reverie.planners.tree import Net, Rules, Tree


class CompiledMLP:
    """The model s', r = g(s, a); p, v = f(s') as arrays, copied from torch modules.

    With A actions and latents of D numbers, g maps D + A numbers (s, then a as one-hot) to D + 1
    (s', then r), and f maps D numbers to A + 1 (the policy's logits, then v). The weights are
    those of the moment: make another after an update.

    Args:
        dynamics: g, of Linear layers with ReLU between them.
        prediction: f, likewise.
        latent: what to read of a model's state: (B, ...) -> (B, D).
        rescale: s' is stretched to [0, 1], each row by its own least and largest number.
        legal: what a state says is allowed at a root: (B, ...) -> (B, A) bool; None: all.

    Raises:
        BadConfig: if a module has other layers than Linear and ReLU in turns.
        ShapeMismatch: if the sizes do not fit together.
    """

    def __init__(
        self,
        dynamics: nn.Sequential,
        prediction: nn.Sequential,
        *,
        latent: Callable[[Any], Tensor],
        rescale: bool,
        legal: Callable[[Any], Tensor] | None = None,
    ) -> None:
        """See the class."""
        g, f = _linears("dynamics", dynamics), _linears("prediction", prediction)
        self.size = f[0].in_features
        self.actions = g[0].in_features - self.size
        wanted = (self.size + 1, self.actions + 1)
        found = (g[-1].out_features, f[-1].out_features)
        if self.actions < 1 or found != wanted:
            raise ShapeMismatch(
                f"CompiledMLP takes g: D + A -> D + 1 and f: D -> A + 1, but g is "
                f"{g[0].in_features} -> {found[0]} and f is {self.size} -> {found[1]}. "
                "Put the reward last in g and the value last in f."
            )
        layers = [*g, *f]
        self._latent, self._legal = latent, legal
        self._net = Net(
            weights=np.concatenate([_array(layer.weight.T) for layer in layers]),
            biases=np.concatenate([_array(layer.bias) for layer in layers]),
            shapes=np.array([(layer.in_features, layer.out_features) for layer in layers]),
            dynamics=len(g),
            rescale=rescale,
        )

    def latents(self, state: Any) -> np.ndarray:
        """(B, D) float32 of a model's state.

        Raises:
            ShapeMismatch: if it is of another width.
        """
        found = self._latent(state)
        if found.dim() != 2 or found.shape[1] != self.size:
            raise ShapeMismatch(
                f"CompiledMLP searches latents of shape (B, {self.size}), but the state's have "
                f"{tuple(found.shape)}. Make it from the networks of this model."
            )
        return np.ascontiguousarray(found.detach().to("cpu", torch.float32).numpy())

    def rules(self, state: Any, mask: Tensor | None) -> Tensor | None:
        """(B, A) bool: what the state and a search's own mask allow at the roots; None: all."""
        if self._legal is None:
            return mask
        legal = self._legal(state)
        return legal if mask is None else legal & mask

    def root(self, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits (B, A) and values (B,) of latents."""
        found = root_mlp(latents, self._net)
        return found[:, :-1], found[:, -1]

    def search(self, tree: Tree, rules: Rules, latents: np.ndarray, discount: float) -> None:
        """All simulations of a tree that holds its roots.

        Args:
            tree: changed in place.
            rules: of the selection.
            latents: (B, D) of the roots.
            discount: of every transition.
        """
        nodes = np.empty((len(latents), tree.prior.shape[1], self.size), np.float32)
        nodes[:, 0] = latents
        search_mlp(tree, rules, self._net, nodes, discount)


def _linears(name: str, module: nn.Sequential) -> Sequence[nn.Linear]:
    """The Linear layers, if there is one ReLU between each two and nothing else."""
    found = [layer for layer in module if isinstance(layer, nn.Linear)]
    turns = [nn.Linear if i % 2 == 0 else nn.ReLU for i in range(2 * len(found) - 1)]
    if not found or [type(layer) for layer in module] != turns:
        raise BadConfig(
            f"CompiledMLP takes Linear layers with ReLU between them, but its {name} is made of "
            f"{[type(layer).__name__ for layer in module]}. Search the torch model instead."
        )
    for one, two in pairwise(found):
        if one.out_features != two.in_features:
            raise ShapeMismatch(
                f"A layer of {one.out_features} outputs stands before one of {two.in_features} "
                f"inputs in CompiledMLP's {name}. Mend the module."
            )
    return found


def _array(x: Tensor) -> np.ndarray:
    """All numbers in a row."""
    return x.detach().to("cpu", torch.float32).contiguous().numpy().ravel()
