"""The rules of the toy worlds and what is known about them: optima, gains, values.

The worlds (`envs/toy.py`, numpy) and their true models (`envs/oracle.py`, torch) follow these
same rules; where both need a computation it takes the array module as `xp`. The known answers
are computed here by other means than stepping: dynamic programming and Riccati equations.
Imports nothing of ours but errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from reverie.core.errors import BadConfig

# -- clock: o = t, the right action is t, and then the reward is 10 t ----------------------------

CLOCK_HOURS = 8  # the episode ends when the clock shows this
CLOCK_WRONG = -1.0  # reward of any other action


# -- linear-Gaussian: x' = A x + B u + w, y = C x + v, reward -(x' W x + u' U u) -----------------


@dataclass(frozen=True)
class LinearSystem:
    """A cart that is seen through noise: x is (position, velocity), u a push, y the position.

    Optimal control keeps |u| below 1 nearly always, so the closed form without limits holds.
    """

    A: np.ndarray = field(default_factory=lambda: np.array([[1.0, 0.2], [0.0, 0.9]]))
    B: np.ndarray = field(default_factory=lambda: np.array([[0.02], [0.2]]))
    C: np.ndarray = field(default_factory=lambda: np.array([[1.0, 0.0]]))
    Q: np.ndarray = field(default_factory=lambda: np.diag([1e-4, 9e-4]))  # of w
    R: np.ndarray = field(default_factory=lambda: np.array([[0.01]]))  # of v
    W: np.ndarray = field(default_factory=lambda: np.diag([1.0, 0.1]))
    U: np.ndarray = field(default_factory=lambda: np.array([[0.5]]))
    mean: np.ndarray = field(default_factory=lambda: np.array([0.5, 0.0]))  # of x[0]
    cov: np.ndarray = field(default_factory=lambda: np.diag([0.04, 0.01]))  # of x[0]

    def riccati(self, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """Optimal control over a horizon, u[t] = -gain[t] x[t] (or its mean, if x is not seen).

        Args:
            horizon: steps H.

        Returns:
            gains (H, A, D), and costs-to-go (H+1, D, D): x' cost[t] x, but for the noise.

        Source: Astrom 1970, chapter 8.
        """
        costs, gains = [np.zeros_like(self.W)], []
        for _ in range(horizon):
            cost = costs[0]
            gain = np.linalg.solve(self.U + self.B.T @ cost @ self.B, self.B.T @ cost @ self.A)
            gains.insert(0, gain)
            costs.insert(0, self.W + self.A.T @ cost @ (self.A - self.B @ gain))
        return np.stack(gains), np.stack(costs)

    def filtered(self, horizon: int) -> np.ndarray:
        """(H, D, D) covariances of the belief after each of the observations 0..H-1."""
        prior, found = self.cov, []
        for _ in range(horizon):
            seen = self.C @ prior @ self.C.T + self.R
            found.append(prior - prior @ self.C.T @ np.linalg.solve(seen, self.C @ prior))
            prior = self.A @ found[-1] @ self.A.T + self.Q
        return np.stack(found)

    def optimal_return(self, horizon: int) -> float:
        """Expected return of the best controller that sees only y (LQG).

        Source: Astrom 1970, chapter 8, theorem 4.1.
        """
        gains, costs = self.riccati(horizon)
        total = self.mean @ costs[0] @ self.mean + np.trace(costs[0] @ self.cov)
        for t, belief in enumerate(self.filtered(horizon)):
            regret = gains[t].T @ (self.U + self.B.T @ costs[t + 1] @ self.B) @ gains[t]
            total += np.trace(costs[t + 1] @ self.Q) + np.trace(regret @ belief)
        return -float(total)


# -- grid: walk to the goal, around walls and pits -----------------------------------------------

GRID = """
S....
.#.#.
.#P..
....G
"""
MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]])  # action -> (row, column): up right down left
_GRID_REWARD = {"G": 10.0, "P": -10.0}  # on entering
_GRID_STEP = -1.0  # on entering any other cell, or on bumping


@dataclass(frozen=True)
class GridMap:
    """A map of '.' floor, '#' wall, 'P' pit, 'G' goal and, at will, 'S' the only start.

    Cells are numbered row by row. Goal and pits end the episode; a model that goes on from there
    stays there and gets nothing.

    Attributes:
        text: one line a row, all of one width.
        slip: probability that a uniformly random move happens instead of the chosen one.

    Raises:
        BadConfig: if the map is not a rectangle of these signs with a start and a goal.
    """

    text: str = GRID
    slip: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no map."""
        rows = self.text.split()
        signs = set("".join(rows))
        whole = len({len(row) for row in rows}) == 1 and "G" in signs and signs & {"S", "."}
        if not whole or signs - set(".#PGS"):
            raise BadConfig(
                "A grid is lines of equal width of . # P G S with a goal and a place to start, but "
                f"got {rows}. Mend the map."
            )

    @cached_property
    def cells(self) -> np.ndarray:
        """(rows, columns) of one-letter signs."""
        return np.array([list(row) for row in self.text.split()])

    @cached_property
    def starts(self) -> np.ndarray:
        """Numbers of the cells where episodes begin."""
        flat = self.cells.reshape(-1)
        return np.flatnonzero(flat == "S") if "S" in flat else np.flatnonzero(flat == ".")

    @cached_property
    def ends(self) -> np.ndarray:
        """(cells,) bool: goal or pit."""
        return np.isin(self.cells.reshape(-1), list(_GRID_REWARD))

    @cached_property
    def goal(self) -> np.ndarray:
        """(cells,) bool."""
        return self.cells.reshape(-1) == "G"

    @cached_property
    def enter_reward(self) -> np.ndarray:
        """(cells,) reward of a step that leads to (or stays in) each cell."""
        return np.array([_GRID_REWARD.get(sign, _GRID_STEP) for sign in self.cells.reshape(-1)])

    @cached_property
    def next_cell(self) -> np.ndarray:
        """(cells, 4) where each move leads; into walls, over the rim and after the end: nowhere."""
        height, width = self.cells.shape
        here = np.stack(np.divmod(np.arange(height * width), width), 1)
        there = here[:, None] + MOVES
        there = np.clip(there, 0, (height - 1, width - 1)) @ np.array([width, 1])
        stays = (self.cells.reshape(-1)[there] == "#") | self.ends[:, None]
        return np.where(stays, np.arange(height * width)[:, None], there)

    def values(self, horizon: int, discount: float = 1.0) -> np.ndarray:
        """(cells,) the best expected discounted return from each cell within a horizon."""
        value = np.zeros(self.cells.size)
        for _ in range(horizon):
            reward = np.where(self.ends[:, None], 0.0, self.enter_reward[self.next_cell])
            chosen = reward + discount * value[self.next_cell]
            slipped = chosen.mean(1, keepdims=True)
            value = ((1 - self.slip) * chosen + self.slip * slipped).max(1)
        return value


