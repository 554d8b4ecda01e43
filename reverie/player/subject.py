"""What is played: a model, its world if there is one, its real moments, and who may act.

`subject_of` takes a trained run's folder, or the name of an oracle or of an untrained model.
Imports what a run is made of.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from reverie import envs
from reverie.agent import Agent, RandomAgent
from reverie.core import registry, tree
from reverie.core.errors import BadData, MissingExtra, UnknownName
from reverie.core.model import WorldModel
from reverie.core.types import Heads
from reverie.data.collect import collect
from reverie.data.store import Store
from reverie.envs.toy import WORLDS
from reverie.evaluate.folder import open_run
from reverie.loaded import load
from reverie.planners.cem import CEM
from reverie.player.album import Album, Nearest, nearest, watched
from reverie.player.glimpse import look
from reverie.player.hands import Hands, hands_of

World = Callable[[int], VectorEnv[Any, Any, Any]]  # seed -> one row of a world
QUICK = 0.02  # seconds that six guesses may take to be made unasked
RECORDED = 4  # episodes that are played for an album, where no store is kept
TIME_LIMIT = 2000  # steps of a toy world: a person plays longer than a planner is tested


@dataclass(frozen=True)
class Subject:
    """A model and all that stands around it while it is played.

    Attributes:
        title: its name for people.
        note: what it is, in one sentence.
        model: the world model.
        heads: the model's own, or with lent ones.
        hands: how a person acts.
        world: makes one row of the real world; None: there is none.
        agent: who was trained to act, or None.
        album: real moments to begin from.
        nearest: for models without pictures: what their states resemble.
        unsure: several guesses a step are quick enough to be made unasked.
        planner: plans where the model acts and something is worth reaching.
    """

    title: str
    note: str
    model: WorldModel[Any]
    heads: Heads
    hands: Hands
    world: World | None
    agent: Agent | None
    album: Album
    nearest: Nearest | None = None
    unsure: bool = False
    planner: CEM = field(default_factory=lambda: CEM(12, samples=64, iterations=3, elites=8))

    @property
    def chance(self) -> bool:
        """Whether predictions are drawn, so that several of one step may differ."""
        return not self.model.card.z.startswith("none")

    @property
    def drivers(self) -> dict[str, str]:
        """Who may act, and what that means, by the word that chooses them."""
        heads, found = self.heads, {"you": "You"}
        if self.agent is not None:
            found["agent"] = "The trained agent"
        if heads.policy is not None:
            found["policy"] = "The model's policy"
        aims = heads.reward or heads.cont or (heads.embed and len(self.album))  # a real frame
        if self.hands.kind != "none" and aims:
            found["planner"] = "A planner in the dream"
        if len(self.album):
            found["recording"] = "A recording"
        return found


def subject_of(name: str, *, device: str | None = None) -> Subject:
    """What a name or folder stands for.

    Args:
        name: a run's folder, an oracle as "toy/two_rooms", or a school (untrained, small).
        device: where a run's model goes; None: where it was trained.

    Raises:
        UnknownName: if it is none of these; names the nearest.
        BadCheckpoint: if the run was not trained to the end.
    """
    if (Path(name) / "run.json").is_file():
        return _of_run(Path(name), device)
    known = [*registry.names("oracle"), *registry.names("model")]
    if name not in known:
        raise UnknownName(
            f"There is no run (a folder with run.json) at '{name}', and no model of that name. "
            f"Train one with `reverie train`, or play one of: {', '.join(known)}."
        )
    model = registry.instance(name, small=True)
    true = name in registry.names("oracle")
    note = (
        f"{model.card.title}. Nothing was learned here, so dream and reality agree."
        if true
        else f"{model.card.title}, untrained: it dreams noise until `reverie train` teaches it."
    )
    environment = ("CartPole-v1" if name == "cartpole" else name) if true else None
    world = None if environment is None else _oracle_world(environment)
    return compose(name, note, model, world, environment=environment)


def compose(
    title: str,
    note: str,
    model: WorldModel[Any],
    world: World | None,
    *,
    environment: str | None = None,
    agent: Agent | None = None,
    episodes: Store | list[Any] | None = None,
) -> Subject:
    """A subject from its pieces.

    Args:
        title: its name for people.
        note: what it is, in one sentence.
        model: the world model; it is put into evaluation mode.
        world: makes one row of the real world; one of other actions than the model's is left out.
        environment: its name: keys are called by what they do there.
        agent: who was trained to act.
        episodes: real ones; None: a few are played, if there is a world.
    """
    model.eval().requires_grad_(requires_grad=False)
    if episodes is None:
        episodes, world = _recorded(model, world)
    album = Album(model, episodes)
    learned = model.heads.inverse is not None and world is None
    hands = hands_of(model.actions, environment, learned=learned)
    pieces = (title, note, model, model.heads, hands, world, agent, album)
    draws, quick = _tried(model, album, hands)
    alike = None if draws else nearest(model, model.heads, album)
    return Subject(*pieces, nearest=alike, unsure=quick)


def _of_run(folder: Path, device: str | None) -> Subject:
    """A trained run with its world and its data."""
    loaded = load(folder, device=device)
    run = loaded.run
    kept = open_run(folder, loaded.model)
    try:
        episodes: Store | None = kept.played if kept.played else kept.store
    except BadData:
        episodes = None
    make = run.world
    return compose(
        f"{run.name}, seed {run.seed}",
        f"{run.model.card.title} ({run.model.card.paper}) in {run.environment or 'its data'}.",
        run.model,
        None if make is None else (lambda seed: make(1, seed)),
        environment=run.environment,
        agent=run.agent,
        episodes=episodes if episodes else None,
    )


def _oracle_world(environment: str) -> World:
    """The world that an oracle is the truth about, with pictures where it has them."""
    kind = environment.partition("/")[2]
    if kind == "two_rooms":
        seen = ("image", "vector")
        return lambda seed: WORLDS[kind](1, observe=seen, seed=seed, time_limit=TIME_LIMIT)
    if kind in WORLDS:
        limit = TIME_LIMIT if kind in {"grid", "linear_gaussian"} else None
        return lambda seed: envs.make(environment, 1, seed=seed, time_limit=limit)

    def with_pictures(seed: int) -> VectorEnv[Any, Any, Any]:
        try:
            return envs.make(environment, 1, seed=seed, observe="both", size=96)
        except MissingExtra:
            return envs.make(environment, 1, seed=seed)

    return with_pictures


def _recorded(model: WorldModel[Any], world: World | None) -> tuple[list[Any], World | None]:
    """A few episodes of random actions, and the world if the model can act in it."""
    if world is None:
        return [], None
    env = world(0)
    try:
        _, actions = envs.spaces(env)
        if actions != model.actions:
            return [], None
        return collect(env, RandomAgent(actions), episodes=RECORDED, seed=0), world
    finally:
        env.close()


@torch.no_grad()
def _tried(model: WorldModel[Any], album: Album, hands: Hands) -> tuple[bool, bool]:
    """Whether the model's dreams are pictures, and whether it guesses six times at once quickly."""
    if len(album):
        state = watched(model, album.episode(0), 0)
    else:
        blank = {n: torch.from_numpy(x[None]) for n, x in nothing(model).items()}
        state = model.observe(None, None, model.encode(tree.to(blank, model.device)))
    many = tree.repeat(state, 6)
    action = None
    if model.actions is not None:
        one = torch.from_numpy(hands.array(None)).to(model.device)
        action = one.expand(6, *one.shape)
    times, picture = [], None
    for _ in range(3):  # the first is slow: memory is made
        began = time.perf_counter()
        picture = look(model, model.heads, model.predict(many, action))[0].picture
        times.append(time.perf_counter() - began)
    return picture is not None, min(times) < QUICK


def nothing(model: WorldModel[Any]) -> dict[str, np.ndarray]:
    """An observation in the middle of every range, without batch axis."""
    obs = {}
    for name, space in model.observations.items():
        low, high = getattr(space, "low", 0.0), getattr(space, "high", 0.0)
        middle = (low + high) / 2 if math.isfinite(low) and math.isfinite(high) else 0.0
        dtype = getattr(space, "dtype", "int64")
        obs[name] = np.full(getattr(space, "shape", ()), middle, dtype=dtype)
    return obs
