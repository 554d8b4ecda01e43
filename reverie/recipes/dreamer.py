"""PlaNet and Dreamer 1 to 3 in any environment by name, online or from a store.

    reverie train dreamer_v3 --env CartPole-v1 --seed 3
    reverie train dreamer_v3 --env toy/two_rooms --size 1M
    reverie train dreamer_v2 --data recordings.hdf5                 # offline, in any format
    reverie train dreamer_v3 --frozen runs/dreamer_v3-0 --seed 1    # only a behavior, in dreams

The size "small" fits two cores; the papers' sizes are there by name. The stages are in
`recipes/dreaming.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from reverie.behaviors.actor_critic import V1, V2, V3, ActorCriticConfig
from reverie.core.errors import BadConfig
from reverie.core.types import Discrete, Optim
from reverie.models.dreamer import SCHOOLS, SIZES, sized
from reverie.models.rssm import RSSMConfig
from reverie.nn.latent import Categorical, Gaussian
from reverie.nn.likelihood import FreeGaussian
from reverie.plan_agent import PlanAgent
from reverie.planners.cem import CEM
from reverie.planners.objective import Return
from reverie.recipes.dreaming import (
    NoisyPlans,
    Setup,
    dreaming,
    modelled,
    run_of,
    spaces_of,
    worldly,
)
from reverie.run import Run


def dreamer_v3(
    *,
    env: str | None = None,
    seed: int = 0,
    size: str = "small",
    updates: int = 8000,
    steps_per_update: float = 2.0,
    prefill: int = 1000,
    batch: int = 16,
    length: int = 32,
    action_repeat: int | None = None,
    time_limit: int | None = None,
    observe: Literal["auto", "image", "vector", "both"] = "auto",
    data: str | None = None,
    frozen: str | None = None,
    evaluate_every: int = 500,
    episodes: int = 10,
    precision: Literal["float32", "bf16"] = "float32",
    device: str = "cpu",
) -> Run:
    """DreamerV3: one setting for every world.

    Args:
        env: any name of `reverie.envs.make`; None: that of `frozen`, no world at all if there is
            `data`, else CartPole-v1.
        seed: of everything.
        size: "small" for two cores, or a paper's size, "1M" to "400M"; with those, segments begin
            from the states in which they were last entered (`recipes/contexts.py`).
        updates: of model, actor and critic together.
        steps_per_update: decisions in the world for each update.
        prefill: random decisions first.
        batch: segments in a batch.
        length: transitions in a segment.
        action_repeat: environment steps that one decision lasts; None: the task's own.
        time_limit: of an episode, in environment steps; None: the environment's own.
        observe: "image", "vector", "both" or what the environment gives.
        data: a store, or data in any format of `reverie data`, to learn from; nothing is
            collected.
        frozen: folder of a finished run of this recipe; only a behavior is trained, in the dreams
            of that run's model, from moments of that run's data.
        evaluate_every: updates between two evaluations.
        episodes: of each evaluation.
        precision: "bf16" computes the losses under autocast.
        device: where the model lives and dreams.
    """
    arguments = worldly(dict(locals()), "CartPole-v1")
    if size == "small":
        return run_of(dreaming("dreamer_v3", SMALL_V3, SMALL_V3_BEHAVIOR, arguments))
    if size not in SIZES:
        raise BadConfig(f"size is '{size}'. Choose 'small' or one of {', '.join(SIZES)}.")
    behavior = replace(V3, units=SIZES[size][-1])
    return run_of(dreaming("dreamer_v3", sized(size), behavior, arguments, contexts=True))


def dreamer_v2(
    *,
    env: str | None = None,
    seed: int = 0,
    size: Literal["small", "paper"] = "small",
    updates: int = 8000,
    steps_per_update: float = 2.0,
    prefill: int = 1000,
    batch: int = 16,
    length: int = 32,
    action_repeat: int | None = None,
    time_limit: int | None = None,
    observe: Literal["auto", "image", "vector", "both"] = "auto",
    data: str | None = None,
    frozen: str | None = None,
    evaluate_every: int = 500,
    episodes: int = 10,
    precision: Literal["float32", "bf16"] = "float32",
    device: str = "cpu",
) -> Run:
    """DreamerV2: REINFORCE for Discrete actions, value gradients for a Box.

    Args:
        env: any name of `reverie.envs.make`; None: that of `frozen`, no world at all if there is
            `data`, else CartPole-v1.
        seed: of everything.
        size: "small" for two cores, or the paper's.
        updates: of model, actor and critic.
        steps_per_update: decisions in the world for each update.
        prefill: random decisions first.
        batch: segments in a batch.
        length: transitions in a segment.
        action_repeat: environment steps that one decision lasts; None: the task's own.
        time_limit: of an episode, in environment steps; None: the environment's own.
        observe: "image", "vector", "both" or what the environment gives.
        data: see `dreamer_v3`.
        frozen: see `dreamer_v3`.
        evaluate_every: updates between two evaluations.
        episodes: of each evaluation.
        precision: "bf16" computes the losses under autocast.
        device: where the model lives and dreams.
    """
    arguments = worldly(dict(locals()), "CartPole-v1")
    config, behavior = SCHOOLS["dreamer_v2"].config, V2
    if size == "small":
        config = thin(config, latent=Categorical(16, 8, unimix=0.0))
        behavior = _quick(behavior, entropy=1e-3)
    if isinstance(spaces_of(arguments)[1], Discrete):
        behavior = replace(behavior, value_gradients=0.0)
    return run_of(dreaming("dreamer_v2", config, behavior, arguments))


def dreamer_v1(
    *,
    env: str | None = None,
    seed: int = 0,
    size: Literal["small", "paper"] = "small",
    updates: int = 8000,
    steps_per_update: float = 2.0,
    prefill: int = 1000,
    batch: int = 16,
    length: int = 32,
    action_repeat: int | None = None,
    time_limit: int | None = None,
    observe: Literal["auto", "image", "vector", "both"] = "auto",
    data: str | None = None,
    frozen: str | None = None,
    evaluate_every: int = 500,
    episodes: int = 10,
    precision: Literal["float32", "bf16"] = "float32",
    device: str = "cpu",
) -> Run:
    """Dreamer: value gradients through the dream; Box actions only.

    Args:
        env: any name of `reverie.envs.make` with Box actions; None: that of `frozen`, no world at
            all if there is `data`, else Pendulum-v1.
        seed: of everything.
        size: "small" for two cores, or the paper's.
        updates: of model, actor and critic.
        steps_per_update: decisions in the world for each update.
        prefill: random decisions first.
        batch: segments in a batch.
        length: transitions in a segment.
        action_repeat: environment steps that one decision lasts; None: the task's own.
        time_limit: of an episode, in environment steps; None: the environment's own.
        observe: "image", "vector", "both" or what the environment gives.
        data: see `dreamer_v3`.
        frozen: see `dreamer_v3`.
        evaluate_every: updates between two evaluations.
        episodes: of each evaluation.
        precision: "bf16" computes the losses under autocast.
        device: where the model lives and dreams.
    """
    arguments = worldly(dict(locals()), "Pendulum-v1")
    config, behavior = SCHOOLS["dreamer_v1"].config, V1
    if size == "small":
        config, behavior = thin(config, latent=Gaussian(16)), _quick(behavior)
    return run_of(dreaming("dreamer_v1", config, behavior, arguments))


def planet(
    *,
    env: str | None = None,
    seed: int = 0,
    size: Literal["small", "paper"] = "small",
    updates: int = 4000,
    steps_per_update: float = 2.0,
    prefill: int = 1000,
    batch: int = 16,
    length: int = 32,
    action_repeat: int | None = None,
    time_limit: int | None = None,
    observe: Literal["auto", "image", "vector", "both"] = "auto",
    data: str | None = None,
    evaluate_every: int = 1000,
    episodes: int = 5,
    precision: Literal["float32", "bf16"] = "float32",
    device: str = "cpu",
) -> Run:
    """PlaNet: no policy; it plans by CEM in the latent space before each decision.

    The paper's model has no head for endings; here it has one, or worlds that end could not be
    planned in.

    Args:
        env: any name of `reverie.envs.make`; None: no world at all if there is `data`, else
            CartPole-v1.
        seed: of everything.
        size: "small" for two cores, or the paper's.
        updates: of the model.
        steps_per_update: decisions in the world for each update.
        prefill: random decisions first.
        batch: segments in a batch.
        length: transitions in a segment.
        action_repeat: environment steps that one decision lasts; None: the task's own.
        time_limit: of an episode, in environment steps; None: the environment's own.
        observe: "image", "vector", "both" or what the environment gives.
        data: a store, or data in any format of `reverie data`, to learn from; nothing is
            collected.
        evaluate_every: updates between two evaluations.
        episodes: of each evaluation.
        precision: "bf16" computes the losses under autocast.
        device: where the model lives and dreams.
    """
    arguments = worldly(dict(locals()), "CartPole-v1")
    config = replace(SCHOOLS["planet"].config, cont_weight=10.0, cont_layers=3)
    planner = CEM(horizon=12, samples=1000, iterations=10, elites=100, std=1.0)
    if size == "small":
        config = thin(config, latent=Gaussian(16))
        planner = replace(planner, samples=200, iterations=5, elites=20)
    model = modelled("planet", config, arguments)
    agent = NoisyPlans(PlanAgent(model, planner, Return(model.heads), warm=False), model.actions)
    return run_of(Setup("planet", model, None, agent, arguments))


# -- presets for two cores ------------------------------------------------------------------------

_LAPROP = Optim("dreamer", 4e-4, "laprop", eps=1e-20, agc=0.3, warmup=100)
SMALL_V3 = replace(
    # Vectors are decoded with a learned deviation: under the paper's squared error the KL wins
    # over CartPole's small angles, and the pole is never seen well enough to be held.
    SCHOOLS["dreamer_v3"].config,
    vector=FreeGaussian(),
    memory=256,
    hidden=64,
    units=64,
    latent=Categorical(16, 8),
    optim=_LAPROP,
)
SMALL_V3_BEHAVIOR = replace(V3, actor=_LAPROP, critic=_LAPROP, units=64)


def thin(config: RSSMConfig, **changes: Any) -> RSSMConfig:
    """An older school, narrow, with a learning rate for short runs.

    The papers saw only pictures. Vectors are decoded with a learned deviation, as in `SMALL_V3`.

    Args:
        config: of `models.dreamer.SCHOOLS`.
        **changes: of other fields.
    """
    optim, stack = config.optim._replace(lr=1e-3), replace(config.stack, depth=8)  # type: ignore
    widths = {"memory": 128, "hidden": 128, "units": 128}
    return replace(config, **widths, stack=stack, optim=optim, vector=FreeGaussian(), **changes)


def _quick(behavior: ActorCriticConfig, **changes: Any) -> ActorCriticConfig:
    """Its behavior, narrow, with learning rates for short runs."""
    actor, critic = behavior.actor._replace(lr=3e-4), behavior.critic._replace(lr=3e-4)
    return replace(behavior, units=128, actor=actor, critic=critic, **changes)
