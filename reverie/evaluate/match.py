"""Two agents against each other in a world in which turns alternate. Imports core and data."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from reverie.agent import Agent
from reverie.core.types import Act
from reverie.data.collect import collect


class Result(NamedTuple):
    """Shares of games, as the agent who is asked about has them."""

    wins: float
    draws: float
    losses: float
    games: int


class Turns:
    """Lets two agents move in turn; both see every position. The carry is (theirs, plies).

    Args:
        first: moves first in every game.
        second: moves then.
    """

    def __init__(self, first: Agent, second: Agent) -> None:
        self._first, self._second = first, second

    def initial(self, batch: int) -> tuple[Any, Any, Tensor]:
        """Both begin.

        Args:
            batch: games B.
        """
        plies = torch.zeros(batch, dtype=torch.int64)
        return self._first.initial(batch), self._second.initial(batch), plies

    def act(
        self,
        carry: tuple[Any, Any, Tensor],
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[tuple[Any, Any, Tensor], Act]:
        """See `Agent.act`."""
        one, two, plies = carry
        plies = torch.where(first.cpu(), 0, plies)
        one, mine = self._first.act(one, obs, first, explore=explore, generator=generator)
        two, other = self._second.act(two, obs, first, explore=explore, generator=generator)
        turn = (plies % 2 == 0).to(mine.action.device)
        action = torch.where(turn, mine.action, other.action.to(mine.action))
        return (one, two, plies + 1), Act(action, {})


def match(
    env: VectorEnv, first: Agent, second: Agent, *, games: int, seed: int
) -> tuple[Result, Result]:
    """Let two agents play without exploring.

    Args:
        env: two players take turns; a reward above 0 is a win of whoever moved, below 0 a loss.
        first: moves first in every game.
        second: moves then.
        games: to play.
        seed: of the worlds and of the agents' luck.

    Returns:
        The result as the first has it, and as the second has it.
    """
    played = collect(env, Turns(first, second), episodes=games, seed=seed, explore=False)
    last = np.array([float(e.reward[-1]) for e in played if e.reward is not None])
    mover = np.array([1 if len(episode) % 2 else -1 for episode in played])
    won, lost = float((last * mover > 0).mean()), float((last * mover < 0).mean())
    drawn = float((last == 0).mean())
    return Result(won, drawn, lost, games), Result(lost, drawn, won, games)
