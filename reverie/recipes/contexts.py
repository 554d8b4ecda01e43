"""Replay contexts: segments of the data begin from the state in which they were last entered.

Without them every segment is inferred from nothing, and its first states know less than the agent
knew. Here a table holds, for each row of the store, the state and the action that led to it when
it was last inferred; a row that was not inferred yet begins from nothing. The table is refreshed by
every update and is part of a checkpoint.

Source: Hafner et al. 2025, reference code ("replay_context").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reverie.core.model import Part
from reverie.core.types import Batch, Loss
from reverie.data.sample import Sampler
from reverie.models.rssm import RSSM, Begun, State


class Contexts:
    """A table of states, the sampler whose rows it numbers, and the loss that reads and writes it.

    Args:
        model: whose states they are.
    """

    def __init__(self, model: RSSM) -> None:
        self._model = model
        self._table = torch.zeros(0, 0, device=model.device)  # (rows, M + Z + A)
        self._sampler: Sampler | None = None

    def over(self, sampler: Sampler) -> Contexts:
        """Draw from a sampler of packed segments of one store from now on."""
        self._sampler = sampler
        return self

    def around(self, part: Part) -> Part:
        """The model's part, beginning from the table and writing what it infers into it."""

        def loss(batch: Batch, states: Any) -> Loss:
            del states
            rows = self._rows(batch)
            found = part.loss(batch, self.begun(rows[:, 0]))
            self._keep(rows, batch, found.states)
            return found

        return part._replace(loss=loss)

    def begun(self, rows: Tensor) -> Begun:
        """What led to rows (B,) of the store."""
        size = self._model.design
        ends = (size.memory, size.memory + size.latent.size)
        memory, z, action = self._table[rows].tensor_split(ends, -1)
        return Begun(State(memory, z), action)

    def __next__(self) -> Batch:
        """See `Sampler`."""
        return next(self._drawn)

    def state_dict(self) -> dict[str, Any]:
        """The table, and where the sampler stands."""
        return {"table": self._table, "sampler": self._drawn.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._table = state["table"].to(self._model.device)
        self._drawn.load_state_dict(state["sampler"])

    @property
    def _drawn(self) -> Sampler:
        """The sampler."""
        if self._sampler is None:
            raise RuntimeError("Contexts draw from no sampler yet: call `over` first.")
        return self._sampler

    def _rows(self, batch: Batch) -> Tensor:
        """(B, T+1) rows of the store that the batch drawn last holds; the table has room for them.

        A packed segment's number is its first row.
        """
        draw = self._drawn.last
        if draw is None:
            raise RuntimeError("Contexts were asked for a batch that was not drawn.")
        steps = batch.first.shape[1]
        rows = torch.from_numpy(draw.index).to(batch.first.device).unsqueeze(1)
        self._grow(int(draw.index.max()) + steps, batch)
        return rows + torch.arange(steps, device=rows.device)

    def _grow(self, rows: int, batch: Batch) -> None:
        """Room for so many rows, zero where they are new."""
        if rows <= len(self._table):
            return
        size, width = self._model.design, self._model.acted(batch.action[:1, :1]).shape[-1]  # type: ignore[index]
        more = self._table.new_zeros(2 * rows, size.memory + size.latent.size + width)
        if len(self._table):
            more[: len(self._table)] = self._table
        self._table = more

    @torch.no_grad()
    def _keep(self, rows: Tensor, batch: Batch, states: State) -> None:
        """Write what led to every row of a batch but its first."""
        action = self._model.acted(batch.action)  # type: ignore[arg-type]
        led = torch.cat([states.memory[:, :-1], states.z[:, :-1], action], -1).detach()
        self._table[rows[:, 1:].flatten()] = (led * ~batch.first[:, 1:, None]).flatten(0, 1)
