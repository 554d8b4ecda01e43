"""A `dm_control` environment as a Gymnasium one.

The suite's discount tells a true end (0: terminated) from the clock's (1: truncated). Imports
nothing of ours; MuJoCo comes with the loaded environment.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class DmcEnv(gymnasium.Env[Any, Any]):
    """One control suite task.

    Args:
        env: a `dm_control.rl.control.Environment`, as `suite.load` returns it.
        size: height and width of what `render` draws, pixels.
        time_limit: control steps, then truncated; None: the task's own (mostly 1000).
        camera: number of the camera to render from.
        shadows: render as the suite does, with shadows and smoothed edges: without a GPU a frame
            then takes 25 times as long.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  # as Gymnasium declares it
    render_mode = "rgb_array"

    def __init__(
        self,
        env: Any,
        *,
        size: int = 64,
        time_limit: int | None = None,
        camera: int = 0,
        shadows: bool = False,
    ) -> None:
        self._env = env
        self._size = size
        self._camera = camera
        if not shadows:  # heeded when the first frame is rendered
            quality = env.physics.model.vis.quality
            quality.shadowsize = quality.offsamples = 0
        if time_limit is not None:
            env._step_limit = time_limit
        parts: dict[str, gymnasium.Space[Any]] = {
            key: gymnasium.spaces.Box(-np.inf, np.inf, spec.shape, np.float64)
            for key, spec in env.observation_spec().items()
        }
        self.observation_space = gymnasium.spaces.Dict(parts)
        action = env.action_spec()
        low = np.broadcast_to(action.minimum, action.shape).astype(np.float32)
        high = np.broadcast_to(action.maximum, action.shape).astype(np.float32)
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode; a seed begins the task's random stream anew."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.task._random = np.random.RandomState(seed % 2**32)
        return self._observe(self._env.reset()), {}

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """One control step; terminated where the suite's discount is 0."""
        now = self._env.step(np.asarray(action, dtype=np.float64))
        ended = now.last() and now.discount == 0
        return self._observe(now), float(now.reward), ended, now.last() and not ended, {}

    def close(self) -> None:
        """Free the simulation."""
        self._env.close()

    def render(self) -> np.ndarray:  # type: ignore[override]
        """(size, size, 3) uint8 from the camera."""
        return self._env.physics.render(self._size, self._size, camera_id=self._camera)

    def _observe(self, now: Any) -> dict[str, np.ndarray]:
        """The suite's named arrays."""
        return {key: np.asarray(value) for key, value in now.observation.items()}
