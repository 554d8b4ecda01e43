"""What really happens beside the dream: the world itself, or a recording for as long as it fits.

Imports core, data and what a world is.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.vector import VectorEnv

from reverie.data.episode import Episode
from reverie.player.hands import Action, Hands


class Event(NamedTuple):
    """One step of reality."""

    obs: dict[str, np.ndarray]  # without batch axis
    reward: float | None
    over: str  # why nothing follows; "" while it goes on


class Reality(Protocol):
    """Something that takes the dream's actions."""

    def step(self, action: Action) -> Event | None:
        """What follows; None if reality cannot follow.

        Args:
            action: of the dream's first branch.
        """
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class World:
    """The real world.

    Args:
        env: one row; closed with this.
        hands: turn actions into what it takes.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], hands: Hands) -> None:
        self._env, self._hands, self._over = env, hands, False

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """The first observation of a new episode."""
        self._over = False
        obs, _ = self._env.reset(seed=seed)
        return {name: np.array(x[0]) for name, x in obs.items()}

    def step(self, action: Action) -> Event | None:
        """See `Reality.step`."""
        if self._over:
            return None
        chosen = self._hands.array(action)[None]
        obs, reward, terminated, truncated, infos = self._env.step(chosen)
        self._over = bool(terminated[0] or truncated[0])
        over = "the episode ended" if terminated[0] else "the time was up" if truncated[0] else ""
        success = infos.get("success")
        if over and success is not None:
            over += " in success" if bool(np.asarray(success).ravel()[0]) else " without success"
        seen = {name: np.array(x[0]) for name, x in obs.items()}
        return Event(seen, float(reward[0]), over)

    def close(self) -> None:
        """See `Reality.close`."""
        self._env.close()


class Recording:
    """An episode of the album: it stays beside the dream while the same actions are taken.

    Args:
        episode: that was recorded.
        step: where the dream begins.
        hands: turn actions into what it holds.
    """

    def __init__(self, episode: Episode, step: int, hands: Hands) -> None:
        self._episode, self._step, self._hands = episode, step, hands
        self._left = False

    def action(self) -> Action:
        """What was done next; None at the end, or where no actions were recorded."""
        if self._left or self._step >= len(self._episode) or self._episode.action is None:
            return None
        return self._hands.action(self._episode.action[self._step])

    def step(self, action: Action) -> Event | None:
        """See `Reality.step`."""
        t, episode = self._step, self._episode
        if self._left or t >= len(episode):
            return None
        if self._hands.kind != "none" and episode.action is not None:
            taken = np.asarray(episode.action[t])
            if not np.allclose(self._hands.array(action), taken, atol=1e-5):
                self._left = True
                return None
        self._step = t + 1
        seen = {name: x[t + 1] for name, x in episode.obs.items()}
        reward = None if episode.reward is None else float(episode.reward[t])
        return Event(seen, reward, "the recording ended" if t + 1 == len(episode) else "")

    def close(self) -> None:
        """See `Reality.close`."""
