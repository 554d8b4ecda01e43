"""MBPO in any environment of vectors by name, and SAC alone, its model-free baseline.

    reverie train mbpo --env Hopper-v5 --steps 20000
    reverie train sac --env Hopper-v5 --steps 20000

Both collect whole episodes with the policy, and both arms draw the same real steps' worth of
experience: what differs is where the behavior's batches come from, and how many it can afford.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from reverie.agent import PolicyAgent
from reverie.behaviors.branching import Branching, BranchingConfig, Schedule
from reverie.behaviors.sac import SAC, SACConfig
from reverie.data.sample import Sampler
from reverie.learner import GradientLearner, Learner
from reverie.models.ensemble_fit import Fit, FitConfig
from reverie.nn.precision import Precision
from reverie.progress import Progress
from reverie.recipes.dreaming import Growing, Setup, evaluate, judged, prefill, run_of
from reverie.recipes.pets import Rewards, ensemble_of, seen_in, transitions
from reverie.run import Run, Stage

Learners = Callable[[Setup, Callable[[], Growing]], Learner]
_BATCH = 256  # steps of an update


def mbpo(
    *,
    env: str = "Pendulum-v1",
    seed: int = 0,
    size: Literal["small", "paper"] = "small",
    steps: int = 5000,
    updates_per_step: int = 10,
    prefill: int = 1000,
    retrain: int = 250,
    rollout: tuple[int, int, int, int] = (0, 1, 1, 1),
    starts: int = 20_000,
    keep: int = 100_000,
    real: float = 0.05,
    entropy: float | None = None,
    action_repeat: int | None = None,
    time_limit: int | None = None,
    reward: Rewards = "learned",
    epochs: int = 20,
    evaluate_every: int = 1000,
    episodes: int = 5,
    precision: Precision = "float32",
    device: str = "cpu",
) -> Run:
    """MBPO: SAC on short rollouts of an ensemble, branched from real states.

    Args:
        env: any name of `reverie.envs.make` that shows vectors and acts in a Box.
        seed: of everything.
        size: "small" for one core, or the paper's.
        steps: decisions in the world, the random ones first included.
        updates_per_step: of the behavior for each decision in the world.
        prefill: random decisions first.
        retrain: decisions after which the model is fitted and rolled out anew.
        rollout: (first, last, least, most): rollouts are `least` long up to `first` real steps,
            `most` from `last` on, linear between.
        starts: rollouts begun after each fit.
        keep: dreamed steps that are remembered.
        real: share of real steps in a batch; 0 to 1.
        entropy: nats that the policy aims at; None: minus the numbers of an action.
        action_repeat: environment steps that one decision lasts; None: the task's own.
        time_limit: of an episode, in environment steps; None: the environment's own.
        reward: "learned", or "known": a given function, for worlds that have one.
        epochs: of a fit, at most.
        evaluate_every: decisions in the world between two evaluations.
        episodes: of each evaluation.
        precision: of the products in rollouts; see `nn/precision.py`.
        device: where everything lives.
    """
    arguments = dict(locals())
    sizes: dict[str, Any] = {"layers": 3, "units": 128} if size == "small" else {}
    return _run("mbpo", arguments, {"precision": precision, **sizes}, _branching)


def sac(
    *,
    env: str = "Pendulum-v1",
    seed: int = 0,
    size: Literal["small", "paper"] = "small",
    steps: int = 5000,
    updates_per_step: int = 1,
    prefill: int = 1000,
    entropy: float | None = None,
    action_repeat: int | None = None,
    time_limit: int | None = None,
    evaluate_every: int = 1000,
    episodes: int = 5,
    device: str = "cpu",
) -> Run:
    """SAC alone: nothing is modelled; the ensemble of the run stays untrained.

    Args:
        env: any name of `reverie.envs.make` that shows vectors and acts in a Box.
        seed: of everything.
        size: "small" for one core, or the paper's.
        steps: decisions in the world, the random ones first included.
        updates_per_step: of the behavior for each decision in the world.
        prefill: random decisions first.
        entropy: nats that the policy aims at; None: minus the numbers of an action.
        action_repeat: environment steps that one decision lasts; None: the task's own.
        time_limit: of an episode, in environment steps; None: the environment's own.
        evaluate_every: decisions in the world between two evaluations.
        episodes: of each evaluation.
        device: where everything lives.
    """
    arguments = {**locals()}
    return _run("sac", arguments, {"members": 1, "elites": 1, "layers": 1, "units": 8}, _alone)


def _run(name: str, arguments: dict[str, Any], sizes: dict[str, Any], learners: Learners) -> Run:
    """A run of either arm."""
    model = ensemble_of("mbpo", {"reward": "learned", **arguments}, **sizes)
    units = 128 if arguments["size"] == "small" else 256
    config = SACConfig(units=units, entropy=arguments["entropy"])
    behavior = SAC(model, config).to(model.device)
    agent = PolicyAgent(model, behavior.policy, explore=behavior.explore)
    each, later = arguments["updates_per_step"], arguments["steps"] - arguments["prefill"]
    derived = {
        "observe": seen_in(arguments["env"]),
        "data": None,
        "updates": later * each,
        "steps_per_update": 1 / each,
        "real_rows": round(arguments.get("real", 1.0) * _BATCH),
    }
    setup = Setup(name, model, behavior, agent, {**arguments, **derived})
    return replace(run_of(setup, partial(_stages, learners)), config=arguments)


def _branching(setup: Setup, growing: Callable[[], Growing]) -> Branching:
    """The model and the behavior by turns."""
    model: Any = setup.model

    def starts(n: int) -> dict[str, Tensor]:
        seen = transitions(growing().store, model.device).before
        return {"vector": seen[torch.randint(len(seen), (n,), device=seen.device)]}

    config = BranchingConfig(
        Schedule(*setup["rollout"]), setup["retrain"], setup["starts"], setup["keep"], _BATCH
    )
    fit = Fit(
        model,
        lambda: transitions(growing().store, model.device),
        FitConfig(epochs=setup["epochs"], batch=256),
        seed=setup["seed"],
    )
    return Branching(
        *(model, setup.behavior.parts(), setup.behavior.explore, fit),
        steps=lambda: growing().store.steps,
        starts=starts,
        config=config,
    )


def _alone(setup: Setup, growing: Callable[[], Growing]) -> GradientLearner:
    """The behavior, from real steps only."""
    del growing
    return GradientLearner(setup.behavior.parts())


def _stages(learners: Learners, setup: Setup, folder: Path) -> tuple[Stage, ...]:
    """Random steps, learning while data grows, the judge."""
    data, each = folder / "data", setup["updates_per_step"]
    growing: list[Growing] = []  # made when the stage begins; what learns reads the same store

    def collector() -> Growing:
        growing[:] = [Growing(setup, data)]
        return growing[0]

    def sampler() -> Sampler:
        return Sampler(
            *(growing[0].store, setup["real_rows"], 1),
            packed=False,
            seed=setup["seed"],
            device=setup.model.device,
        )

    def finish(progress: Progress) -> dict[str, float]:
        del progress
        for one in growing:
            one.close()
        return {}

    return (
        Stage("collect", prepare=partial(prefill, setup, data)),
        Stage(
            "policy",
            setup["updates"],
            learner=lambda: learners(setup, lambda: growing[0]),
            sampler=sampler if setup["real_rows"] else None,
            collector=collector,
            collect_every=each,
            evaluate=partial(evaluate, setup),
            evaluate_every=setup["evaluate_every"] * each,
            finish=finish,
            log_every=100 * each,
        ),
        Stage("judge", finish=partial(judged, setup, folder)),
    )
