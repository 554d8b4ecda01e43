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
from reverie.agent import (
    Agent,
    BrownianAgent,
    PolicyAgent,
    RandomAgent,
    SweepAgent,
    WanderAgent,
)
from reverie.behaviors.evolution import Controller, Evolution, EvolutionConfig, principal
from reverie.core import tree
from reverie.core.model import Part
from reverie.core.types import Box, Discrete, Optim, Space
from reverie.data.fill import fill
from reverie.data.sample import Sampler
from reverie.data.store import Store
from reverie.evaluate.judge import judge
from reverie.evaluate.statistics import Interval, mean_interval
from reverie.learner import GradientLearner
from reverie.models.world_models_2018 import DOOM, State, WorldModels2018, WorldModels2018Config
from reverie.progress import Progress
from reverie.run import Run, Stage

ROWS = (52, 84)  # of Doom's 120: the far end of the room, where monsters and fireballs are
PIXELS: dict[str, Space] = {"image": Box((3, 64, 64), 0, 255, "uint8")}
CONTEXT = 32  # steps that M has seen when a dream begins
STARTS = 6000  # moments from which dreams begin


@dataclass(frozen=True)
class Effort:
    """How much of everything: what makes a recipe quick or thorough."""

    episodes: int  # collected for V and M
    vision: Optim
    vision_updates: int
    vision_batch: int  # frames
    memory: Optim
    memory_updates: int
    memory_batch: int  # sequences
    memory_length: int  # transitions in a sequence
    generations: int
    evolution: EvolutionConfig
    components: int  # principal components of the features along which C is searched


def fading(name: str, lr: float, updates: int, clip_norm: float) -> Optim:
    """Adam whose learning rate falls to 3% of itself over so many updates.

    Args:
        name: of the optimizer.
        lr: at first.
        updates: until 3%.
        clip_norm: of the gradient.
    """
    return Optim(name, lr=lr, decay=0.03 ** (1 / updates), clip_norm=clip_norm)


@dataclass(frozen=True)
class Game:
    """The world that a recipe is about, and who explores it."""

    environment: str
    unit: str  # of a return
    make: Callable[[int, int], VectorEnv]  # (num_envs, seed)
    explorer: Agent
    baselines: dict[str, Agent]
    num_envs: int = 4


def _stages(
    folder: Path,
    model: WorldModels2018,
    controller: Controller,
    game: Game,
    effort: Effort,
    seed: int,
) -> tuple[Stage, ...]:
    """Collect, V, M, C."""
    episodes = folder / "data"
    vision, memory = model.parts()
    vision = vision._replace(optim=effort.vision)
    memory = memory._replace(optim=effort.memory)
    device = model.device

    def collect(progress: Progress) -> None:
        make = partial(game.make, game.num_envs)
        fill(
            episodes,
            make,
            game.explorer,
            episodes=effort.episodes,
            seed=seed,
            progress=progress,
        )

    def frames() -> Sampler:
        modalities = ("image",)
        store = Store.open(episodes)
        return Sampler(
            store, effort.vision_batch, 0, seed=seed, modalities=modalities, device=device
        )

    def sequences() -> Sampler:
        batch, length = effort.memory_batch, effort.memory_length
        return _latents(episodes, batch, length, seed, device)

    def encode(progress: Progress) -> None:
        with Store.open(episodes, writable=True) as store:
            if "latent" not in store.observations:
                _encode(model, store, progress)

    def evolve() -> Evolution:
        pool = moments(model, episodes, STARTS, seed)
        basis = principal(model.heads.features(pool), effort.components)
        return Evolution(model, controller, among(pool), effort.evolution, basis=basis)

    def learner(part: Part) -> GradientLearner:
        return GradientLearner([part], precision="bf16")

    return (
        Stage("collect", prepare=collect),
        Stage("vision", effort.vision_updates, lambda: learner(vision), frames),
        Stage("memory", effort.memory_updates, lambda: learner(memory), sequences, prepare=encode),
        Stage("controller", effort.generations, evolve, log_every=1),
    )


def _latents(path: Path, batch: int, length: int, seed: int, device: torch.device) -> Sampler:
    """Sequences of encoded frames."""
    return Sampler(
        Store.open(path), batch, length, seed=seed, modalities=("latent",), device=device
    )


