"""A leaping model as planners of whole blocks see it: one step is a leap, one action a block.

The papers plan so: the cross-entropy method draws each of a block's actions by itself, and what a
plan is worth is asked where its blocks end. `Blocks` is for planning only; what acts and learns is
the model inside. Imports core, nn and `leaping`.

Letters as in `leaping`: D latent size, K frames of history, A numbers of an action.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.model import Foreseeing, WorldModel
from reverie.core.types import Box, Heads
from reverie.models.leaping import Leaping, State
from reverie.nn.causal import CausalPredictor


class Blocks(WorldModel[State], Foreseeing):
    """A model with a causal predictor, whose actions are blocks, (B, block A) numbers each.

    Args:
        model: what plans are made in.

    Raises:
        SpaceMismatch: if its actions are no Box.
        BadConfig: if its predictor is another one.
    """

    predictor: CausalPredictor

    def __init__(self, model: Leaping) -> None:
        super().__init__()
        self.card = model.card  # type: ignore[misc]
        space = model.actions
        if not isinstance(space, Box):
            raise SpaceMismatch(f"Blocks are planned in a Box of actions, not in {space}. Use CEM.")
        if not isinstance(model.predictor, CausalPredictor):
            raise BadConfig(
                f"Blocks plan with a causal predictor, but this {model.card.title} has another. "
                "Build it with JEPAConfig(causal=CausalConfig()), or plan single steps."
            )
        self.model, self.predictor = model, model.predictor
        self.observations = model.observations
        self.actions = Box((model.window.block * model.acts,), space.low, space.high)

    @property
    def heads(self) -> Heads:
        """The model's own."""
        return self.model.heads

    def encode(self, obs: dict[str, Tensor]) -> Tensor:
        """See the model's own."""
        return self.model.encode(obs)

    def observe(
        self,
        state: State | None,
        action: Tensor | None,
        h: Tensor,
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """Take in what is seen after a block. See `WorldModel.observe`."""
        if state is None or action is None:
            return self.model.observe(None, None, h)
        *early, last = self._split(action).unbind(1)
        for one in early:
            state = self.model.predict(state, one)
        return self.model.observe(state, last, h, first=first, generator=generator)

    def predict(
        self,
        state: State,
        action: Tensor | None,
        *,
        z: None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """One leap. See `WorldModel.predict`."""
        for one in self._split(action).unbind(1):
            state = self.model.predict(state, one, z=z, generator=generator)
        return state

    def foresee(self, state: State, plans: Tensor) -> State:
        """See `Foreseeing`. The frames that candidates share are read once for all of them.

        Raises:
            BadConfig: if the state lies inside a block.
        """
        if state.ahead.any():
            raise BadConfig(
                f"Blocks begin where one ends, but this state lies {int(state.ahead.max())} steps "
                "inside one. Observe first, or plan single steps with the model itself."
            )
        b, c, horizon = plans.shape[:3]
        landed = self._landed(state, plans.unflatten(-1, (-1, self.model.acts)))  # (B C, H, D)
        start, block = tree.repeat(state, c), self.model.window.block
        anchors = torch.cat([start.z[:, -1:], landed[:, :-1]], 1)
        between = anchors[:, :, None].expand(-1, -1, block - 1, -1)
        steps = torch.cat([between, landed[:, :, None]], 2).flatten(1, 2)
        done = plans.reshape(b * c, horizon * block, -1)
        age = start.age[:, None] + block * torch.arange(horizon + 1, device=plans.device)
        return State(
            _windows(start.z, steps, block),
            _windows(start.action, done, block),
            torch.zeros_like(age),
            age.clamp(max=start.z.shape[1] - 1),
        )

    def _landed(self, state: State, plans: Tensor) -> Tensor:
        """(B C, H, D) for plans (B, C, H, block, A); rows with equally many frames go together."""
        k, block = self.model.window[:2]
        frames = 1 + state.age // block
        seen, done = state.z[:, ::block], state.action.unflatten(1, (k, block))
        found = seen.new_empty(*plans.shape[:3], seen.shape[-1])
        for f in range(1, k + 1):
            rows = (frames == f).nonzero()[:, 0]  # waits for the device
            if len(rows):
                told = self.predictor.foresee(
                    seen[rows, k - f :], done[rows, k - f + 1 :], plans[rows]
                )
                found[rows] = told.unflatten(0, (len(rows), -1)).to(found.dtype)
        return found.flatten(0, 1)

    def _split(self, action: Tensor | None) -> Tensor:
        """(B, block, A) of a block (B, block A)."""
        if action is None:
            raise SpaceMismatch(f"{self.card.title} predicts under actions, but action is None.")
        return action.unflatten(-1, (self.model.window.block, -1))


def _windows(before: Tensor, after: Tensor, block: int) -> Tensor:
    """(R, H+1, L, D): the last L moments at first and after each block, without copies of each."""
    return torch.cat([before, after], 1).unfold(1, before.shape[1], block).transpose(-1, -2)
