"""Toy worlds with known answers, vectorised numpy. Imports core and the rules.

Each is a `gymnasium.vector.VectorEnv` with autoreset disabled and dict observations (see
`ToyWorld`), and has its true model in `envs/oracle.py` or `envs/kalman.py`: planners, collectors
and evaluations are proved here before anything learns. `WORLDS` and `ORACLES` are the tables;
`envs/rules.py` has the rules and the known answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import VectorEnv

from reverie.core.errors import BadConfig
from reverie.core.model import WorldModel
from reverie.core.types import Box, Discrete
from reverie.envs import kalman, oracle, rules
from reverie.envs.toyworld import ToyWorld


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

    _side: ClassVar[int] = rules.ROOM  # of the picture, pixels

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
        picture = Box((3, self._side, self._side), 0, 255, "uint8")
        spaces = {"image": picture, "goal": picture, **oracle.TwoRooms.observations}
        _one_of("TwoRooms", "observe", observe, spaces)
        _one_of("TwoRooms", "door", [door], ("fixed", "random"))
        _one_of("TwoRooms", "task", [task], ("any", "same", "cross"))
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
            self.position[drawn], self.goal[drawn] = self._places(right[0]), self._goals(right[1])
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

    def _goals(self, right: np.ndarray) -> np.ndarray:
        """(N, 2) likewise."""
        return self._places(right)

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


class Errand(TwoRooms):
    """The two rooms as a task for whoever learns from reward alone: the goal is always one place.

    It is drawn too, in green, at 64x64 pixels. Both dots are wide: one of `TwoRooms` is so small a
    part of a picture that a model which draws what it saw may leave it out. Everything else is
    as there, lengths too, and so is the true model.

    Args:
        num_envs: rows.
        observe: any of "image" (uint8 (3, 64, 64)) and "vector" (as `TwoRooms` has it).
        time_limit: steps; 50.
        seed: of the random stream.

    Raises:
        BadConfig: if observe is another word.
    """

    _side = 64

    def __init__(
        self,
        num_envs: int = 1,
        *,
        observe: Sequence[str] = ("image",),
        time_limit: int | None = None,
        seed: int = 0,
    ) -> None:
        _one_of("Errand", "observe", observe, ("image", "vector"))
        super().__init__(num_envs, observe=observe, time_limit=time_limit, seed=seed)

    def _goals(self, right: np.ndarray) -> np.ndarray:
        return np.tile(rules.ERRAND, (len(right), 1))

    def _picture(self, position: np.ndarray, wall: np.ndarray) -> np.ndarray:
        """(N, 3, 64, 64) uint8: the dot in red, the goal in green, the wall in green and blue."""
        places = np.concatenate([position, self.goal]).astype(np.float32)
        dots = rules.draw_dot(np, places, fine=2, sigma=rules.WIDE) + np.float32(0.5)
        dot, goal = np.split(dots, 2)
        wall = wall.repeat(2, 1).repeat(2, 2)
        return np.stack([dot, np.maximum(goal, wall), wall], 1).astype(np.uint8)


class Sprites(ToyWorld):
    """A shape drifts over a motley ground and bounces off the rim. Nothing acts: one may watch.

    Identity, place and velocity are the whole truth; colours and ground are drawn for each episode
    and mean nothing. There is no reward, and nothing ends the episode but the clock.

    Args:
        num_envs: rows.
        observe: "image" (uint8 (3, 32, 32)) and "vector" (x, y in pixels, their changes a step,
            and which of the `rules.SHAPES` it is, one-hot).
        time_limit: steps; 24.
        seed: of the random stream.

    Raises:
        BadConfig: if observe is another word.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        observe: Sequence[str] = ("image", "vector"),
        time_limit: int | None = None,
        seed: int = 0,
    ) -> None:
        picture = Box((3, rules.ROOM, rules.ROOM), 0, 255, "uint8")
        spaces = {"image": picture, **oracle.Sprites.observations}
        _one_of("Sprites", "observe", observe, spaces)
        super().__init__(
            num_envs,
            {name: spaces[name] for name in observe},
            Discrete(1),
            time_limit=time_limit or 24,
            seed=seed,
        )
        self._observe = tuple(observe)
        self._place = np.zeros((num_envs, 2))
        self._velocity = np.zeros((num_envs, 2))
        self._shape = np.zeros(num_envs, dtype=np.int64)
        self._colour = np.zeros((num_envs, 3))
        self._ground = np.zeros((num_envs, *picture.shape))

    def _begin(self, rows: np.ndarray) -> None:
        n, random = int(rows.sum()), self._random
        self._place[rows] = random.uniform(rules.SPRITE_LOW, rules.SPRITE_HIGH, (n, 2))
        speed, angle = random.uniform(*rules.SPEED, n), random.uniform(0, 2 * np.pi, n)
        self._velocity[rows] = np.stack([speed * np.cos(angle), speed * np.sin(angle)], 1)
        self._shape[rows] = random.integers(len(rules.SHAPES), size=n)
        self._colour[rows], self._ground[rows] = rules.draw_colours(random, n)

    def _move(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        self._place, self._velocity = rules.bounce(np, self._place, self._velocity)
        return np.zeros(self.num_envs), False

    def _see(self) -> dict[str, np.ndarray]:
        identity = np.eye(len(rules.SHAPES))[self._shape]
        makers = {
            "image": self._picture,
            "vector": lambda: np.concatenate(
                [self._place, self._velocity, identity], 1, dtype=np.float32
            ),
        }
        return {name: makers[name]() for name in self._observe}

    def _picture(self) -> np.ndarray:
        """(N, 3, 32, 32) uint8: the shape over its ground."""
        cover = rules.draw_shape(np, self._place.astype(np.float32), self._shape)
        return rules.paint(cover, self._colour, self._ground)


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


def _one_of(who: str, what: str, asked: Sequence[str], known: Any) -> None:
    """Refuse an unknown word."""
    if isinstance(asked, str) or not asked or set(asked) - set(known):
        raise BadConfig(f"{who} {what} takes {sorted(known)}, but got {asked!r}. Choose of them.")


WORLDS: dict[str, Callable[..., VectorEnv]] = {  # (num_envs, *, time_limit, seed, ...)
    "clock": Clock,
    "linear_gaussian": LinearGaussian,
    "grid": Grid,
    "two_rooms": TwoRooms,
    "errand": Errand,
    "sprites": Sprites,
    "bandit": Bandit,
    "lottery": Lottery,
}
ORACLES: dict[str, Callable[[], WorldModel[Any]]] = {
    "clock": oracle.Clock,
    "linear_gaussian": kalman.LinearGaussian,
    "grid": oracle.Grid,
    "two_rooms": oracle.TwoRooms,
    "sprites": oracle.Sprites,
    "bandit": oracle.Bandit,
    "lottery": oracle.Lottery,
}
