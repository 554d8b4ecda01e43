"""TD-MPC2 in any environment by name, online or from a store.

    reverie train tdmpc2 --env Pendulum-v1 --seed 3
    reverie train tdmpc2 --env dmc/cartpole-swingup --action-repeat 2 --no-episodic
    reverie train tdmpc2 --env CartPole-v1 --size 5M          # Discrete actions: by tree search

The size "small" fits two cores; the paper's sizes are there by name. The stages are those of
`recipes/dreaming.py`: random decisions, as many updates as those are, then one update a decision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch

from reverie.core.types import Discrete
from reverie.models.tdmpc2 import TDMPC2, TDMPC2Config, discount_of, sized
from reverie.plan_agent import PlanAgent
from reverie.planners.mcts import MCTS
from reverie.planners.mppi import MPPI
from reverie.planners.objective import Return
from reverie.planners.selection import Gumbel
from reverie.recipes.dreaming import Setup, run_of, spaces_of, worldly
from reverie.run import Run, usable

SMALL = {"latent": 64, "units": 128, "encoder": 128, "critics": 2, "lr": 1e-3}


def tdmpc2(
    *,
    env: str | None = None,
    seed: int = 0,
    size: str = "small",
    updates: int = 20_000,
    steps_per_update: float = 1.0,
    prefill: int = 1000,
    pretrain: int = 1000,
    batch: int = 128,
    length: int = 3,
    episode_length: int = 500,
    episodic: bool = True,
    action_repeat: int | None = None,
    time_limit: int | None = None,
    observe: Literal["auto", "image", "vector", "both"] = "auto",
    frames: int | None = None,
    data: str | None = None,
    evaluate_every: int = 1000,
    episodes: int = 5,
    precision: Literal["float32", "bf16"] = "float32",
    device: str = "cpu",
) -> Run:
    """TD-MPC2: it plans a few steps in a latent world, and a Q says what comes after.

    Box actions are planned by MPPI with proposals from the policy, Discrete ones by a Gumbel
    search.

    Args:
        env: any name of `reverie.envs.make`; None: no world at all if there is `data`, else
            Pendulum-v1.
        seed: of everything.
        size: "small" for two cores, or a paper's size, "1M" to "317M".
        updates: of model and policy together.
        steps_per_update: decisions in the world for each update.
        prefill: random decisions first.
        pretrain: updates on these alone.
        batch: segments in a batch; the paper has 256.
        length: transitions in a segment, and steps of a plan.
        episode_length: decisions of an episode; the discount follows from it.
        episodic: whether episodes can end before the clock; without, a head is saved.
        action_repeat: environment steps that one decision lasts; None: the task's own.
        time_limit: of an episode, in environment steps; None: the environment's own.
        observe: "image", "vector", "both" or what the environment gives.
        frames: pictures of so many moments that are seen together; None: 3 where there are only
            pictures, else one.
        data: a store, or data in any format of `reverie data`, to learn from; nothing is
            collected.
        evaluate_every: updates between two evaluations.
        episodes: of each evaluation.
        precision: "bf16" computes the losses under autocast.
        device: where the model lives and plans.
    """
    arguments = _framed(worldly(dict(locals()), "Pendulum-v1"))
    options: dict[str, Any] = {"discount": discount_of(episode_length), "episodic": episodic}
    config = TDMPC2Config(**SMALL, **options) if size == "small" else sized(size, **options)
    torch.manual_seed(seed)
    model = TDMPC2(config, *spaces_of(arguments)).to(usable(device))
    agent = planning(model, length, small=size == "small")
    return run_of(Setup("tdmpc2", model, None, agent, arguments))


def _framed(arguments: dict[str, Any]) -> dict[str, Any]:
    """The latent remembers nothing, so a single picture would hide how things move."""
    if arguments["frames"] is not None or arguments["data"] is not None:
        return arguments
    seen, _ = spaces_of(arguments)
    blind = any(isinstance(space, Discrete) or len(space.shape) != 3 for space in seen.values())
    return {**arguments, "frames": None if blind else 3}


def planning(model: TDMPC2, horizon: int, *, small: bool) -> PlanAgent[Any]:
    """The agent that plans in a model: by MPPI, or by a search where actions are Discrete.

    Args:
        model: of any size.
        horizon: steps of a plan.
        small: whether a quarter of the paper's candidates must do.
    """
    discount = model.config.discount
    if isinstance(model.actions, Discrete):
        count = 16 if small else 50
        search = MCTS(Gumbel(), count, discount=discount)
        return PlanAgent(model, search, explore=MCTS(Gumbel(noise=1.0), count, discount=discount))
    planner = MPPI(horizon, 512, 6, 64, std=2.0, proposals=24, choose="elite")
    if small:
        planner = replace(planner, samples=128, iterations=4, elites=16, proposals=8)
    explore = replace(planner, choose="noisy")
    aim = Return(model.heads, discount=discount, bootstrap=True)
    return PlanAgent(model, planner, aim, explore=explore)
