"""The true models of the toy worlds: what learning should reach. Imports core and the rules.

An oracle is a `WorldModel` like any other, with nothing to learn: planners, dreams and the
conformance check are proved on it. Where a world is random, z is explicit: `predict(s, a, z=...)`.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reverie.core.model import S, WorldModel
from reverie.core.types import Box, Card, Discrete, Heads, Space
from reverie.envs import rules


def _card(name: str, state: str, z: str, heads: str) -> Card:
    """The taxonomy entry of a true model."""
    return Card(
        name=f"toy/{name}",
        title=f"True model of the {name.replace('_', ' ')} world",
        family="oracle",
        state=state,
        z=z,
        objective="none: it is true",
        policy="none",
        couplings=("planning", "imagination", "search"),
        heads=tuple(heads.split()),
        paper="-",
    )


def _table(values: Any) -> Tensor:
    """Numbers as a float32 tensor."""
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


class _FullyObserved(WorldModel[S]):
    """One look says all: `encode` gives the state, and `observe` takes it as it is."""

    def observe(
        self,
        state: S | None,
        action: Tensor | None,
        h: S,
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> S:
        """The state that was seen. See `WorldModel.observe`."""
        del state, action, first, generator
        return h


class ClockState(NamedTuple):
    """State of `Clock`."""

    time: Tensor  # (B,) float32


class Clock(_FullyObserved[ClockState]):
    """Time goes on, whatever is done; the right action at t is t and earns 10 t."""

    card = _card("clock", "the time", "none", "reward cont value decode embed features")
    observations: ClassVar[dict[str, Space]] = {"vector": Box((1,), 0.0, rules.CLOCK_HOURS)}
    actions = Discrete(rules.CLOCK_HOURS)

    def encode(self, obs: dict[str, Tensor]) -> ClockState:
        """The time from obs['vector'] (B, 1)."""
        return ClockState(obs["vector"][:, 0])

    def predict(
        self,
        state: ClockState,
        action: Tensor | None,
        *,
        z: None = None,
        generator: torch.Generator | None = None,
    ) -> ClockState:
        """One hour later."""
        del action, z, generator
        return ClockState(state.time + 1)

    @property
    def heads(self) -> Heads:
        """All but a policy; the value is that of always doing the right thing, undiscounted."""
        last = rules.CLOCK_HOURS
        return Heads(
            owner=self.card.name,
            reward=lambda s, a, n: torch.where(
                s.time.round() == a, 10 * s.time, torch.full_like(s.time, rules.CLOCK_WRONG)
            ),
            cont=lambda n: (n.time < last).float(),
            value=lambda s: 5 * (last * (last - 1) - s.time * (s.time - 1)),
            decode=lambda s: {"vector": s.time[:, None]},
            embed=lambda s: s.time[:, None],
            features=lambda s: s.time[:, None],
        )


class GridState(NamedTuple):
    """State of `Grid`."""

    cell: Tensor  # (B,) int64, numbered row by row


def grid_observations(grid: rules.GridMap) -> dict[str, Space]:
    """Row and column, counted from 0 at the top left."""
    return {"vector": Box((2,), 0.0, max(grid.cells.shape) - 1)}


class Grid(_FullyObserved[GridState]):
    """The map. z (B, 2) uniform in [0, 1): whether a move slips (z[0] < slip), and to where.

    Args:
        text: the map; see `rules.GridMap`.
        slip: probability of a random move.
        discount: of the value head, which is the optimal one.
    """

    card = _card("grid", "the cell", "slips", "reward cont value decode embed features")

    _next: Tensor  # (cells, 4) int64
    _reward: Tensor  # (cells,) on entering
    _ends: Tensor  # (cells,) bool
    _value: Tensor  # (cells,)

    def __init__(self, text: str = rules.GRID, *, slip: float = 0.0, discount: float = 1.0) -> None:
        super().__init__()
        self.map = rules.GridMap(text, slip)
        self.observations = grid_observations(self.map)
        self.actions = Discrete(len(rules.MOVES))
        horizon = 10 * self.map.cells.size
        self.register_buffer("_next", torch.as_tensor(self.map.next_cell))
        self.register_buffer("_reward", _table(self.map.enter_reward))
        self.register_buffer("_ends", torch.as_tensor(self.map.ends))
        self.register_buffer("_value", _table(self.map.values(horizon, discount)))

    def encode(self, obs: dict[str, Tensor]) -> GridState:
        """The cell from obs['vector'] (B, 2)."""
        place = obs["vector"].round().long()
        height, width = self.map.cells.shape
        row, column = place[:, 0].clamp(0, height - 1), place[:, 1].clamp(0, width - 1)
        return GridState(row * width + column)

    def predict(
        self,
        state: GridState,
        action: Tensor | None,
        *,
        z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> GridState:
        """One move; None stands for a slip."""
        if z is None:
            z = torch.rand((len(state.cell), 2), generator=generator, device=state.cell.device)
        move = (z[:, 1] * len(rules.MOVES)).long()
        if action is not None:
            move = torch.where(z[:, 0] < self.map.slip, move, action)
        return GridState(self._next[state.cell, move])

    @property
    def heads(self) -> Heads:
        """All but a policy; the value is the optimal one."""
        return Heads(
            owner=self.card.name,
            reward=lambda s, a, n: self._reward[n.cell] * ~self._ends[s.cell],
            cont=lambda n: 1 - self._ends[n.cell].float(),
            value=lambda s: self._value[s.cell],
            decode=lambda s: {"vector": self._place(s)},
            embed=self._place,
            features=self._place,
        )

    def _place(self, state: GridState) -> Tensor:
        """(B, 2) row and column."""
        width = self.map.cells.shape[1]
        row = torch.div(state.cell, width, rounding_mode="floor")
        return torch.stack([row, state.cell % width], 1).float()


class RoomState(NamedTuple):
    """State of `TwoRooms`, in pixels."""

    position: Tensor  # (B, 2) x, y
    goal: Tensor  # (B, 2) x, y
    door: Tensor  # (B,) y of its middle


class TwoRooms(_FullyObserved[RoomState]):
    """The dot's geometry; sees 'vector' and draws 'image' and 'goal' as well."""

    card = _card("two_rooms", "position, goal, door", "none", "reward decode embed features")
    observations: ClassVar[dict[str, Space]] = {"vector": Box((5,), 0.0, rules.ROOM)}
    actions = Box((2,))

    def encode(self, obs: dict[str, Tensor]) -> RoomState:
        """The state from obs['vector'] (B, 5): x, y, goal x, goal y, door y."""
        vector = obs["vector"]
        return RoomState(vector[:, :2], vector[:, 2:4], vector[:, 4])

    def predict(
        self,
        state: RoomState,
        action: Tensor | None,
        *,
        z: None = None,
        generator: torch.Generator | None = None,
    ) -> RoomState:
        """One step of at most 2 pixels, sliding along walls."""
        del z, generator
        return state._replace(position=rules.slide(torch, state.position, action, state.door))

    @property
    def heads(self) -> Heads:
        """The reward is 1 within reach of the goal; embed is the position."""
        return Heads(
            owner=self.card.name,
            reward=lambda s, a, n: (
                (n.position - n.goal).square().sum(-1) <= rules.REACH**2
            ).float(),
            decode=self._decode,
            embed=lambda s: s.position,
            features=self._vector,
        )

    def _vector(self, state: RoomState) -> Tensor:
        """(B, 5) as observed."""
        return torch.cat([state.position, state.goal, state.door[:, None]], 1)

    def _decode(self, state: RoomState) -> dict[str, Tensor]:
        """'vector', and the pictures 'image' and 'goal' (B, 3, 32, 32) in 0..255."""
        wall = rules.draw_wall(torch, state.door)
        shown = {"image": state.position, "goal": state.goal}
        pictures = {
            name: torch.stack([rules.draw_dot(torch, place), wall, wall], 1)
            for name, place in shown.items()
        }
        return {"vector": self._vector(state), **pictures}


