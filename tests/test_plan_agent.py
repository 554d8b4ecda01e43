"""Acting by planning: through the door of two rooms, plan by plan, each environment for itself."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.distributions import Categorical

from reverie.core.errors import BadConfig, MissingHead
from reverie.core.types import Box, Plan
from reverie.data.collect import collect
from reverie.data.store import Store
from reverie.envs import toy
from reverie.envs.oracle import Bandit, Clock, Grid, TwoRooms
from reverie.evaluate.control import control
from reverie.plan_agent import PlanAgent
from reverie.planners.cem import CEM
from reverie.planners.mcts import MCTS
from reverie.planners.objective import GoalDistance, Return, goal_of
from reverie.planners.selection import PUCT


def test_through_the_door_of_two_rooms():
    """100 tasks whose goal is in the other room; success is the world's own predicate.

    Only the true dynamics and the distance as the crow flies are given. The best step of a long
    plan finds the door, where the last step of a short one stands at the wall.
    """
    model = TwoRooms()

    def aim(obs, state):
        return GoalDistance(model.heads, state.goal, over="best")

    planner = CEM(horizon=8, samples=128, iterations=4, elites=12, std=1.0, repeat=4)
    agent = PlanAgent(model, planner, aim=aim, replan=4)
    with contextlib.closing(toy.TwoRooms(100, observe=("vector",), task="cross")) as env:
        score = control("oracle", env, agent, episodes=100, seed=0)
    assert score.success_rate.value >= 0.95


class Script:
    """A planner whose plan k is 10 k, 10 k + 1, ... and that keeps its warm starts."""

    repeat = 1

    def __init__(self):
        self.warm = []

    def plan(self, model, state, objective, *, warm=None, generator=None):
        self.warm.append(warm)
        k = 10 * (len(self.warm) - 1)
        actions = torch.arange(k, k + 4).expand(len(state.time), 4)
        found = torch.full((len(state.time), 4, 1), float(len(self.warm)))
        return Plan(actions, torch.zeros(len(state.time)), {"warm_mean": found})


def seen(*hours):
    return {"vector": torch.tensor([[float(h)] for h in hours])}


def test_each_environment_replans_when_its_own_plan_is_over():
    planner = Script()
    agent = PlanAgent(Clock(), planner, Return(Clock().heads), replan=3)
    carry, taken = None, []
    firsts = [(True, True), (False, False), (False, True), (False, False), (False, False)]
    for t, first in enumerate(firsts):
        carry, act = agent.act(carry, seen(t, t), torch.tensor(first))
        taken.append(act.action.tolist())
    # The second row begins anew at step 2; the first one goes on and replans at step 3.
    assert taken == [[0, 0], [1, 1], [2, 10], [20, 11], [21, 12]]
    assert planner.warm[0] is None
    restarted = planner.warm[1]["warm_mean"][:, :, 0]
    assert restarted.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]  # three steps later; begun anew


def test_a_cold_agent_forgets():
    planner = Script()
    agent = PlanAgent(Clock(), planner, Return(Clock().heads), warm=False)
    carry, _ = agent.act(None, seen(0), torch.tensor([True]))
    agent.act(carry, seen(1), torch.tensor([False]))
    assert planner.warm == [None, None]


def test_a_search_acts_and_says_what_is_to_be_stored(tmp_path):
    """The grid from its start, by a search with the true value; MuZero learns from the extras."""
    model = Grid()
    heads = model.heads._replace(policy=lambda s: Categorical(torch.ones(len(s.cell), 4)))
    agent = PlanAgent(model, MCTS(PUCT(), 60, 1.0, heads=heads))
    extra = {"search_policy": Box((4,)), "root_value": Box(()), "plan_score": Box(())}
    with (
        contextlib.closing(toy.Grid(3)) as env,
        Store.create(tmp_path / "games", model.observations, model.actions, extra) as store,
    ):
        collect(env, agent, episodes=3, seed=0, on_episode=store.append)
        episodes = [store[i] for i in range(3)]
    for episode in episodes:
        assert float(episode.reward.sum()) == 4.0  # seven steps, the last one to the goal
        policy, value = episode.extra["search_policy"], episode.extra["root_value"]
        assert policy.shape == (7, 4) and policy.sum(1).tolist() == pytest.approx([1.0] * 7)
        assert policy.argmax(1).tolist() == episode.action.tolist()  # pUCT takes the most visited
        assert value[-1] > 5 > value[0]  # the goal's 10 are one step away, and seven


def test_what_a_search_says_stands_beside_its_own_row():
    class Telling(Script):
        def plan(self, model, state, objective, *, warm=None, generator=None):
            plan = super().plan(model, state, objective, warm=warm, generator=generator)
            told = torch.full((len(state.time),), float(len(self.warm)))
            return plan._replace(score=-told, extra={**plan.extra, "root_value": told})

    agent, carry, told = PlanAgent(Clock(), Telling(), replan=2), None, []
    for t, first in enumerate([(True, True), (False, True), (False, False)]):
        carry, act = agent.act(carry, seen(t, t), torch.tensor(first))
        assert sorted(act.extra) == ["plan_score", "root_value"]
        assert torch.equal(act.extra["plan_score"], -act.extra["root_value"])
        told.append(act.extra["root_value"].tolist())
    # The second row begins anew at step 1; the first one plans again at step 2.
    assert told == [[1, 1], [1, 2], [3, 2]]


def test_a_goal_is_embedded_as_a_state_is():
    model = TwoRooms()
    vector = torch.tensor([[5.0, 6.0, 20.0, 21.0, 16.0]])
    assert goal_of(model, {"vector": vector}).tolist() == [[5.0, 6.0]]
    with pytest.raises(MissingHead, match="goal_of needs embed"):
        goal_of(Bandit(), {"vector": torch.zeros(1, 1)})


def test_what_does_not_fit_is_refused():
    model = Clock()
    objective = Return(model.heads)
    with pytest.raises(BadConfig, match="not both"):
        PlanAgent(model, CEM(), objective, aim=lambda obs, state: objective)
    with pytest.raises(BadConfig, match="multiple"):
        PlanAgent(model, CEM(repeat=4), objective, replan=6)
    agent = PlanAgent(model, CEM(horizon=2), objective, replan=3)
    with pytest.raises(BadConfig, match="has only 2"):
        agent.act(None, seen(0), torch.tensor([True]))
