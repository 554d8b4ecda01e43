"""What a trained agent is worth in the real world, beside its baselines: `evaluation.json`.

All agents play worlds of the same seeds. Some episodes of the trained agent are kept in a store,
for films. Imports core, agent, data, and what stands beside it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from reverie.agent import Agent
from reverie.checkpoint import write_bytes
from reverie.core.errors import BadConfig
from reverie.data.collect import collect
from reverie.data.store import Store
from reverie.envs import spaces
from reverie.evaluate.control import Control, from_episodes
from reverie.evaluate.statistics import LEAST
from reverie.progress import Progress

EVALUATION = "evaluation.json"
PLAYED = "played"  # a store beside it: episodes of the trained agent
_KEPT = 8  # episodes in it


def judge(
    folder: Path,
    agents: Mapping[str, Agent],
    world: Callable[[int, int], VectorEnv],
    *,
    environment: str,
    unit: str,
    episodes: int = 100,
    seed: int = 1_000_000,
    num_envs: int = 8,
    more: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Control]:
    """Let every agent play, and write the scores into a run's folder.

    Args:
        folder: of the run; gets `evaluation.json` and the store `played`.
        agents: by name, the trained one first.
        world: (num_envs, seed) -> the world.
        environment: its name.
        unit: of a return, as "tics survived".
        episodes: each agent plays, at least 5.
        seed: of the worlds; the default is one that no recipe trains on.
        num_envs: worlds at once.
        more: what else the file holds: dreamed scores, sweeps.
        progress: shows a bar an agent.

    Returns:
        The scores, by name.

    Raises:
        BadConfig: if no agent is given, or too few episodes for an interval.
    """
    if not agents or episodes < LEAST:
        raise BadConfig(
            f"judge was asked for {len(agents)} agents and {episodes} episodes. "
            f"Give at least one agent and {LEAST} episodes."
        )
    scores: dict[str, Control] = {}
    env = world(num_envs, seed)
    try:
        for name, agent in agents.items():
            began = time.perf_counter()
            played = collect(
                env, agent, episodes=episodes, seed=seed, explore=False, progress=progress
            )
            if not scores:
                _keep(folder / PLAYED, env, played[:_KEPT])
            scores[name] = from_episodes(name, played, time.perf_counter() - began)
    finally:
        env.close()
    value = {
        "environment": environment,
        "unit": unit,
        "episodes": episodes,
        "scores": [score.to_json() for score in scores.values()],
        **(more or {}),
    }
    write_bytes(folder / EVALUATION, json.dumps(value, indent=1).encode())
    return scores


def _keep(path: Path, env: VectorEnv, episodes: list[Any]) -> None:
    """A fresh store of these episodes, without what agents wrote beside their actions."""
    shutil.rmtree(path, ignore_errors=True)
    observations, actions = spaces(env)
    with Store.create(path, observations, actions) as store:
        for episode in episodes:
            store.append(replace(episode, extra={}))
