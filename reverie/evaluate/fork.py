"""The same true start with two futures: what would have been, had something else been done?

A world is played twice from one seed, with the same first actions, then with others. That both
plays really share their past is checked, not believed. Imports core and the forecasts beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from reverie.core import tree
from reverie.core.errors import BadConfig, BadData
from reverie.core.types import Batch
from reverie.evaluate.forecast import Held
from reverie.evaluate.statistics import LEAST

World = Callable[[int, int], VectorEnv]  # (num_envs, seed) -> the world


class Forks(NamedTuple):
    """Segments in pairs: row i of both has the same first K observations, then parts."""

    one: Held  # under actions a
    other: Held  # under actions a'


def fork(
    world: World,
    *,
    pairs: int,
    context: int,
    horizon: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Forks:
    """Play a world twice from one seed, with random actions that differ after the context.

    Args:
        world: deterministic under its seed.
        pairs: rows; those that end within the segment are left out.
        context: K, observations that both share.
        horizon: H, steps after the fork.
        seed: of the world and the actions.
        device: where the tensors go.

    Raises:
        BadConfig: if context or horizon is below 1.
        BadData: if the two plays do not share their past, or fewer than 5 pairs last long enough.
    """
    if context < 1 or horizon < 1:
        raise BadConfig(
            f"A context and a horizon of at least 1 are needed, but they are {context} and "
            f"{horizon}. Raise them."
        )
    plays = []
    for branch in (0, 1):
        env = world(pairs, seed)
        try:
            plays.append(_play(env, context, horizon, seed, branch))
        finally:
            env.close()
    one, other = plays
    _same_past(one.batch, other.batch, context)
    lasting = ~(one.ended | other.ended)
    if lasting.sum() < LEAST:
        raise BadData(
            f"Forks of {context - 1 + horizon} steps were asked for, but only {lasting.sum()} of "
            f"{pairs} pairs last that long, and an interval needs {LEAST}. Shorten the horizon."
        )
    rows = torch.from_numpy(lasting)
    batches = [tree.to(tree.take(play.batch, rows), device) for play in plays]
    return Forks(Held(batches[0], context), Held(batches[1], context))


class _Play(NamedTuple):
    """One play of all rows."""

    batch: Batch
    ended: np.ndarray  # (N,) bool: the episode was over before the segment was


def _play(env: VectorEnv, context: int, horizon: int, seed: int, branch: int) -> _Play:
    """Random actions: the first K-1 of the seed alone, the others of the branch as well."""
    length, rows = context - 1 + horizon, env.num_envs
    ended = np.zeros(rows, dtype=bool)
    seen, acted, paid, over, cut = [_copy(env.reset(seed=seed)[0])], [], [], [], []
    env.action_space.seed(seed)
    for t in range(length):
        if t == context - 1:
            env.action_space.seed(2 * seed + 1 + branch)
        action = env.action_space.sample()
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append(_copy(obs))
        for trace, value in zip(
            (acted, paid, over, cut), (action, reward, terminated, truncated), strict=True
        ):
            trace.append(np.array(value))
        done = np.asarray(terminated | truncated)
        if done.any() and t < length - 1:
            ended |= done
            env.reset(options={"reset_mask": done.copy()})
    return _Play(_batch(seen, acted, paid, over, cut), ended)


def _copy(obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Observations that the world cannot write to later."""
    return {name: np.array(value) for name, value in obs.items()}


def _batch(
    seen: list[dict[str, np.ndarray]],
    acted: list[np.ndarray],
    paid: list[np.ndarray],
    over: list[np.ndarray],
    cut: list[np.ndarray],
) -> Batch:
    """The traces of a play as segments (N, T)."""

    def stacked(rows: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(rows, 1))

    action = stacked(acted)
    terminated = stacked(over).bool()
    first = torch.zeros(len(action), len(seen), dtype=torch.bool)
    first[:, 0] = True
    return Batch(
        obs={name: stacked([obs[name] for obs in seen]) for name in seen[0]},
        action=action.float() if action.is_floating_point() else action.long(),
        reward=stacked(paid).float(),
        terminated=terminated,
        truncated=stacked(cut).bool(),
        mask=torch.ones_like(terminated),
        first=first,
        extra={},
    )


def _same_past(one: Batch, other: Batch, context: int) -> None:
    """Refuse plays that differ before they fork."""
    for name, seen in one.obs.items():
        apart = (seen[:, :context] != other.obs[name][:, :context]).flatten(1).any(1)
        if bool(apart.any()):
            raise BadData(
                f"Two plays of one seed and the same actions were to agree until step "
                f"{context - 1}, but '{name}' differs in {int(apart.sum())} of {len(apart)} rows. "
                "Only a world that is deterministic under its seed can be forked."
            )
