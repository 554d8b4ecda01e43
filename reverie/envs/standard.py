"""Wrappers that bring any Gymnasium environment to one form.

Observations become {'image': uint8 (C, H, W)} and/or {'vector': float32 (D,)}, actions Discrete(n)
from 0 or Box [-1, 1] (A,), ``terminated`` and ``truncated`` never both, ``info["success"]`` the
task's predicate. Read `standardise` first: it is the order of the wrappers. Imports core and
`envs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.envs.pixels import AreaResize, check_rows
from reverie.envs.tasks import Outcome

OBSERVE = ("auto", "image", "vector", "both")
_FOLDED_ACTIONS = 512  # the most actions that a product of discrete spaces may become


def standardise(
    env: gymnasium.Env[Any, Any],
    *,
    size: int = 64,
    rows: tuple[int, int] | None = None,
    action_repeat: int = 1,
    observe: str = "auto",
    predicate: Callable[[Outcome], bool] | None = None,
) -> gymnasium.Env[Any, Any]:
    """The environment with this library's spaces.

    Args:
        env: any single environment; made with render_mode "rgb_array" if it has no image of its
            own and one is asked for.
        size: height and width of images, pixels.
        rows: (top, bottom) image rows to keep before the resize; None: all.
        action_repeat: environment steps that one action lasts; rewards are summed.
        observe: one of `OBSERVE`: "auto" is all that the environment gives by itself.
        predicate: success, for info["success"]; None: not told.

    Raises:
        SpaceMismatch: if a space is of a kind that has no place here.
        BadConfig: if the observations asked for do not exist.
    """
    env = Steps(env, action_repeat, predicate)
    if observe in {"image", "both"} and not image_keys(env.observation_space):
        env = gymnasium.wrappers.AddRenderObservation(
            env, render_only=observe == "image", render_key="image"
        )
    return Actions(Observations(env, size, rows, observe))


class Steps(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats actions, counts the episode's return, asks the success predicate."""

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        repeat: int,
        predicate: Callable[[Outcome], bool] | None,
    ) -> None:
        super().__init__(env)
        if repeat < 1:
            raise BadConfig(f"action_repeat must be at least 1, but it is {repeat}.")
        self._repeat = repeat
        self._predicate = predicate
        self._over = True
        self._total = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._over, self._total = False, 0.0
        return observation, info if self._predicate is None else {**info, "success": False}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do the action `repeat` times, or until the episode ends.

        Raises:
            gymnasium.error.ResetNeeded: if the episode is over or never began.
        """
        if self._over:
            raise gymnasium.error.ResetNeeded("The episode is over: call reset() first.")
        reward, success = 0.0, False
        for _ in range(self._repeat):
            observation, gained, terminated, truncated, info = self.env.step(action)
            terminated = bool(terminated)
            truncated = bool(truncated) and not terminated
            reward += float(gained)
            self._total += float(gained)
            if self._predicate is not None:
                outcome = Outcome(float(gained), self._total, terminated, truncated, info)
                success = bool(self._predicate(outcome))
            self._over = terminated or truncated
            if self._over:
                break
        if self._predicate is not None:
            info = {**info, "success": success}
        return observation, reward, terminated, truncated, info


class FirstSeed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Gives the first reset a seed if the caller does not, so that every run can be repeated."""

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int) -> None:
        super().__init__(env)
        self._seed: int | None = seed

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        seed = self._seed if seed is None else seed
        self._seed = None
        return self.env.reset(seed=seed, options=options)


