"""A store filled to a number of episodes, exactly the same however often it was interrupted.

Imports core, envs' spaces and data.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.vector import VectorEnv

from reverie.data.collect import collect
from reverie.data.store import Store
from reverie.envs import spaces
from reverie.progress import Progress, Silent

if TYPE_CHECKING:
    from reverie.agent import Agent


ROUND = 64  # episodes collected with one seed, appended together


def mixed(*numbers: int) -> int:
    """One seed, below 2**31, of several numbers: near seeds give no near ones.

    Worlds seed their rows with seed, seed + 1, ...; rounds that did the same would share games.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)


def fill(
    path: str | Path,
    make: Callable[[int], VectorEnv],
    agent: Agent,
    *,
    episodes: int,
    seed: int,
    begin: int = 0,
    progress: Progress | None = None,
) -> None:
    """Collect into a store until it holds so many episodes; go on where an earlier call stopped.

    Episodes come in rounds of `ROUND`, each with seeds of its own, so what a store holds follows
    from the seed alone. A round that was cut is collected again.

    Args:
        path: of the store; made if it is not there.
        make: seed -> worlds.
        agent: explores.
        episodes: that the store holds in the end.
        seed: of everything.
        begin: episodes that were there before; another explorer's, say. They are kept.
        progress: told of the episodes that are over.

    Raises:
        BadData: if something else lies at the path.
        StorageFull: if the disk is full; whole rounds are kept.
    """
    path = Path(path)
    if path.exists():
        with Store.open(path) as store:
            if len(store) >= episodes:
                return
    env = make(seed)
    try:
        if not path.exists():
            Store.create(path, *spaces(env)).close()
        with Store.open(path, writable=True) as store:
            whole = (len(store) - begin) // ROUND
            store.truncate(begin + whole * ROUND)
            with (progress or Silent()).task("collect", episodes, len(store)) as task:
                while len(store) < episodes:
                    count = min(ROUND, episodes - len(store))
                    round_seed = mixed(seed, begin, whole)
                    for episode in collect(env, agent, episodes=count, seed=round_seed):
                        store.append(episode)
                        task.advance(1, steps=store.steps, length=len(episode))
                    whole += 1
    finally:
        env.close()
