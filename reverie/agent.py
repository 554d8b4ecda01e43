"""Who acts: the `Agent` protocol, and the agents that need no training. Imports core only.

An agent maps (carry, observation) to (carry, action) for B environments at once. It holds no
time: what it remembers is in the carry, so one agent serves any number of worlds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import SpaceMismatch
from reverie.core.model import WorldModel
from reverie.core.types import Act, Box, Discrete, Space, check_obs

S = TypeVar("S")
Policy = Callable[[Any, torch.Generator | None], Tensor]


class Agent(Protocol):
    """What collection and evaluation drive."""

    def initial(self, batch: int) -> Any:
        """The carry before anything was seen.

        Args:
            batch: environments B.
        """
        ...

    def act(
        self,
        carry: Any,
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Act]:
        """Choose the actions of B environments.

        Args:
            carry: what this agent returned before, or `initial(B)`.
            obs: (B, ...) each modality; images uint8.
            first: (B,) bool: rows where an episode begins; what was carried for them is ignored.
            explore: act as while collecting data, rather than as well as possible.
            generator: of all randomness; None: torch's default one.

        Returns:
            The next carry, and the actions with what is to be stored beside them.
        """
        ...


class PolicyAgent(Generic[S]):
    """Follows what it sees with a world model and asks a policy about the model's state.

    The carry is (state, action), or None before the first observation.

    Args:
        model: turns observations into states.
        policy: (state (B, ...), generator) -> action (B, A) or (B,): as well as it can.
        explore: the same while exploring; None: the policy itself.
    """

    def __init__(
        self, model: WorldModel[S], policy: Policy, *, explore: Policy | None = None
    ) -> None:
        """See the class."""
        self._model, self._policy, self._explore = model, policy, explore or policy

    def initial(self, batch: int) -> tuple[S, Tensor] | None:
        """Nothing was seen yet: `observe` begins every row.

        Args:
            batch: environments B.
        """
        del batch
        return None

    @torch.no_grad()
    def act(
        self,
        carry: tuple[S, Tensor] | None,
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[tuple[S, Tensor], Act]:
        """See `Agent.act`.

        Raises:
            SpaceMismatch: if an observation that the model reads is missing or of another shape.
        """
        check_obs(obs, self._model.observations, (first.shape[0],))
        device = self._model.device
        obs, first = tree.to(obs, device), first.to(device)
        generator = generator_on(generator, device)
        state, action = (None, None) if carry is None else carry
        h = self._model.encode(obs)
        state = self._model.observe(state, action, h, first=first, generator=generator)
        action = (self._explore if explore else self._policy)(state, generator)
        return (state, action), Act(action, {})


def generator_on(generator: torch.Generator | None, device: torch.device) -> torch.Generator | None:
    """A generator for a device.

    Args:
        generator: perhaps of another device; None stays None.
        device: where it is to draw.

    Returns:
        The given one, or one that is seeded from it.
    """
    if generator is None or generator.device.type == device.type:
        return generator
    number = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(number)


class RandomAgent:
    """Acts uniformly over the action space, whatever it sees. The carry is None.

    Args:
        actions: the space: Discrete, or Box (uniform between its bounds).
    """

    def __init__(self, actions: Space) -> None:
        """See the class."""
        self._actions = actions

    def initial(self, batch: int) -> None:
        """There is nothing to remember.

        Args:
            batch: environments B.
        """

    def act(
        self,
        carry: None,
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[None, Act]:
        """See `Agent.act`."""
        del obs, explore
        batch, device = first.shape[0], first.device
        space = self._actions
        if isinstance(space, Discrete):
            action = torch.randint(space.n, (batch,), generator=generator, device=device)
        else:
            unit = torch.rand((batch, *space.shape), generator=generator, device=device)
            action = space.low + (space.high - space.low) * unit
        return carry, Act(action, {})


class SweepAgent:
    """Walks to and fro without looking: the first action for a while, then the last, and again.

    A baseline that no claim about vision may skip. The carry is (heading, decisions left), (B,)
    each.

    Args:
        actions: Discrete, with the two directions at its ends (left ... right).
        low: fewest decisions in one direction, >= 1.
        high: most decisions in one direction; each dwell is uniform in [low, high].

    Raises:
        SpaceMismatch: if the actions are not Discrete.
    """

    def __init__(self, actions: Space, low: int, high: int) -> None:
        """See the class."""
        self._last, self._low, self._high = _ends("SweepAgent", actions) - 1, low, high

    def initial(self, batch: int) -> tuple[Tensor, Tensor]:
        """No direction yet: the first `act` draws one.

        Args:
            batch: environments B.
        """
        return torch.zeros(batch, dtype=torch.int64), torch.zeros(batch, dtype=torch.int64)

    def act(
        self,
        carry: tuple[Tensor, Tensor],
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[tuple[Tensor, Tensor], Act]:
        """See `Agent.act`."""
        del obs, explore
        heading, left = carry
        first = first.cpu()
        batch = len(first)
        coin = torch.randint(2, (batch,), generator=generator)
        dwell = torch.randint(self._low, self._high + 1, (batch,), generator=generator)
        turn = left == 0
        heading = torch.where(first, coin, torch.where(turn, 1 - heading, heading))
        left = torch.where(first | turn, dwell, left) - 1
        return (heading, left), Act(heading * self._last, {})


class Wander(NamedTuple):
    """What `WanderAgent` carries."""

    action: Tensor  # (B,) int64
    left: Tensor  # (B,) int64 decisions until the next turn
    pace: Tensor  # (B,) float32 mean dwell of this episode, decisions


class WanderAgent:
    """Explores without looking, at another pace in every episode.

    An episode's pace is drawn log-uniformly; each dwell is 0.4 to 1.6 times that. At a turn the
    next action is the opposite one, or, now and then, any. So some episodes are nearly white
    noise, others sweep from wall to wall, and late moments of long lives are seen too.

    Args:
        actions: Discrete on a line (left ... right).
        low: quickest pace, decisions, >= 1.
        high: slowest pace, decisions.
        turning: how often a turn leads to the opposite action rather than to any.

    Raises:
        SpaceMismatch: if the actions are not Discrete.
    """

    def __init__(
        self, actions: Space, *, low: float = 4, high: float = 40, turning: float = 0.7
    ) -> None:
        """See the class."""
        self._count = _ends("WanderAgent", actions)
        self._low, self._high, self._turning = low, high, turning

    def initial(self, batch: int) -> Wander:
        """Every row begins anew at its first observation.

        Args:
            batch: environments B.
        """
        zero = torch.zeros(batch, dtype=torch.int64)
        return Wander(zero, zero, torch.ones(batch))

    def act(
        self,
        carry: Wander,
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Wander, Act]:
        """See `Agent.act`."""
        del obs, explore
        first = first.cpu()
        batch = len(first)
        drawn, how_long, whether = torch.rand(3, batch, generator=generator)
        pace = torch.where(first, self._low * (self._high / self._low) ** drawn, carry.pace)
        turn = first | (carry.left == 0)
        dwell = (pace * (0.4 + 1.2 * how_long)).long().clamp(min=1)
        any_ = torch.randint(self._count, (batch,), generator=generator)
        opposite = self._count - 1 - carry.action
        turned = (whether < self._turning) & (opposite != carry.action) & ~first
        action = torch.where(turn, torch.where(turned, opposite, any_), carry.action)
        left = torch.where(turn, dwell, carry.left) - 1
        return Wander(action, left, pace), Act(action, {})


def _ends(who: str, actions: Space) -> int:
    """How many Discrete actions there are, or SpaceMismatch."""
    if not isinstance(actions, Discrete):
        raise SpaceMismatch(
            f"{who} walks between the first and last of Discrete actions, but these are "
            f"{actions}. Use RandomAgent or BrownianAgent."
        )
    return actions.n


class BrownianAgent:
    """Drifts through a Box: each action is the last one plus a small Gaussian step, clipped.

    White noise cancels itself out and moves nothing; a drift explores. The carry is the last
    action, (B, A).

    Args:
        actions: Box.
        start: (A,) where each episode begins; None: 0.
        std: of a step, in units of action.

    Raises:
        SpaceMismatch: if the actions are not a Box.

    Source:
        The exploration of car racing in public reproductions of Ha & Schmidhuber 2018.
    """

    def __init__(
        self, actions: Space, *, start: tuple[float, ...] | None = None, std: float = 0.14
    ) -> None:
        """See the class."""
        if not isinstance(actions, Box):
            raise SpaceMismatch(
                f"BrownianAgent drifts through a Box, but the actions are {actions}. "
                "Use SweepAgent or RandomAgent."
            )
        self._space, self._std = actions, std
        begin = torch.zeros(actions.shape) if start is None else torch.tensor(start)
        self._start = begin.expand(actions.shape)

    def initial(self, batch: int) -> Tensor:
        """Every row is at the start.

        Args:
            batch: environments B.
        """
        return self._start.expand(batch, *self._space.shape)

    def act(
        self,
        carry: Tensor,
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Act]:
        """See `Agent.act`."""
        del obs, explore
        fresh = first.view(-1, *(1,) * len(self._space.shape))
        before = torch.where(fresh, self._start, carry)
        step = self._std * torch.randn(before.shape, generator=generator)
        action = (before + step).clamp(self._space.low, self._space.high)
        return action, Act(action, {})


class Fork(NamedTuple):
    """What `ForkAgent` carries."""

    before: Any  # carry of the first agent
    after: Any  # carry of the second one
    age: Tensor  # (B,) int64 steps of the episode
    calls: int  # decisions of the whole batch


class ForkAgent:
    """Follows one agent for the first steps of every episode, then another.

    The first one draws the same numbers as if it were alone, so the same worlds come to the same
    fork: what follows answers what would have been, had other actions been taken there. The carry
    is `Fork`.

    Args:
        before: acts at first.
        after: acts from the fork on; it must not depend on what it did itself.
        at: steps before the fork.
        seed: of the second agent's randomness.
    """

    def __init__(self, before: Agent, after: Agent, *, at: int, seed: int = 0) -> None:
        """See the class."""
        self._before, self._after, self._at, self._seed = before, after, at, seed

    def initial(self, batch: int) -> Fork:
        """Both begin.

        Args:
            batch: environments B.
        """
        age = torch.zeros(batch, dtype=torch.int64)
        return Fork(self._before.initial(batch), self._after.initial(batch), age, 0)

    def act(
        self,
        carry: Fork,
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Fork, Act]:
        """See `Agent.act`."""
        own = torch.Generator().manual_seed((self._seed << 32) + carry.calls)
        age = torch.where(first.cpu(), 0, carry.age)
        before, one = self._before.act(
            carry.before, obs, first, explore=explore, generator=generator
        )
        after, two = self._after.act(carry.after, obs, first, generator=own)
        early = (age < self._at).to(one.action.device)
        other = two.action.to(one.action)
        action = torch.where(early.view(-1, *(1,) * (other.dim() - 1)), one.action, other)
        return Fork(before, after, age + 1, carry.calls + 1), Act(action, {})
