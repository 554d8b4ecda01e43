"""How well something acts in a world: returns, survival and success with their intervals.

A score is always of whole episodes, started before anyone knew how long they would be, without
exploration. Success is the environment's own predicate, never "terminated". Imports core, data
and the statistics beside it.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from reverie.agent import Agent
from reverie.core.errors import BadData
from reverie.data.collect import collect
from reverie.data.episode import Episode
from reverie.evaluate.statistics import Interval, mean_interval, wilson
from reverie.progress import Progress


@dataclass(frozen=True)
class Control:
    """One agent's episodes in one world.

    Attributes:
        name: of the agent, as tables and plots show it.
        returns: sum of rewards, one an episode, in the world's units.
        lengths: decisions, one an episode.
        success: the environment's own predicate, one an episode; None: it declares none.
        seconds: wall clock of the whole evaluation.
    """

    name: str
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    success: tuple[bool, ...] | None
    seconds: float

    @property
    def score(self) -> Interval:
        """Mean return with its 95% interval; needs at least 5 episodes (BadData)."""
        return mean_interval(self.returns)

    @property
    def success_rate(self) -> Interval | None:
        """Share of successes with Wilson's 95% interval; None: no predicate."""
        return None if self.success is None else wilson(sum(self.success), len(self.success))

    def to_json(self) -> dict[str, Any]:
        """Everything, with the intervals beside the raw values."""
        rate = self.success_rate
        return {
            **asdict(self),
            "score": self.score._asdict(),
            "success_rate": None if rate is None else rate._asdict(),
        }


def control(
    name: str,
    env: VectorEnv,
    agent: Agent,
    *,
    episodes: int,
    seed: int,
    progress: Progress | None = None,
) -> Control:
    """Let an agent act as well as it can for whole episodes.

    Args:
        name: of the agent.
        env: as `reverie.envs.make` gives it.
        agent: anything that acts.
        episodes: started and finished, at least 5.
        seed: of the worlds and of the agent.
        progress: shows a bar if given.

    Returns:
        The episodes' scores.
    """
    began = time.perf_counter()
    played = collect(env, agent, episodes=episodes, seed=seed, explore=False, progress=progress)
    return from_episodes(name, played, time.perf_counter() - began)


def from_episodes(name: str, episodes: list[Episode], seconds: float = 0.0) -> Control:
    """The scores of episodes that were played already, rewards and success as they hold them.

    Raises:
        BadData: if an episode has no rewards.
    """
    known = [episode.info.get("success") for episode in episodes]
    success = None if any(value is None for value in known) else tuple(bool(v) for v in known)
    rewards = [episode.reward for episode in episodes if episode.reward is not None]
    if len(rewards) < len(episodes):
        raise BadData(
            f"'{name}' was to be scored by its rewards, but {len(episodes) - len(rewards)} of its "
            f"{len(episodes)} episodes have none. Score episodes that were played here."
        )
    returns = tuple(float(np.sum(reward)) for reward in rewards)
    return Control(name, returns, tuple(len(e) for e in episodes), success, seconds)
