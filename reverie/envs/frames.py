"""Pictures of the last few moments seen together, for models that remember nothing themselves.

Imports core and gymnasium.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from reverie.core.errors import BadConfig
from reverie.core.vector import reset_rows


class Recent(VectorWrapper[Any, Any, Any, Any, Any]):
    """Each picture (C, H, W) becomes (F C, H, W): those of the last F moments, the oldest first.

    At the start of an episode its first picture stands for the moments before. Vectors stay as
    they are.

    Args:
        env: of `reverie.envs.make`.
        frames: F.

    Raises:
        BadConfig: if there is no picture, or F is below 1.

    Source: Mnih et al. 2015, "Preprocessing".
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], frames: int) -> None:
        super().__init__(env)
        spaces = dict(env.single_observation_space.spaces)  # type: ignore[attr-defined]
        self._pictures = [
            name for name, space in spaces.items() if space.dtype == np.uint8 and space.shape[2:]
        ]
        if frames < 1 or not self._pictures:
            raise BadConfig(
                f"frames={frames} was asked of a world that shows {', '.join(sorted(spaces))}. "
                "Give 1 or more to a world with pictures (observe='image'), or leave it out."
            )
        self._frames, self._seen = frames, dict[str, np.ndarray]()
        for name in self._pictures:
            low, high = (np.tile(x, (frames, 1, 1)) for x in (spaces[name].low, spaces[name].high))
            spaces[name] = gymnasium.spaces.Box(low, high, dtype=np.uint8)
        self.single_observation_space = gymnasium.spaces.Dict(spaces)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin episodes, of the rows of "reset_mask" only if there is one."""
        rows = reset_rows(options, self.num_envs)[:, None, None, None]
        obs, infos = self.env.reset(seed=seed, options=options)
        for name in self._pictures:
            fresh = np.tile(obs[name], (1, self._frames, 1, 1))
            self._seen[name] = np.where(rows, fresh, self._seen.get(name, fresh))
        return {**obs, **self._seen}, infos

    def step(
        self, actions: Any
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every row; the oldest picture goes."""
        obs, *rest = self.env.step(actions)
        for name in self._pictures:
            kept = self._seen[name][:, obs[name].shape[1] :]
            self._seen[name] = np.concatenate([kept, obs[name]], 1)
        return {**obs, **self._seen}, *rest  # type: ignore[return-value]
