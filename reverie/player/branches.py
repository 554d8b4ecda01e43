"""The history of one dream: branches of moments that share one clock.

A fork copies references, not states, so what two branches share is kept once. Each branch is a
ring: its oldest moments are dropped when it is full. Imports core.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadData
from reverie.player.glimpse import Glimpse
from reverie.player.hands import Action

MOST = 4  # branches side by side
LONGEST = 600  # moments that a branch remembers
BYTES = 64 << 20  # that all branches of a session may weigh


class Real(NamedTuple):
    """Reality beside a moment of the first branch."""

    state: Any  # (1, ...) what the model makes of all that really was seen
    picture: np.ndarray | None  # (3, h, w) uint8
    vector: np.ndarray | None  # (D,)
    reward: float | None
    over: str  # why nothing follows; "" while it goes on
    pixel: float | None  # mean absolute difference to the dream's picture, 0..255
    apart: float | None  # Euclidean distance of both states in the model's embedding


class Moment(NamedTuple):
    """One state of a dream with all that was said about it."""

    state: Any  # (1, ...) of the model
    glimpse: Glimpse
    action: Action = None  # that led here
    reward: float | None = None  # predicted for it
    spread: float | None = None  # of several predictions of this step
    real: Real | None = None


@dataclass
class Branch:
    """One course of events.

    Attributes:
        number: of the branch; the first is 0 and has reality beside it.
        fork: the time at which it left its parent.
        first: the time of the oldest moment that is kept.
        moments: from there on.
        held: what was done last: it goes on doing so when nobody steers it.
    """

    number: int
    fork: int
    first: int
    moments: deque[Moment]
    held: Action = None

    @property
    def end(self) -> int:
        """The time of its last moment."""
        return self.first + len(self.moments) - 1

    def at(self, time: int) -> Moment:
        """The moment at a time, or the one nearest to it."""
        return self.moments[min(max(time, self.first), self.end) - self.first]

    def append(self, moment: Moment, keep: int) -> None:
        """Go on by a moment; the oldest ones leave so that `keep` stay."""
        self.moments.append(moment)
        self.held = moment.action
        while len(self.moments) > keep:
            self.moments.popleft()
            self.first += 1


class Branches:
    """All branches of a session, the clock that they share, and which one is steered.

    Args:
        moment: where the dream begins, at time 0.
    """

    def __init__(self, moment: Moment) -> None:
        self.keep = room(moment)
        self.time, self.selected, self._next = 0, 0, 1
        self.all = [Branch(0, 0, 0, deque([moment]))]

    @property
    def steered(self) -> Branch:
        """The branch that takes the person's actions."""
        return self.get(self.selected)

    def get(self, number: int) -> Branch:
        """A branch by its number.

        Raises:
            BadData: if there is none.
        """
        for branch in self.all:
            if branch.number == number:
                return branch
        raise BadData(f"There is no branch {number}. Choose one that is shown.")

    def fork(self) -> Branch:
        """A new branch that begins now, and is steered.

        Raises:
            BadData: if there are as many as are shown.
        """
        if len(self.all) == MOST:
            raise BadData(f"{MOST} branches are open, which is all that fit. Close one first.")
        parent = self.steered
        kept = deque(itertools.islice(parent.moments, self.time - parent.first + 1))
        branch = Branch(self._next, self.time, parent.first, kept, kept[-1].action)
        self.all.append(branch)
        self.selected, self._next = branch.number, self._next + 1
        return branch

    def select(self, number: int) -> None:
        """Steer another branch; the clock goes back if it ended before now.

        Raises:
            BadData: if there is none.
        """
        branch = self.get(number)
        self.selected = number
        self.seek(min(self.time, branch.end))

    def close(self, number: int) -> None:
        """Forget a branch.

        Raises:
            BadData: if there is none, or it is the first.
        """
        branch = self.get(number)
        if number == 0:
            raise BadData("The first branch has reality beside it and stays. Begin anew instead.")
        self.all.remove(branch)
        if self.selected == number:
            self.select(0)

    def seek(self, time: int) -> None:
        """Set the clock, as near to a time as the steered branch remembers."""
        branch = self.steered
        self.time = min(max(time, branch.first), branch.end)

    def tick(self) -> None:
        """One step of the clock, not before the oldest moment of the steered branch."""
        self.time += 1
        self.seek(self.time)


def room(moment: Moment) -> int:
    """How many moments a branch may keep, so that all branches weigh BYTES at most."""
    weight = 2 * (_bytes(moment.state) + moment.glimpse.bytes) + 1024  # as much for reality
    return max(2, min(LONGEST, BYTES // (MOST * weight)))


def _bytes(state: Any) -> int:
    """What the tensors of a state weigh; Python objects count as a kilobyte each."""
    return sum(
        leaf.element_size() * leaf.numel() if isinstance(leaf, Tensor) else 1024 * len(leaf)
        for leaf in tree.leaves(state)
    )
