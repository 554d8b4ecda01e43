"""Who acts in a dream: a person, the trained agent, the model's policy, a planner, a recording.

A `Driver` belongs to one session and remembers what its passengers need from step to step.
Imports core, planners and imagine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadConfig
from reverie.core.types import Discrete
from reverie.imagine import rollout
from reverie.planners.objective import GoalDistance, Objective, Return
from reverie.planners.score import advance
from reverie.player.branches import Moment
from reverie.player.glimpse import decoded, look
from reverie.player.hands import Action
from reverie.player.reality import Reality, Recording
from reverie.player.subject import Subject

REPLAN = 4  # actions of a plan that are carried out
OTHERS = 3  # random plans that are drawn beside the chosen one


class Considered(NamedTuple):
    """Plans that a planner had before it, the chosen one first."""

    scores: list[float]
    pictures: list[list[np.ndarray]]  # a plan: (3, h, w) uint8 every second step; [] without


class Driver:
    """Chooses the steered branch's next action.

    Args:
        subject: that is played.
        generator: of this session's randomness.
    """

    def __init__(self, subject: Subject, generator: torch.Generator) -> None:
        self._subject, self._generator = subject, generator
        self.who = "you"
        self.pressed: Action = subject.hands.idle  # what the person holds down now
        self.goal: Tensor | None = None  # (1, D) embedding of where to plan to
        self.considered: Considered | None = None  # news for the page
        self._tapped: Action = None  # pressed since the last step, perhaps let go already
        self.forget()

    def forget(self) -> None:
        """What happened before has no bearing on what follows."""
        self._carry: Any = None
        self._queue: list[Action] = []
        self._warm: dict[str, Tensor] = {}

    def hand_over(self, who: str) -> None:
        """Let somebody else act.

        Raises:
            BadConfig: if there is no such driver here.
        """
        drivers = self._subject.drivers
        if who not in drivers:
            raise BadConfig(f"Nobody called '{who}' can act here: {', '.join(drivers)} can.")
        if who == "planner":
            self._objective()
        self.who = who
        self.forget()

    def press(self, action: Action) -> None:
        """The person does something, or (None) lets go."""
        idle = self._subject.hands.idle
        self.pressed = idle if action is None else action
        if self.pressed != idle:
            self._tapped = self.pressed

    @property
    def acting(self) -> bool:
        """Whether the person is doing something now."""
        held = self.pressed != self._subject.hands.idle or self._tapped is not None
        return self.who == "you" and held

    def choose(self, moment: Moment, reality: Reality | None) -> Action:
        """The next action; None: nothing acts, or the person has not decided yet."""
        if self._subject.hands.kind == "none":
            return None
        if self.who == "you":
            action = self.pressed if self._tapped is None else self._tapped
            self._tapped = None
            return action
        if self.who == "recording":
            return self._recorded(reality)
        if self.who == "policy":
            return self._sampled(moment)
        with torch.no_grad():
            return self._acted(moment) if self.who == "agent" else self._planned(moment)

    def _recorded(self, reality: Reality | None) -> Action:
        action = reality.action() if isinstance(reality, Recording) else None
        if action is None:
            self.who = "you"
            raise BadConfig("The recording has no next action. Begin from a frame of one.")
        return action

    def _sampled(self, moment: Moment) -> Action:
        """From what the policy head said."""
        policy = moment.glimpse.policy
        if policy is None or not isinstance(self._subject.model.actions, Discrete):
            return policy
        return int(torch.multinomial(torch.tensor(policy), 1, generator=self._generator))

    def _acted(self, moment: Moment) -> Action:
        """The agent sees the dream as if it were the world."""
        subject, agent = self._subject, self._subject.agent
        if agent is None or subject.heads.decode is None:
            raise BadConfig("The agent must see something, but this model draws nothing.")
        drawn = decoded(subject.model, subject.heads.decode(moment.state))
        obs = {name: torch.from_numpy(x) for name, x in drawn.items()}
        first = torch.tensor([self._carry is None])
        carry = agent.initial(1) if self._carry is None else self._carry
        self._carry, act = agent.act(carry, obs, first, generator=self._generator)
        return subject.hands.action(act.action[0].cpu())

    def _planned(self, moment: Moment) -> Action:
        """Plan when the last plan is used up, and tell what was considered."""
        if not self._queue:
            subject, objective = self._subject, self._objective()
            still = torch.zeros(1, dtype=torch.bool, device=subject.model.device)
            plan = subject.planner.plan(
                *(subject.model, moment.state, objective),
                warm=advance(self._warm, REPLAN, still) or None,
                generator=self._generator,
            )
            self._warm = {k: x for k, x in plan.extra.items() if k.startswith("warm")}
            steps = plan.actions[0, :REPLAN].cpu()
            self._queue = [subject.hands.action(action) for action in steps]
            self.considered = self._draw(moment.state, plan.actions, objective)
        return self._queue.pop(0)

    def _objective(self) -> Objective:
        """What is worth reaching: a goal if one is set, else reward, else survival.

        Raises:
            BadConfig: if there is nothing.
        """
        heads = self._subject.heads
        if self.goal is not None:
            return GoalDistance(heads, self.goal)
        if heads.reward is not None:
            return Return(heads, bootstrap=heads.value is not None)
        if heads.cont is not None:
            return Return(heads, survival=1.0)
        raise BadConfig("A planner needs a goal here. Choose a real frame as the goal first.")

    def _draw(self, state: Any, best: Tensor, objective: Objective) -> Considered:
        """The chosen plan and some that were not, as the dream sees them."""
        model, space = self._subject.model, self._subject.model.actions
        shape = (OTHERS, *best.shape[1:])
        noise = torch.rand(shape, generator=self._generator)
        drawn = (noise * space.n).long() if isinstance(space, Discrete) else 2 * noise - 1
        plans = torch.cat([best, drawn.to(best.device)])
        start = tree.repeat(state, len(plans))
        run = rollout(model, start, plans, generator=self._generator)
        moments = tree.unstack(run.states, plans.shape[1] + 1)[2::2]
        seen = [[g.picture for g in look(model, self._subject.heads, s)] for s in moments]
        pictures = [[p for p in row if p is not None] for row in zip(*seen, strict=True)]
        return Considered([float(x) for x in objective(run)], pictures)
