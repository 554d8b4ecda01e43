"""A world model whose predictions stand in the wrong rows: what a planner is worth without it.

Each prediction is one that the model really made, for another row of the same batch, so only the
link between an action and what it leads to is gone. A planner that does as well in here did not
use the model. Imports core only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.model import WorldModel
from reverie.core.types import Card, Heads


class Scrambled(WorldModel[Any]):
    """A model that sees as another one does and foresees what another row's action leads to.

    Args:
        model: any world model; it stays as it is.
    """

    card = Card(
        name="scrambled",
        title="Shuffled predictions of another model",
        family="oracle",
        state="the other model's",
        z="the other model's",
        objective="none: a control",
        policy="none",
        couplings=("planning",),
        heads=(),
        paper="-",
    )

    def __init__(self, model: WorldModel[Any]) -> None:
        super().__init__()
        self.model = model
        self.observations, self.actions = model.observations, model.actions

    @property
    def heads(self) -> Heads:
        """The other model's."""
        return self.model.heads

    def encode(self, obs: dict[str, Tensor]) -> Any:
        """As the other model does."""
        return self.model.encode(obs)

    def observe(
        self,
        state: Any,
        action: Tensor | None,
        h: Any,
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """As the other model does: what is seen is seen."""
        return self.model.observe(state, action, h, first=first, generator=generator)

    def predict(
        self,
        state: Any,
        action: Tensor | None,
        *,
        z: Any = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """The other model's next states, in another order."""
        after = self.model.predict(state, action, z=z, generator=generator)
        order = torch.randperm(tree.size(after), generator=generator, device=self.device)
        return tree.take(after, order)
