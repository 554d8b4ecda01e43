"""Distances that know the way: objectives for embeddings whose own distance soon says only "far".

An embedding can hold where everything is and still be no map: LeWorldModel's Euclidean distance
saturates after a few steps, so a plan behind a wall sees no slope. Both mends here are made from
the frozen embeddings of recorded episodes and leave the model as it is: `TemporalDistance` learns
how many steps lie between two embeddings, `LandmarkGraph` walks from landmark to landmark. `ToGoal`
makes an objective of either, and `Every` judges a rollout at each n-th step only. Imports core.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor, nn

from reverie.core import tree
from reverie.core.errors import BadConfig, BadData, ShapeMismatch
from reverie.core.model import Part, need
from reverie.core.types import Batch, Heads, Loss, Optim, Rollout

Left = Callable[[Tensor], Tensor]  # (B, N, D) embeddings -> (B, N) what is left to each row's goal


class Distance(Protocol):
    """Says how far embeddings are from goals."""

    def toward(self, goal: Tensor) -> Left:
        """What is left to goals (B, D), for N embeddings of each of B environments."""
        ...


class ToGoal:
    """Minus what is left to the goal, by any distance between embeddings.

    Args:
        heads: `embed`.
        goal: (B, D) embedding of each environment's goal; see `goal_of`.
        distance: as `TemporalDistance` or `LandmarkGraph`.
        over: "sum" of all steps, the "last", or the "best" one; see `GoalDistance`.

    Raises:
        MissingHead: if there is no embedding.
        BadConfig: if `over` is another word.
    """

    def __init__(
        self,
        heads: Heads,
        goal: Tensor,
        distance: Distance,
        *,
        over: Literal["sum", "last", "best"] = "sum",
    ) -> None:
        (self._embed,) = need(heads, "embed", what="ToGoal")
        if over not in ("sum", "last", "best"):
            raise BadConfig(f"ToGoal counts 'sum', 'last' or 'best', but got {over!r}.")
        self._left, self._goals, self._over = distance.toward(goal), len(goal), over

    def __call__(self, rollout: Rollout) -> Tensor:
        """See `Objective`.

        Raises:
            ShapeMismatch: if there is no whole number of rows for each goal.
        """
        steps = tree.unstack(rollout.states, _steps(rollout) + 1)[1:]
        steps = steps[-1:] if self._over == "last" else steps
        rows = tree.size(steps[0])
        if rows % self._goals:
            raise ShapeMismatch(
                f"ToGoal holds {self._goals} goals, but {rows} trajectories came. "
                "Give one goal an environment."
            )
        per_goal = [self._embed(s).unflatten(0, (self._goals, -1)) for s in steps]
        left = torch.stack([self._left(z) for z in per_goal])  # (H, B, N)
        return -(left.amin(0) if self._over == "best" else left.sum(0)).flatten()


class Every:
    """Judges each n-th step of a rollout, for models that leap over the steps between.

    Args:
        steps: n.
        objective: sees every n-th state, and the first action of each stretch.
    """

    def __init__(self, steps: int, objective: Callable[[Rollout], Tensor]) -> None:
        if steps < 1:
            raise BadConfig(f"Every judges each n-th step, but n is {steps}. Give at least 1.")
        self._steps, self._objective = steps, objective

    def __call__(self, rollout: Rollout) -> Tensor:
        """See `Objective`.

        Raises:
            BadConfig: if the horizon is no multiple of n.
        """
        if _steps(rollout) % self._steps:
            raise BadConfig(
                f"Every {self._steps} steps were to be judged, but the plan has "
                f"{_steps(rollout)}. Plan a multiple of that."
            )
        states = tree.map(lambda x: x[:, :: self._steps], rollout.states)
        actions = rollout.actions[:, :: self._steps]  # type: ignore[index]
        return self._objective(Rollout(states, actions))


class TemporalDistance(nn.Module):
    """How many steps lie between two embeddings, learned by temporal differences.

    What was reached within a segment took no more than the steps it took; from there on the slow
    copy knows the rest. Errors that make the way too long weigh `optimism` against those that make
    it too short, so among all the ways that wanderers took the short ones count.

    Args:
        latent: D.
        hidden: width of the network.
        optimism: in (0.5, 1).
        momentum: of the slow copy.
        updates: over which the learning rate falls to 3%.

    Source:
        Kostrikov et al. 2022, arXiv:2110.06169 (expectile); Park et al. 2023, arXiv:2307.11949
        (goals).
    """

    def __init__(
        self,
        latent: int,
        *,
        hidden: int = 256,
        optimism: float = 0.8,
        momentum: float = 0.95,
        updates: int = 800,
    ) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Linear(2 * latent, hidden), nn.LayerNorm(hidden), nn.SiLU()),
            *(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1)),
        )
        self.slow = deepcopy(self.net).requires_grad_(requires_grad=False)
        self._optimism, self._momentum, self._updates = optimism, momentum, updates

    def forward(self, z: Tensor, goal: Tensor) -> Tensor:
        """(...,) steps from z (..., D) to goal (..., D)."""
        return _steps_between(self.net, z, goal)

    def toward(self, goal: Tensor) -> Left:
        """See `Distance`."""
        return lambda z: self(z, goal[:, None].expand_as(z))

    def part(self) -> Part:
        """What learns, from batches with the modality 'embedding' (B, T+1, D), T >= 1."""
        optim = Optim("distance", lr=2e-3, clip_norm=1.0, decay=0.03 ** (1 / self._updates))
        return Part("distance", self.net, self._loss, optim, self._follow)

    @torch.no_grad()
    def _follow(self) -> None:
        for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
            slow.lerp_(fast, 1 - self._momentum)

    def _loss(self, batch: Batch, states: Any) -> Loss:
        """To a moment j of the same segment at most j steps; to a goal elsewhere by way of it."""
        del states
        z = batch.obs["embedding"].float()
        rows, steps = batch.mask.shape
        j = torch.randint(1, steps + 1, (rows,), device=z.device)
        here, there = z[:, 0], z[torch.arange(rows, device=z.device), j]
        elsewhere = there.roll(1, 0)  # batches are drawn at random: another row is any place
        with torch.no_grad():
            through = j + _steps_between(self.slow, there, elsewhere)
        own = self._error(here, there, j.float())
        other = self._error(here, elsewhere, through)
        rest = _steps_between(self.net, here, here).square()
        later = torch.arange(steps, device=z.device) >= j[:, None]
        counts = (batch.mask | later).all(1)
        total = ((own + other + rest) * counts).sum() / counts.sum().clamp(min=1)
        terms = {"within": own, "elsewhere": other}
        return Loss(total, {name: x.detach().mean() for name, x in terms.items()})

    def _error(self, z: Tensor, goal: Tensor, target: Tensor) -> Tensor:
        """(B,) the squared error, lopsided."""
        gap = self(z, goal) - target
        weight = torch.where(gap > 0, self._optimism, 1 - self._optimism)
        return weight * F.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="none")


def _steps_between(net: nn.Module, z: Tensor, goal: Tensor) -> Tensor:
    """(...,) not negative."""
    return F.softplus(net(torch.cat([z, goal], -1)).float()[..., 0])


class LandmarkGraph:
    """The length of the shortest way over landmarks that lie no further apart than one step leads.

    Landmarks are recorded embeddings that lie far from each other. Euclidean distance is trusted
    only within the reach of a step, so no edge leads through a wall that no step leads through.

    Args:
        z: (R, D) recorded embeddings, in the order of time.
        step: (R-1,) bool: row r+1 is one step after row r.
        landmarks: how many.
        reach: how many times the longest usual step (95% are shorter) an edge may be.
        seed: of the draw of candidates.

    Raises:
        BadData: if there are no more rows than landmarks, or no steps.

    Source:
        Eysenbach et al. 2019, arXiv:1906.05253 (search on the replay buffer).
    """

    def __init__(
        self, z: Tensor, step: Tensor, *, landmarks: int = 400, reach: float = 1.0, seed: int = 0
    ) -> None:
        if len(z) <= landmarks or not step.any():
            raise BadData(
                f"LandmarkGraph was asked for {landmarks} landmarks, but {len(z)} embeddings with "
                f"{int(step.sum())} steps between them came. Record more, or ask for fewer."
            )
        lengths = (z[1:] - z[:-1])[step].norm(dim=-1)
        self._reach = reach * float(lengths.quantile(0.95))
        self.landmarks = _far_apart(z, landmarks, seed)  # (M, D)
        between = torch.cdist(self.landmarks, self.landmarks).cpu().numpy()
        edges = csr_matrix(np.where(between <= self._reach, between, 0.0))
        ways = torch.from_numpy(dijkstra(edges, directed=False)).float()  # (M, M), inf: no way
        self.ways = ways.to(z.device)

    @property
    def connected(self) -> float:
        """Share of pairs of landmarks between which there is a way."""
        return float(self.ways.isfinite().float().mean())

    def toward(self, goal: Tensor) -> Left:
        """See `Distance`."""
        into = self._near(goal)  # (B, M)
        rest = (self.ways + into[:, None]).amin(-1)  # (B, M) from each landmark to the goal

        def left(z: Tensor) -> Tensor:
            straight = (z - goal[:, None]).norm(dim=-1)
            around = (self._near(z.flatten(0, 1)).unflatten(0, z.shape[:2]) + rest[:, None]).amin(
                -1
            )
            return torch.where(straight <= self._reach, straight, around).clamp(max=_NO_WAY)

        return left

    def _near(self, z: Tensor) -> Tensor:
        """(R, M) distance of (R, D) to landmarks within reach, and to the nearest; else inf."""
        distance = torch.cdist(z, self.landmarks)
        least = distance.amin(-1, keepdim=True)
        return distance.masked_fill(distance > least.clamp(min=self._reach), torch.inf)


_NO_WAY = 1e4  # where the graph falls apart: far, but a number


def _far_apart(z: Tensor, count: int, seed: int) -> Tensor:
    """(M, D) of 4,000 of the rows (R, D): each is the furthest from all that came before it."""
    generator = torch.Generator().manual_seed(seed)
    pool = z[torch.randperm(len(z), generator=generator)[:4000].to(z.device)]
    chosen = [torch.zeros((), dtype=torch.int64, device=z.device)]
    distance = torch.full((len(pool),), torch.inf, device=z.device)
    for _ in range(count - 1):
        distance = torch.minimum(distance, (pool - pool[chosen[-1]]).norm(dim=-1))
        chosen.append(distance.argmax())
    return pool[torch.stack(chosen)]


def _steps(rollout: Rollout) -> int:
    """H."""
    if rollout.actions is None:
        raise BadConfig("An objective judges plans, but this rollout has no actions. Give some.")
    return rollout.actions.shape[1]
