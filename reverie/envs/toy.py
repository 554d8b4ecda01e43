"""Toy worlds with known answers, vectorised numpy. Imports core and the rules.

Each is a `gymnasium.vector.VectorEnv` with autoreset disabled and dict observations, and has its
true model in `envs/oracle.py` or `envs/kalman.py`: planners, collectors and evaluations are
proved here before anything learns. `WORLDS` and `ORACLES` are the tables; `envs/rules.py` has
the rules and the known answers.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from reverie.core.errors import BadConfig, ShapeMismatch, SpaceMismatch
from reverie.core.model import WorldModel
from reverie.core.types import Box, Discrete, Space
from reverie.core.vector import gymnasium_space, refuse_finished, reset_rows, stream_seed
from reverie.envs import kalman, oracle, rules


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


class Clock(ToyWorld):
    """Shows t; the right action is t and earns 10 t, any other costs 1; it ends at t = 8.

    Played right, every transition reads o = t, a = t, r = 10 t, so one shift by one anywhere in a
    pipeline is one exact failure.
    """

    def __init__(self, num_envs: int = 1, *, time_limit: int | None = None, seed: int = 0) -> None:
        hours = rules.CLOCK_HOURS
        super().__init__(
            num_envs,
            oracle.Clock.observations,
            Discrete(hours),
            time_limit=time_limit or hours,
            seed=seed,
        )
        self._time = np.zeros(num_envs, dtype=np.int64)

    def _begin(self, rows: np.ndarray) -> None:
        self._time[rows] = 0

    def _move(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        reward = np.where(action == self._time, 10.0 * self._time, rules.CLOCK_WRONG)
        self._time += 1
        return reward, self._time == rules.CLOCK_HOURS

    def _see(self) -> dict[str, np.ndarray]:
        return {"vector": self._time[:, None].astype(np.float32)}


class LinearGaussian(ToyWorld):
    """A linear system seen through noise, with quadratic cost; `system` knows the optimum."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        system: rules.LinearSystem | None = None,
        time_limit: int | None = None,
        seed: int = 0,
    ) -> None:
        self.system = system or rules.LinearSystem()
        observed, acted = self.system.C.shape[0], self.system.B.shape[1]
        super().__init__(
            num_envs,
            {"vector": Box((observed,), -np.inf, np.inf)},
            Box((acted,)),
            time_limit=time_limit or 50,
            seed=seed,
        )
        self._x = np.zeros((num_envs, self.system.A.shape[0]))
        self._y = np.zeros((num_envs, observed))

    def _begin(self, rows: np.ndarray) -> None:
        self._x[rows] = self.system.mean + self._noise(self.system.cov)[rows]
        self._y[rows] = self._measured()[rows]

    def _move(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        s, x = self.system, self._x
        cost = np.einsum("ni,ij,nj->n", x, s.W, x) + np.einsum("ni,ij,nj->n", action, s.U, action)
        self._x = x @ s.A.T + action @ s.B.T + self._noise(s.Q)
        self._y = self._measured()
        return -cost, False

    def _see(self) -> dict[str, np.ndarray]:
        return {"vector": self._y.astype(np.float32)}

    def _measured(self) -> np.ndarray:
        """What the sensors read now."""
        return self._x @ self.system.C.T + self._noise(self.system.R)

    def _noise(self, cov: np.ndarray) -> np.ndarray:
        """One draw a row."""
        return self._random.normal(size=(self.num_envs, len(cov))) @ np.linalg.cholesky(cov).T


class Grid(ToyWorld):
    """Walk to the goal: 10 there, -10 in a pit, -1 for any other step; `map` knows the optimum."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        text: str = rules.GRID,
        slip: float = 0.0,
        time_limit: int | None = None,
        seed: int = 0,
    ) -> None:
        self.map = rules.GridMap(text, slip)
        super().__init__(
            num_envs,
            oracle.grid_observations(self.map),
            Discrete(len(rules.MOVES)),
            time_limit=time_limit or 30,
            seed=seed,
        )
        self._cell = np.zeros(num_envs, dtype=np.int64)

    def _begin(self, rows: np.ndarray) -> None:
        self._cell[rows] = self._random.choice(self.map.starts, self.num_envs)[rows]

    def _move(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slips = self._random.random(self.num_envs) < self.map.slip
        other = self._random.integers(len(rules.MOVES), size=self.num_envs)
        self._cell = self.map.next_cell[self._cell, np.where(slips, other, action)]
        return self.map.enter_reward[self._cell], self.map.ends[self._cell]

    def _see(self) -> dict[str, np.ndarray]:
        place = np.divmod(self._cell, self.map.cells.shape[1])
        return {"vector": np.stack(place, 1).astype(np.float32)}

    def _success(self) -> np.ndarray:
        return self.map.goal[self._cell]


class TwoRooms(ToyWorld):
    """A dot in two rooms of 32x32 pixels, a wall between them, a door in it, and a goal.

    Success is being within 1.5 pixels of the goal; no episode begins there. The reward is 1.0 at
    every such step and 0.0 elsewhere. Nothing ends the episode but the clock.

    Args:
        num_envs: rows.
        observe: any of "image" and "goal" (uint8 (3, 32, 32): the dot where it is and where it
            should be) and "vector" (x, y, goal x, goal y, door y, in pixels).
        door: "fixed" in the middle, or "random": drawn for each episode.
        task: "any", or start and goal in the "same" room, or "cross": in different ones.
        time_limit: steps; 50.
        seed: of the random stream.

    Raises:
        BadConfig: if observe, door or task is another word.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        observe: Sequence[str] = ("image", "goal"),
        door: str = "fixed",
        task: str = "any",
        time_limit: int | None = None,
        seed: int = 0,
    ) -> None:
        picture = Box((3, rules.ROOM, rules.ROOM), 0, 255, "uint8")
        spaces = {"image": picture, "goal": picture, **oracle.TwoRooms.observations}
        _one_of("observe", observe, spaces)
        _one_of("door", [door], ("fixed", "random"))
        _one_of("task", [task], ("any", "same", "cross"))
        super().__init__(
            num_envs,
            {name: spaces[name] for name in observe},
            Box((2,)),
            time_limit=time_limit or 50,
            seed=seed,
        )
        self._observe, self._random_door, self._task = tuple(observe), door == "random", task
        self.position = np.zeros((num_envs, 2))
        self.goal = np.zeros((num_envs, 2))
        self._reached = np.zeros(num_envs, dtype=bool)  # at some step of the episode
        self.door = np.full(num_envs, rules.DOOR)
        self._wall = np.zeros((num_envs, rules.ROOM, rules.ROOM), dtype=np.uint8)
        self._goal_image = np.zeros((num_envs, *picture.shape), dtype=np.uint8)

    def _begin(self, rows: np.ndarray) -> None:
        drawn, count = rows.copy(), int(rows.sum())
        while drawn.any():  # again, where the start would already be the goal
            right = self._random.random((2, int(drawn.sum()))) < 0.5
            if self._task != "any":
                right[1] = right[0] ^ (self._task == "cross")
            self.position[drawn], self.goal[drawn] = self._places(right[0]), self._places(right[1])
            drawn = drawn & self._there()
        self._reached[rows] = False
        if self._random_door:
            self.door[rows] = self._random.uniform(rules.DOOR_LOW, rules.DOOR_HIGH, count)
        self._wall[rows] = rules.draw_wall(np, self.door[rows])
        if "goal" in self._observe:
            self._goal_image[rows] = self._picture(self.goal[rows], self._wall[rows])

    def _places(self, right: np.ndarray) -> np.ndarray:
        """(N, 2) uniform in the right or left room."""
        x = self._random.uniform(rules.ROOM_LOW, rules.WALL_LEFT, len(right))
        y = self._random.uniform(rules.ROOM_LOW, rules.ROOM_HIGH, len(right))
        return np.stack([np.where(right, rules.ROOM - x, x), y], 1)

    def _move(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        self.position = rules.slide(np, self.position, action, self.door)
        self._reached |= self._there()
        return self._there().astype(np.float64), False

    def _there(self) -> np.ndarray:
        """(N,) whether the dot is within reach of its goal."""
        return np.square(self.position - self.goal).sum(1) <= rules.REACH**2

    def _see(self) -> dict[str, np.ndarray]:
        makers = {
            "image": lambda: self._picture(self.position, self._wall),
            "goal": self._goal_image.copy,
            "vector": lambda: np.concatenate(
                [self.position, self.goal, self.door[:, None]], 1, dtype=np.float32
            ),
        }
        return {name: makers[name]() for name in self._observe}

    def _success(self) -> np.ndarray:
        return self._reached.copy()

    def _picture(self, position: np.ndarray, wall: np.ndarray) -> np.ndarray:
        """(N, 3, 32, 32) uint8: the dot in red, the wall in green and blue."""
        image = np.empty((len(position), 3, rules.ROOM, rules.ROOM), dtype=np.uint8)
        image[:, 0] = rules.draw_dot(np, position.astype(np.float32)) + np.float32(0.5)
        image[:, 1] = image[:, 2] = wall
        return image


class Bandit(ToyWorld):
    """One pull of one arm: rewards are Gaussian around `rules.BANDIT_MEANS`, then it is over."""

    def __init__(self, num_envs: int = 1, *, time_limit: int | None = None, seed: int = 0) -> None:
        super().__init__(
            num_envs,
            oracle.Bandit.observations,
            Discrete(len(rules.BANDIT_MEANS)),
            time_limit=time_limit or 1,
            seed=seed,
        )
        self._pulled = np.zeros(num_envs, dtype=bool)

    def _begin(self, rows: np.ndarray) -> None:
        self._pulled[rows] = False

    def _move(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        self._pulled[:] = True
        noise = self._random.normal(0.0, rules.BANDIT_NOISE, self.num_envs)
        return np.array(rules.BANDIT_MEANS)[action] + noise, True

    def _see(self) -> dict[str, np.ndarray]:
        return {"vector": self._pulled[:, None].astype(np.float32)}


class Lottery(ToyWorld):
    """One choice among chances; shows (x, over). The safe arm is best; see `rules.LOTTERY`.

    Who plans with the likeliest or the mean outcome instead of the expectation picks another.
    """

    def __init__(self, num_envs: int = 1, *, time_limit: int | None = None, seed: int = 0) -> None:
        super().__init__(
            num_envs,
            oracle.Lottery.observations,
            Discrete(len(rules.LOTTERY)),
            time_limit=time_limit or 1,
            seed=seed,
        )
        self._x = np.zeros(num_envs)
        self._drawn = np.zeros(num_envs, dtype=bool)

    def _begin(self, rows: np.ndarray) -> None:
        self._x[rows], self._drawn[rows] = 0.0, False

    def _move(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        outcomes, chance = rules.lottery_arms()
        second = self._random.random(self.num_envs) >= chance[action]
        self._x = outcomes[action, second.astype(np.int64)]
        self._drawn[:] = True
        return np.interp(self._x, *rules.LOTTERY_KNOTS), True

    def _see(self) -> dict[str, np.ndarray]:
        return {"vector": np.stack([self._x, self._drawn], 1).astype(np.float32)}


def _one_of(what: str, asked: Sequence[str], known: Any) -> None:
    """Refuse an unknown word."""
    if isinstance(asked, str) or not asked or set(asked) - set(known):
        raise BadConfig(
            f"TwoRooms {what} takes {sorted(known)}, but got {asked!r}. Choose of them."
        )


WORLDS: dict[str, Callable[..., VectorEnv]] = {  # (num_envs, *, time_limit, seed, ...)
    "clock": Clock,
    "linear_gaussian": LinearGaussian,
    "grid": Grid,
    "two_rooms": TwoRooms,
    "bandit": Bandit,
    "lottery": Lottery,
}
ORACLES: dict[str, Callable[[], WorldModel[Any]]] = {
    "clock": oracle.Clock,
    "linear_gaussian": kalman.LinearGaussian,
    "grid": oracle.Grid,
    "two_rooms": oracle.TwoRooms,
    "bandit": oracle.Bandit,
    "lottery": oracle.Lottery,
}
