"""What all sampling planners share: the contract, one way to score, and what passes between calls.

A planner is a frozen record of numbers. `plan` takes a state and an objective and gives a `Plan`;
what it found is in `Plan.extra` under names that begin with "warm", and may be passed to the next
call after `advance`. All environments share the same noise, so no row's plan depends on which rows
stand beside it. Imports core and imagine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.model import Foreseeing, WorldModel
from reverie.core.types import Box, Plan, Rollout
from reverie.imagine import rollout, unroll
from reverie.planners.objective import Objective

Warm = dict[str, Tensor]  # (B, ..., H, A) by name


class Planner(Protocol):
    """Finds actions that an objective likes in a model's imagination."""

    @property
    def repeat(self) -> int:
        """World steps for which each planned action is held."""
        ...

    def plan(
        self,
        model: WorldModel[Any],
        state: Any,
        objective: Any,
        *,
        warm: Any = None,
        generator: torch.Generator | None = None,
    ) -> Plan:
        """Plan for B environments, each for itself.

        Args:
            model: any world model with actions of the kind that this planner takes.
            state: (B, ...) where the plans begin.
            objective: an `Objective` to maximise; None for a search, whose heads say what is good.
            warm: `extra` of the last plan, moved on by `advance`; None: begin anew.
            generator: of all randomness, on the model's device; None: torch's default one.

        Returns:
            Actions (B, H * repeat, ...), their worth (B,), and what to begin with next time.

        Raises:
            SpaceMismatch: if the actions are of the wrong kind; names the planner to take.
        """
        ...


@dataclass(frozen=True)
class Candidates:
    """What the candidates of one call of `plan` are scored with."""

    model: WorldModel[Any]
    state: Any  # (B, ...) where all plans begin
    objective: Objective
    repeat: int = 1  # model steps for which each action is held
    particles: int = 1  # trajectories of each candidate, over which its worth is averaged
    generator: torch.Generator | None = None
    films: dict[int, Any] = field(default_factory=dict)  # by rows: memory for their states

    @torch.no_grad()
    def score(self, actions: Tensor) -> Tensor:
        """The worth of N candidate plans for each of B environments.

        Args:
            actions: (B, N, H, A) float or (B, N, H) int64.

        Returns:
            (B, N).
        """
        return score_candidates(self, actions)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal noise on the model's device."""
        return torch.randn(shape, generator=self.generator, device=self.model.device)

    def uniform(self, *shape: int) -> Tensor:
        """Noise in [0, 1) on the model's device."""
        return torch.rand(shape, generator=self.generator, device=self.model.device)

    def plan(self, actions: Tensor, warm: Warm) -> Plan:
        """The plan of one candidate a row, (B, H, ...), scored, each action held `repeat` steps."""
        score = self.score(actions[:, None])[:, 0]
        return Plan(actions.repeat_interleave(self.repeat, 1), score, dict(warm))


def score_candidates(given: Candidates, actions: Tensor) -> Tensor:
    """The worth (B, N) of candidates (B, N, H, ...); gradients reach the actions.

    Args:
        given: what they are scored with.
        actions: (B, N, H, A) float or (B, N, H) int64.
    """
    b, n = actions.shape[:2]
    many = n * given.particles
    plans = actions.flatten(0, 1)
    plans = plans.repeat_interleave(given.repeat, 1) if given.repeat > 1 else plans
    plans = plans.repeat_interleave(given.particles, 0) if given.particles > 1 else plans
    if isinstance(given.model, Foreseeing):
        run = Rollout(given.model.foresee(given.state, plans.unflatten(0, (b, many))), plans)
        return given.objective(run).view(b, n, given.particles).mean(-1)
    start = tree.repeat(given.state, many)
    kept = not torch.is_grad_enabled() and all(isinstance(x, Tensor) for x in tree.leaves(start))
    if kept:
        run = _filmed(given, start, plans)
    else:
        run = rollout(given.model, start, plans, generator=given.generator)
    return given.objective(run).view(b, n, given.particles).mean(-1)


def _filmed(given: Candidates, state: Any, plans: Tensor) -> Rollout:
    """A `rollout` without gradients: each state is copied to its place, and its memory is free.

    The places serve all iterations of a plan: fresh memory would cost more than the copies.
    """
    columns, rows = plans.unbind(1), len(plans)
    if rows not in given.films:
        length = len(columns) + 1
        given.films[rows] = tree.map(lambda x: x.new_empty((length, *x.shape)), state)
    film = given.films[rows]
    tree.map(lambda kept, x: kept[0].copy_(x), film, state)
    run = unroll(
        *(given.model, state, lambda _, t: columns[t], len(columns)), generator=given.generator
    )
    for t, (_, _, after) in enumerate(run, 1):
        tree.map(lambda kept, x, t=t: kept[t].copy_(x), film, after)
    return Rollout(tree.map(lambda x: x.transpose(0, 1), film), plans)


def advance(extra: Warm, steps: int, restart: Tensor) -> Warm:
    """What a plan found, seen from so many planned steps later.

    Args:
        extra: of a `Plan`.
        steps: planned actions that were carried out.
        restart: (B,) bool: rows that begin anew; theirs is zero, which means knowing nothing.

    Returns:
        Its "warm" tensors (B, ..., H, A), moved along H, with zeros at the end.
    """
    moved = {}
    for name, x in extra.items():
        if name.startswith("warm"):
            later = torch.cat([x[..., steps:, :], torch.zeros_like(x[..., :steps, :])], -2)
            moved[name] = later.masked_fill(restart.view(-1, *(1,) * (x.dim() - 1)), 0)
    return moved


def box(model: WorldModel[Any], who: str) -> Box:
    """The model's Box of actions.

    Args:
        model: to plan in.
        who: plans, for the message.

    Raises:
        SpaceMismatch: if it has another kind, or none.
    """
    if not isinstance(model.actions, Box):
        other = "CEM or MCTS" if who != "CEM" else "MCTS"
        mend = f"Use {other}." if model.actions else "Only what acts can be planned."
        raise SpaceMismatch(f"{who} plans in a Box of actions, not in {model.actions}. {mend}")
    return model.actions


def check_numbers(who: str, **numbers: int) -> None:
    """Refuse a number below 1.

    Args:
        who: is being made.
        numbers: by name.

    Raises:
        BadConfig: naming it.
    """
    for name, value in numbers.items():
        if value < 1:
            raise BadConfig(f"{who}.{name} must be at least 1, but it is {value}. Raise it.")


def top(actions: Tensor, score: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best candidates of each row, best first.

    Args:
        actions: (B, N, ...).
        score: (B, N); what is not finite counts as worst.
        k: how many.

    Returns:
        (B, k, ...) actions and (B, k) scores.
    """
    best, index = score.nan_to_num(-torch.inf, neginf=-torch.inf).topk(k, 1)
    index = index.view(*index.shape, *(1,) * (actions.dim() - 2))
    return actions.gather(1, index.expand(-1, -1, *actions.shape[2:])), best
