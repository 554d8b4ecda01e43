"""What a bench is about: a world, the data all models learn from, and how a model is to act.

A `Task` is data; `tasks.py` holds those that are shipped. Models see only the modalities in
`reads` or `memoryless`; the true state (`truth`) is in the data for probes and oracles. Imports
core, agents, data, envs and the states of evaluate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from reverie.agent import Agent
from reverie.core.model import WorldModel
from reverie.core.types import Space
from reverie.data.collect import collect
from reverie.data.fill import mixed
from reverie.data.store import Store
from reverie.envs import spaces
from reverie.evaluate.states import Source, gather_states
from reverie.evaluate.surprise import Pairs
from reverie.progress import Progress, Silent

HELD = 1_000  # added to a bench's seed for the episodes that no model learns from


@dataclass(frozen=True)
class Task:
    """One question: which model predicts and controls this world best?

    Attributes:
        name: as `reverie bench` takes it.
        about: one sentence.
        environment: name of the world.
        world: (num_envs, seed) -> the world, with every modality that models and oracles read.
        explorer: the world's actions -> who collects the data.
        other: the world's actions -> who takes over where actions are to be unlike the data's.
        transitions: that models learn from.
        held: episodes of each kind of states that they do not learn from.
        reads: modalities that a learned model may read.
        memoryless: what a model without memory may read instead, where one moment of `reads` does
            not show how things move; None: the same.
        plan: a model -> an agent that acts by planning in it; MissingHead if it cannot.
        score: "success" or "return": what control is ranked by.
        unit: of a return.
        context: observations given before a prediction begins.
        horizon: steps predicted.
        truth: modality with the true state, or None.
        oracle: builds the true model, or None where nobody has it.
        baselines: the world's actions -> agents that stand beside the models.
        edits: makes pairs of possible and impossible events; None: splices of held-out episodes.
        shifted: (num_envs, seed) -> the same world, changed in what models were not told; or None.
        episodes: played by every agent.
        num_envs: worlds at once.
    """

    name: str
    about: str
    environment: str
    world: Callable[[int, int], VectorEnv]
    explorer: Callable[[Space], Agent]
    other: Callable[[Space], Agent]
    transitions: int
    held: int
    reads: tuple[str, ...]
    plan: Callable[[WorldModel], Agent]
    score: str
    unit: str
    context: int
    horizon: int
    truth: str | None = None
    oracle: Callable[[], WorldModel] | None = None
    baselines: Callable[[Space], Mapping[str, Agent]] = field(default=lambda actions: {})
    edits: Callable[[], Sequence[Pairs]] | None = None
    shifted: Callable[[int, int], VectorEnv] | None = None
    memoryless: tuple[str, ...] | None = None
    episodes: int = 100
    num_envs: int = 20


def gather(task: Task, folder: Path, *, seed: int, progress: Progress | None = None) -> None:
    """Collect what models learn from (`folder/train`) and what they are judged on (`folder/held`).

    What is there already is kept. The episodes to judge on are of other seeds, so that no frame of
    them was ever learned from.

    Args:
        task: whose worlds and agents.
        folder: of the data.
        seed: of the worlds and the explorer.
        progress: shows a bar a store.
    """
    progress, path = progress or Silent(), folder / "train"
    env = task.world(task.num_envs, seed)
    try:
        observations, actions = spaces(env)
        if not path.exists():
            Store.create(path, observations, actions).close()
        with Store.open(path, writable=True) as store:
            _fill(store, env, task.explorer(actions), task.transitions, seed, progress)
    finally:
        env.close()
    source = Source(
        task.world,
        task.explorer(actions),
        task.other(actions),
        task.context,
        task.horizon,
        task.held,
        task.num_envs,
        task.shifted,
    )
    gather_states(folder / "held", source, seed=seed + HELD, progress=progress)


def _fill(
    store: Store, env: VectorEnv, explorer: Agent, wanted: int, seed: int, progress: Progress
) -> None:
    """Append rounds of episodes until there are enough transitions."""
    with progress.task("collect, train", wanted, min(store.steps, wanted)) as bar:
        while (before := store.steps) < wanted:
            number = mixed(seed, len(store))
            for episode in collect(env, explorer, episodes=env.num_envs, seed=number):
                store.append(episode)
            bar.advance(min(store.steps, wanted) - min(before, wanted))


def facts(store: Store) -> dict[str, Any]:
    """What a school must know of its data: whether rewards vary and episodes end.

    Args:
        store: of training data.

    Returns:
        `rewards`: whether they differ from one another; `ends`: whether any episode terminated.
    """
    columns = store.columns
    reward = columns.get("reward")
    return {
        "rewards": reward is not None and float(np.ptp(reward)) > 0,
        "ends": bool(columns["terminated"].any()),
    }
