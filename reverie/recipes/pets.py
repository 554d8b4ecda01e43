"""PETS in any environment of vectors by name: after each trial the ensemble is fitted anew.

    reverie train pets --env Pendulum-v1
    reverie train pets --env dmc/cartpole-swingup --action_repeat 4 --horizon 30

Each decision is the first action of a plan: CEM over candidates, each lived through by particles
that keep their members. Nothing else explores. The size "small" fits one core; "paper" has the
paper's networks and 500 candidates. `recipes/mbpo.py` lets a policy learn in the same model.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from reverie.core.errors import BadConfig
from reverie.core.types import Discrete
from reverie.data.store import Store
from reverie.models.ensemble import SCHOOLS, Ensemble, EnsembleConfig, Transitions
from reverie.models.ensemble_fit import Fit, FitConfig
from reverie.models.known import REWARDS, ends_of
from reverie.nn.precision import Precision
from reverie.plan_agent import PlanAgent
from reverie.planners.cem import CEM
from reverie.planners.objective import Return
from reverie.progress import Progress
from reverie.recipes.dreaming import (
    Growing,
    Setup,
    evaluate,
    judged,
    prefill,
    run_of,
    spaces_of,
)
from reverie.run import Run, Stage, usable

Rewards = Literal["learned", "known"]


def pets(
    *,
    env: str = "Pendulum-v1",
    seed: int = 0,
    size: Literal["small", "paper"] = "small",
    updates: int = 15,
    steps_per_update: int = 200,
    prefill: int = 200,
    horizon: int = 20,
    samples: int | None = None,
    iterations: int = 4,
    particles: int | None = None,
    action_repeat: int | None = None,
    time_limit: int | None = None,
    reward: Rewards = "learned",
    epochs: int = 50,
    evaluate_every: int = 1_000_000,
    episodes: int = 10,
    precision: Precision = "float32",
    device: str = "cpu",
) -> Run:
    """PETS: plan with an ensemble that knows what it does not know.

    Args:
        env: any name of `reverie.envs.make` that shows vectors.
        seed: of everything.
        size: "small" for one core, or the paper's.
        updates: fits of the model.
        steps_per_update: decisions in the world between two fits; whole episodes are collected.
        prefill: random decisions first.
        horizon: decisions that a plan looks ahead.
        samples: candidates of an iteration; None: of the size.
        iterations: of CEM.
        particles: trajectories of each candidate; None: of the size.
        action_repeat: environment steps that one decision lasts; None: the task's own.
        time_limit: of an episode, in environment steps; None: the environment's own.
        reward: "learned", or "known": a given function, for worlds that have one.
        epochs: of a fit, at most.
        evaluate_every: fits between two evaluations; trials are scored anyway.
        episodes: of each evaluation.
        precision: of the products in plans; see `nn/precision.py`.
        device: where the model lives and plans.
    """
    arguments = dict(locals())
    small = size == "small"
    sizes: dict[str, Any] = {"layers": 3, "units": 128} if small else {}
    model = ensemble_of("pets", arguments, precision=precision, **sizes)
    usual = (100, 10) if small else (500, 20)
    candidates = samples or usual[0]
    planner = CEM(
        horizon=horizon,
        samples=candidates,
        iterations=iterations,
        elites=max(2, candidates // 10),
        std=0.5 if isinstance(model.actions, Discrete) else 0.8,
        std_min=0.05,
        momentum=0.1,
        particles=particles or usual[1],
    )
    agent = PlanAgent(model, planner, Return(model.heads))
    setup = Setup(
        "pets",
        model,
        None,
        agent,
        {**arguments, "observe": seen_in(arguments["env"]), "data": None},
    )
    return replace(run_of(setup, _stages), config=arguments)


def ensemble_of(name: str, arguments: dict[str, Any], **sizes: Any) -> Ensemble:
    """The model of a run, seeded.

    Args:
        name: of the school.
        arguments: of the recipe: env, seed, reward, device and the world's.
        sizes: what differs from the school's own config.

    Raises:
        BadConfig: if a reward is to be known that is not.
    """
    world, reward = arguments["env"], "learned"
    if arguments["reward"] == "known":
        reward = world
        if world not in REWARDS:
            raise BadConfig(
                f"The reward of {world} was asked for as a known function, but there is none. "
                "Leave reward out: it is learned."
            )
    given: EnsembleConfig = replace(
        SCHOOLS[name].config, reward=reward, ends=ends_of(world), **sizes
    )
    spaces = spaces_of({**arguments, "observe": seen_in(arguments["env"]), "data": None})
    device = usable(arguments["device"])
    torch.manual_seed(arguments["seed"])
    return SCHOOLS[name].model(given, *spaces).to(device)


def seen_in(world: str) -> str:
    """What to ask a world for: its vector; toy worlds show what they have and take no wishes."""
    return "auto" if world.startswith("toy/") else "vector"


def transitions(store: Store, device: torch.device) -> Transitions:
    """All steps of a store of vectors, the old ones first."""
    columns = store.columns
    at = np.flatnonzero(~columns["first"][1:])
    seen = columns["obs.vector"]
    found = (
        *(seen[at], columns["action"][at], columns["reward"][at]),
        *(seen[at + 1], columns["terminated"][at]),
    )
    return Transitions(*(torch.from_numpy(np.array(x)).to(device) for x in found))


def _stages(setup: Setup, folder: Path) -> tuple[Stage, ...]:
    """A random trial, then fits and trials in turns, the judge."""
    data = folder / "data"
    growing: list[Growing] = []  # made when the stage begins; the fit reads the same store

    def collector() -> Growing:
        growing[:] = [Growing(setup, data)]
        return growing[0]

    def learner() -> Fit:
        model: Any = setup.model
        return Fit(
            model,
            lambda: transitions(growing[0].store, model.device),
            FitConfig(epochs=setup["epochs"]),
            seed=setup["seed"],
        )

    def finish(progress: Progress) -> dict[str, float]:
        del progress
        for one in growing:
            one.close()
        return {}

    return (
        Stage("collect", prepare=partial(prefill, setup, data)),
        Stage(
            "trials",
            setup["updates"],
            learner=learner,
            collector=collector,
            evaluate=partial(evaluate, setup),
            evaluate_every=setup["evaluate_every"],
            finish=finish,
            log_every=1,
        ),
        Stage("judge", finish=partial(judged, setup, folder)),
    )
