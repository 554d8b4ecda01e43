"""What each environment asks for: its success predicate, time limit, score and extra.

Data only, read by `envs.gym` and by whoever prints or judges a score. Success is the
environment's own predicate; the value of ``infos["success"]`` after the last step of an episode is
the episode's answer. Imports core only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """What a success predicate may look at, after one step of an unwrapped environment."""

    reward: float  # of this step
    total: float  # of the episode so far
    terminated: bool
    truncated: bool  # never together with terminated
    info: Mapping[str, Any]  # the environment's own


@dataclass(frozen=True)
class Task:
    """One environment as a benchmark."""

    name: str  # what `envs.make` takes
    success: str | None = None  # the predicate in words; None: none is declared
    predicate: Callable[[Outcome], bool] | None = None  # None: none, or the world tells it itself
    time_limit: int | None = None  # in time_unit; None: the environment's own, or none
    time_unit: str = "steps"  # environment steps before action_repeat, or "tics"
    score: str = "return"  # what the sum of rewards counts
    action_repeat: int = 1  # unless the caller says otherwise
    extra: str | None = None  # of this distribution: pip install 'reverie[extra]'


class Namespace(NamedTuple):
    """A prefix of environment names."""

    package: str | None  # import name; None: nothing more than the library is needed
    extra: str | None
    example: str
    what: str


NAMESPACES: Mapping[str, Namespace] = {
    "toy": Namespace(None, None, "toy/two_rooms", "worlds with known answers"),
    "board": Namespace(None, None, "board/tic_tac_toe", "games for one and two, with legal moves"),
    "spiel": Namespace("pyspiel", "spiel", "spiel/connect_four", "OpenSpiel's games"),
    "doom": Namespace("vizdoom", "doom", "doom/take_cover", "ViZDoom, native buffers"),
    "ale": Namespace("ale_py", "atari", "ale/pong", "Atari 2600 (GPL-2.0)"),
    "minatar": Namespace("minatar", "minatar", "minatar/breakout", "MinAtar, 10x10 (GPL-3.0)"),
    "dmc": Namespace("dm_control", "dmc", "dmc/walker-walk", "DeepMind control suite"),
    "minigrid": Namespace("minigrid", "minigrid", "minigrid/Empty-5x5-v0", "MiniGrid, BabyAI"),
    "pusht": Namespace("gym_pusht", "pusht", "pusht/PushT-v0", "pushing a T block"),
}

# Gymnasium ids that a namespace's package registers, by their beginning.
OWNERS: Mapping[str, str] = {
    "ALE/": "ale",
    "MinAtar/": "minatar",
    "MiniGrid-": "minigrid",
    "BabyAI-": "minigrid",
    "gym_pusht/": "pusht",
}


def namespace(name: str) -> str:
    """The namespace that an environment's name belongs to; "" for Gymnasium's own.

    Args:
        name: as `envs.make` takes it, "ale/pong" or "ALE/Pong-v5".
    """
    start = name.partition("/")[0]
    if start in NAMESPACES:
        return start
    return next((own for start, own in OWNERS.items() if name.startswith(start)), "")


def _terminated(outcome: Outcome) -> bool:
    return outcome.terminated


def _truncated(outcome: Outcome) -> bool:
    return outcome.truncated


def _rewarded_end(outcome: Outcome) -> bool:
    return outcome.terminated and outcome.reward > 0


def _is_success(outcome: Outcome) -> bool:
    return bool(outcome.info.get("is_success", False))


@dataclass(frozen=True)
class _TotalAtLeast:
    """The return so far is at least a number (a class, so that it can be pickled)."""

    least: float

    def __call__(self, outcome: Outcome) -> bool:
        return outcome.total >= self.least


def _return_of(least: float) -> dict[str, Any]:
    return {"success": f"return of at least {least:g}", "predicate": _TotalAtLeast(least)}


_GOAL = {"success": "the goal was reached", "predicate": _terminated}

# Gymnasium ids without their version -> fields of Task.
_GYMNASIUM: Mapping[str, dict[str, Any]] = {
    "CartPole": {
        "success": "balanced to the time limit",
        "predicate": _truncated,
        "score": "steps balanced",
    },
    "MountainCar": {**_GOAL, "success": "position at or beyond the flag"},
    "MountainCarContinuous": {**_GOAL, "success": "position at or beyond the flag"},
    "Acrobot": {**_GOAL, "success": "tip above the line"},
    "LunarLander": {**_return_of(200), "extra": "box2d"},
    "LunarLanderContinuous": {**_return_of(200), "extra": "box2d"},
    "BipedalWalker": {**_return_of(300), "extra": "box2d"},
    "BipedalWalkerHardcore": {**_return_of(300), "extra": "box2d"},
    "CarRacing": {**_return_of(900), "extra": "box2d"},
    "FrozenLake": {"success": "the goal was reached", "predicate": _rewarded_end},
    "FrozenLake8x8": {"success": "the goal was reached", "predicate": _rewarded_end},
    "Taxi": {"success": "the passenger was delivered", "predicate": _rewarded_end},
}

# Namespace -> fields of Task.
_DEFAULTS: Mapping[str, dict[str, Any]] = {
    "ale": {"action_repeat": 4, "score": "game score", "extra": "atari"},
    "minatar": {"score": "game score", "extra": "minatar"},
    "dmc": {"time_limit": 1000, "extra": "dmc"},
    "minigrid": {
        "success": "the goal was reached (the episode ended with a reward above 0)",
        "predicate": _rewarded_end,
        "extra": "minigrid",
    },
    "pusht": {
        "success": "the block covers at least 95% of the goal",
        "predicate": _is_success,
        "time_limit": 300,
        "extra": "pusht",
    },
}

_DOOM_SUCCESS = {"cap": "alive at the time limit", "goal": "it ended, and not by death"}


def task(name: str) -> Task:
    """The record of an environment; one without success for a name that nothing is known about.

    Args:
        name: as `envs.make` takes it; it is not checked that such an environment exists.
    """
    owner = namespace(name)
    if owner == "doom":
        return _doom(name, name.partition("/")[2])
    if owner in _DEFAULTS:
        return Task(name, **_DEFAULTS[owner])
    if owner == "toy":
        return Task(name)
    family = re.sub(r"-v\d+$", "", name)
    return replace(Task(name), **_GYMNASIUM.get(family, {}))


def _doom(name: str, scenario: str) -> Task:
    """From the table of scenarios."""
    from reverie.envs.doom import SCENARIOS

    found = SCENARIOS.get(scenario)
    if found is None:
        return Task(name, time_unit="tics", action_repeat=4, extra="doom")
    return Task(
        name,
        success=None if found.success is None else _DOOM_SUCCESS[found.success],
        time_limit=found.time_limit,
        time_unit="tics",
        score="survival tics" if found.reward == "tics" else "return",
        action_repeat=4,
        extra="doom",
    )
