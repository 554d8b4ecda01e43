"""The tasks that are shipped. Each is one function; `TASKS` names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from reverie import envs
from reverie.agent import Agent, BrownianAgent, RandomAgent, SweepAgent, WanderAgent
from reverie.bench.task import Task
from reverie.core import registry
from reverie.core.model import WorldModel
from reverie.envs import toy
from reverie.envs.cartpole import CartPole
from reverie.envs.oracle import TwoRooms
from reverie.evaluate import surprise
from reverie.plan_agent import PlanAgent
from reverie.planners.cem import CEM
from reverie.planners.objective import GoalDistance, Objective, Return, goal_of


def two_rooms() -> Task:
    """32x32 pixels, 20,000 transitions of smooth wandering, goals as pictures."""
    observe = ("image", "goal", "vector")

    def world(num_envs: int, seed: int, **changes: Any) -> VectorEnv:
        return toy.TwoRooms(num_envs, observe=observe, seed=seed, **changes)

    return Task(
        name="two_rooms",
        about="reach the place on a picture, from pixels, around a wall with a door",
        environment="toy/two_rooms",
        world=world,
        explorer=BrownianAgent,
        other=RandomAgent,
        transitions=20_000,
        held=60,
        reads=("image",),
        plan=_to_the_goal,
        score="success",
        unit="steps at the goal",
        context=4,
        horizon=20,
        truth="vector",
        oracle=TwoRooms,
        baselines=_at_random,
        edits=surprise.two_rooms,
        shifted=lambda num_envs, seed: world(num_envs, seed, door="random"),
        num_envs=25,
    )


def _to_the_goal(model: WorldModel) -> Agent:
    """CEM towards the goal: a picture, or for the true model its coordinates."""

    def aim(obs: dict[str, Tensor], state: Any) -> Objective:
        del state
        vector = obs["vector"]
        there = {"image": obs["goal"], "vector": torch.cat([vector[:, 2:4], vector[:, 2:]], 1)}
        wanted = goal_of(model, {name: there[name] for name in model.observations})
        return GoalDistance(model.heads, wanted, over="best")

    planner = CEM(horizon=5, samples=64, iterations=3, elites=8, std=1.0, repeat=5)
    return PlanAgent(model, planner, aim=aim, replan=5)


def cartpole() -> Task:
    """CartPole-v1 from pictures of 64x64 pixels."""

    def world(num_envs: int, seed: int) -> VectorEnv:
        return envs.make("CartPole-v1", num_envs, seed=seed, observe="both", time_limit=200)

    def longer(num_envs: int, seed: int) -> VectorEnv:
        """The same with a pole twice as heavy and half as long again."""
        env: Any = world(num_envs, seed)
        for row in env.envs:
            row.unwrapped.length, row.unwrapped.masspole = 0.75, 0.2
            row.unwrapped.polemass_length = 0.75 * 0.2
            row.unwrapped.total_mass = 1.2
        return env

    return Task(
        name="cartpole",
        about="keep a pole upright, from pixels, for at most 200 steps",
        environment="CartPole-v1",
        world=world,
        explorer=RandomAgent,
        other=lambda actions: SweepAgent(actions, 6, 6),
        transitions=10_000,
        held=60,
        reads=("image",),
        plan=lambda model: _to_survive(model, horizon=16, repeat=1, replan=2),
        shifted=longer,
        score="return",
        unit="steps balanced",
        context=3,
        horizon=8,
        truth="vector",
        memoryless=("vector",),
        oracle=CartPole,
        baselines=_at_random,
        episodes=40,
    )


def pusht() -> Task:
    """The T block that must cover its outline; pictures of 64x64 pixels."""

    def world(num_envs: int, seed: int) -> VectorEnv:
        return envs.make("pusht/PushT-v0", num_envs, seed=seed, observe="both", time_limit=100)

    return Task(
        name="pusht",
        about="push a T block onto its outline, from pixels",
        environment="pusht/PushT-v0",
        world=world,
        explorer=BrownianAgent,
        other=RandomAgent,
        transitions=10_000,
        held=40,
        reads=("image",),
        plan=_to_earn,
        score="return",
        unit="summed cover",
        context=3,
        horizon=20,
        truth="vector",
        baselines=_at_random,
        episodes=20,
    )


def doom() -> Task:
    """ViZDoom TakeCover: dodge fireballs."""
    from reverie.recipes.doom import ROWS

    def world(num_envs: int, seed: int) -> VectorEnv:
        return envs.make("doom/take_cover", num_envs, seed=seed, rows=ROWS)

    return Task(
        name="doom",
        about="dodge fireballs for as long as can be, at most 2,100 tics",
        environment="doom/take_cover",
        world=world,
        explorer=WanderAgent,
        other=RandomAgent,
        transitions=60_000,
        held=60,
        reads=("image",),
        plan=lambda model: _to_survive(model, horizon=8, repeat=4, replan=4),
        score="return",
        unit="tics survived",
        context=8,
        horizon=30,
        baselines=lambda actions: {
            **_at_random(actions),
            "blind sweep": SweepAgent(actions, 28, 28),
        },
        episodes=24,
        num_envs=8,
    )


def _at_random(actions: Any) -> dict[str, Agent]:
    return {"random": RandomAgent(actions)}


def _to_survive(model: WorldModel, *, horizon: int, repeat: int, replan: int) -> Agent:
    """CEM over Discrete actions for steps survived.

    MuZero says in rewards what others say by `cont`: after an end it foretells none.
    """
    planner = CEM(horizon=horizon, samples=32, iterations=2, elites=4, repeat=repeat, momentum=0.3)
    paid = model.heads.cont is None and model.heads.reward is not None
    aim = Return(model.heads) if paid else Return(model.heads, survival=1.0)
    return PlanAgent(model, planner, aim, replan=replan)


def _to_earn(model: WorldModel) -> Agent:
    """CEM in a Box for predicted rewards."""
    planner = CEM(horizon=6, samples=96, iterations=3, elites=12, std=0.8, repeat=2)
    return PlanAgent(model, planner, Return(model.heads), replan=4)


TASKS: dict[str, Callable[[], Task]] = {
    "two_rooms": two_rooms,
    "cartpole": cartpole,
    "pusht": pusht,
    "doom": doom,
}


def task_of(name: str) -> Task:
    """The task of a name.

    Raises:
        UnknownName: naming the tasks that there are.
    """
    if name not in TASKS:
        raise registry.unknown("task", name, TASKS)
    return TASKS[name]()
