"""What all toy worlds share: reset, step, ends and clocks. Imports core only."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from reverie.core.errors import ShapeMismatch, SpaceMismatch
from reverie.core.types import Discrete, Space
from reverie.core.vector import gymnasium_space, refuse_finished, reset_rows, stream_seed


class ToyWorld(VectorEnv, abc.ABC):
    """Reset, step, ends and clocks, done once; a world says how rows begin, move and look.

    Args:
        num_envs: rows.
        observations: of one row, by modality.
        actions: of one row.
        time_limit: steps after which an episode is truncated.
        seed: of the one random stream that all rows share.
    """

    def __init__(
        self,
        num_envs: int,
        observations: Mapping[str, Space],
        actions: Space,
        *,
        time_limit: int,
        seed: int,
    ) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = gymnasium.spaces.Dict(
            {name: gymnasium_space(space) for name, space in observations.items()}
        )
        self.single_action_space = gymnasium_space(actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.time_limit = time_limit
        self._actions = actions
        self._random = np.random.default_rng(seed)
        self._age = np.zeros(num_envs, dtype=np.int64)
        self._over = np.ones(num_envs, dtype=bool)
        self._begun = False

    @abc.abstractmethod
    def _begin(self, rows: np.ndarray) -> None:
        """Begin episodes in rows (num_envs,) bool."""

    @abc.abstractmethod
    def _move(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray | bool]:
        """Move all rows; rewards (num_envs,) and which rows the world ended."""

    @abc.abstractmethod
    def _see(self) -> dict[str, np.ndarray]:
        """New arrays of what all rows show."""

    def _success(self) -> np.ndarray | None:
        """(num_envs,) bool: the task is fulfilled now; None: the world declares no success."""
        return None

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: begins the random stream anew; None: it goes on.
            options: "reset_mask" (num_envs,) bool: only these rows begin; others stay.

        Returns:
            Observations of all rows, and no infos.

        Raises:
            ShapeMismatch: if the mask is not (num_envs,) bool.
        """
        rows = reset_rows(options, self.num_envs) | (not self._begun)
        number = stream_seed(seed)
        if number is not None:
            self._random = np.random.default_rng(number)
        self._begin(rows)
        self._begun = True
        self._age[rows] = 0
        self._over[rows] = False
        return self._see(), {}

    def step(
        self, actions: Any
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Move every row one step.

        Args:
            actions: (num_envs, A) in [-1, 1], clipped to it, or (num_envs,) int64.

        Returns:
            Observations, rewards (num_envs,) float64, terminated and truncated (num_envs,) bool,
            and infos, with "success" (num_envs,) bool if the world declares it.

        Raises:
            gymnasium.error.ResetNeeded: if a row's episode is over.
            ShapeMismatch: if the actions have another shape.
            SpaceMismatch: if an action is not in the space.
        """
        refuse_finished(self._over)
        reward, terminated = self._move(self._checked(actions))
        self._age += 1
        terminated = np.broadcast_to(terminated, self._over.shape).copy()
        truncated = (self._age >= self.time_limit) & ~terminated
        self._over = terminated | truncated
        success = self._success()
        return self._see(), reward, terminated, truncated, _infos(success)

    def _checked(self, actions: Any) -> np.ndarray:
        """The actions, if they are of the space."""
        discrete = isinstance(self._actions, Discrete)
        array = np.asarray(actions)
        if array.shape != self.action_space.shape:
            raise ShapeMismatch(
                f"Actions must have shape {self.action_space.shape}, but have {array.shape}. "
                "Give one for each row."
            )
        if not discrete:
            return np.clip(array.astype(np.float64), -1.0, 1.0)
        if not np.issubdtype(array.dtype, np.integer) or not self.action_space.contains(array):
            raise SpaceMismatch(
                f"Actions must be integers in {self._actions}, but they are {array.dtype} in "
                f"{array.min()}..{array.max()}. Choose one of them."
            )
        return array


def _infos(success: np.ndarray | None) -> dict[str, Any]:
    """What step says beside."""
    return {} if success is None else {"success": success}
