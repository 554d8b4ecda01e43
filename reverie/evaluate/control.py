"""How well something acts in a world: returns, survival and success with their intervals.

A score is always of whole episodes, started before anyone knew how long they would be, without
exploration. Success is the environment's own predicate, never "terminated". Every agent that is
given the same seed begins at the same starts, and a start that is solved already counts for
nobody. Imports core, data and the statistics beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from reverie.agent import Agent
from reverie.core import tree
from reverie.core.errors import BadData
from reverie.core.model import WorldModel
from reverie.core.types import Act
from reverie.data.collect import collect
from reverie.data.episode import Episode
from reverie.data.fill import mixed
from reverie.evaluate.statistics import LEAST, Interval, mean_interval, wilson
from reverie.progress import Progress, Silent


@dataclass(frozen=True)
class Control:
    """One agent's episodes in one world.

    Attributes:
        name: of the agent, as tables and plots show it.
        returns: sum of rewards, one an episode, in the world's units.
        lengths: decisions, one an episode.
        success: the environment's own predicate, one an episode; None: it declares none.
        seconds: wall clock of the whole evaluation.
        excluded: starts that were solved already, left out above.
        thinking: seconds of the agent's own for one decision; 0: not measured.
        imagined: model steps for one decision; 0: none, or not measured.
    """

    name: str
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    success: tuple[bool, ...] | None
    seconds: float
    excluded: int = 0
    thinking: float = 0.0
    imagined: float = 0.0

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


def control_from_json(value: Mapping[str, Any]) -> Control:
    """What `Control.to_json` wrote."""
    known = {k: v for k, v in value.items() if k not in ("score", "success_rate")}
    success = known["success"]
    return Control(
        **{
            **known,
            "returns": tuple(known["returns"]),
            "lengths": tuple(known["lengths"]),
            "success": None if success is None else tuple(success),
        }
    )


def control(
    name: str,
    env: VectorEnv,
    agent: Agent,
    *,
    episodes: int,
    seed: int,
    model: WorldModel[Any] | None = None,
    progress: Progress | None = None,
) -> Control:
    """Let an agent act as well as it can for whole episodes.

    Episodes are played in rounds of one a row, each round with a seed of its own, so that whoever
    plays the same number of worlds from the same seed has the same starts. A start is solved
    already if the world declares success after one step of doing nothing (zeros of a Box, the
    first of Discrete actions that the observation 'legal' allows).

    Args:
        name: of the agent.
        env: as `reverie.envs.make` gives it.
        agent: anything that acts.
        episodes: started and finished, at least 5; solved starts among them are left out.
        seed: of the worlds and of the agent.
        model: whose predictions are counted.
        progress: shows a bar if given.

    Returns:
        The episodes' scores.

    Raises:
        BadData: if fewer than 5 starts were not solved already.
    """
    began, timed = time.perf_counter(), _Timed(agent)
    played: list[Episode] = []
    solved: list[bool] = []
    with _counting(model) as count, (progress or Silent()).task(name, episodes) as task:
        while len(played) < episodes:
            rows, number = min(env.num_envs, episodes - len(played)), mixed(seed, len(played))
            solved += _solved(env, number)[:rows].tolist()
            found = collect(env, timed, episodes=rows, seed=number, explore=False)
            played += found
            task.advance(rows, mean_return=float(np.mean([e.info["return"] for e in found])))
    kept = [episode for episode, already in zip(played, solved, strict=True) if not already]
    if len(kept) < LEAST:
        raise BadData(
            f"'{name}' played {episodes} episodes, but {sum(solved)} of their starts were solved "
            f"already, and an interval needs {LEAST}. Play more episodes, or a harder task."
        )
    return from_episodes(
        name,
        kept,
        time.perf_counter() - began,
        excluded=sum(solved),
        thinking=timed.seconds / timed.decisions,
        imagined=count["steps"] / timed.decisions,
    )


def from_episodes(name: str, episodes: list[Episode], seconds: float = 0.0, **more: Any) -> Control:
    """The scores of episodes that were played already, rewards and success as they hold them.

    Args:
        name: of who played.
        episodes: at least one.
        seconds: that it took.
        more: the other fields of `Control`.

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
    return Control(name, returns, tuple(len(e) for e in episodes), success, seconds, **more)


def _solved(env: VectorEnv, seed: int) -> np.ndarray:
    """(N,) bool: the starts of this seed that succeed without being acted on."""
    obs, _ = env.reset(seed=seed)
    still = np.zeros(env.action_space.shape or (), env.action_space.dtype)
    if "legal" in obs:
        still[:] = obs["legal"].argmax(1)
    success = env.step(still)[4].get("success")
    return np.zeros(env.num_envs, bool) if success is None else np.array(success, bool)


class _Timed:
    """An agent with a stop watch. The carry is the agent's own."""

    def __init__(self, agent: Agent) -> None:
        self._agent, self.seconds, self.decisions = agent, 0.0, 0

    def initial(self, batch: int) -> Any:
        return self._agent.initial(batch)

    def act(
        self,
        carry: Any,
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Act]:
        began = time.perf_counter()
        carry, act = self._agent.act(carry, obs, first, explore=explore, generator=generator)
        self.decisions += len(first)
        self.seconds += time.perf_counter() - began
        return carry, act


@contextmanager
def _counting(model: WorldModel[Any] | None) -> Iterator[dict[str, int]]:
    """Counts single-row predictions of a model while the block runs."""
    count = {"steps": 0}
    if model is None:
        yield count
        return
    inner = model.predict

    def predict(state: Any, action: Tensor | None, **more: Any) -> Any:
        count["steps"] += tree.size(state)
        return inner(state, action, **more)

    object.__setattr__(model, "predict", predict)
    try:
        yield count
    finally:
        object.__delattr__(model, "predict")
