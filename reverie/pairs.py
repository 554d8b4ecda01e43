"""Which planner plans in which school: found by planning, not by reading what a card declares.

Each school's small, untrained instance is asked for a plan by every planner, for the first aim
that its heads allow: a return, survival, or the distance to a goal. `reverie list --pairs` and the
README's table come from here. Imports planners, behaviors and, through the registry, the schools.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from reverie.behaviors.actor_critic import V3, ActorCritic
from reverie.core import registry
from reverie.core.errors import ReverieError
from reverie.core.model import WorldModel
from reverie.core.probe import sample_space
from reverie.planners.cem import CEM
from reverie.planners.gradient import Gradient
from reverie.planners.icem import ICEM
from reverie.planners.mcts import MCTS
from reverie.planners.mppi import MPPI
from reverie.planners.objective import GoalDistance, Objective, Return, goal_of
from reverie.planners.selection import PUCT, Gumbel
from reverie.planners.shooting import RandomShooting

ROWS = 2  # environments that are planned for at once
NO = "-"
LENT = "lent"  # policy and value are those of an actor-critic over the model's features
PLANNERS: dict[str, Any] = {
    "random shooting": RandomShooting(2, 4),
    "CEM": CEM(2, 8, 2, 2),
    "iCEM": ICEM(2, 8, 2, 2),
    "MPPI": MPPI(2, 8, 2, 2),
    "gradients": Gradient(2, 2, 2),
    "MCTS, pUCT": MCTS(PUCT(), 4),
    "MCTS, Gumbel": MCTS(Gumbel(), 4),
}


def pairs(name: str) -> dict[str, str]:
    """What each planner can plan for in a school.

    Args:
        name: of a registered model.

    Returns:
        Planner -> "return", "survival" or "goal"; "value" for a search with the model's own policy
        and value, "lent" for one with an actor-critic's; "-" for none.

    Raises:
        UnknownName: naming the nearest registered models.
    """
    model = registry.instance(name, small=True).eval()
    return {title: _plans(model, planner) for title, planner in PLANNERS.items()}


def table(names: Iterable[str]) -> str:
    """The README's table, in Markdown.

    Args:
        names: of registered models.
    """
    lines = ["| | " + " | ".join(PLANNERS) + " |", "|---" * (len(PLANNERS) + 1) + "|"]
    for name in names:
        lines.append(f"| `{name}` | " + " | ".join(pairs(name).values()) + " |")
    return "\n".join(lines)


def _plans(model: WorldModel[Any], planner: Any) -> str:
    """The first aim that a plan comes back for."""
    generator = torch.Generator().manual_seed(0)
    obs = {key: sample_space(s, (ROWS,), generator) for key, s in model.observations.items()}
    aims = _searches if isinstance(planner, MCTS) else _aims
    for title, attempt in aims(model, planner, obs):
        torch.manual_seed(0)
        try:
            attempt()
        except ReverieError:
            continue
        return title
    return NO


def _searches(model: WorldModel[Any], planner: MCTS, obs: dict[str, Tensor]) -> Any:
    """With the model's own heads, then with lent ones."""
    yield "value", lambda: planner.plan(model, _state(model, obs))

    def lent() -> None:
        heads = ActorCritic(model, replace(V3, units=8)).heads
        replace(planner, heads=heads).plan(model, _state(model, obs))

    yield LENT, lent


def _aims(model: WorldModel[Any], planner: Any, obs: dict[str, Tensor]) -> Any:
    """Return, survival, goal."""

    def plan(objective: Objective) -> None:
        planner.plan(model, _state(model, obs), objective)

    yield "return", lambda: plan(Return(model.heads))
    yield "survival", lambda: plan(Return(model.heads, survival=1.0))
    yield "goal", lambda: plan(GoalDistance(model.heads, goal_of(model, obs)))


@torch.no_grad()
def _state(model: WorldModel[Any], obs: dict[str, Tensor]) -> Any:
    """(ROWS, ...) after one look."""
    return model.observe(None, None, model.encode(obs))
