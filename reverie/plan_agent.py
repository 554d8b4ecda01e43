"""`PlanAgent`: acts by planning, with any planner in any model. Imports core, agent, planners.

It stands apart from `agent.py` because planners may run agents' policies, not the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from reverie.agent import generator_on
from reverie.core import tree
from reverie.core.errors import BadConfig
from reverie.core.model import WorldModel
from reverie.core.types import Act, check_obs
from reverie.planners.objective import Objective
from reverie.planners.score import Planner, Warm, advance

S = TypeVar("S")


class Planned(NamedTuple):
    """What `PlanAgent` carries."""

    state: Any  # (B, ...) of the model
    action: Tensor  # (B, A) or (B,): taken last
    queue: Tensor  # (B, R, ...) actions to come, the next one first
    left: Tensor  # (B,) int64 of them, those still to be taken before the next plan
    extra: dict[str, Tensor]  # (B, ...) 'plan_score' and what else the planner said
    warm: Warm  # what the last plan found


class PlanAgent(Generic[S]):
    """Follows what it sees with a world model, and plans in it.

    The carry is `Planned`, or None before the first observation. Each environment replans when its
    own plan is used up or its episode begins; the others keep theirs.

    Args:
        model: turns observations into states, and imagines.
        planner: of `reverie.planners`.
        objective: what plans are to maximise; None for a search, whose heads say what is good.
        aim: (observations, state) -> objective, in place of `objective`, where what is wanted
            depends on what is seen, such as the picture of a goal.
        replan: actions of a plan that are carried out before the next one; a multiple of the
            planner's `repeat`.
        warm: whether a plan begins where the last one ended.
        explore: plans while exploring, with warm starts of the same kind; None: `planner`.

    Raises:
        BadConfig: if there are both an objective and an aim, or `replan` does not fit.
    """

    def __init__(
        self,
        model: WorldModel[S],
        planner: Planner,
        objective: Objective | None = None,
        *,
        aim: Callable[[dict[str, Tensor], S], Objective] | None = None,
        replan: int = 1,
        warm: bool = True,
        explore: Planner | None = None,
    ) -> None:
        """See the class."""
        if objective is not None and aim is not None:
            raise BadConfig("PlanAgent takes an objective or an aim that makes one, not both.")
        self._planners = (planner, explore or planner)
        for one in self._planners:
            if replan < 1 or replan % one.repeat:
                raise BadConfig(
                    f"PlanAgent carries out {replan} actions of a plan, but its planner holds each "
                    f"for {one.repeat} steps. Give a multiple of that."
                )
        self._model, self._objective, self._aim = model, objective, aim
        self._replan, self._warm = replan, warm

    def initial(self, batch: int) -> Planned | None:
        """Nothing was seen yet.

        Args:
            batch: environments B.
        """
        del batch
        return None

    @torch.no_grad()
    def act(
        self,
        carry: Planned | None,
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Planned, Act]:
        """See `Agent.act`.

        `Act.extra` has the worth of the plan, 'plan_score' (B,), and the real numbers that its
        `Plan.extra` has besides warm starts: a search's 'search_policy' and 'root_value'.

        Raises:
            SpaceMismatch: if an observation that the model reads is missing or of another shape.
        """
        check_obs(obs, self._model.observations, (first.shape[0],))
        device = self._model.device
        obs, first = tree.to(obs, device), first.to(device)
        generator = generator_on(generator, device)
        h = self._model.encode({name: obs[name] for name in self._model.observations})
        before = (None, None) if carry is None else (carry.state, carry.action)
        state = self._model.observe(*before, h, first=first, generator=generator)
        due = first if carry is None else first | (carry.left == 0)
        if carry is None or bool(due.any()):
            planner = self._planners[explore]
            carry = self._planned(
                planner, carry, obs, state, first=first, due=due, generator=generator
            )
        action, queue = carry.queue[:, 0], carry.queue.roll(-1, 1)
        carry = carry._replace(state=state, action=action, queue=queue, left=carry.left - 1)
        return carry, Act(action, dict(carry.extra))

    def _planned(
        self,
        planner: Planner,
        carry: Planned | None,
        obs: dict[str, Tensor],
        state: S,
        *,
        first: Tensor,
        due: Tensor,
        generator: torch.Generator | None,
    ) -> Planned:
        """The carry with a new plan in the rows that are due."""
        objective = self._objective if self._aim is None else self._aim(obs, state)
        warm = None
        if self._warm and carry is not None:
            warm = advance(carry.warm, self._replan // planner.repeat, first) or None
        plan = planner.plan(
            self._model,
            state,
            objective,
            warm=warm,
            generator=generator,  # type: ignore[arg-type]
        )
        if plan.actions.shape[1] < self._replan:
            raise BadConfig(
                f"PlanAgent carries out {self._replan} actions, but a plan has only "
                f"{plan.actions.shape[1]}. Plan further, or replan sooner."
            )
        queue = plan.actions[:, : self._replan]
        left = torch.full_like(due, self._replan, dtype=torch.int64)
        warm = {name: x for name, x in plan.extra.items() if name.startswith("warm")}
        told = plan.extra.keys() - warm.keys()
        extra = {name: plan.extra[name] for name in told if plan.extra[name].is_floating_point()}
        extra["plan_score"] = plan.score
        new = Planned(state, queue[:, 0], queue, left, extra, warm)
        if carry is None:
            return new
        return tree.where(due, new, carry._replace(state=state))
