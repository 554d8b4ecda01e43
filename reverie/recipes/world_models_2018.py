"""The stages of World Models (2018), for any game: `doom.py` and `car_racing.py` set them up.

Collect with an explorer that never looks, train V, encode and train M, evolve C inside M's
dream, and judge C in the real game beside its baselines. C meets the real world only to be
judged, unless the rounds of the iterative procedure (section 5 of the paper) let it collect.
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
from torch import Tensor

from reverie.agent import (
    Agent,
    PolicyAgent,
    RandomAgent,
)
from reverie.behaviors.evolution import Controller, Evolution, EvolutionConfig, principal
from reverie.behaviors.lookahead import Lookahead, LookaheadConfig
from reverie.core import tree
from reverie.core.errors import Collapsed
from reverie.core.model import Part
from reverie.core.types import Box, Optim
from reverie.data.fill import fill
from reverie.data.sample import Sampler
from reverie.data.store import Store
from reverie.evaluate.judge import judge
from reverie.evaluate.statistics import Interval, mean_interval
from reverie.learner import GradientLearner
from reverie.models.world_models_2018 import State, WorldModels2018
from reverie.progress import Progress
from reverie.run import Run, Stage

CONTEXT = 32  # steps that M has seen when a dream begins
STARTS = 6000  # moments from which dreams begin
JUDGED = 100  # real episodes for every score
EPSILON = 0.1  # of C's decisions are random while it collects
WARMUP = 100  # updates of V; at once at its full rate, its rectifiers can die, all of them
SPREAD = 0.02  # least mean deviation of mu between frames; of a V that sees it is above 0.1


@dataclass(frozen=True)
class Effort:
    """How much of everything: what makes a recipe quick or thorough."""

    episodes: int  # that the explorer collects for V and M
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
    rounds: int = 1  # of the iterative procedure; 1: C never collects
    again: int = 0  # episodes that C collects in each later round
    lookahead: LookaheadConfig | None = None  # how C dreams before it decides; None: it does not


def fading(name: str, lr: float, updates: int, clip_norm: float, warmup: int = 0) -> Optim:
    """Adam whose learning rate falls to 3% of itself over so many updates.

    Args:
        name: of the optimizer.
        lr: at first.
        updates: until 3%.
        clip_norm: of the gradient.
        warmup: updates in which the rate rises from 0 first.
    """
    decay = 0.03 ** (1 / updates)
    return Optim(name, lr=lr, decay=decay, clip_norm=clip_norm, warmup=warmup)


@dataclass(frozen=True)
class Game:
    """The world that a recipe is about, and who explores it."""

    environment: str
    unit: str  # of a return
    make: Callable[[int, int], VectorEnv]  # (num_envs, seed)
    explorer: Agent
    baselines: dict[str, Agent]
    decisions: int  # in a whole episode, at most
    num_envs: int = 4


@dataclass(frozen=True)
class Setup:
    """All that the stages of one run share."""

    name: str
    model: WorldModels2018
    controller: Controller
    game: Game
    effort: Effort
    seed: int
    arguments: dict[str, Any]  # of the recipe

    @property
    def agent(self) -> PolicyAgent[State]:
        """C behind V and M; while exploring, one decision in ten is random."""
        model, controller = self.model, self.controller
        actions = RandomAgent(controller.actions)

        def act(state: State, generator: torch.Generator | None) -> Tensor:
            return controller(model.features(state))

        def explore(state: State, generator: torch.Generator | None) -> Tensor:
            any_ = actions.act(None, {}, state.first, generator=generator)[1].action
            dice = torch.rand(len(any_), generator=generator, device=any_.device) < EPSILON
            return torch.where(dice.view(-1, *(1,) * (any_.dim() - 1)), any_, act(state, None))

        return PolicyAgent(model, act, explore=explore)

    @property
    def agents(self) -> dict[str, PolicyAgent[State]]:
        """Who is judged, the best first: C, looking ahead in the dream if the effort says so."""
        model, controller = self.model, self.controller
        if self.effort.lookahead is None:
            return {"dream-trained controller": self.agent}
        ahead = Lookahead(model, lambda s: controller(model.features(s)), self.effort.lookahead)
        both = "dream-trained controller, looking ahead"
        return {both: PolicyAgent(model, ahead), "dream-trained controller": self.agent}


def run_of(setup: Setup) -> Run:
    """The run that a recipe returns.

    Args:
        setup: the model, the game and the effort.
    """
    setup.model.vision.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    game = setup.game

    def stages(folder: Path) -> tuple[Stage, ...]:
        later = range(2, setup.effort.rounds + 1)
        again = [stage for k in later for stage in _again(setup, folder, k)]
        return (
            *_first(setup, folder),
            *again,
            Stage("judge", finish=partial(_judge, setup, folder)),
        )

    return Run(
        name=setup.name,
        seed=setup.seed,
        model=setup.model,
        behavior=setup.controller,
        stages=stages,
        agent=next(iter(setup.agents.values())),
        baselines=game.baselines,
        world=game.make,
        environment=game.environment,
        unit=game.unit,
        config=setup.arguments,
    )


def _first(setup: Setup, folder: Path) -> tuple[Stage, ...]:
    """Collect with the explorer, then V, M and C."""
    effort, data = setup.effort, folder / "data"

    def frames() -> Sampler:
        return _sampler(setup, data, effort.vision_batch, 0, "image")

    vision = setup.model.parts()[0]._replace(optim=effort.vision)

    def learned(progress: Progress) -> dict[str, float]:
        del progress
        sampler = frames()
        found = sees(setup.model, next(sampler).obs["image"].flatten(0, 1))
        sampler.close()
        return {"spread": found}

    return (
        Stage("collect", prepare=partial(_collect, setup, data, setup.game.explorer, 1)),
        Stage("vision", effort.vision_updates, lambda: _learner(vision), frames, finish=learned),
        _memory(setup, data, "memory"),
        Stage("controller", effort.generations, partial(evolution, setup, data), log_every=1),
    )


def _again(setup: Setup, folder: Path, k: int) -> tuple[Stage, ...]:
    """Round k of the iterative procedure: collect with C, go on with M, evolve C anew."""
    data, evolve = folder / "data", partial(evolution, setup, folder / "data")
    return (
        Stage(f"collect-{k}", prepare=partial(_collect, setup, data, setup.agent, k)),
        _memory(setup, data, f"memory-{k}"),
        Stage(f"controller-{k}", setup.effort.generations, evolve, log_every=1),
    )


def _collect(setup: Setup, data: Path, agent: Agent, k: int, progress: Progress) -> None:
    """Fill the store up to the episodes of k rounds."""
    effort, make = setup.effort, partial(setup.game.make, setup.game.num_envs)
    begin = 0 if k == 1 else effort.episodes + (k - 2) * effort.again
    episodes = effort.episodes + (k - 1) * effort.again
    if data.exists():
        with Store.open(data, writable=True) as store:
            if "latent" in store.observations and len(store) < episodes:
                store.drop_observations("latent")
    fill(data, make, agent, episodes=episodes, seed=setup.seed, begin=begin, progress=progress)


def _memory(setup: Setup, data: Path, name: str) -> Stage:
    """Encode every frame, then train M on the latents."""
    effort = setup.effort
    memory = setup.model.parts()[1]._replace(optim=effort.memory)

    def encode(progress: Progress) -> None:
        with Store.open(data, writable=True) as store:
            if "latent" not in store.observations:
                write_latents(setup.model, store, progress)

    def sequences() -> Sampler:
        return _sampler(setup, data, effort.memory_batch, effort.memory_length, "latent")

    return Stage(name, effort.memory_updates, lambda: _learner(memory), sequences, encode)


def _learner(part: Part) -> GradientLearner:
    return GradientLearner([part], precision="bf16")


def evolution(setup: Setup, data: Path) -> Evolution:
    """The search for C, along the directions in which its features vary.

    Args:
        setup: of the run.
        data: path of the store, with the modality 'latent'.
    """
    pool = moments(setup, data)
    basis = principal(setup.model.features(pool), setup.effort.components)
    config = setup.effort.evolution
    return Evolution(setup.model, setup.controller, among(pool), config, basis=basis)


def _judge(setup: Setup, folder: Path, progress: Progress) -> dict[str, float]:
    """Play the real game beside the baselines, and whole dreams."""
    game = setup.game
    scores = judge(
        folder,
        {**setup.agents, **game.baselines},
        game.make,
        environment=game.environment,
        unit=game.unit,
        episodes=JUDGED,
        num_envs=game.num_envs,
        progress=progress,
        more={"dream": dreamed(setup, folder / "data")._asdict()},
    )
    return {who: score.score.value for who, score in scores.items()}


def _sampler(setup: Setup, data: Path, batch: int, length: int, modality: str) -> Sampler:
    return Sampler(
        Store.open(data),
        batch,
        length,
        seed=setup.seed,
        modalities=(modality,),
        device=setup.model.device,
    )


@torch.no_grad()
def sees(model: WorldModels2018, image: Tensor) -> float:
    """The mean deviation of V's mu from frame to frame.

    Args:
        model: whose V it is.
        image: (N, 3, s, s), uint8.

    Raises:
        Collapsed: if V says the same of every frame.
    """
    found = float(model.encode({"image": image})[0].std(0).mean())
    if found < SPREAD:
        raise Collapsed(
            f"V says the same of every frame: its mu deviates by {found:.4f} from frame to frame, "
            f"and that of a V that sees by more than {SPREAD}. Train it again with another seed, "
            "a lower learning rate or a longer warm-up."
        )
    return found


def write_latents(model: WorldModels2018, store: Store, progress: Progress) -> None:
    """Write V's mu and logvar of every frame into a store, as the modality 'latent'.

    Args:
        model: whose V it is.
        store: writable, with the images that V reads.
        progress: shows a bar.
    """

    @torch.no_grad()
    def latents(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        image = torch.from_numpy(rows["image"].copy()).to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            mu, logvar = model.encode({"image": image})
        return {"latent": torch.cat([mu, logvar], -1).float().cpu().numpy()}

    box = Box((2 * model.config.latent,), -float("inf"), float("inf"))
    store.add_observations({"latent": box}, latents, progress=progress)


@torch.no_grad()
def moments(setup: Setup, data: Path) -> State:
    """Where dreams begin: moments of recorded episodes, with what M remembers of them.

    The paper begins every dream at a first frame. Late moments are the hard ones, and a short
    dream from there teaches more than a long one from the start.

    Args:
        setup: its V encoded the store.
        data: path of the store, with the modality 'latent'.

    Returns:
        (STARTS, ...) states, none of them within two steps of the end of its episode.
    """
    loss = setup.model.parts()[1].loss
    sampler = _sampler(setup, data, 256, CONTEXT + 2, "latent")
    found: list[State] = []
    while sum(len(state.z) for state in found) < STARTS:
        batch = next(sampler)
        states = tree.map(lambda x: x[:, CONTEXT], loss(batch, None).states)
        goes_on = batch.mask[:, CONTEXT:].all(1) & ~batch.terminated[:, CONTEXT:].any(1)
        found.append(tree.take(states, goes_on))
    sampler.close()
    return tree.take(tree.cat(found), slice(STARTS))


def among(pool: State) -> Callable[[int, torch.Generator], State]:
    """(n, generator) -> n states of the pool, drawn with replacement."""

    def starts(n: int, generator: torch.Generator) -> State:
        rows = torch.randint(len(pool.z), (n,), generator=generator, device=generator.device)
        return tree.take(pool, rows)

    return starts


@torch.no_grad()
def dreamed(setup: Setup, data: Path, *, episodes: int = 100) -> Interval:
    """What C scores in whole dreams, each from the first frame of a recorded episode.

    Args:
        setup: of the run.
        data: path of the store that gives the first frames, with the modality 'latent'.
        episodes: dreams, at least 5; C was not evolved in them.

    Returns:
        Mean dreamed return with its 95% interval, in the world's units.
    """
    model, store = setup.model, Store.open(data)
    latent = torch.from_numpy(np.array(store.columns["obs.latent"][store.starts]))
    mu, logvar = latent.to(model.device).chunk(2, -1)
    generator = torch.Generator(model.device).manual_seed(1_000_000 + setup.seed)
    first = model.observe(None, None, (mu, logvar), generator=generator)
    evolution, horizon = setup.effort.evolution, setup.game.decisions
    config = replace(evolution, episodes=episodes, horizon=horizon, discount=1.0)
    search = Evolution(model, setup.controller, among(first), config)
    return mean_interval(search.dream(setup.controller.weights[None], generator)[0].cpu().numpy())
