"""The records that pass between rooms, and the one convention of time.

Axes, said once: **B** batch, **T** transitions of a real segment, **H** imagined steps, **N**
candidate plans, **A** action size or count, **D** features. Batch first, time second, always.
T actions stand between T+1 observations; the shapes enforce it::

    o[0] --a[0]--> (r[0], terminated[0]) o[1] --a[1]--> ... o[T]

Imports nothing of ours but errors. Units: images are uint8 0..255 in a Batch (a model scales
them itself), Box actions are in [-1, 1], rewards are in the world's own units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from reverie.core.errors import BadData, ShapeMismatch, SpaceMismatch

S = TypeVar("S")  # a model's state: a NamedTuple of Tensors (leading axis B) or Objects


@dataclass(frozen=True)
class Box:
    """Real-valued (or pixel) arrays of one shape.

    Attributes:
        shape: without batch or time axes; images are (C, H, W).
        low: smallest value of any element.
        high: largest value of any element.
        dtype: "float32" for vectors, "uint8" for images.
    """

    shape: tuple[int, ...]
    low: float = -1.0
    high: float = 1.0
    dtype: str = "float32"


@dataclass(frozen=True)
class Discrete:
    """One integer in 0..n-1 (int64)."""

    n: int


Space = Box | Discrete


def space_to_json(space: Space | None) -> dict[str, Any] | None:
    """A space as a JSON value that `space_from_json` reads back."""
    if space is None:
        return None
    return {"kind": type(space).__name__, **asdict(space)}


def space_from_json(value: Mapping[str, Any] | None) -> Space | None:
    """The space that `space_to_json` wrote.

    Raises:
        BadData: if the value is not a space.
    """
    if value is None:
        return None
    try:
        if value["kind"] == "Discrete":
            return Discrete(int(value["n"]))
        if value["kind"] == "Box":
            shape = tuple(int(n) for n in value["shape"])
            return Box(shape, float(value["low"]), float(value["high"]), str(value["dtype"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"A space was asked for, but {dict(value)!r} is not one ({error}).") from None
    raise BadData(f"A space of kind Box or Discrete was asked for, but got {dict(value)!r}.")


class Batch(NamedTuple):
    """Segments of experience: o[t] --a[t]--> (r[t], terminated[t], o[t+1])."""

    obs: dict[str, Tensor]  # (B, T+1, ...) 'image' uint8 (C,H,W) 0..255 | 'vector' float32 | ...
    action: Tensor | None  # (B, T, A) float32 in [-1, 1], or (B, T) int64; None: none recorded
    reward: Tensor | None  # (B, T) float32, in the world's own units; None: none recorded
    terminated: Tensor  # (B, T) bool: the world ended; nothing to bootstrap from
    truncated: Tensor  # (B, T) bool: the clock ended; bootstrap from o[t+1]
    mask: Tensor  # (B, T) bool: False = not a transition (padding, or a seam between episodes)
    first: Tensor  # (B, T+1) bool: this observation begins an episode
    extra: dict[str, Tensor]  # (B, T, ...) what an agent wrote as it acted


class Loss(NamedTuple):
    """What a part's loss returns."""

    total: Tensor  # () to differentiate
    terms: dict[str, Tensor]  # () each, unweighted, detached, named as in the paper
    states: Any = None  # (B, T+1, ...) inferred states, for the parts after it in the same update


class Rollout(NamedTuple):
    """An imagined trajectory: s[0] --a[0]--> s[1] ... s[H]."""

    states: Any  # (B, H+1, ...) the model's own state, stacked along axis 1
    actions: Tensor | None  # (B, H, A) float32 or (B, H) int64; None: a model without actions


class Plan(NamedTuple):
    """What a planner returns."""

    actions: Tensor  # (B, H, A) float32 or (B, H) int64: the plan, its first action first
    score: Tensor  # (B,) the objective's estimate for the plan, higher is better
    extra: dict[str, Tensor]  # (B, ...) 'warm' start for the next call, search policy, ...


class Act(NamedTuple):
    """What an agent does for B environments."""

    action: Tensor  # (B, A) float32 in [-1, 1] or (B,) int64
    extra: dict[str, Tensor]  # (B, ...) to be stored beside the action


class Optim(NamedTuple):
    """How a part steps. Parts that name an equal Optim step together, losses summed."""

    name: str = "main"
    lr: float = 1e-3
    kind: str = "adam"  # "adam" | "adamw" | "laprop"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None  # global gradient norm; None: not clipped
    clip_value: float | None = None  # each gradient element; None: not clipped
    decay: float = 1.0  # the learning rate is multiplied by this after each step
    lr_min: float = 0.0  # floor of the decayed learning rate
    warmup: int = 0  # steps in which the learning rate rises linearly from 0
    agc: float | None = None  # laprop: a tensor's gradient norm over its own norm, at most


