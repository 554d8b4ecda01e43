"""A planner for any model that says what is good: how a model without a behavior is made to act.

Imports core, the planners and `plan_agent`.
"""

from __future__ import annotations

from typing import Any

from reverie.agent import Agent
from reverie.core.errors import MissingHead
from reverie.core.model import WorldModel
from reverie.plan_agent import PlanAgent
from reverie.planners.cem import CEM
from reverie.planners.objective import Return


def planning(model: WorldModel[Any]) -> Agent:
    """CEM in the model for its rewards, or for survival where it only knows endings.

    Args:
        model: acts, and has `reward` or `cont`.

    Raises:
        MissingHead: if it has neither.
    """
    heads = model.heads
    if heads.reward is None and heads.cont is None:
        raise MissingHead(
            f"Planning needs reward or cont; {heads.owner} has neither. Lend it one, train a "
            "behavior, or give it goals with GoalDistance."
        )
    objective = Return(heads, survival=None if heads.reward is not None else 1.0)
    return PlanAgent(model, CEM(horizon=12, samples=64, iterations=3, elites=8), objective)
