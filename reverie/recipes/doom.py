"""World Models (2018) in Doom: dream, wake up and survive.

`reverie train world_models_2018.doom_quick --seed 0`, or in Python
``train(doom_quick(seed=0), "runs/quick")``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from gymnasium.vector import VectorEnv

from reverie import envs
from reverie.agent import RandomAgent, SweepAgent, WanderAgent
from reverie.behaviors.evolution import Controller, EvolutionConfig
from reverie.behaviors.lookahead import LookaheadConfig
from reverie.core.types import Discrete
from reverie.models.world_models_2018 import DOOM, PIXELS, WorldModels2018, WorldModels2018Config
from reverie.recipes.world_models_2018 import WARMUP, Effort, Game, Setup, fading, run_of
from reverie.run import Run, usable

ROWS = (52, 84)  # of 120: the far end of the room, where monsters and fireballs are

# V must see fireballs, which are small and bright; M's done head must be a probability.
_SEES = {"error_weight": 4.0, "bright_weight": 7.0, "done_weight": 4.0, "ended_weight": 1.0}


def _doom_world(num_envs: int, seed: int) -> VectorEnv:
    return envs.make("doom/take_cover", num_envs, seed=seed, rows=ROWS)


def _doom(
    name: str,
    config: WorldModels2018Config,
    effort: Effort,
    arguments: dict[str, Any],
    **game: Any,
) -> Setup:
    """What a Doom recipe sets up; `game` replaces fields of its Game."""
    actions = Discrete(3)  # left, stay, right
    sweeps = {f"blind sweep, {n}": SweepAgent(actions, n, n) for n in (24, 28, 32)}
    fields: dict[str, Any] = {"explorer": WanderAgent(actions), **game}
    played = Game(
        environment="doom/take_cover",
        unit="tics survived",
        make=_doom_world,
        baselines={"random": RandomAgent(actions), **sweeps},
        decisions=525,
        **fields,
    )
    seed, device = arguments["seed"], usable(arguments["device"])
    torch.manual_seed(seed)
    model = WorldModels2018(config, PIXELS, actions).to(device)
    width = config.latent + 2 * config.hidden
    controller = Controller(width, actions, ordered=True, bias=False).to(device)
    full = f"world_models_2018.{name}"
    return Setup(full, model, controller, played, effort, seed, arguments)


def doom(*, seed: int = 0, temperature: float = 1.0, device: str = "cpu") -> Run:
    """Survive in the real TakeCover after living only in dreams: the paper's sizes.

    V with z 64 (4,446,915 weights), M with LSTM 512 (1,678,785), C with 1,088. C alone is a linear
    map and wastes what M knows, so it is judged twice: alone, as in the paper, and looking ahead
    in the dream before each decision (`Lookahead`), which no paper size changes.

    Args:
        seed: of everything.
        temperature: of the dream that C lives in.
        device: where the model lives and dreams.
    """
    arguments = dict(locals())
    effort = Effort(
        episodes=4000,
        vision=fading("vision", 1.5e-3, 4000, clip_norm=200.0, warmup=WARMUP),
        vision_updates=4000,
        vision_batch=32,
        memory=fading("memory", 1.5e-3, 2000, clip_norm=1.0),
        memory_updates=2000,
        memory_batch=64,
        memory_length=64,
        generations=60,
        evolution=_dreaming(seed, episodes=32),
        components=128,
        lookahead=LookaheadConfig(horizon=32, hold=4, particles=8, survival=4.0, precision="bf16"),
    )
    config = replace(DOOM, temperature=temperature, **_SEES)
    slower = WanderAgent(Discrete(3), low=8)  # lives longer: more of the late, crowded game
    return run_of(_doom("doom", config, effort, arguments, explorer=slower, num_envs=8))


def doom_quick(*, seed: int = 0, temperature: float = 1.0, device: str = "cpu") -> Run:
    """Dream in Doom within minutes: the demo. Thinner networks than the paper's.

    Args:
        seed: of everything.
        temperature: of the dream that C lives in.
        device: where the model lives and dreams.
    """
    return run_of(quick("doom_quick", dict(locals())))


def quick(name: str, arguments: dict[str, Any]) -> Setup:
    """What `doom_quick` and `doom_iterative` set up.

    Args:
        name: of the recipe.
        arguments: its own: seed, temperature, device.
    """
    thin = replace(DOOM, latent=32, hidden=256, vision_channels=16)
    config = replace(thin, temperature=arguments["temperature"], **_SEES)
    effort = Effort(
        episodes=2000,
        vision=fading("vision", 2e-3, 2000, clip_norm=200.0, warmup=WARMUP),
        vision_updates=2000,
        vision_batch=32,
        memory=fading("memory", 2e-3, 1200, clip_norm=1.0),
        memory_updates=1200,
        memory_batch=64,
        memory_length=64,
        generations=60,
        evolution=_dreaming(arguments["seed"], episodes=16),
        components=64,
    )
    return _doom(name, config, effort, arguments)


def doom_iterative(
    *, seed: int = 0, rounds: int = 2, temperature: float = 1.0, device: str = "cpu"
) -> Run:
    """`doom_quick`, again and again: C collects, M learns from it, C is evolved anew.

    Args:
        seed: of everything.
        rounds: of collecting, dreaming; 1 is `doom_quick`.
        temperature: of the dream that C lives in.
        device: where the model lives and dreams.

    Source:
        Ha & Schmidhuber 2018, section 5, "Iterative training procedure".
    """
    setup = quick("doom_iterative", dict(locals()))
    return run_of(replace(setup, effort=replace(setup.effort, rounds=rounds, again=1000)))


def _dreaming(seed: int, episodes: int) -> EvolutionConfig:
    """Short dreams from any moment of an episode; a step survived is four tics."""
    return EvolutionConfig(
        population=32,
        episodes=episodes,
        horizon=200,
        weight_decay=0.0,
        survival=4.0,
        seed=seed,
        precision="bf16",
    )
