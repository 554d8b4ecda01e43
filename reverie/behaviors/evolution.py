"""A small controller, evolved inside a dream (Ha & Schmidhuber 2018, section 4).

`Controller` is the paper's C: one linear map of a model's `features` to an action, few enough
weights for full-covariance CMA-ES (the library `cma`). `Evolution` is a Learner: each update
asks for a population, dreams every candidate's episodes in ONE batch, and tells the fitness.
`principal` makes the search faster where features are many: it looks along the directions in
which features vary. The controller never sees the real world. Imports core and imagine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cma
import numpy as np
import torch
from torch import Tensor, nn

from reverie.core import tree
from reverie.core.errors import BadConfig, NonFinite
from reverie.core.model import WorldModel, need
from reverie.core.types import Batch, Discrete, Heads, Space
from reverie.imagine import expected_return

Starts = Callable[[int, torch.Generator], Any]  # (n, generator) -> states with leading axis n


class Controller(nn.Module):
    """C: action = squash(W features + b). 867 weights for CarRacing, 1,088 for Doom.

    A Box action is tanh of the map. A Discrete action is either the largest of n outputs or,
    if `ordered`, one tanh output cut into n equal bins (Doom: left, stay, right at -1/3, +1/3).

    Args:
        inputs: width of the features.
        actions: of the world.
        ordered: Discrete actions lie on a line.
        bias: whether there is a b.
    """

    def __init__(
        self, inputs: int, actions: Space, *, ordered: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        if isinstance(actions, Discrete):
            outputs = 1 if ordered else actions.n
        else:
            outputs = int(np.prod(actions.shape))
        self.actions, self.ordered, self.inputs, self.outputs = actions, ordered, inputs, outputs
        self.weights = nn.Parameter(
            torch.zeros(outputs * (inputs + int(bias))), requires_grad=False
        )

    def forward(self, features: Tensor) -> Tensor:
        """Actions (N, A) float or (N,) int64 of features (N, D)."""
        return self.act(self.weights[None], features[None])[0]

    def act(self, weights: Tensor, features: Tensor) -> Tensor:
        """Actions of a whole population.

        Args:
            weights: (P, n) one controller a row.
            features: (P, N, D) the rows that each controller sees.

        Returns:
            (P, N, A) float32 in [-1, 1], or (P, N) int64.
        """
        matrix = weights[:, : self.outputs * self.inputs].view(-1, self.inputs, self.outputs)
        raw = features @ matrix
        raw = raw + weights[:, None, self.outputs * self.inputs :] if self._bias else raw
        if not isinstance(self.actions, Discrete):
            return raw.tanh().unflatten(-1, self.actions.shape)
        if not self.ordered:
            return raw.argmax(-1)
        n = self.actions.n
        return ((raw[..., 0].tanh() + 1) * (n / 2)).long().clamp(0, n - 1)

    @property
    def _bias(self) -> bool:
        return len(self.weights) > self.outputs * self.inputs


def principal(features: Tensor, components: int) -> Tensor:
    """Directions in which to search for a linear map of features.

    Seen along them, features are uncorrelated, centred and of unit variance, and one more
    direction is a bias: as near to 1 for every row as can be. A step of the search then changes
    what the controller does by as much in any direction.

    Args:
        features: (N, D) rows that a controller would see, N >= 2.
        components: k, how many principal components.

    Returns:
        (D, k + 1); the weights of a controller are this times what is searched.

    Raises:
        BadConfig: if k is not in 1..min(N, D).
    """
    if not 1 <= components <= min(features.shape):
        raise BadConfig(
            f"{components} principal components were asked of {tuple(features.shape)} features. "
            "Choose at least 1 and at most the smaller of the two."
        )
    mean, std = features.mean(0), features.std(0) + 1e-3
    _, spread, axes = torch.linalg.svd((features - mean) / std, full_matrices=False)
    spread = spread[:components] / (len(features) - 1) ** 0.5
    basis = axes[:components].T / spread / std[:, None]  # (D, k)
    scaled = features / std
    moment = scaled.T @ scaled / len(features) + 1e-3 * torch.eye(len(std), device=std.device)
    constant = torch.linalg.solve(moment, mean / std) / std  # (D,) ridge regression of 1
    return torch.cat([basis - constant[:, None] * (mean @ basis), constant[:, None]], 1)


@dataclass(frozen=True)
class EvolutionConfig:
    """CMA-ES over dreams; the defaults are the paper's."""

    population: int = 64
    episodes: int = 16  # dreamed by each candidate
    horizon: int = 1000  # steps after which a dream is cut
    sigma: float = 0.1  # initial standard deviation of the weights
    weight_decay: float = 0.01  # cost per mean squared weight
    discount: float = 1.0  # of dreamed rewards
    survival: float = 1.0  # reward of a step survived, where the model predicts no reward
    seed: int = 0
    precision: Literal["float32", "bf16"] = "float32"  # of the dream's matrix products


