"""What a plan is worth: objectives map a `Rollout` to one number a row, higher is better.

They are built from heads, and a head that is missing is refused when the objective is made. Rows
of a rollout may be candidates: whatever an objective holds for each environment (a goal) is
repeated for the candidates of that environment, which stand together. Imports core only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadConfig, ShapeMismatch
from reverie.core.model import WorldModel, need
from reverie.core.types import Heads, Rollout, check_obs


class Objective(Protocol):
    """What planners maximise."""

    def __call__(self, rollout: Rollout) -> Tensor:
        """(R,) worth of R imagined trajectories, higher is better.

        Args:
            rollout: (R, H+1, ...) states and (R, H, ...) actions.
        """
        ...


class Return:
    """The return along a trajectory, each reward weighed by the probability that it is reached.

    Args:
        heads: `reward`, or `cont` with `survival`; `value` if bootstrapped.
        discount: of rewards, a model step.
        bootstrap: whether the value of the last state is added.
        survival: what each step that is survived earns, for models without a reward head.

    Raises:
        MissingHead: if the heads cannot say it.
    """

    def __init__(
        self,
        heads: Heads,
        *,
        discount: float = 1.0,
        bootstrap: bool = False,
        survival: float | None = None,
    ) -> None:
        if survival is None:
            need(heads, "reward", what="Return")
        else:
            need(heads, "cont", what="Return of survival")
        if bootstrap:
            need(heads, "value", what="Return with a bootstrap")
        self._heads, self._discount = heads, discount
        self._bootstrap, self._survival = bootstrap, survival

    def __call__(self, rollout: Rollout) -> Tensor:
        """See `Objective`."""
        heads, steps, actions = self._heads, _states(rollout), _actions(rollout)
        total, alive = 0.0, 1.0
        for t, (before, action, after) in enumerate(zip(steps, actions, steps[1:], strict=False)):
            goes_on = alive if heads.cont is None else alive * heads.cont(after)
            if self._survival is not None:
                earned = self._survival * goes_on
            else:
                earned = alive * heads.reward(before, action, after)  # type: ignore[misc]
            total, alive = total + self._discount**t * earned, goes_on
        if self._bootstrap:
            last = self._discount ** len(actions) * heads.value(steps[-1])  # type: ignore[misc]
            total = total + alive * last
        return total  # type: ignore[return-value]


class GoalDistance:
    """Minus the Euclidean distance to a goal in a model's embedding.

    Which steps count matters: the last one alone lets a plan dawdle, the sum over the horizon
    hurries, and the best step lets a long plan pass through its goal.

    Args:
        heads: `embed`.
        goal: (B, D) embedding of each environment's goal; see `goal_of`.
        over: "sum" of all steps, the "last", or the "best" one.

    Raises:
        MissingHead: if there is no embedding.
        BadConfig: if `over` is another word.
    """

    def __init__(
        self, heads: Heads, goal: Tensor, *, over: Literal["sum", "last", "best"] = "sum"
    ) -> None:
        (self._embed,) = need(heads, "embed", what="GoalDistance")
        if over not in ("sum", "last", "best"):
            raise BadConfig(f"GoalDistance counts 'sum', 'last' or 'best', but got {over!r}.")
        self._goal, self._over = goal, over

    def __call__(self, rollout: Rollout) -> Tensor:
        """See `Objective`.

        Raises:
            ShapeMismatch: if there is no whole number of rows for each goal, or a goal is not as
                wide as the embedding.
        """
        steps = _states(rollout)[1:]
        steps = steps[-1:] if self._over == "last" else steps
        rows = tree.size(steps[0])
        if rows % len(self._goal):
            raise ShapeMismatch(
                f"GoalDistance holds {len(self._goal)} goals, but {rows} trajectories came. "
                "Give one goal an environment."
            )
        goal = self._goal.repeat_interleave(rows // len(self._goal), 0)
        distance = torch.stack([_gap(self._embed(s), goal).norm(dim=-1) for s in steps])
        return -(distance.amin(0) if self._over == "best" else distance.sum(0))


def _gap(z: Tensor, goal: Tensor) -> Tensor:
    """(R, D) from the goals to embeddings."""
    if z.shape != goal.shape:
        raise ShapeMismatch(
            f"GoalDistance holds goals of {goal.shape[-1]} numbers, but the model's embeddings "
            f"have {z.shape[-1]}. Make the goals with goal_of and the same model."
        )
    return z - goal


def goal_of(
    model: WorldModel[Any], obs: dict[str, Tensor], *, generator: torch.Generator | None = None
) -> Tensor:
    """The embedding of a goal that is given as an observation.

    Args:
        model: needs `embed`.
        obs: (B, ...) what would be seen there.
        generator: of the model's randomness.

    Returns:
        (B, D), without gradient.

    Raises:
        MissingHead: if there is no embedding.
        SpaceMismatch: if a goal is of another shape than what the model reads.
    """
    (embed,) = need(model.heads, "embed", what="goal_of")
    check_obs(obs, model.observations, (len(next(iter(obs.values()))),))
    with torch.no_grad():
        return embed(model.observe(None, None, model.encode(obs), generator=generator))


class ActionCost:
    """Minus the squared actions, and minus their squared changes from step to step.

    Args:
        size: weight of the squared actions.
        change: weight of their squared changes.
    """

    def __init__(self, *, size: float = 0.0, change: float = 0.0) -> None:
        self._size, self._change = size, change

    def __call__(self, rollout: Rollout) -> Tensor:
        """See `Objective`."""
        actions = _given(rollout).float().flatten(2)
        cost = self._size * actions.square().sum((1, 2))
        return -(cost + self._change * actions.diff(dim=1).square().sum((1, 2)))


class Doubt:
    """Minus what is not known along a trajectory, summed over its steps.

    With a weight in a `Sum` it keeps plans where the model has seen something; with a negative
    weight it sends them where it has not.

    Args:
        heads: `epistemic`.

    Raises:
        MissingHead: if the model cannot tell what it does not know.
    """

    def __init__(self, heads: Heads) -> None:
        (self._epistemic,) = need(heads, "epistemic", what="Doubt")

    def __call__(self, rollout: Rollout) -> Tensor:
        """See `Objective`."""
        pairs = zip(_states(rollout), _actions(rollout), strict=False)
        return -torch.stack([self._epistemic(s, a) for s, a in pairs]).sum(0)


class Sum:
    """Several objectives, each times its weight.

    Args:
        *terms: (weight, objective).
    """

    def __init__(self, *terms: tuple[float, Callable[[Rollout], Tensor]]) -> None:
        self._terms = terms

    def __call__(self, rollout: Rollout) -> Tensor:
        """See `Objective`."""
        worth = [weight * objective(rollout) for weight, objective in self._terms]
        return torch.stack(worth).sum(0)


def _states(rollout: Rollout) -> list[Any]:
    """H+1 states (R, ...)."""
    return tree.unstack(rollout.states, _given(rollout).shape[1] + 1)


def _actions(rollout: Rollout) -> tuple[Tensor, ...]:
    """H actions (R, ...)."""
    return _given(rollout).unbind(1)


def _given(rollout: Rollout) -> Tensor:
    if rollout.actions is None:
        raise BadConfig("An objective judges plans, but this rollout has no actions. Give some.")
    return rollout.actions
