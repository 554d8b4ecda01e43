"""The seam: `WorldModel`, its `Part`s, and `need` for heads. Imports core only.

    h_t = Enc(o_t)          s_{t+1} = Pred(s_t, h_t, a_t, z_t)

Read `WorldModel` first: four members are the whole contract. `encode`, `observe` and `predict`
are single steps; sequence-parallel training lives inside a Part's loss, and
`check_world_model` asserts that both agree.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from reverie.core.errors import MissingHead
from reverie.core.types import Batch, Card, Heads, Loss, Optim, Space

S = TypeVar("S")


class Part(NamedTuple):
    """One thing that learns: which parameters, from what loss, with what optimizer."""

    name: str
    module: nn.Module  # its trainable parameters are stepped by `optim`
    loss: Callable[[Batch, Any], Loss]  # (batch, states of earlier parts or None) -> Loss
    optim: Optim
    after: Callable[[], None] | None = None  # after each step: EMA targets, normalisers


class WorldModel(nn.Module, abc.ABC, Generic[S]):
    """A learned (or true) model of a world: represent, predict, and say what heads ask.

    The state belongs to the model: one NamedTuple per school with leading axis B. Outsiders use
    `core.tree` on it and ask `heads`. Time is passed, never held.

    Attributes:
        card: the taxonomy entry.
        observations: modalities it reads, by name.
        actions: Box, Discrete, or None where nothing acts. May be learned.
        temperature: how widely `predict` draws z: 1 as it was learned, less is surer. May be set
            between calls. None: z has none that could be turned.
    """

    card: ClassVar[Card]
    observations: dict[str, Space]
    actions: Space | None
    temperature: float | None = None

    @abc.abstractmethod
    def encode(self, obs: dict[str, Tensor]) -> Any:
        """h = Enc(o), without memory.

        Args:
            obs: (B, ...) each modality of `observations`; images uint8 0..255.

        Returns:
            What `observe` takes, leading axis B.
        """

    @abc.abstractmethod
    def observe(
        self,
        state: S | None,
        action: Tensor | None,
        h: Any,
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> S:
        """Take in what was seen after the action.

        Args:
            state: (B, ...) the state before; None: every row begins an episode.
            action: (B, A) or (B,): the action that led here; ignored where `first`.
            h: what `encode` gave for the new observation.
            first: (B,) bool: rows where an episode begins; their state and action are ignored.
            generator: of all randomness; None: torch's default one.

        Returns:
            The state after, (B, ...).
        """

    @abc.abstractmethod
    def predict(
        self,
        state: S,
        action: Tensor | None,
        *,
        z: Any = None,
        generator: torch.Generator | None = None,
    ) -> S:
        """s' = Pred(s, a, z), not looking.

        Args:
            state: (B, ...).
            action: (B, A) float in [-1, 1] or (B,) int64; None where `actions` is None.
            z: what the present does not tell; None: drawn.
            generator: of the draw; None: torch's default one.

        Returns:
            The next state, (B, ...).
        """

    @property
    @abc.abstractmethod
    def heads(self) -> Heads:
        """What this model can say about a state; None where it cannot."""

    def parts(self) -> tuple[Part, ...]:
        """What learns. An oracle has none."""
        return ()

    @property
    def device(self) -> torch.device:
        """Where the parameters or buffers live; cpu if there are none."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")


class Foreseeing(abc.ABC):
    """What a model is besides, if plans that begin alike cost it less together than one by one."""

    @abc.abstractmethod
    def foresee(self, state: Any, plans: Tensor) -> Any:
        """Where plans lead, as `predict` would say step by step.

        Args:
            state: (B, ...) where the plans of each row begin.
            plans: (B, N, H, ...) actions.

        Returns:
            (B N, H+1, ...) states, the given ones first.
        """


_MEND = (
    "Train one on its frozen states, lend one (`model.heads._replace({0}=...)`), "
    "or choose another model (`reverie list` shows who has it)."
)


def need(heads: Heads, *names: str, what: str) -> tuple[Callable[..., Any], ...]:
    """Check at the door that a model has the heads that something asks for, and return them.

    Args:
        heads: of the model, lent ones included.
        names: field names of `Heads`.
        what: who asks, as the first word of the sentence.

    Returns:
        The heads, in the order of the names.

    Raises:
        MissingHead: naming who asks, what is missing, what the model has, and the mend.
    """
    found = {name: getattr(heads, name) for name in names}
    missing = [name for name, head in found.items() if head is None]
    if missing:
        has = [n for n in Heads._fields if n != "owner" and getattr(heads, n) is not None]
        raise MissingHead(
            f"{what} needs {', '.join(missing)}; {heads.owner} has {', '.join(has) or 'no head'}. "
            + _MEND.format(missing[0])
        )
    return tuple(found.values())
