"""The states that a model is judged on: visited, after a counterfactual action, in a shifted world.

Three stores of episodes that nobody learned from. *Visited* states are those of whoever explored.
*Counterfactual* ones come from the same starts and the same first steps, then another agent takes
over: the model must know what its data only hints at. *Shifted* ones are of a world that was
changed in what the model was not told. Imports core, agent, data and forecasts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from gymnasium.vector import VectorEnv

from reverie.agent import Agent, ForkAgent
from reverie.core.errors import SpaceMismatch
from reverie.core.model import WorldModel
from reverie.core.types import Discrete, Space
from reverie.data.collect import collect
from reverie.data.episode import Episode
from reverie.data.fill import mixed
from reverie.data.store import Store
from reverie.envs import spaces
from reverie.evaluate.forecast import Held, held_out
from reverie.progress import Progress, Silent

VISITED, COUNTERFACTUAL, SHIFTED = "visited", "counterfactual", "shifted"
ABOUT = {
    VISITED: "as the data was explored",
    COUNTERFACTUAL: "the same starts, then actions that the explorer did not take",
    SHIFTED: "a world changed in what the model was not told",
}
World = Callable[[int, int], VectorEnv]  # (num_envs, seed) -> the world


class Source(NamedTuple):
    """Where states to judge on come from."""

    world: World
    explorer: Agent
    other: Agent  # takes over at a fork
    context: int  # K, observations given
    horizon: int  # H, steps predicted
    episodes: int
    num_envs: int
    shifted: World | None = None


def gather_states(
    folder: Path, source: Source, *, seed: int, progress: Progress | None = None
) -> None:
    """Collect the three stores; what is there already is kept.

    Args:
        folder: of the stores, each under its name; `shifted` only where there is such a world.
        source: of the episodes.
        seed: of worlds and agents; unlike that of the data that models learn from.
        progress: shows a bar a store.
    """
    length = source.context - 1 + source.horizon
    fork = ForkAgent(source.explorer, source.other, at=source.context - 1, seed=seed)
    progress = progress or Silent()
    takes = {VISITED: source, COUNTERFACTUAL: source._replace(explorer=fork)}
    if source.shifted is not None:
        takes[SHIFTED] = source._replace(world=source.shifted)
    for name, take in takes.items():
        _collect(folder / name, take, length if name == COUNTERFACTUAL else None, seed, progress)


def _collect(path: Path, source: Source, length: int | None, seed: int, progress: Progress) -> None:
    """Fill one store, its episodes cut to a length, round by round."""
    if path.exists() and len(Store.open(path)) >= source.episodes:
        return
    env, agent = source.world(source.num_envs, seed), source.explorer
    try:
        if not path.exists():
            Store.create(path, *spaces(env)).close()
        with (
            Store.open(path, writable=True) as store,
            progress.task(f"collect, {path.name}", source.episodes, len(store)) as bar,
        ):
            while (have := len(store)) < source.episodes:
                count = min(env.num_envs, source.episodes - have)
                for episode in collect(env, agent, episodes=count, seed=mixed(seed, have)):
                    store.append(_cut(episode, length))
                bar.advance(count)
    finally:
        env.close()


def _cut(episode: Episode, length: int | None) -> Episode:
    """The first steps of an episode, or all of it."""
    if length is None or len(episode) <= length:
        return replace(episode, extra={})
    return replace(
        episode,
        obs={name: value[: length + 1] for name, value in episode.obs.items()},
        action=None if episode.action is None else episode.action[:length],
        reward=None if episode.reward is None else episode.reward[:length],
        terminated=episode.terminated[:length],
        truncated=episode.truncated[:length],
        extra={},
    )


def held_states(
    folder: Path, *, context: int, horizon: int, device: torch.device | str = "cpu", seed: int = 0
) -> dict[str, Held]:
    """Segments of every store that is there.

    Args:
        folder: as `gather_states` filled it.
        context: K, observations given.
        horizon: H, steps predicted.
        device: where the tensors go.
        seed: of where segments begin.

    Raises:
        BadData: if too few episodes of a store are long enough.
    """
    return {
        name: held_out(
            Store.open(folder / name), context=context, horizon=horizon, seed=seed, device=device
        )
        for name in ABOUT
        if (folder / name).exists()
    }


def check_fits(
    model: WorldModel, observations: dict[str, Space], actions: Space | None, where: str
) -> None:
    """Refuse a model that cannot live in a world.

    Args:
        model: any world model.
        observations: of the world.
        actions: of the world.
        where: the world's name, for the message.

    Raises:
        SpaceMismatch: if the model reads what the world does not show, or acts in another space.
    """
    owner = model.heads.owner
    for name, space in model.observations.items():
        found = observations.get(name)
        if found is None or _form(found) != _form(space):
            shown = f"'{name}' as {found}" if found else f"only {', '.join(sorted(observations))}"
            raise SpaceMismatch(
                f"{owner} reads '{name}' as {space}, but {where} shows {shown}. "
                "Judge it in the world that it was made for."
            )
    if model.actions is not None and (actions is None or _form(model.actions) != _form(actions)):
        raise SpaceMismatch(
            f"{owner} acts in {model.actions}, but {where} takes {actions}. "
            "Judge it in the world that it was made for."
        )


def _form(space: Space) -> int | tuple[int, ...]:
    """How many actions, or the shape: bounds may differ."""
    return space.n if isinstance(space, Discrete) else space.shape
