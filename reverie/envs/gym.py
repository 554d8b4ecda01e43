"""Environments by name: `make` and `spaces`.

Any Gymnasium id, and the namespaces of `envs.tasks.NAMESPACES`. What comes back is always a
`gymnasium.vector.VectorEnv` with autoreset disabled: a row whose episode is over is begun again by
``reset(options={"reset_mask": mask})``, so no last frame is lost or shifted. Imports core and
`envs`; an optional package is imported when one of its environments is made.
"""

from __future__ import annotations

import ctypes.util
import difflib
import os
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from reverie.core import registry
from reverie.core.errors import BadConfig, MissingExtra, SpaceMismatch, UnknownName
from reverie.core.types import Box, Discrete, Space
from reverie.core.vector import refuse_finished, reset_rows
from reverie.envs import tasks
from reverie.envs.frames import Recent
from reverie.envs.standard import OBSERVE, FirstSeed, image_keys, standardise

_EXTRA_OF: Mapping[str, str] = {  # what Gymnasium's own environments miss -> our extra
    "box2d": "box2d",
    "pygame": "box2d",
    "mujoco": "dmc",
    "imageio": "dmc",
}


def make(
    name: str,
    num_envs: int = 1,
    *,
    seed: int = 0,
    size: int = 64,
    action_repeat: int | None = None,
    time_limit: int | None = None,
    workers: int = 0,
    observe: str = "auto",
    rows: tuple[int, int] | None = None,
    frames: int | None = None,
    **kwargs: Any,
) -> VectorEnv[Any, Any, Any]:
    """A vector of environments in one form.

    Observations are a dict of 'image' uint8 (N, C, H, W) and/or 'vector' float32 (N, D); actions
    are integers (N,) or float32 (N, A) in [-1, 1], which the environment's own range is scaled to.
    ``infos["success"]`` is (N,) bool after each step where the task declares success; its value at
    the last step of an episode counts. Stepping a row whose episode is over is an error.

    Args:
        name: a Gymnasium id ("CartPole-v1"), or "namespace/name" ("doom/take_cover").
        num_envs: rows N.
        seed: row i's first reset is seeded with seed + i, unless reset(seed=...) says otherwise.
        size: height and width of images, pixels; each pixel is the mean of the area it covers.
        action_repeat: environment steps (Doom: tics) that one action lasts; None: the task's own,
            4 for doom/ and ale/, else 1.
        time_limit: truncate after so many environment steps before action_repeat (Doom: tics);
            None: the environment's own.
        workers: 0: all rows step in this process, one after another. W > 0: each row has a process
            and W of them step at the same time.
        observe: "auto": what the environment gives; "image": only images, rendered if need be;
            "vector": no images; "both": also rendered if need be.
        rows: (top, bottom): only image rows top..bottom-1, of the environment's own picture, are
            kept before the resize; None: all. Of doom/ (120 rows) or CarRacing (96), for example.
        frames: images of so many moments are joined along their channels, the oldest first; None:
            one. See `reverie.envs.frames`.
        **kwargs: for the environment's constructor.

    Returns:
        A Gymnasium vector environment; close it after use.

    Raises:
        UnknownName: if there is no such environment; names the nearest.
        MissingExtra: if its package is not installed; holds the pip command.
        SpaceMismatch: if its spaces have no form here.
        BadConfig: if an argument cannot be used.
    """
    for argument, value, least in (("num_envs", num_envs, 1), ("size", size, 1)):
        if value < least:
            raise BadConfig(f"{argument} must be at least {least}, but it is {value}.")
    if workers < 0 or observe not in OBSERVE or (time_limit is not None and time_limit < 1):
        raise BadConfig(
            f"workers must be 0 or more, observe one of {', '.join(OBSERVE)}, and time_limit at "
            f"least 1, but they are {workers}, '{observe}' and {time_limit}."
        )
    if frames is not None:
        given = {"size": size, "action_repeat": action_repeat, "time_limit": time_limit}
        given |= {"workers": workers, "observe": observe, "rows": rows, **kwargs}
        env = make(name, num_envs, seed=seed, **given)
        try:
            return Recent(env, frames)
        except BadConfig:
            env.close()
            raise
    namespace, _, rest = name.partition("/")
    if namespace == "toy" or namespace in registry.names("env"):
        if action_repeat not in {None, 1} or workers or observe != "auto" or rows is not None:
            raise BadConfig(
                f"'{name}' has no action_repeat, workers, observe or rows. Leave them out."
            )
        options = {"num_envs": num_envs, "seed": seed, "time_limit": time_limit, **kwargs}
        return _vectorised(name, namespace, rest, options)
    wishes = _Wishes(size, action_repeat, time_limit, observe, rows, kwargs)
    builders = [partial(_row, name, seed + i, wishes) for i in range(num_envs)]
    if workers:
        at_once = workers if workers < num_envs else None  # a limit that never binds costs time
        return _Processes(builders, autoreset_mode=AutoresetMode.DISABLED, max_concurrency=at_once)
    return _Rows(builders, autoreset_mode=AutoresetMode.DISABLED)