class SpriteState(NamedTuple):
    """State of `Sprites`."""

    place: Tensor  # (B, 2) x, y in pixels
    velocity: Tensor  # (B, 2) pixels a step
    identity: Tensor  # (B, 4) one-hot


class Sprites(_FullyObserved[SpriteState]):
    """Free flight between mirrors; sees 'vector' and draws no picture: colours mean nothing."""

    card = _card("sprites", "place, velocity, identity", "none", "reward decode embed features")
    observations: ClassVar[dict[str, Space]] = {
        "vector": Box((4 + len(rules.SHAPES),), -rules.SPEED[1], rules.ROOM)
    }
    actions = Discrete(1)

    def encode(self, obs: dict[str, Tensor]) -> SpriteState:
        """The state from obs['vector'] (B, 8): x, y, their changes, identity."""
        vector = obs["vector"]
        return SpriteState(vector[:, :2], vector[:, 2:4], vector[:, 4:])

    def predict(
        self,
        state: SpriteState,
        action: Tensor | None,
        *,
        z: None = None,
        generator: torch.Generator | None = None,
    ) -> SpriteState:
        """One step of flight."""
        del action, z, generator
        place, velocity = rules.bounce(torch, state.place, state.velocity)
        return state._replace(place=place, velocity=velocity)

    @property
    def heads(self) -> Heads:
        """Everything is known; nothing is rewarded."""
        return Heads(
            owner=self.card.name,
            reward=lambda s, a, n: torch.zeros_like(n.place[:, 0]),
            decode=lambda s: {"vector": torch.cat(s, 1)},
            embed=lambda s: torch.cat(s, 1),
            features=lambda s: torch.cat(s, 1),
        )