# -- two rooms: a dot, a wall with a door, a goal ------------------------------------------------

ROOM = 32  # pixels; the centre of pixel i is at i + 0.5
ROOM_LOW, ROOM_HIGH = 2.0, 30.0  # where the dot may be, on both axes
WALL_LEFT, WALL_RIGHT = 14.0, 18.0  # x of the wall's faces
DOOR, DOOR_HALF = 16.0, 2.5  # y of the door's middle if it is fixed; half its width
DOOR_LOW, DOOR_HIGH = 6.0, 26.0  # where a random door's middle may be
STEP, DOT, REACH = 2.0, 1.3, 1.5  # pixels a step; sigma of the dot; radius of success
ERRAND, WIDE = (24.0, 8.0), 3.0  # where an errand leads; sigma of its dots
_WALL_SHADE = 128.0


def slide(xp: Any, position: Any, action: Any, door: Any) -> Any:
    """Move dots, sliding along walls: first along x, then along y.

    A step is shorter than the wall is thick, so nothing tunnels through.

    Args:
        xp: numpy or torch.
        position: (N, 2) x, y in pixels.
        action: (N, 2); what is outside of the unit disc is scaled onto it.
        door: (N,) y of the door's middle.

    Returns:
        (N, 2).
    """
    length = (action * action).sum(-1)[:, None] ** 0.5
    step = STEP * action / xp.where(length > 1, length, xp.ones_like(length))
    x, y = position[:, 0], position[:, 1]
    to_x = xp.clip(x + step[:, 0], ROOM_LOW, ROOM_HIGH)
    to_y = xp.clip(y + step[:, 1], ROOM_LOW, ROOM_HIGH)
    in_wall = (to_x > WALL_LEFT) & (to_x < WALL_RIGHT)
    from_room = (x <= WALL_LEFT) | (x >= WALL_RIGHT)  # who is in the door already stays in it
    shut = in_wall & from_room & (abs(y - door) > DOOR_HALF)
    face = xp.where(x <= WALL_LEFT, xp.full_like(x, WALL_LEFT), xp.full_like(x, WALL_RIGHT))
    to_x = xp.where(shut, face, to_x)
    beside = xp.clip(to_y, door - DOOR_HALF, door + DOOR_HALF)
    return xp.stack([to_x, xp.where(in_wall & ~shut, beside, to_y)], -1)


def draw_wall(xp: Any, door: Any) -> Any:
    """(N, 32, 32) shade 0..255 of the wall with its door at y = door (N,)."""
    centre = xp.arange(ROOM) + 0.5
    column = (centre > WALL_LEFT) & (centre < WALL_RIGHT)
    closed = abs(centre[None, :] - door[:, None]) > DOOR_HALF
    return _WALL_SHADE * (closed[:, :, None] & column[None, None, :])


