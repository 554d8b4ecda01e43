"""World models that leap: one call of their predictor covers a block of world steps.

`predict` still takes single steps: it notes the action, and the network is called where a block is
full, or where a head asks for a moment inside one. Here is what such models share: their state, how
they follow a world, and how a loss unrolls them; a school adds what its embeddings are, its
predictor and its loss. Imports core and the rows of nn.

Letters: D latent size, K frames of history, A numbers of an action, U leaps in the loss.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import ShapeMismatch, SpaceMismatch
from reverie.core.model import WorldModel
from reverie.core.types import Batch, Box, Discrete, Heads, Space
from reverie.nn.leap import rows_of

# (embeddings (N, K, D) a block apart, the anchor last; actions (N, K, block, A) after each, zero
# after the moment asked for; steps (N,) from the anchor to that moment) -> (N, D) there. Where the
# window grows it is also told (N,) how many of the embeddings, the newest ones, count.
Predict = Callable[..., Tensor]


class Window(NamedTuple):
    """How far a model looks back and ahead."""

    history: int  # K frames that the predictor reads, one block apart
    block: int  # world steps in a leap
    leaps: int  # U predictions in a row in the loss, each from the one before
    grows: bool = False  # a young episode's window is short; else its first frame is repeated

    @property
    def steps(self) -> int:
        """Transitions that the loss looks at."""
        return self.block * (self.history - 1 + self.leaps)


class State(NamedTuple):
    """What the model knows at one moment. Before an episode, the world stood still."""

    z: Tensor  # (B, (K-1) block + 1, D) embeddings up to the anchor, one a step, newest last
    action: Tensor  # (B, K block, A) what led to each moment up to now, newest last
    ahead: Tensor  # (B,) int64 in 0..block-1: steps from the anchor to now
    age: Tensor  # (B,) int64 in 0..(K-1) block: steps of this episode that lie before the anchor


class Moment(NamedTuple):
    """One moment a row, drawn anew for every loss, so that no step of a leap stays unlearned."""

    leap: Tensor  # (B,) int64 in 0..U-1: within which leap it lies
    n: Tensor  # (B,) int64 in 1..block: how many steps in
    when: Tensor  # (B,) int64: its index in the segment


class Segment(NamedTuple):
    """What a loss looks at, beside the embeddings."""

    actions: Tensor  # (B, K-1+U, block, A)
    inside: Moment
    whole: Tensor  # (B, K-1+U) bool: the block lies in one episode
    counts: Tensor  # (B, U+1) bool: all up to each landing, and to the drawn moment, does


class Leaping(WorldModel[State], abc.ABC):
    """Embeddings and actions of the last moments, behind the contract.

    Args:
        window: how far it looks.
        actions: Box or Discrete.

    Raises:
        SpaceMismatch: if nothing acts.
    """

    predictor: Predict

    def __init__(self, window: Window, actions: Space | None) -> None:
        super().__init__()
        self.window = window
        if actions is None:
            raise SpaceMismatch(
                f"{self.card.title} predicts under actions, but the world has none. "
                "Choose a school that learns from video alone (see `reverie list`)."
            )
        self.actions = actions
        self.acts = actions.n if isinstance(actions, Discrete) else actions.shape[0]  # A

    def observe(
        self,
        state: State | None,
        action: Tensor | None,
        h: Tensor,
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """Take in an embedding: it is the new anchor. See `WorldModel.observe`.

        Moments that were predicted before count as their anchor: nobody looked at them.
        """
        del generator
        length = (self.window.history - 1) * self.window.block + 1
        blank = h.new_zeros(len(h), self.window.history * self.window.block, self.acts)
        ahead = torch.zeros_like(h[:, 0], dtype=torch.int64)
        begun = State(h[:, None].expand(-1, length, -1), blank, ahead, ahead)
        if state is None:
            return begun
        shift = torch.arange(length, device=h.device) + state.ahead[:, None] + 1
        z = rows_of(state.z, shift.clamp(max=length - 1))
        z = torch.cat([z[:, :-1], h[:, None]], 1)
        age = (state.age + state.ahead + 1).clamp(max=length - 1)
        going = State(z, self._pushed(state.action, action), ahead, age)
        if first is None:
            return going
        fresh = first[:, None, None]
        z, pushed = (torch.where(fresh, b, g) for b, g in zip(begun[:2], going[:2], strict=True))
        return State(z, pushed, ahead, age.masked_fill(first, 0))

    def predict(
        self,
        state: State,
        action: Tensor | None,
        *,
        z: None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """One step further from the anchor; a full block is a leap. See `WorldModel.predict`."""
        del z, generator
        pushed, ahead = self._pushed(state.action, action), state.ahead + 1
        full = ahead == self.window.block
        if not full.any():  # waits for the device, and saves the network
            return State(state.z, pushed, ahead, state.age)
        landed = self._leap(state.z, pushed, ahead, state.age)[:, None]
        between = state.z[:, -1:].expand(-1, self.window.block - 1, -1)
        moved = torch.cat([state.z, between, landed], 1)[:, -state.z.shape[1] :]
        moved = torch.where(full[:, None, None], moved, state.z)
        age = (state.age + self.window.block * full).clamp(max=state.z.shape[1] - 1)
        return State(moved, pushed, ahead.masked_fill(full, 0), age)

    @property
    def heads(self) -> Heads:
        """embed and features: the embedding of the moment."""
        return Heads(owner=self.card.name, embed=self.embed, features=self.embed)

    def embed(self, state: State) -> Tensor:
        """(B, D) the embedding of the state's moment; the network is called inside a block."""
        newest = state.z[:, -1]
        if not state.ahead.any():  # waits for the device, and saves the network
            return newest
        inside = self._leap(state.z, state.action, state.ahead.clamp(min=1), state.age)
        return torch.where(state.ahead[:, None] == 0, newest, inside)

    def _leap(self, z: Tensor, action: Tensor, n: Tensor, age: Tensor) -> Tensor:
        """The embedding (B, D) n steps after the anchor, where `action` ends n steps after it."""
        k, block = self.window[:2]
        steps = torch.arange(k * block, device=z.device) + block - n[:, None]
        done = rows_of(action, steps.clamp(max=k * block - 1))
        done = done * (steps < k * block)[..., None]
        given = (z[:, ::block], done.unflatten(1, (k, block)), n)
        return self.predictor(*given, *((1 + age // block,) if self.window.grows else ()))

    def _pushed(self, before: Tensor, action: Tensor | None) -> Tensor:
        """(B, K block, A): the newest action at the end, the oldest gone."""
        if action is None:
            raise SpaceMismatch(f"{self.card.title} predicts under actions, but action is None.")
        return torch.cat([before[:, 1:], self._numbers(action)[:, None]], 1)

    def _numbers(self, action: Tensor) -> Tensor:
        """Actions as (..., A) floats."""
        if isinstance(self.actions, Discrete):
            return F.one_hot(action, self.acts).float()
        return action

    def _segment(self, batch: Batch) -> Segment:
        """The blocks of a batch that is long enough, and a moment drawn for each row."""
        block, steps = self.window.block, self._steps(batch)
        mask, action = batch.mask[:, :steps], self._numbers(batch.action[:, :steps])  # type: ignore
        inside, whole = self._drawn(mask), mask.unflatten(1, (-1, block)).all(-1)
        counts = self._counts(mask, whole, inside)
        return Segment(action.unflatten(1, (-1, block)), inside, whole, counts)

    def _shown(self, x: Tensor, inside: Moment) -> Tensor:
        """(B, K+U+1, ...) of (B, T+1, ...): a block apart, and the drawn moment at the end."""
        rows = torch.arange(len(x), device=x.device)
        apart = x[:, : self.window.steps + 1 : self.window.block]
        return torch.cat([apart, x[rows, inside.when][:, None]], 1)

    def _landed(self, window: Tensor, segment: Segment) -> Tensor:
        """(B, U+1, D) what is foreseen, from (B, K, D), for U leaps in a row and the moment."""
        windows = self._unrolled(window, segment.actions)
        met = self._met(windows, segment.actions, segment.inside)
        return torch.stack([window[:, -1] for window in windows[1:]] + [met], 1)

    def _drawn(self, mask: Tensor) -> Moment:
        """A moment for each row of the mask (B, T)."""
        c, like = self.window, {"size": (len(mask),), "device": mask.device}
        leap, n = torch.randint(c.leaps, **like), torch.randint(1, c.block + 1, **like)
        return Moment(leap, n, c.block * (c.history - 1 + leap) + n)

    def _unrolled(self, window: Tensor, actions: Tensor) -> list[Tensor]:
        """The K embeddings (B, K, D) that stand before each of U leaps in a row, and after all.

        Args:
            window: (B, K, D) seen.
            actions: (B, K-1+U, block, A).
        """
        k, block = self.window[:2]
        full = torch.full((len(window),), block, device=window.device)
        windows = [window]
        for u in range(self.window.leaps):
            landed = self.predictor(windows[-1], actions[:, u : u + k], full)
            windows.append(torch.cat([windows[-1][:, 1:], landed[:, None]], 1))
        return windows

    def _met(self, windows: list[Tensor], actions: Tensor, inside: Moment) -> Tensor:
        """The embedding (B, D) that is foreseen for the drawn moment."""
        k, block = self.window[:2]
        rows = torch.arange(len(actions), device=actions.device)
        done = actions.unfold(1, k, 1).movedim(-1, 2)[rows, inside.leap]  # (B, K, block, A)
        step = torch.arange(k * block, device=actions.device).view(k, block) - (k - 1) * block
        done = done * (step < inside.n[:, None, None])[..., None]
        return self.predictor(torch.stack(windows, 1)[rows, inside.leap], done, inside.n)

    def _counts(self, mask: Tensor, whole: Tensor, inside: Moment) -> Tensor:
        """(B, U+1) bool: all up to the landing, or to the drawn moment, is one episode."""
        leaps = whole.long().cumprod(1)[:, self.window.history - 1 :].bool()
        later = torch.arange(mask.shape[1], device=mask.device) >= inside.when[:, None]
        return torch.cat([leaps, (mask | later).all(1, keepdim=True)], 1)

    def _steps(self, batch: Batch) -> int:
        """Transitions that the loss looks at, if the batch has them."""
        c, steps = self.window, self.window.steps
        if batch.mask.shape[1] < steps:
            raise ShapeMismatch(
                f"{self.card.title} learns from segments of {steps} transitions ({c.history} "
                f"frame(s) of history and {c.leaps} leap(s) of {c.block} steps), but these have "
                f"{batch.mask.shape[1]}. Sample longer ones, or build it with a shorter window."
            )
        return steps


def readable(observations: dict[str, Space]) -> tuple[str, Box]:
    """What the encoder reads, if it is there."""
    for name in ("image", "vector"):
        if isinstance(space := observations.get(name), Box):
            return name, space
    raise SpaceMismatch(
        f"A JEPA world model reads 'image' or 'vector', but found {sorted(observations)}. "
        "Choose a world that shows one of them."
    )