class BanditState(NamedTuple):
    """State of `Bandit`."""

    pulled: Tensor  # (B,) bool


class Bandit(_FullyObserved[BanditState]):
    """One pull, then it is over; the reward head knows the arms' means."""

    card = _card("bandit", "pulled or not", "none", "reward cont value decode features")
    observations: ClassVar[dict[str, Space]] = {"vector": Box((1,), 0.0, 1.0)}
    actions = Discrete(len(rules.BANDIT_MEANS))
    _means: Tensor  # (arms,)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_means", _table(rules.BANDIT_MEANS))

    def encode(self, obs: dict[str, Tensor]) -> BanditState:
        """The state from obs['vector'] (B, 1)."""
        return BanditState(obs["vector"][:, 0] > 0.5)

    def predict(
        self,
        state: BanditState,
        action: Tensor | None,
        *,
        z: None = None,
        generator: torch.Generator | None = None,
    ) -> BanditState:
        """Pulled."""
        del action, z, generator
        return BanditState(torch.ones_like(state.pulled))

    @property
    def heads(self) -> Heads:
        """All but a policy and an embedding."""
        return Heads(
            owner=self.card.name,
            reward=lambda s, a, n: self._means[a] * ~s.pulled,
            cont=lambda n: 1 - n.pulled.float(),
            value=lambda s: self._means.max() * ~s.pulled,
            decode=lambda s: {"vector": s.pulled[:, None].float()},
            features=lambda s: s.pulled[:, None].float(),
        )


class LotteryState(NamedTuple):
    """State of `Lottery`."""

    x: Tensor  # (B,) float32 outcome, 0 before
    drawn: Tensor  # (B,) bool


class Lottery(_FullyObserved[LotteryState]):
    """One chance outcome. z (B,) uniform in [0, 1): the arm's first outcome if below its chance."""

    card = _card(
        "lottery", "outcome, drawn or not", "the draw", "reward cont value decode features"
    )
    observations: ClassVar[dict[str, Space]] = {"vector": Box((2,), -2.0, 2.0)}
    actions = Discrete(len(rules.LOTTERY))
    _outcomes: Tensor  # (arms, 2)
    _chance: Tensor  # (arms,) of the first outcome
    _knots: Tensor  # (2, knots) outcomes and their rewards

    def __init__(self) -> None:
        super().__init__()
        outcomes, chance = rules.lottery_arms()
        self.register_buffer("_outcomes", _table(outcomes))
        self.register_buffer("_chance", _table(chance))
        self.register_buffer("_knots", _table(rules.LOTTERY_KNOTS))

    def encode(self, obs: dict[str, Tensor]) -> LotteryState:
        """The state from obs['vector'] (B, 2)."""
        return LotteryState(obs["vector"][:, 0], obs["vector"][:, 1] > 0.5)

    def predict(
        self,
        state: LotteryState,
        action: Tensor | None,
        *,
        z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> LotteryState:
        """The outcome; what was drawn before stays."""
        if z is None:
            z = torch.rand(state.x.shape, generator=generator, device=state.x.device)
        second = (z >= self._chance[action]).long()
        x = torch.where(state.drawn, state.x, self._outcomes[action, second])
        return LotteryState(x, torch.ones_like(state.drawn))

    @property
    def heads(self) -> Heads:
        """All but a policy and an embedding."""
        return Heads(
            owner=self.card.name,
            reward=lambda s, a, n: self._prize(n.x) * ~s.drawn,
            cont=lambda n: 1 - n.drawn.float(),
            value=lambda s: max(rules.LOTTERY_MEANS) * (~s.drawn).float(),
            decode=self._decode,
            features=lambda s: self._decode(s)["vector"],
        )

    def _decode(self, state: LotteryState) -> dict[str, Tensor]:
        """'vector' (B, 2)."""
        return {"vector": torch.stack([state.x, state.drawn.float()], 1)}

    def _prize(self, x: Tensor) -> Tensor:
        """The piecewise linear reward (B,) of outcomes (B,)."""
        at, prize = self._knots.unbind(0)
        i = torch.searchsorted(at, x.contiguous()).clamp(1, len(at) - 1)
        share = ((x - at[i - 1]) / (at[i] - at[i - 1])).clamp(0, 1)
        return torch.lerp(prize[i - 1], prize[i], share)