class Evolution:
    """A Learner that improves a controller by its dreams alone.

    The search is replayed from its recorded fitness when a checkpoint is loaded, so that no
    opaque optimizer state is ever stored.

    Args:
        model: needs `features`, and `cont` or `reward`.
        controller: its weights are set to the search's mean after each update.
        starts: where dreams begin.
        config: of the search.
        basis: (D, k) of `principal`: the search is over k numbers an output (and the biases);
            None: over the weights themselves.
        heads: instead of the model's own, e.g. with lent ones.

    Raises:
        MissingHead: if the model cannot say what a controller reads or earns.
        BadConfig: if the population has fewer than two candidates.
    """

    def __init__(
        self,
        model: WorldModel,
        controller: Controller,
        starts: Starts,
        config: EvolutionConfig,
        *,
        basis: Tensor | None = None,
        heads: Heads | None = None,
    ) -> None:
        heads = heads or model.heads
        self.features = need(heads, "features", what="Evolution")[0]
        if heads.reward is None:
            need(heads, "cont", what="Evolution")
        if config.population < 2:
            raise BadConfig(f"population must be at least 2, but it is {config.population}.")
        self.model, self.controller, self.starts = model, controller, starts
        self.config, self.heads, self.basis = config, heads, basis
        self.history: list[np.ndarray] = []  # the costs told so far, (population,) each
        self._search = self._new_search()

    def update(self, batch: Batch | None = None) -> dict[str, float]:
        """One generation: ask, dream, tell.

        Returns:
            best, mean and worst dreamed return of the generation, and the search's sigma.

        Raises:
            NonFinite: if a dreamed return is not finite.
        """
        candidates = self._search.ask()
        weights = self._weights(np.stack(candidates))
        generator = torch.Generator(self.model.device)
        generator.manual_seed((self.config.seed << 20) + len(self.history))
        returns = self.dream(weights, generator).mean(1).double().cpu().numpy()
        if not np.isfinite(returns).all():
            raise NonFinite(
                f"Evolution needs finite dreamed returns, but generation {len(self.history)} has "
                "others. Train the world model longer or lower its learning rate."
            )
        decay = self.config.weight_decay * np.square(np.stack(candidates)).mean(1)
        self._tell(candidates, decay - returns)
        return {
            "best": float(returns.max()),
            "mean": float(returns.mean()),
            "worst": float(returns.min()),
            "sigma": float(self._search.sigma),
        }

    @torch.no_grad()
    def dream(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Dreamed returns of each candidate, all episodes of all candidates in one batch.

        Every candidate dreams from the same starts. A step's reward counts by the probability
        that the dream still goes on, the product of `cont`: what is compared is an expectation,
        smooth in the weights, not one draw of an ending. Without a reward head each step that
        is survived earns `config.survival`.

        Args:
            weights: (P, n).
            generator: of the starts and of the model's randomness.

        Returns:
            (P, E) in the world's reward units.
        """
        config, heads = self.config, self.heads
        p, e = len(weights), config.episodes
        starts = self.starts(e, generator)
        state = tree.take(starts, torch.arange(e).repeat(p))

        def act(state: Any, t: int) -> Tensor:
            return self.controller.act(weights, self.features(state).view(p, e, -1)).flatten(0, 1)

        with torch.autocast(weights.device.type, torch.bfloat16, config.precision == "bf16"):
            total = expected_return(
                *(self.model, heads, state, act, config.horizon),
                discount=config.discount,
                survival=config.survival,
                generator=generator,
            )
        return total.view(p, e)

    def state_dict(self) -> dict[str, Any]:
        """The recorded costs: enough to replay the search exactly."""
        return {"costs": [row.tolist() for row in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replay the search from its recorded costs."""
        self.history, self._search = [], self._new_search()
        for row in state["costs"]:
            self._tell(self._search.ask(), np.asarray(row))

    def _tell(self, candidates: list[np.ndarray], costs: np.ndarray) -> None:
        self._search.tell(candidates, costs.tolist())
        self.history.append(costs)
        self.controller.weights.copy_(self._weights(self._search.mean[None])[0])

    def _weights(self, searched: np.ndarray) -> Tensor:
        """Weights (P, n) of the controller for searched numbers (P, m)."""
        found = torch.as_tensor(searched, dtype=torch.float32, device=self.model.device)
        if self.basis is None:
            return found
        inputs, outputs = self.basis.shape[1], self.controller.outputs
        matrix = self.basis @ found[:, : inputs * outputs].view(-1, inputs, outputs)
        return torch.cat([matrix.flatten(1), found[:, inputs * outputs :]], 1)

    def _searched(self) -> int:
        """How many numbers the search is over."""
        if self.basis is None:
            return len(self.controller.weights)
        narrower = self.controller.inputs - self.basis.shape[1]
        return len(self.controller.weights) - narrower * self.controller.outputs

    def _new_search(self) -> Any:
        rng = np.random.default_rng(self.config.seed)
        options = {
            "popsize": self.config.population,
            "seed": np.nan,  # numpy's global generator stays untouched: `randn` is ours
            "randn": lambda *shape: rng.standard_normal(shape),
            "verbose": -9,
            "maxiter": np.inf,
        }
        return cma.CMAEvolutionStrategy(np.zeros(self._searched()), self.config.sigma, options)