class _Rows(SyncVectorEnv[Any, Any]):
    """Gymnasium's vector with our error for stepping a row whose episode is over."""

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; the caller's options stay as they are."""
        return super().reset(seed=seed, options=None if options is None else dict(options))

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every row."""
        refuse_finished(self._autoreset_envs)
        return super().step(actions)


class _Processes(AsyncVectorEnv[Any, Any]):
    """The same for rows in processes of their own."""

    _over: np.ndarray | None = None  # (N,) bool

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; the caller's options stay as they are."""
        mask = reset_rows(options, self.num_envs)
        found = super().reset(seed=seed, options=None if options is None else dict(options))
        self._over = ~mask if self._over is None else self._over & ~mask
        return found

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every row, W at a time."""
        refuse_finished(np.ones(self.num_envs, dtype=bool) if self._over is None else self._over)
        found = super().step(actions)
        self._over = found[2] | found[3]
        return found


def spaces(env: VectorEnv[Any, Any, Any]) -> tuple[dict[str, Space], Space]:
    """The observation and action spaces of one row, in the library's words.

    Args:
        env: of `make`, or any vector environment of the same form.

    Raises:
        SpaceMismatch: if the environment is not of that form.
    """
    found, action = env.single_observation_space, env.single_action_space
    if not isinstance(found, gymnasium.spaces.Dict):
        raise SpaceMismatch(
            f"Observations must be a Dict of named modalities, but they are {found}. "
            "Make the environment with reverie.envs.make."
        )
    return {str(key): _space(key, part) for key, part in found.items()}, _space("action", action)


def _space(name: str, space: Any) -> Space:
    """One Gymnasium space as ours."""
    if isinstance(space, gymnasium.spaces.Discrete) and space.start == 0:
        return Discrete(int(space.n))
    if isinstance(space, gymnasium.spaces.Box):
        low, high = float(np.min(space.low)), float(np.max(space.high))
        return Box(tuple(space.shape), low, high, str(space.dtype))
    raise SpaceMismatch(
        f"'{name}' must be a Box or a Discrete from 0, but it is {space}. "
        "Make the environment with reverie.envs.make."
    )


def _vectorised(
    name: str, namespace: str, rest: str, options: dict[str, Any]
) -> VectorEnv[Any, Any, Any]:
    """A world that is vectorised itself: toy/, or a namespace registered from outside."""
    if namespace == "toy":
        from reverie.envs.toy import WORLDS

        if rest not in WORLDS:
            raise registry.unknown("environment", name, [f"toy/{known}" for known in WORLDS])
        build: Callable[..., Any] = WORLDS[rest]
    else:
        build = partial(registry.lookup("env", namespace), rest)
    wanted = {key: value for key, value in options.items() if value is not None}
    return _build(name, build, wanted)


class _Wishes(NamedTuple):
    """What `make` was asked for, of one row."""

    size: int
    action_repeat: int | None
    time_limit: int | None
    observe: str
    rows: tuple[int, int] | None
    kwargs: dict[str, Any]


def _row(name: str, seed: int, wishes: _Wishes) -> gymnasium.Env[Any, Any]:
    """One environment of the vector (runs in the worker's process if there is one)."""
    task, size, observe = tasks.task(name), wishes.size, wishes.observe
    repeat = task.action_repeat if wishes.action_repeat is None else wishes.action_repeat
    namespace = tasks.namespace(name)
    if namespace == "doom":
        if observe in {"vector", "both"}:
            raise BadConfig(f"'{name}' shows images only, but observe='{observe}' was asked for.")
        from reverie.envs.doom import DoomEnv

        options = {"size": size, "frame_skip": repeat, "time_limit": wishes.time_limit}
        options |= {"rows": wishes.rows, **wishes.kwargs}
        return FirstSeed(_build(name, partial(DoomEnv, name.partition("/")[2]), options), seed)
    with warnings.catch_warnings():
        # Packages that older compilers made warn at import; that is not the caller's to mend.
        warnings.simplefilter("ignore", DeprecationWarning)
        env = _dmc(name, wishes) if namespace == "dmc" else _gymnasium(name, wishes)
    env = standardise(
        env,
        size=size,
        rows=wishes.rows,
        action_repeat=repeat,
        observe=observe,
        predicate=task.predicate,
    )
    return FirstSeed(env, seed)


def _build(name: str, build: Callable[..., Any], options: dict[str, Any]) -> Any:
    """What the constructor makes, or one sentence where it does not know an argument."""
    try:
        return build(**options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise BadConfig(
            f"'{name}' was given an argument that it does not have: {error}. Leave it out."
        ) from error


def _gymnasium(name: str, wishes: _Wishes) -> gymnasium.Env[Any, Any]:
    """An environment of Gymnasium's registry, after its package has registered it."""
    kwargs, observe = dict(wishes.kwargs), wishes.observe
    namespace = tasks.namespace(name)
    identity = _registered(name, namespace) if namespace else name
    if namespace == "ale":
        kwargs.setdefault("frameskip", 1)  # ours repeats, so that rewards are summed in one place
    if namespace == "pusht":
        kwargs = {"visualization_width": 96, "visualization_height": 96, **kwargs}
    limit = tasks.task(name).time_limit if wishes.time_limit is None else wishes.time_limit
    try:
        options = {"max_episode_steps": limit, "disable_env_checker": True, **kwargs}
        env = _build(name, partial(gymnasium.make, identity), options)
        if observe in {"image", "both"} and not image_keys(env.observation_space):
            if "rgb_array" not in env.metadata.get("render_modes", ()):
                raise BadConfig(
                    f"'{name}' has no image and cannot render one, but observe='{observe}' was "
                    "asked for. Choose 'vector' or 'auto'."
                )
            env.close()
            options["render_mode"] = "rgb_array"
            env = _build(name, partial(gymnasium.make, identity), options)
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        raise _unknown(name, error) from None
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise _missing(name, error) from error
    return _minigrid(env, observe, wishes.size) if namespace == "minigrid" else env


def _registered(name: str, namespace: str) -> str:
    """The Gymnasium id for "namespace/name", case, separators and version being free.

    Raises:
        MissingExtra: if the namespace's package is not installed.
        UnknownName: naming the nearest.
    """
    package, extra, _, _ = tasks.NAMESPACES[namespace]
    module: Any = registry.require(str(package), str(extra))
    if namespace == "minatar" and "MinAtar/Breakout-v1" not in gymnasium.registry:
        registry.require("minatar.gym", str(extra)).register_envs()
    if namespace == "ale":
        module.ALEInterface.setLoggerMode(module.LoggerMode.Error)
        gymnasium.register_envs(module)
    starts = tuple(start for start, own in tasks.OWNERS.items() if own == namespace)
    known: dict[str, str] = {}
    for identity in sorted(gymnasium.registry):  # the newest version wins where none is asked
        start = next((start for start in starts if identity.startswith(start)), None)
        if start is not None:
            short = identity.removeprefix(start)
            for form in (identity, short, re.sub(r"-v\d+$", "", short)):
                known[_fold(form)] = identity
    asked = name.partition("/")[2] if name.startswith(f"{namespace}/") else name
    if _fold(asked) in known:
        return known[_fold(asked)]
    near = difflib.get_close_matches(_fold(asked), known, n=5, cutoff=0.4)
    shorts = dict.fromkeys(_short(namespace, known[form], starts) for form in near)
    raise UnknownName(
        f"There is no environment '{name}'. {_mean(list(shorts))}"
        f"The namespace {namespace}/ holds what the package '{package}' registers."
    )


def _short(namespace: str, identity: str, starts: tuple[str, ...]) -> str:
    """How `make` would be asked for a Gymnasium id."""
    start = next(start for start in starts if identity.startswith(start))
    return f"{namespace}/{identity.removeprefix(start)}"


def _fold(name: str) -> str:
    """Letters and digits only, small."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _mean(near: list[str]) -> str:
    """The question that a misspelt name deserves."""
    return f"Did you mean {' or '.join(near[:3])}? " if near else ""


def _unknown(name: str, error: Exception) -> UnknownName:
    """A name that Gymnasium does not have."""
    examples = [entry.example for entry in tasks.NAMESPACES.values()]
    known = [*gymnasium.registry, *examples]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if isinstance(error, gymnasium.error.DeprecatedEnv):
        return UnknownName(f"The environment '{name}' cannot be made: {error}")
    return UnknownName(
        f"There is no environment '{name}'. {_mean(near)}Names are Gymnasium ids, or begin with "
        f"{', '.join(f'{space}/' for space in tasks.NAMESPACES)}."
    )


def _missing(name: str, error: Exception) -> MissingExtra:
    """A package that one of Gymnasium's own environments needs."""
    said = str(error)
    extra = next((ours for word, ours in _EXTRA_OF.items() if word in said.lower()), None)
    extra = extra or tasks.task(name).extra
    mend = f"Run: pip install 'reverie[{extra}]'" if extra else "Install the package it names."
    return MissingExtra(f"'{name}' needs a package that is not installed ({said}). {mend}")


def _minigrid(env: gymnasium.Env[Any, Any], observe: str, size: int) -> gymnasium.Env[Any, Any]:
    """The agent's own view: RGB pixels, or for observe="vector" its object codes."""
    wrappers: Any = registry.require("minigrid.wrappers", "minigrid")
    view = env.observation_space["image"].shape[0]  # type: ignore[index]
    if observe != "vector":
        return wrappers.RGBImgPartialObsWrapper(env, tile_size=max(1, -(-size // view)))
    codes = gymnasium.spaces.Box(0.0, 1.0, (view, view, 3), np.float32)
    direction = env.observation_space["direction"]  # type: ignore[index]
    return gymnasium.wrappers.TransformObservation(
        env, _codes, gymnasium.spaces.Dict({"codes": codes, "direction": direction})
    )


def _codes(observation: Any) -> dict[str, Any]:
    """MiniGrid's (view, view, 3) codes of object, colour and state, each at most 10, to [0, 1]."""
    codes = observation["image"].astype(np.float32) / np.float32(10)
    return {"codes": codes, "direction": observation["direction"]}


def _dmc(name: str, wishes: _Wishes) -> gymnasium.Env[Any, Any]:
    """An environment of the DeepMind control suite."""
    if "MUJOCO_GL" not in os.environ and "DISPLAY" not in os.environ:
        found = [gl for gl in ("EGL", "OSMesa") if ctypes.util.find_library(gl)]
        os.environ["MUJOCO_GL"] = found[0].lower() if found else "disable"
    suite: Any = registry.require("dm_control.suite", "dmc")
    domain, _, task = name.partition("/")[2].partition("-")
    if (domain, task) not in suite.ALL_TASKS:
        raise registry.unknown("environment", name, ["dmc/" + "-".join(t) for t in suite.ALL_TASKS])
    from reverie.envs.dmc import DmcEnv

    loaded = suite.load(domain, task, environment_kwargs={"flat_observation": False})
    options = {"size": wishes.size, "time_limit": wishes.time_limit, **wishes.kwargs}
    return _build(name, partial(DmcEnv, loaded), options)
