"""Monte Carlo tree search in a learned model: MuZero and its kin. Imports core and planners.

`MCTS` is the planner. What it is given as objects: how slots are selected (`PUCT`, `Gumbel`), what
chance may do (`Outcomes`), and, if the model is a small MLP, its weights for a search that is one
compiled call (`CompiledMLP`). Read `MCTS.search` first: it is the whole algorithm.

The trees are arrays on the host (`tree.py`, `search.py`); the model's states stay on its device,
gathered and scattered once a simulation, and the model is asked once a simulation for all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadConfig, NonFinite, ShapeMismatch
from reverie.core.model import WorldModel, need
from reverie.core.types import Discrete, Heads, Plan, check_shape
from reverie.planners.compiled_mlp import CompiledMLP
from reverie.planners.search import grow, open_chance, walk
from reverie.planners.selection import Selection
from reverie.planners.slots import Listed, Sampled, States, seed_of, slots_of
from reverie.planners.tree import Rules, Tree, plant


class Outcomes(NamedTuple):
    """What chance may do after an action: C outcomes, as many at every call."""

    probability: Tensor  # (B, C) sums to 1
    z: Any = None  # (B, C, ...) what `predict` takes for each of them; None: it draws


def draws(count: int) -> Callable[[Any, Tensor], Outcomes]:
    """Chance nodes for a model whose z cannot be listed: so many draws of it, equally likely.

    Args:
        count: states that `predict` draws for one edge of the tree; later visits come back to
            them in turn.

    Raises:
        BadConfig: if there are none.
    """
    if count < 1:
        raise BadConfig(f"draws needs a count of 1 or more, but it is {count}. Choose another.")

    def chance(_state: Any, action: Tensor) -> Outcomes:
        return Outcomes(torch.full((len(action), count), 1 / count))

    return chance


class Searched(NamedTuple):
    """What a search leaves behind."""

    tree: Tree
    rules: Rules
    candidates: Tensor | None  # (B, A, ...) the actions that the root's slots stand for (Box)


@dataclass(frozen=True)
class MCTS:
    """Tree search with a model's policy, value and reward heads, batched over rows.

    Each simulation goes down the tree, adds one node, asks the model about it, and backs up
    G <- r + discount cont G. Discrete actions are the tree's slots; where the policy's logit is
    -inf the action is never taken (`Categorical` of probabilities has no such logits: it makes
    zeros a little more). For a Box, each node's slots are `samples` draws from the policy, all of
    one prior (Hubert et al. 2021, with the policy itself as the proposal).

    Attributes:
        selection: `PUCT(...)` or `Gumbel(...)`.
        simulations: nodes added to each tree.
        discount: of a step; the `cont` head, if there is one, multiplies it.
        players: 2: turns alternate, rewards and values are those of who is to move, and what is
            good for one is bad for the other.
        samples: slots of a node, for Box actions only.
        chance: (state, action) -> `Outcomes`: gives every edge a chance node (Antonoglou et al.
            2022). None: `predict` is asked once an edge, so a random model is taken for a sure
            one; `draws(n)` is for models whose z cannot be listed.
        heads: in place of the model's own, for lent ones.
        compiled: the model's networks as arrays; the search is then one compiled call, for
            Discrete actions and without `cont` and chance. None: any model in torch.

    Raises:
        BadConfig: if a number is out of its range.

    Source: Schrittwieser et al. 2020, appendix B.
    """

    selection: Selection
    simulations: int = 50
    discount: float = 0.997
    players: int = 1
    samples: int = 16
    chance: Callable[[Any, Tensor], Outcomes] | None = None
    heads: Heads | None = None
    compiled: CompiledMLP | None = None

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if self.simulations < 1 or self.samples < 1 or self.players not in {1, 2}:
            raise BadConfig(
                "MCTS takes 1 or more simulations and samples and 1 or 2 players, but they are "
                f"{self.simulations}, {self.samples} and {self.players}. Choose other numbers."
            )
        if not 0 <= self.discount <= 1:
            raise BadConfig(
                f"MCTS discount must be in 0..1, but it is {self.discount}. Two players are "
                "players=2, not a negative discount."
            )

    @property
    def repeat(self) -> int:
        """World steps for which an action is held: one."""
        return 1

    def plan(
        self,
        model: WorldModel[Any],
        state: Any,
        objective: None = None,
        *,
        warm: None = None,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Plan:
        """Search, and choose one action a row.

        Args:
            model: any model with policy, value and reward heads, lent ones included.
            state: (B, ...) the roots.
            objective: None. The heads say what is good.
            warm: None. Each search begins anew.
            generator: of all randomness; None: torch's default one.
            mask: (B, A) bool which Discrete actions are allowed at the roots; None: all.

        Returns:
            actions (B, 1) int64 or (B, 1, ...) float32; score (B,) the value Q of the action
            chosen; extra: 'search_policy' (B, A) float32, 'root_value' (B,) float32 mean return
            of the simulations and the root's own value, 'visits' (B, A) int64, and for a Box
            'candidates' (B, A, ...), the actions that these speak of.

        Raises:
            BadConfig: if there is an objective or a warm start, or `compiled` does not fit.
            MissingHead: if the model lacks a head.
            SpaceMismatch: if nothing acts, or a mask is given for a Box.
            ShapeMismatch: if the mask, the policy's logits or the outcomes have another shape.
            NonFinite: if the heads said NaN or infinity.
        """
        if objective is not None or warm is not None:
            raise BadConfig(
                "MCTS plans for the reward and value heads and without a warm start, but got an "
                "objective or a warm start. Pass None, or plan for objectives with CEM."
            )
        trees, rules, candidates = self.search(model, state, generator=generator, mask=mask)
        slot, policy = self.selection.decide(trees, rules, partial(_random, generator))
        visits, value = trees.visits[:, 0], trees.value[:, 0]
        root = (trees.raw[:, 0] + (visits * value).sum(1)) / trees.count[:, 0]
        if not np.isfinite(root).all():
            raise NonFinite(
                f"MCTS met rewards or values that are not finite in rows "
                f"{np.flatnonzero(~np.isfinite(root)).tolist()}. Look at what the heads say there."
            )
        rows, device = np.arange(len(slot)), model.device
        chosen = torch.from_numpy(slot).to(device)
        extra = {
            "search_policy": torch.from_numpy(policy).to(device),
            "root_value": torch.from_numpy(root.astype(np.float32)).to(device),
            "visits": torch.from_numpy(visits.astype(np.int64)).to(device),
        }
        if candidates is not None:
            extra["candidates"] = candidates
            chosen = candidates[torch.from_numpy(rows).to(device), chosen]
        return Plan(chosen[:, None], torch.from_numpy(value[rows, slot]).to(device), extra)

    @torch.no_grad()
    def search(
        self,
        model: WorldModel[Any],
        state: Any,
        *,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Searched:
        """All simulations, and nothing decided yet. See `plan` for what goes in.

        Returns:
            The whole trees, for those who want to look at more than the roots.
        """
        if self.compiled is not None:
            return self._search_compiled(self.compiled, model, state, generator, mask)
        heads = model.heads if self.heads is None else self.heads
        policy, value, reward = need(heads, "policy", "value", "reward", what="MCTS")
        slots = slots_of(model, mask, self.samples, self.simulations + 1, tree.size(state))
        with slots.seeded(generator):
            prior = _prior(_host(slots.offer(0, policy(state))), mask)
            prior, rules = self.selection.begin(
                prior, self.simulations, partial(_random, generator)
            )
            trees = plant(
                prior, _host(value(state)), self.simulations, self._outcomes(state, slots)
            )
            nodes = States(state, self.simulations + 1)
            before = torch.from_numpy(trees.before)
            said = torch.full((len(prior), 3 + prior.shape[1]), self._fade, device=model.device)
            rewards, discounts, values, *_ = said.unbind(1)
            for m in range(1, self.simulations + 1):
                walk(trees, m, rules)
                row, slot, _ = before[m].to(said.device).unbind(0)
                old, action = nodes.take(row), slots.take(row, slot)
                z = self._z(trees, m, old, action)
                new = model.predict(old, action, z=z, generator=generator)
                nodes.put(m, new)
                rewards.copy_(reward(old, action, new))
                values.copy_(value(new))
                if heads.cont is not None:
                    discounts.copy_(self._fade * heads.cont(new))
                said[:, 3:] = slots.offer(m, policy(new))
                grow(trees, m, _host(said))
        return Searched(trees, rules, slots.candidates)

    @property
    def _fade(self) -> float:
        """What a value is multiplied by one step earlier, for whoever moves there."""
        return -self.discount if self.players == 2 else self.discount

    def _outcomes(self, state: Any, slots: Listed | Sampled) -> int:
        """C, found by asking about any action."""
        if self.chance is None:
            return 1
        rows = torch.arange(tree.size(state), device=slots.device)
        found = self.chance(state, slots.take(rows, torch.zeros_like(rows))).probability
        return check_shape("probability of the outcomes", found, (len(rows), None)).shape[1]

    def _z(self, trees: Tree, m: int, state: Any, action: Tensor) -> Any:
        """What `predict` takes for the outcomes that simulation m looks at."""
        if self.chance is None:
            return None
        found = self.chance(state, action)
        shape = (len(trees.prior), trees.child.shape[2])
        check_shape("probability of the outcomes", found.probability, shape)
        open_chance(trees, m, _host(found.probability))
        code = torch.from_numpy(trees.before[m, 2])
        rows = torch.arange(len(code))
        return tree.map(lambda x: x[rows.to(x.device), code.to(x.device)], found.z)

    def _search_compiled(
        self,
        net: CompiledMLP,
        model: WorldModel[Any],
        state: Any,
        generator: torch.Generator | None,
        mask: Tensor | None,
    ) -> Searched:
        """The search in one compiled call."""
        plain = self.heads is None and model.heads.cont is None and self.chance is None
        if model.actions != Discrete(net.actions) or not plain:
            raise BadConfig(
                f"CompiledMLP searches Discrete({net.actions}) actions without chance, cont or "
                f"lent heads, but {model.heads.owner} acts in {model.actions}, with cont: "
                f"{model.heads.cont is not None}. Leave `compiled` out."
            )
        latents = net.latents(state)
        logits, value = net.root(latents)
        prior, rules = self.selection.begin(
            _prior(logits, net.rules(state, mask)), self.simulations, partial(_random, generator)
        )
        trees = plant(prior, value, self.simulations, 1)
        net.search(trees, rules, latents, self._fade)
        return Searched(trees, rules, None)


def _prior(logits: np.ndarray, mask: Tensor | None) -> np.ndarray:
    """(B, A) float64 probabilities of the roots' slots, 0 where they are not allowed."""
    if mask is not None:
        if mask.dtype != torch.bool:
            raise ShapeMismatch(f"mask must be bool, but it is {mask.dtype}. Convert it.")
        check_shape("mask", mask, logits.shape)
        logits = np.where(mask.cpu().numpy(), logits, -np.inf)
    top = logits.max(1, keepdims=True).astype(np.float64)
    wrong = ~np.isfinite(top[:, 0])
    if wrong.any():
        raise BadConfig(
            f"MCTS found no action to take in rows {np.flatnonzero(wrong).tolist()}: their mask "
            "forbids all, or the policy's logits are not finite. Leave such rows out."
        )
    weight = np.exp(logits - top)
    return weight / weight.sum(1, keepdims=True)


def _host(x: Tensor) -> np.ndarray:
    """float32 numbers for the compiled walks."""
    return x.to("cpu", torch.float32).contiguous().numpy()


def _random(generator: torch.Generator | None) -> np.random.Generator:
    """A source of the search's own noise."""
    return np.random.default_rng(seed_of(generator))
