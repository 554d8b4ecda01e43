"""Objectives against returns and distances that are counted by hand."""

from __future__ import annotations

import pytest
import torch

from reverie.core.errors import BadConfig, MissingHead, ShapeMismatch
from reverie.core.types import Rollout
from reverie.envs.oracle import Clock, ClockState, RoomState, TwoRooms
from reverie.imagine import rollout
from reverie.planners.objective import ActionCost, GoalDistance, Return, Sum


def told(*actions):
    """The clock from time 2 under these actions."""
    return rollout(Clock(), ClockState(torch.tensor([2.0])), torch.tensor([actions]))


def test_return_is_discounted_and_bootstrapped():
    heads = Clock().heads
    assert Return(heads)(told(2, 3, 4)).tolist() == [90.0]
    assert Return(heads, discount=0.5)(told(2, 3, 4)).tolist() == [20 + 15 + 10]
    value = float(heads.value(ClockState(torch.tensor([4.0]))))
    ahead = Return(heads, discount=0.5, bootstrap=True)(told(2, 3))
    assert ahead.tolist() == [20 + 15 + 0.25 * value]


def test_nothing_is_earned_after_the_end():
    heads = Clock().heads._replace(cont=lambda s: (s.time < 4).float())  # dies on reaching 4
    assert Return(heads)(told(2, 3, 4, 5)).tolist() == [50.0]
    half = heads._replace(cont=lambda s: torch.full_like(s.time, 0.5))
    assert Return(half)(told(2, 3, 4)).tolist() == [20 + 0.5 * 30 + 0.25 * 40]
    assert Return(half, survival=8.0)(told(2, 3)).tolist() == [4.0 + 2.0]


def walked(goal, *places):
    """Distances of a path to a goal in the true model's embedding, which is the position."""
    steps = torch.tensor([[list(p) for p in places]], dtype=torch.float32)
    blank = torch.zeros_like(steps)
    states = RoomState(steps, blank, blank[..., 0])
    return Rollout(states, torch.zeros(1, len(places) - 1, 2))


@pytest.mark.parametrize(("over", "worth"), [("sum", -6.0), ("last", -4.0), ("best", -2.0)])
def test_distances_are_summed_or_the_last_or_the_best(over, worth):
    goal = torch.tensor([[3.0, 4.0]])
    path = walked(goal, (9, 9), (3, 6), (7, 4))  # 2 and 4 away; where it began does not count
    assert GoalDistance(TwoRooms().heads, goal, over=over)(path).tolist() == [worth]


def test_goals_follow_their_candidates():
    """Rows come as environment 0's candidates, then environment 1's."""
    goals = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    steps = torch.tensor([[[0.0, 0.0]] * 2, [[1.0, 0.0]] * 2, [[10.0, 0.0]] * 2, [[8.0, 0.0]] * 2])
    run = Rollout(RoomState(steps, steps, steps[..., 0]), torch.zeros(4, 1, 2))
    objective = GoalDistance(TwoRooms().heads, goals)
    assert objective(run).tolist() == [0.0, -1.0, 0.0, -2.0]
    with pytest.raises(ShapeMismatch, match="3 trajectories"):
        objective(Rollout(RoomState(steps[:3], steps[:3], steps[:3, :, 0]), torch.zeros(3, 1, 2)))


def test_penalties_and_sums():
    actions = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    run = walked(None, (0, 0), (0, 0), (0, 0))._replace(actions=actions)
    assert ActionCost(size=1.0)(run).tolist() == [-5.0]
    assert ActionCost(change=1.0)(run).tolist() == [-5.0]
    both = Sum((2.0, ActionCost(size=1.0)), (0.5, ActionCost(change=1.0)))
    assert both(run).tolist() == [-12.5]


def test_missing_heads_are_refused_when_it_is_made():
    heads = TwoRooms().heads
    with pytest.raises(MissingHead, match="Return with a bootstrap needs value"):
        Return(heads, bootstrap=True)
    with pytest.raises(MissingHead, match="Return of survival needs cont"):
        Return(heads, survival=1.0)
    with pytest.raises(MissingHead, match="Return needs reward"):
        Return(heads._replace(reward=None))
    with pytest.raises(MissingHead, match="GoalDistance needs embed"):
        GoalDistance(heads._replace(embed=None), torch.zeros(1, 2))
    with pytest.raises(BadConfig, match="'first'"):
        GoalDistance(heads, torch.zeros(1, 2), over="first")