class Observations(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Images to uint8 (C, size, size), everything else into one float32 vector; text is left out.

    Several images keep their own names; a single one is 'image'. Frames of bools (MinAtar's planes)
    become 0 and 255 and keep their size.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        size: int,
        rows: tuple[int, int] | None,
        observe: str,
    ) -> None:
        super().__init__(env)
        whole: Any = env.observation_space
        self._single = not isinstance(whole, spaces.Dict)
        self._source = spaces.Dict({"": whole}) if self._single else whole
        keys = image_keys(whole) if observe != "vector" else []
        self._images = {key if len(keys) > 1 else "image": key for key in keys}
        self._frames = {key: _Frame(self._source[key], size, rows) for key in keys}
        rest = {
            key: space
            for key, space in self._source.items()
            if key not in image_keys(whole) and not _is_text(space)
        }
        self._rest = spaces.Dict(rest if observe != "image" else {})
        found: dict[str, spaces.Space[Any]] = {
            name: self._frames[key].space for name, key in self._images.items()
        }
        if self._rest.spaces:
            found["vector"] = _vector_space(self._rest)
        if not found:
            raise BadConfig(
                f"observe='{observe}' was asked for, but the environment's observations are "
                f"{whole}. Choose another of {', '.join(OBSERVE)}."
            )
        self.observation_space = spaces.Dict(found)

    def observation(self, observation: Any) -> dict[str, np.ndarray]:
        """One observation in this library's form."""
        parts = {"": observation} if self._single else observation
        found = {name: self._frames[key](parts[key]) for name, key in self._images.items()}
        if self._rest.spaces:
            rest = {key: parts[key] for key in self._rest.spaces}
            flat = spaces.flatten(self._rest, rest)
            found["vector"] = np.asarray(flat, dtype=np.float32)
        return found


class Actions(gymnasium.ActionWrapper[Any, Any, Any]):
    """Box to [-1, 1] (clipped), Discrete to 0..n-1, a product of discretes to one Discrete."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._theirs = env.action_space
        self.action_space, self._convert = _actions(env.action_space)

    def action(self, action: Any) -> Any:
        """The environment's own action."""
        return self._convert(action)


class _Frame:
    """One image of the source: its space, and the conversion."""

    def __init__(self, source: Any, size: int, rows: tuple[int, int] | None) -> None:
        shape = source.shape
        self._planes = source.dtype == np.bool_
        self._first = len(shape) == 3 and not self._planes and shape[2] not in {1, 3}
        height, width = shape[1:] if self._first else shape[:2]
        self._rows = slice(*check_rows(rows, height))
        height = self._rows.stop - self._rows.start
        channels = 1 if len(shape) == 2 else shape[0] if self._first else shape[2]
        self._resize = None if self._planes else AreaResize(height, width, size, size)
        out = (height, width) if self._planes else (size, size)
        self.space = spaces.Box(0, 255, (channels, *out), np.uint8)

    def __call__(self, frame: Any) -> np.ndarray:
        frame = np.asarray(frame)
        frame = (frame.transpose(1, 2, 0) if self._first else frame)[self._rows]
        if self._resize is None:
            return np.ascontiguousarray(frame.transpose(2, 0, 1)).astype(np.uint8) * np.uint8(255)
        return self._resize(frame)


def _is_image(space: Any) -> bool:
    """uint8 (H, W), (H, W, 1 or 3), (1 or 3, H, W); or bool (H, W, planes)."""
    if not isinstance(space, spaces.Box) or len(space.shape) not in {2, 3}:
        return False
    if space.dtype == np.bool_:
        return len(space.shape) == 3
    colours = len(space.shape) == 2 or space.shape[2] in {1, 3} or space.shape[0] in {1, 3}
    return space.dtype == np.uint8 and colours


def _is_text(space: Any) -> bool:
    """Words, as MiniGrid's mission."""
    return isinstance(space, spaces.Text) or getattr(space.dtype, "kind", "") == "U"


def image_keys(space: Any) -> list[str]:
    """Keys of the images in a Dict of observations; [""] for a space that is an image itself."""
    if isinstance(space, spaces.Dict):
        return [key for key, part in space.items() if _is_image(part)]
    return [""] if _is_image(space) else []


def _vector_space(rest: spaces.Dict) -> spaces.Box:
    """The flattened space in float32."""
    try:
        flat = spaces.flatten_space(rest)
    except NotImplementedError:
        flat = None
    if not isinstance(flat, spaces.Box):
        raise SpaceMismatch(
            f"Observations must flatten to one vector, but they are {rest}. Wrap the environment "
            "so that they are Box, Discrete, Tuple or Dict of these."
        )
    low, high = flat.low.astype(np.float32), flat.high.astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def _actions(theirs: Any) -> tuple[spaces.Space[Any], Callable[[Any], Any]]:
    """Our action space, and ours -> theirs."""
    if isinstance(theirs, spaces.Discrete):
        start = int(theirs.start)
        return spaces.Discrete(int(theirs.n)), lambda action: int(action) + start
    if isinstance(theirs, spaces.MultiDiscrete | spaces.MultiBinary):
        return _folded(theirs)
    if isinstance(theirs, spaces.Box) and np.issubdtype(theirs.dtype, np.floating):
        finite = np.isfinite(theirs.low) & np.isfinite(theirs.high)
        low = np.where(finite, theirs.low, -1.0)
        high = np.where(finite, theirs.high, 1.0)
        shape, dtype = theirs.shape, theirs.dtype

        def scale(action: Any) -> np.ndarray:
            unit = np.clip(np.asarray(action, dtype=np.float64).reshape(shape), -1.0, 1.0)
            return (low + (unit + 1.0) * 0.5 * (high - low)).astype(dtype)

        return spaces.Box(-1.0, 1.0, (int(np.prod(shape)),), np.float32), scale
    raise SpaceMismatch(
        f"Actions must be Discrete or a Box of real numbers, but they are {theirs}. "
        "Wrap the environment so that they are."
    )


def _folded(theirs: Any) -> tuple[spaces.Space[Any], Callable[[Any], Any]]:
    """A product of small discrete spaces as one Discrete."""
    binary = isinstance(theirs, spaces.MultiBinary)
    sizes = np.full(theirs.shape, 2) if binary else np.asarray(theirs.nvec)
    count = int(np.prod(sizes.astype(float)))
    if count > _FOLDED_ACTIONS:
        raise SpaceMismatch(
            f"{theirs} has {count} combinations, and at most {_FOLDED_ACTIONS} can become one "
            "Discrete space. Wrap the environment so that it offers fewer."
        )
    dims, shape = tuple(sizes.reshape(-1).tolist()), sizes.shape

    def unfold(action: Any) -> np.ndarray:
        digits = np.array(np.unravel_index(int(action), dims))
        return digits.reshape(shape).astype(theirs.dtype)

    return spaces.Discrete(count), unfold
