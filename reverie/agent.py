"""Who acts: the `Agent` protocol, `PolicyAgent` and `RandomAgent`. Imports core only.

An agent maps (carry, observation) to (carry, action) for B environments at once. It holds no
time: what it remembers is in the carry, so one agent serves any number of worlds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from reverie.core.model import WorldModel
from reverie.core.types import Act, Discrete, Space, check_obs

S = TypeVar("S")


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
        policy: state (B, ...) -> action (B, A) or (B,): as well as it can.
        explore: (state, generator) -> action, used while exploring; None: the policy itself.
    """

    def __init__(
        self,
        model: WorldModel[S],
        policy: Callable[[S], Tensor],
        *,
        explore: Callable[[S, torch.Generator | None], Tensor] | None = None,
    ) -> None:
        """See the class."""
        self._model = model
        self._policy = policy
        self._explore = explore

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
        state, action = (None, None) if carry is None else carry
        h = self._model.encode(obs)
        state = self._model.observe(state, action, h, first=first, generator=generator)
        if explore and self._explore is not None:
            action = self._explore(state, generator)
        else:
            action = self._policy(state)
        return (state, action), Act(action, {})


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
