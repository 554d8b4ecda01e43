"""Episodes from a world: the one loop that steps real environments. Imports core, progress.

The world is a `gymnasium.vector.VectorEnv` with dict observations that never resets by itself
(`AutoresetMode.DISABLED`); this loop resets the rows that are done, so the last observation of
an episode is a row of that episode and the first of the next is a row of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.data.episode import Episode
from reverie.progress import Progress, Silent

if TYPE_CHECKING:
    from reverie.agent import Agent

Observations = dict[str, np.ndarray]


def collect(
    env: VectorEnv,
    agent: Agent,
    *,
    episodes: int,
    seed: int,
    explore: bool = True,
    on_episode: Callable[[Episode], object] | None = None,
    progress: Progress | None = None,
    generator: torch.Generator | None = None,
) -> list[Episode]:
    """Let an agent act until so many episodes are over.

    Exactly `episodes` are started and all of them are waited for, so short ones are not
    preferred. Each `info` has the seed of the collection, the episode's index in order of
    starting, its return, and `success` where the world says so after the last step.

    Args:
        env: N worlds; `metadata["autoreset_mode"]` is DISABLED.
        agent: acts for N worlds at once.
        episodes: how many to start.
        seed: of the worlds and, without a generator, of the agent.
        explore: passed to the agent.
        on_episode: called with each episode as it ends, in order of ending; `store.append` fits.
        progress: told of the episodes that are over.
        generator: of the agent's randomness.

    Returns:
        The episodes in order of starting; none are kept if `on_episode` takes them.

    Raises:
        BadConfig: if `episodes` is less than one or the worlds reset themselves.
        SpaceMismatch: if observations are not dicts, or the agent returns another shape.
    """
    kept: list[Episode] = []
    take = on_episode or kept.append
    with (progress or Silent()).task("collect", episodes) as task:
        for episode in stream(
            env, agent, episodes=episodes, seed=seed, explore=explore, generator=generator
        ):
            take(episode)
            task.advance(1, steps=len(episode), episode_return=episode.info["return"])
    return sorted(kept, key=lambda episode: episode.info["index"])


def stream(
    env: VectorEnv,
    agent: Agent,
    *,
    episodes: int,
    seed: int,
    explore: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Episode]:
    """Yield what `collect` collects, each episode as it ends."""
    _check_env(env, episodes)
    generator = generator or torch.Generator().manual_seed(seed)
    rows = env.num_envs
    carry, first = agent.initial(rows), np.ones(rows, bool)
    obs = _copy(env.reset(seed=seed)[0])
    traces = {row: _Trace(row, row, obs) for row in range(min(rows, episodes))}
    started = len(traces)
    while traces:
        with torch.no_grad():
            seen = {name: torch.from_numpy(value) for name, value in obs.items()}
            carry, act = agent.act(
                carry, seen, torch.from_numpy(first), explore=explore, generator=generator
            )
        action = _action(act.action, env)
        after, reward, terminated, truncated, infos = env.step(action)
        obs = _copy(after)
        extra = {name: value.detach().cpu().numpy().copy() for name, value in act.extra.items()}
        step = _Step(action, reward, terminated, truncated, infos.get("success"), extra)
        for trace in traces.values():
            trace.step(step, obs)
        first = np.asarray(terminated | truncated)
        done: list[int] = np.flatnonzero(first).tolist()
        yield from (traces.pop(row).episode(seed) for row in done if row in traces)
        if not done or (started == episodes and not traces):
            continue
        fresh = env.reset(options={"reset_mask": first.copy()})[0]
        for name, value in fresh.items():
            obs[name][first] = value[first]
        for row in done[: episodes - started]:
            traces[row] = _Trace(started, row, obs)
            started += 1


class _Step(NamedTuple):
    """What all rows did and what came of it."""

    action: np.ndarray  # (N, A) float32 or (N,) int64
    reward: np.ndarray  # (N,)
    terminated: np.ndarray  # (N,) bool
    truncated: np.ndarray  # (N,) bool
    success: np.ndarray | None  # (N,) bool; None: the world does not say
    extra: dict[str, np.ndarray]  # (N, ...)


class _Trace:
    """One episode as it grows in one row."""

    def __init__(self, index: int, row: int, obs: Observations) -> None:
        self._index, self._row = index, row
        self._obs = {name: [value[row].copy()] for name, value in obs.items()}
        self._steps: list[_Step] = []

    def step(self, step: _Step, obs: Observations) -> None:
        """Take in this row of a step and of the observations after it."""
        i = self._row
        self._steps.append(
            _Step(
                step.action[i],
                step.reward[i],
                step.terminated[i],
                step.truncated[i],
                None if step.success is None else step.success[i],
                {name: value[i] for name, value in step.extra.items()},
            )
        )
        for name, value in obs.items():
            self._obs[name].append(value[i].copy())

    def episode(self, seed: int) -> Episode:
        """All of it."""
        action, reward, terminated, truncated, success, extra = zip(*self._steps, strict=True)
        info = {"seed": seed, "index": self._index, "return": float(np.sum(reward))}
        said = [bool(s) for s in success if s is not None]
        if said:
            info["success"] = said[-1]
        return Episode(
            obs={name: np.stack(values) for name, values in self._obs.items()},
            action=np.stack(action),
            reward=np.array(reward, np.float32),
            terminated=np.array(terminated, bool),
            truncated=np.array(truncated, bool),
            extra={name: np.stack([e[name] for e in extra]) for name in extra[0]},
            info=info,
        )


def _check_env(env: VectorEnv, episodes: int) -> None:
    """Refuse worlds that this loop would record wrongly."""
    if episodes < 1:
        raise BadConfig(f"collect(episodes=) must be at least 1, but it is {episodes}. Raise it.")
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.DISABLED:
        raise BadConfig(
            f"Collection resets worlds itself, but this one has autoreset_mode {mode}. "
            "Make it with AutoresetMode.DISABLED, as reverie.envs.make does."
        )


def _copy(obs: object) -> Observations:
    """The observations of all rows, ours to keep."""
    if not isinstance(obs, dict):
        raise SpaceMismatch(
            f"Collection needs dict observations by modality, but got {type(obs).__name__}. "
            "Make the world with reverie.envs.make."
        )
    return {name: np.array(value) for name, value in obs.items()}


def _action(action: torch.Tensor, env: VectorEnv) -> np.ndarray:
    """The agent's actions as the world takes them and the store keeps them."""
    wanted = env.action_space.shape
    if tuple(action.shape) != wanted:
        raise SpaceMismatch(
            f"The world takes actions of shape {wanted}, but the agent gave "
            f"{tuple(action.shape)}. Make the agent for this world."
        )
    return (
        action.detach().cpu().numpy().astype(np.float32 if action.is_floating_point() else np.int64)
    )