class Heads(NamedTuple):
    """All that a planner, critic, probe or player may ask. None: this model cannot say.

    Heads can be lent: ``model.heads._replace(value=critic.value)``.
    """

    owner: str  # the model's name, for messages
    reward: Callable[..., Tensor] | None = None  # (s, a, s') -> (B,) expected, world's units
    cont: Callable[..., Tensor] | None = None  # (s') -> (B,) in [0,1]: the episode goes on
    value: Callable[..., Tensor] | None = None  # (s) -> (B,) expected discounted return
    policy: Callable[..., Any] | None = None  # (s) -> Distribution over model.actions
    decode: Callable[..., dict[str, Tensor]] | None = None  # (s) -> observations, own units
    inverse: Callable[..., Any] | None = None  # (s, s') -> Distribution over model.actions
    embed: Callable[..., Tensor] | None = None  # (s) -> (B, D) where distance means something
    features: Callable[..., Tensor] | None = None  # (s) -> (B, D) what a policy or probe reads
    epistemic: Callable[..., Tensor] | None = None  # (s, a) -> (B,) >= 0: s' is not known yet
    aleatoric: Callable[..., Tensor] | None = None  # (s, a) -> (B,) >= 0: s' is left to chance


@dataclass(frozen=True)
class Card:
    """The taxonomy of one school: `reverie list` prints it."""

    name: str  # as registered
    title: str  # as in the paper
    family: str  # "A" generative | "B" representation | "C" for deciding | "oracle"
    state: str  # what s is
    z: str  # where the randomness lives
    objective: str  # what is minimised
    policy: str  # "none" | "planner" | "learned inside" | ...
    couplings: tuple[str, ...]  # how behavior may couple: planning, imagination, search, ...
    heads: tuple[str, ...]  # head names a default instance has
    paper: str  # authors year, arXiv id


class Objects(Generic[S]):
    """B Python objects as one leaf of a state, for worlds whose states are not tensors.

    Args:
        items: one object a batch row; treated as immutable.
    """

    __slots__ = ("items",)

    def __init__(self, items: Any) -> None:
        self.items: tuple[S, ...] = tuple(items)

    def __len__(self) -> int:
        return len(self.items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Objects) and self.items == other.items

    def __hash__(self) -> int:
        return hash(self.items)

    def __repr__(self) -> str:
        return f"Objects(B={len(self.items)})"


def check_shape(name: str, x: Tensor, shape: tuple[int | None, ...]) -> Tensor:
    """Return x if it has the shape (None matches any size), else say so.

    Raises:
        ShapeMismatch: naming the tensor, the shape asked and the shape found.
    """
    found = tuple(x.shape)
    fits = len(found) == len(shape) and all(
        want is None or want == got for want, got in zip(shape, found, strict=True)
    )
    if not fits:
        wanted = "(" + ", ".join("*" if n is None else str(n) for n in shape) + ")"
        raise ShapeMismatch(f"{name} must have shape {wanted}, but it has {found}.")
    return x


def check_obs(
    obs: Mapping[str, Tensor], observations: Mapping[str, Space], lead: tuple[int, ...]
) -> Mapping[str, Tensor]:
    """Return the observations if every modality that is read is there and fits.

    Args:
        obs: (*lead, ...) by modality; those that are not read are ignored.
        observations: what is read.
        lead: the axes before a modality's own, (B,) or (B, T+1).

    Raises:
        SpaceMismatch: if a modality is missing or of another shape behind the leading axes.
        ShapeMismatch: if the leading axes differ.
    """
    for name, space in observations.items():
        if name not in obs:
            raise SpaceMismatch(
                f"The model reads observation '{name}', but the data has "
                f"{sorted(obs)}. Choose a model for these, or data with '{name}'."
            )
        shape = space.shape if isinstance(space, Box) else ()
        if tuple(obs[name].shape[len(lead) :]) != shape:
            raise SpaceMismatch(
                f"The model reads '{name}' of shape {shape}, but the data has "
                f"{tuple(obs[name].shape[len(lead) :])}. "
                "Resize the data or build the model for it."
            )
        check_shape(f"obs['{name}']", obs[name], (*lead, *shape))
    return obs


def check_batch(batch: Batch, observations: Mapping[str, Space], actions: Space | None) -> Batch:
    """Return the batch if it obeys the contract for these spaces, else say what is wrong.

    Args:
        batch: see `Batch`.
        observations: the model's observation spaces; other modalities in the batch are ignored.
        actions: the model's action space; None: actions are not looked at.

    Raises:
        SpaceMismatch: if a modality or the action is missing or of another shape.
        ShapeMismatch: if T actions do not stand between T+1 observations.
    """
    b, t = batch.mask.shape[0], batch.mask.shape[1]
    check_obs(batch.obs, observations, (b, t + 1))
    check_shape("first", batch.first, (b, t + 1))
    check_shape("terminated", batch.terminated, (b, t))
    check_shape("truncated", batch.truncated, (b, t))
    if batch.reward is not None:
        check_shape("reward", batch.reward, (b, t))
    if actions is not None:
        if batch.action is None:
            raise SpaceMismatch(
                "The model needs actions, but the data was recorded without them. "
                "Choose a school that learns from video alone (see `reverie list`)."
            )
        check_action(batch.action, actions, (b, t))
    return batch


def check_action(action: Tensor, space: Space, lead: tuple[int, ...]) -> Tensor:
    """Return the action if its shape and dtype fit the space behind the leading axes.

    Raises:
        SpaceMismatch: if a Discrete space gets floats, or a Box gets integers.
        ShapeMismatch: if the shape differs.
    """
    if isinstance(space, Discrete):
        if action.dtype != torch.int64:
            raise SpaceMismatch(
                f"Discrete({space.n}) actions are int64, but these are {action.dtype}."
            )
        return check_shape("action", action, lead)
    if not action.is_floating_point():
        raise SpaceMismatch(f"Box actions are float32 in [-1, 1], but these are {action.dtype}.")
    return check_shape("action", action, (*lead, *space.shape))