def draw_dot(xp: Any, position: Any, *, fine: int = 1, sigma: float = DOT) -> Any:
    """Shade 0..255 of dots: a Gaussian bump, rows are y.

    Args:
        xp: numpy or torch.
        position: (N, 2) x, y in pixels of the room.
        fine: how many pixels the picture has on each side of one of the room's.
        sigma: of the bump, in pixels of the room.

    Returns:
        (N, 32 fine, 32 fine).
    """
    centre = (xp.arange(ROOM * fine, dtype=position.dtype) + 0.5) / fine
    bump = xp.exp(-((position[:, :, None] - centre) ** 2) / (2 * sigma**2))
    return 255.0 * bump[:, 1, :, None] * bump[:, 0, None, :]


# -- sprites: a shape drifts over a motley ground ------------------------------------------------

SHAPES = ("disc", "square", "plus", "ring")  # of nearly equal area, 78 pixels
SPRITE_LOW, SPRITE_HIGH = 6.0, 26.0  # where the centre may be, on both axes
SPEED = (0.5, 1.5)  # pixels a step
_GRAIN = 2  # pixels of one colour of the ground, on each side


def bounce(xp: Any, place: Any, velocity: Any) -> tuple[Any, Any]:
    """One step of free flight; the rim mirrors it.

    Args:
        xp: numpy or torch.
        place: (N, 2) of the centres, pixels.
        velocity: (N, 2) pixels a step.

    Returns:
        (N, 2) and (N, 2).
    """
    there = place + velocity
    out = (there < SPRITE_LOW) | (there > SPRITE_HIGH)
    inside = xp.clip(there, SPRITE_LOW, SPRITE_HIGH)
    return xp.where(out, 2 * inside - there, there), xp.where(out, -velocity, velocity)


def draw_shape(xp: Any, place: Any, shape: Any) -> Any:
    """(N, 32, 32) how much of each pixel a shape covers, 0..1; rows are y.

    Args:
        xp: numpy or torch.
        place: (N, 2) of the centres.
        shape: (N,) int64, which of `SHAPES`.
    """
    centre = xp.arange(ROOM, dtype=place.dtype) + 0.5
    x = abs(centre[None, None, :] - place[:, 0, None, None])
    y = abs(centre[None, :, None] - place[:, 1, None, None])
    away = (x * x + y * y) ** 0.5
    arm = [xp.minimum(6.0 - along, 1.9 - across) for along, across in ((x, y), (y, x))]
    inside = xp.stack(  # pixels to the rim, below zero outside
        [
            5.0 - away,
            4.4 - xp.maximum(x, y),
            xp.maximum(*arm),
            xp.minimum(5.6 - away, away - 2.5),
        ]
    )
    return xp.clip(inside[shape, xp.arange(len(place))] + 0.5, 0, 1)


def paint(cover: np.ndarray, colour: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """(N, 3, 32, 32) uint8: shapes over their grounds.

    Args:
        cover: (N, 32, 32) from `draw_shape`.
        colour: (N, 3).
        ground: (N, 3, 32, 32).
    """
    share = cover[:, None]
    return (ground * (1 - share) + colour[:, :, None, None] * share + 0.5).astype(np.uint8)


def draw_colours(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours (n, 3) of shapes, and grounds (n, 3, 32, 32), 0..255.

    Each channel of a shape is either darker than all of the ground or brighter, by chance: what is
    common to its pixels is their contrast, which no linear reader of pixels can add up.
    """
    side = ROOM // _GRAIN
    ground = random.uniform(108, 148, (n, 3, side, side)).repeat(_GRAIN, 2).repeat(_GRAIN, 3)
    dark, bright = random.uniform(0, 40, (n, 3)), random.uniform(215, 255, (n, 3))
    return np.where(random.random((n, 3)) < 0.5, dark, bright), ground


# -- bandit and lottery: one choice --------------------------------------------------------------

BANDIT_MEANS = (0.1, -0.4, 0.9, 0.5)
BANDIT_NOISE = 0.5  # standard deviation of the reward

# Arms of the lottery: (x, probability) of each outcome. The reward is a function of x alone,
# piecewise linear between these knots. The safe arm 0 is the best: 1.0. Arm 1 looks better by its
# likeliest outcome (2.0) and by its mean x (1.2) and is worth -0.4; arm 2 looks better by its
# mean x (3.0) and is worth 0.
LOTTERY = (((0.5, 1.0),), ((1.0, 0.8), (-1.0, 0.2)), ((2.0, 0.5), (-2.0, 0.5)))
LOTTERY_KNOTS = ((-2.0, -1.0, 0.0, 0.5, 1.0, 2.0), (0.0, -10.0, 3.0, 1.0, 2.0, 0.0))
LOTTERY_MEANS = (1.0, -0.4, 0.0)


def lottery_arms() -> tuple[np.ndarray, np.ndarray]:
    """(arms, 2) outcomes x, and (arms,) the probability of the first one."""
    arms = [arm if len(arm) > 1 else (*arm, (arm[0][0], 0.0)) for arm in LOTTERY]
    return np.array([[x for x, _ in arm] for arm in arms]), np.array([arm[0][1] for arm in arms])