def _encode(model: WorldModels2018, store: Store, progress: Progress) -> None:
    """Write V's mu and logvar of every frame into the store, as the modality 'latent'."""

    @torch.no_grad()
    def latents(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        image = torch.from_numpy(rows["image"].copy()).to(model.device)
        return {"latent": torch.cat(model.encode({"image": image}), -1).cpu().numpy()}

    box = Box((2 * model.config.latent,), -float("inf"), float("inf"))
    store.add_observations({"latent": box}, latents, progress=progress)


@torch.no_grad()
def moments(model: WorldModels2018, episodes: Path, count: int, seed: int) -> State:
    """Where dreams begin: moments of recorded episodes, with what M remembers of them.

    The paper begins every dream at a first frame. Late moments are the hard ones, and a short
    dream from there teaches more than a long one from the start.

    Args:
        model: its V encoded the store.
        episodes: path of the store, with the modality 'latent'.
        count: of moments.
        seed: of their choice.

    Returns:
        (count, ...) states, none of them within two steps of the end of its episode.
    """
    loss = model.parts()[1].loss
    sampler = _latents(episodes, 256, CONTEXT + 2, seed, model.device)
    found: list[State] = []
    while sum(map(len, (state.z for state in found))) < count:
        batch = next(sampler)
        states = tree.map(lambda x: x[:, CONTEXT], loss(batch, None).states)
        goes_on = batch.mask[:, CONTEXT:].all(1) & ~batch.terminated[:, CONTEXT:].any(1)
        found.append(tree.take(states, goes_on))
    sampler.close()
    return tree.take(tree.cat(found), slice(count))


def among(pool: State) -> Callable[[int, torch.Generator], State]:
    """(n, generator) -> n states of the pool, drawn with replacement."""

    def starts(n: int, generator: torch.Generator) -> State:
        rows = torch.randint(len(pool.z), (n,), generator=generator, device=generator.device)
        return tree.take(pool, rows)

    return starts


# -- Doom ----------------------------------------------------------------------------------------

# V must see fireballs, which are small and bright; M's done head must be a probability.
_SEES = {"error_weight": 4.0, "bright_weight": 7.0, "done_weight": 4.0, "ended_weight": 1.0}


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
        explorer=WanderAgent(actions),
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
                more={"dream": dreamed(model, controller, folder, effort, seed)._asdict()},
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


@torch.no_grad()
def dreamed(
    model: WorldModels2018,
    controller: Controller,
    folder: Path,
    effort: Effort,
    seed: int,
    *,
    episodes: int = 100,
    horizon: int = 525,
) -> Interval:
    """What a controller scores in whole dreams, each from the first frame of an episode.

    Args:
        model: dreams.
        controller: acts.
        folder: of the run, whose episodes give the first frames.
        effort: its evolution says what a step survived is worth, and the discount.
        seed: of dreams that the controller was not evolved in.
        episodes: dreams, at least 5.
        horizon: steps after which a dream is cut, as the game is.

    Returns:
        Mean dreamed return with its 95% interval, in the world's units.
    """
    store = Store.open(folder / "data")
    latent = torch.from_numpy(np.array(store.columns["obs.latent"][store.starts]))
    generator = torch.Generator(model.device).manual_seed(1_000_000 + seed)
    first = model.observe(None, None, latent.to(model.device).chunk(2, -1), generator=generator)
    config = replace(effort.evolution, episodes=episodes, horizon=horizon)
    search = Evolution(model, controller, among(first), config)
    return mean_interval(search.dream(controller.weights[None], generator)[0].cpu().numpy())


def doom(*, seed: int = 0, temperature: float = 1.0, device: str = "cpu") -> Run:
    """Survive in the real TakeCover after living only in dreams: the paper's sizes.

    V with z 64 (4,446,915 weights), M with LSTM 512 (1,678,785), C with 1,088. About 35 minutes
    on one core.

    Args:
        seed: of everything.
        temperature: of the dream that C lives in.
        device: where the model lives and dreams.
    """
    arguments = dict(locals())
    effort = Effort(
        episodes=5000,
        vision=fading("vision", 1.5e-3, 3000, clip_norm=200.0),
        vision_updates=3000,
        vision_batch=32,
        memory=fading("memory", 1.5e-3, 2000, clip_norm=1.0),
        memory_updates=2000,
        memory_batch=64,
        memory_length=64,
        generations=250,
        evolution=_dreaming(seed, episodes=32),
        components=128,
    )
    config = replace(DOOM, temperature=temperature, **_SEES)
    return _doom("doom", config, effort, seed, device, arguments)


def doom_quick(*, seed: int = 0, temperature: float = 1.0, device: str = "cpu") -> Run:
    """Dream in Doom within minutes: the demo. Thinner networks than the paper's.

    Args:
        seed: of everything.
        temperature: of the dream that C lives in.
        device: where the model lives and dreams.
    """
    arguments = dict(locals())
    effort = Effort(
        episodes=2000,
        vision=fading("vision", 2e-3, 2000, clip_norm=200.0),
        vision_updates=2000,
        vision_batch=32,
        memory=fading("memory", 2e-3, 1200, clip_norm=1.0),
        memory_updates=1200,
        memory_batch=64,
        memory_length=64,
        generations=60,
        evolution=_dreaming(seed, episodes=16),
        components=64,
    )
    thin = replace(DOOM, latent=32, hidden=256, vision_channels=16)
    config = replace(thin, temperature=temperature, **_SEES)
    return _doom("doom_quick", config, effort, seed, device, arguments)


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
        vision=Optim("vision", lr=1e-4),
        vision_updates=20_000,
        vision_batch=100,
        memory=Optim("memory", lr=1e-3, lr_min=1e-5, clip_value=1.0),
        memory_updates=4000,
        memory_batch=32,
        memory_length=128,
        generations=100,
        evolution=EvolutionConfig(64, 16, horizon=200, discount=0.99, seed=seed, precision="bf16"),
        components=64,
    )
    name = "world_models_2018.car_racing"
    return _run(name, model, controller, game, effort, seed, arguments)
