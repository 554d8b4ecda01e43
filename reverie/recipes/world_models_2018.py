"""World Models (2018) on real games: dream in Doom, wake up and survive; drive a car.

Every recipe is the same five stages: collect with an explorer that never looks, train V, encode
and train M, evolve C inside M's dream, and judge C in the real game beside its baselines. The
controller meets the real world only to be judged. `doom_iterative` goes round once more with
episodes that C collects (section 5 of the paper).

`reverie train world_models_2018.doom_quick --seed 0`, or in Python
``train(doom_quick(seed=0), "runs/quick")``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from reverie import envs
from reverie.agent import Agent, BrownianAgent, PolicyAgent, RandomAgent, SweepAgent
from reverie.behaviors.evolution import Controller, Evolution, EvolutionConfig
from reverie.core.types import Box, Discrete, Space
from reverie.data.fill import fill
from reverie.data.sample import Sampler
from reverie.data.store import Store
from reverie.evaluate.judge import judge
from reverie.evaluate.statistics import Interval, mean_interval
from reverie.learner import GradientLearner
from reverie.models.world_models_2018 import DOOM, State, WorldModels2018, WorldModels2018Config
from reverie.progress import Progress
from reverie.run import Run, Stage

ROWS = (44, 76)  # of Doom's 120: the far end of the room, where monsters and fireballs are
PIXELS: dict[str, Space] = {"image": Box((3, 64, 64), 0, 255, "uint8")}


@dataclass(frozen=True)
class Effort:
    """How much of everything: what makes a recipe quick or thorough."""

    episodes: int  # collected for V and M
    vision_updates: int
    vision_batch: int  # frames
    memory_updates: int
    memory_batch: int  # sequences
    memory_length: int  # transitions in a sequence
    generations: int
    evolution: EvolutionConfig


@dataclass(frozen=True)
class Game:
    """The world that a recipe is about, and who explores it."""

    environment: str
    unit: str  # of a return
    make: Callable[[int, int], VectorEnv]  # (num_envs, seed)
    explorer: Agent
    baselines: dict[str, Agent]
    num_envs: int = 8


def _stages(
    folder: Path, model: WorldModels2018, controller: Controller, game: Game, effort: Effort, seed: int
) -> tuple[Stage, ...]:
    """Collect, V, M, C."""
    episodes = folder / "data"
    vision, memory = model.parts()

    def collect(progress: Progress) -> None:
        fill(
            episodes,
            partial(game.make, game.num_envs),
            game.explorer,
            episodes=effort.episodes,
            seed=seed,
            progress=progress,
        )

    def frames() -> Sampler:
        store = Store.open(episodes)
        return Sampler(store, effort.vision_batch, 0, seed=seed, modalities=("image",))

    def sequences() -> Sampler:
        store = Store.open(episodes)
        batch, length = effort.memory_batch, effort.memory_length
        return Sampler(store, batch, length, seed=seed, modalities=("latent",))

    def encode(progress: Progress) -> None:
        with Store.open(episodes, writable=True) as store:
            if "latent" not in store.observations:
                _encode(model, store, progress)

    def evolve() -> Evolution:
        return Evolution(model, controller, dream_starts(model, episodes), effort.evolution)

    return (
        Stage("collect", prepare=collect),
        Stage(
            "vision",
            effort.vision_updates,
            lambda: GradientLearner([vision], precision="bf16"),
            frames,
        ),
        Stage(
            "memory",
            effort.memory_updates,
            lambda: GradientLearner([memory], precision="bf16"),
            sequences,
            prepare=encode,
        ),
        Stage("controller", effort.generations, evolve, log_every=1),
    )


def _encode(model: WorldModels2018, store: Store, progress: Progress) -> None:
    """Write V's mu and logvar of every frame into the store, as the modality 'latent'."""

    @torch.no_grad()
    def latents(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        image = torch.from_numpy(np.ascontiguousarray(rows["image"])).to(model.device)
        return {"latent": torch.cat(model.encode({"image": image}), -1).cpu().numpy()}

    box = Box((2 * model.config.latent,), -float("inf"), float("inf"))
    store.add_observations({"latent": box}, latents, progress=progress)


def dream_starts(
    model: WorldModels2018, episodes: Path
) -> Callable[[int, torch.Generator], State]:
    """Where dreams begin: the first frames of recorded episodes, as V sees them.

    Args:
        model: its V encoded the store.
        episodes: path of the store, with the modality 'latent'.

    Returns:
        (n, generator) -> n states, drawn with replacement.
    """
    store = Store.open(episodes)
    first = torch.from_numpy(np.array(store.columns["obs.latent"][store.starts]))

    def starts(n: int, generator: torch.Generator) -> State:
        rows = torch.randint(len(first), (n,), generator=generator, device=generator.device)
        mu, logvar = first[rows.cpu()].to(model.device).chunk(2, -1)
        return model.observe(None, None, (mu, logvar), generator=generator)

    return starts


# -- Doom ----------------------------------------------------------------------------------------

_SEES_FIREBALLS = {"bright_weight": 8.0, "vision_lr": 1e-3}


def _doom_world(num_envs: int, seed: int) -> VectorEnv:
    return envs.make("doom/take_cover", num_envs, seed=seed, rows=ROWS)


def _doom(
    name: str,
    config: WorldModels2018Config,
    effort: Effort,
    seed: int,
    device: str,
    arguments: dict[str, Any],
) -> Run:
    """The run of a Doom recipe."""
    actions = Discrete(3)
    game = Game(
        environment="doom/take_cover",
        unit="tics survived",
        make=_doom_world,
        explorer=SweepAgent(actions, 4, 40),
        baselines={
            "random": RandomAgent(actions),
            "blind sweep, 24": SweepAgent(actions, 24, 24),
            "blind sweep, 28": SweepAgent(actions, 28, 28),
            "blind sweep, 32": SweepAgent(actions, 32, 32),
        },
    )
    torch.manual_seed(seed)
    model = WorldModels2018(config, PIXELS, actions).to(device)
    width = config.latent + 2 * config.hidden
    controller = Controller(width, actions, ordered=True, bias=False).to(device)
    return _run(f"world_models_2018.{name}", model, controller, game, effort, seed, arguments)


def _run(
    name: str,
    model: WorldModels2018,
    controller: Controller,
    game: Game,
    effort: Effort,
    seed: int,
    arguments: dict[str, Any],
) -> Run:
    """The run of any recipe here: its stages, and the agent that they train."""
    model.vision.to(memory_format=torch.channels_last)
    features = model.heads.features
    agent = PolicyAgent(model, lambda state: controller(features(state)))
    agents = {"dream-trained controller": agent, **game.baselines}

    def stages(folder: Path) -> tuple[Stage, ...]:
        def finish() -> dict[str, float]:
            scores = judge(
                folder,
                agents,
                game.make,
                environment=game.environment,
                unit=game.unit,
                more={"dream": dreamed(model, controller, folder, effort.evolution)._asdict()},
            )
            return {who: score.score.value for who, score in scores.items()}

        learning = _stages(folder, model, controller, game, effort, seed)
        return (*learning, Stage("judge", finish=finish))

    return Run(
        name=name,
        seed=seed,
        model=model,
        behavior=controller,
        stages=stages,
        agent=agent,
        baselines=game.baselines,
        world=game.make,
        environment=game.environment,
        unit=game.unit,
        config=arguments,
    )


def dreamed(
    model: WorldModels2018,
    controller: Controller,
    folder: Path,
    config: EvolutionConfig,
    *,
    episodes: int = 256,
) -> Interval:
    """What a controller scores in dreams that it was not evolved in (fresh randomness).

    Args:
        model: dreams.
        controller: acts.
        folder: of the run, whose episodes give the starts.
        config: of the evolution: horizon, discount, reward of a step survived.
        episodes: dreams.

    Returns:
        Mean dreamed return with its 95% interval, in the world's units.
    """
    alone = replace(config, episodes=episodes)
    search = Evolution(model, controller, dream_starts(model, folder / "data"), alone)
    generator = torch.Generator(model.device).manual_seed(config.seed + 1_000_000)
    return mean_interval(search.dream(controller.weights[None], generator)[0].cpu().numpy())


def doom(
    *,
    seed: int = 0,
    temperature: float = 1.15,
    device: str = "cpu",
) -> Run:
    """Survive in the real TakeCover after living only in dreams: the paper's sizes.

    V with z 64 (4,446,915 weights), M with LSTM 512 (1,678,785), C with 1,088.

    Args:
        seed: of everything.
        temperature: of the dream that C lives in.
        device: where the model lives and dreams.
    """
    arguments = dict(locals())
    config = replace(DOOM, temperature=temperature, **_SEES_FIREBALLS)
    effort = Effort(
        episodes=1500,
        vision_updates=3000,
        vision_batch=64,
        memory_updates=2500,
        memory_batch=64,
        memory_length=64,
        generations=40,
        evolution=EvolutionConfig(
            population=32, episodes=16, horizon=525, survival=4.0, seed=seed
        ),
    )
    return _doom("doom", config, effort, seed, device, arguments)


def doom_quick(*, seed: int = 0, temperature: float = 1.15, device: str = "cpu") -> Run:
    """Dream in Doom within minutes: the demo. Thinner networks than the paper's.

    Args:
        seed: of everything.
        temperature: of the dream that C lives in.
        device: where the model lives and dreams.
    """
    arguments = dict(locals())
    thin = replace(DOOM, latent=32, hidden=128, vision_channels=16)
    config = replace(thin, temperature=temperature, **_SEES_FIREBALLS)
    effort = Effort(
        episodes=1000,
        vision_updates=1500,
        vision_batch=64,
        memory_updates=1500,
        memory_batch=64,
        memory_length=64,
        generations=30,
        evolution=EvolutionConfig(
            population=32, episodes=16, horizon=525, survival=4.0, seed=seed
        ),
    )
    return _doom("doom_quick", config, effort, seed, device, arguments)


# -- CarRacing -----------------------------------------------------------------------------------


def car_racing(*, seed: int = 0, episodes: int = 200, device: str = "cpu") -> Run:
    """Drive in CarRacing-v3 after learning to drive in a dream.

    The game renders about 90 steps a second on a core, so 200 episodes of 1,000 steps cost about
    40 core-minutes; two processes collect. The paper evolves C in the real game, which at this
    speed would take weeks; here M also predicts the reward and C is evolved in M's dream.

    Args:
        seed: of everything.
        episodes: collected for V and M.
        device: where the model lives and dreams.
    """
    arguments = dict(locals())
    actions = Box((3,))  # steer, gas, brake
    config = WorldModels2018Config(predicts=("reward",))

    def world(num_envs: int, seed: int) -> VectorEnv:
        return envs.make("CarRacing-v3", num_envs, seed=seed, workers=min(num_envs, 2))

    game = Game(
        environment="CarRacing-v3",
        unit="return",
        make=world,
        explorer=BrownianAgent(actions, start=(0.0, 0.0, -1.0)),
        baselines={"random": RandomAgent(actions)},
        num_envs=2,
    )
    torch.manual_seed(seed)
    model = WorldModels2018(config, PIXELS, actions).to(device)
    controller = Controller(config.latent + config.hidden, actions).to(device)
    effort = Effort(
        episodes=episodes,
        vision_updates=20_000,
        vision_batch=100,
        memory_updates=4000,
        memory_batch=32,
        memory_length=128,
        generations=100,
        evolution=EvolutionConfig(64, 16, horizon=500, discount=0.99, seed=seed),
    )
    name = "world_models_2018.car_racing"
    return _run(name, model, controller, game, effort, seed, arguments)
