"""The two ways of a tree search: pUCT (MuZero) and Gumbel MuZero. Imports core, planners.tree.

Each says how a search begins at its roots (`begin`: noise on the prior, what the walks follow)
and what is concluded from its trees (`decide`). The defaults act as well as they can; the noise
that self-play needs is asked for. `search.py` holds the formulas that the walks compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from reverie.core.errors import BadConfig
from reverie.planners.search import root_sigma
from reverie.planners.tree import Rules, Tree

Random = Callable[[], np.random.Generator]  # made only where something is drawn


class Selection(Protocol):
    """What `MCTS` asks of pUCT and Gumbel."""

    def begin(
        self, prior: np.ndarray, simulations: int, random: Random
    ) -> tuple[np.ndarray, Rules]:
        """Before the first simulation.

        Args:
            prior: (B, A) float64 probabilities; 0: not allowed.
            simulations: of the search.
            random: of the noise.

        Returns:
            (B, A) float32 the prior to search with, and what the walks follow.
        """
        ...

    def decide(self, tree: Tree, rules: Rules, random: Random) -> tuple[np.ndarray, np.ndarray]:
        """After the last one.

        Args:
            tree: that was searched.
            rules: of the search.
            random: of the choice.

        Returns:
            (B,) int64 the slots chosen, and (B, A) float32 the policy that the search found.
        """
        ...


@dataclass(frozen=True)
class PUCT:
    """MuZero's selection: the prior pulls towards slots, visits and their values speak.

    The policy found is the share of visits. Values are scaled to [0, 1] over the tree; slots
    without visits count as the least value of it, so the first good one is held on to until the
    prior's pull has grown: 16 slots of equal prior want 1,000 simulations. For sampled actions
    `Gumbel` needs fewer.

    Attributes:
        temperature: slots are chosen with N^(1 / temperature); 0: the most visited one, of equals
            the one of most value. Self-play: 1, later less.
        noise: share of Dirichlet noise in the root's prior. Self-play: 0.25.
        alpha: of the Dirichlet noise; about 10 divided by the number of moves.
        c1: weight of the prior.
        c2: visits after which the prior weighs more.

    Raises:
        BadConfig: if a number is out of its range.

    Source: Schrittwieser et al. 2020, appendix B.
    """

    temperature: float = 0.0
    noise: float = 0.0
    alpha: float = 0.3
    c1: float = 1.25
    c2: float = 19652.0

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        _require(self.temperature >= 0, "PUCT temperature", self.temperature, "0 or more")
        _require(0 <= self.noise <= 1, "PUCT noise", self.noise, "in 0..1")
        _require(self.alpha > 0, "PUCT alpha", self.alpha, "above 0")
        _require(self.c1 >= 0, "PUCT c1", self.c1, "0 or more")
        _require(self.c2 > 0, "PUCT c2", self.c2, "above 0")

    def begin(
        self, prior: np.ndarray, simulations: int, random: Random
    ) -> tuple[np.ndarray, Rules]:
        """See `Selection.begin`."""
        if self.noise > 0:
            allowed = prior > 0
            drawn = np.maximum(random().standard_gamma(self.alpha, prior.shape), 1e-300) * allowed
            prior = (1 - self.noise) * prior + self.noise * drawn / drawn.sum(1, keepdims=True)
        nothing = np.zeros((len(prior), 0), np.float32)
        rules = Rules(
            gumbel=False,
            pull=_pull(self.c1, self.c2, simulations),
            sigma=np.zeros(2, np.float32),
            score=nothing,
            turn=nothing.astype(np.int32),
        )
        return prior.astype(np.float32), rules

    def decide(self, tree: Tree, rules: Rules, random: Random) -> tuple[np.ndarray, np.ndarray]:
        """See `Selection.decide`."""
        del rules
        visits = tree.visits[:, 0]
        share = visits / visits.sum(1, keepdims=True)
        if self.temperature == 0:
            best = visits == visits.max(1, keepdims=True)
            choice = np.where(best, tree.value[:, 0], -np.inf).argmax(1)
        else:
            with np.errstate(divide="ignore"):
                score = np.log(share) / self.temperature
            choice = (score + random().gumbel(size=score.shape)).argmax(1)
        return choice, share.astype(np.float32)


@dataclass(frozen=True)
class Gumbel:
    """Gumbel MuZero's selection: a policy that is better than the prior even with 2 simulations.

    At the root, sequential halving among the slots that are best by noise + log prior; inside the
    tree, visits follow the improved policy. The policy found is softmax(log prior + sigma(Q)),
    where slots without visits get the mixed value, and sigma(q) = (c_visit + max N) c_scale q with
    q scaled to [0, 1] over a node's slots.

    Attributes:
        considered: slots tried at the root, at most.
        noise: scale of the Gumbel noise. Self-play: 1.
        c_visit: see above.
        c_scale: see above.

    Raises:
        BadConfig: if a number is out of its range.

    Source: Danihelka et al. 2022, algorithm 2, equations 8, 11 and 14 and appendix D.
    """

    considered: int = 16
    noise: float = 0.0
    c_visit: float = 50.0
    c_scale: float = 0.1

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        _require(self.considered >= 1, "Gumbel considered", self.considered, "1 or more")
        _require(self.noise >= 0, "Gumbel noise", self.noise, "0 or more")
        _require(self.c_visit >= 0, "Gumbel c_visit", self.c_visit, "0 or more")
        _require(self.c_scale > 0, "Gumbel c_scale", self.c_scale, "above 0")

    def begin(
        self, prior: np.ndarray, simulations: int, random: Random
    ) -> tuple[np.ndarray, Rules]:
        """See `Selection.begin`."""
        with np.errstate(divide="ignore"):
            score = np.log(prior)
        if self.noise > 0:
            score = score + self.noise * random().gumbel(size=prior.shape)
        tried = np.minimum((prior > 0).sum(1), self.considered)
        rules = Rules(
            gumbel=True,
            pull=np.zeros(0, np.float32),
            sigma=np.array([self.c_visit, self.c_scale], np.float32),
            score=score.astype(np.float32),
            turn=_turns(self.considered, simulations)[tried],
        )
        return prior.astype(np.float32), rules

    def decide(self, tree: Tree, rules: Rules, random: Random) -> tuple[np.ndarray, np.ndarray]:
        """See `Selection.decide`."""
        del random
        sigma, prior, visits = root_sigma(tree, rules), tree.prior[:, 0], tree.visits[:, 0]
        best = (visits == visits.max(1, keepdims=True)) & (prior > 0)
        choice = np.where(best, rules.score + sigma, -np.inf).argmax(1)
        improved = prior * np.exp(sigma - sigma.max(1, keepdims=True), dtype=np.float64)
        return choice, (improved / improved.sum(1, keepdims=True)).astype(np.float32)


def halving(considered: int, simulations: int) -> list[int]:
    """The visits that a root's slot must have so far to be tried by each simulation.

    Args:
        considered: slots m that are tried at first, >= 1.
        simulations: n.

    Returns:
        n numbers. Each phase gives its slots max(1, n / (log2(m) slots)) visits and keeps half.

    Source: Karnin et al. 2013, as in Danihelka et al. 2022, appendix A.
    """
    if considered == 1:
        return list(range(simulations))
    phases, visits = math.ceil(math.log2(considered)), 0
    turns: list[int] = []
    while len(turns) < simulations:
        for _ in range(max(1, simulations // (phases * considered))):
            turns += [visits] * considered
            visits += 1
        considered = max(2, considered // 2)
    return turns[:simulations]


@lru_cache(maxsize=64)
def _turns(considered: int, simulations: int) -> np.ndarray:
    """(considered + 1, M) int32 the `halving` of each number of slots; column m: simulation m."""
    rows = [halving(max(1, slots), simulations) for slots in range(considered + 1)]
    return np.pad(np.array(rows, np.int32), ((0, 0), (1, 0)))


@lru_cache(maxsize=64)
def _pull(c1: float, c2: float, simulations: int) -> np.ndarray:
    """(M + 1,) float32 sqrt(N) (c1 + log((N + c2 + 1) / c2)) for N = 0..M."""
    count = np.arange(simulations + 2)
    return (np.sqrt(count) * (c1 + np.log((count + c2 + 1) / c2))).astype(np.float32)


def _require(fits: bool, name: str, number: float, span: str) -> None:  # noqa: FBT001
    """Refuse a number out of its range."""
    if not fits:
        raise BadConfig(f"{name} must be {span}, but it is {number}. Choose another number.")
