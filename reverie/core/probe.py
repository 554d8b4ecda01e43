"""What the conformance check looks at a model with: made-up data, and how two states differ.

Imports core only. Read `Probe` first; `core/check.py` and `core/check_learning.py` hold the
clauses that use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.model import WorldModel
from reverie.core.types import Batch, Box, Objects, Space

Sampler = Callable[[tuple[int, ...], torch.Generator], dict[str, Tensor]]
_BLOCK = 8  # pixels: made-up images are coarse, so that a small model can fit them
_UNBOUNDED = 1e6  # a Box wider than this is drawn from a standard normal


@dataclass(frozen=True)
class Probe:
    """A model and two independent sets of made-up data, on the model's device."""

    model: WorldModel[Any]
    batch: int  # B
    steps: int  # T
    overfit_updates: int  # of the overfitting clause; 0: not checked
    data: Batch  # (B, T) with a seam in row 1 and a truncation in the last row
    other: Batch  # the same ends, but other observations, actions, rewards

    @property
    def action(self) -> Tensor | None:
        """(B, ...) the first actions."""
        return self.action_at(0)

    def action_at(self, t: int) -> Tensor | None:
        """(B, ...) the actions at time t; None for a model without actions."""
        return None if self.data.action is None else self.data.action[:, t]

    def generator(self, seed: int = 0) -> torch.Generator:
        """A fresh random stream on the model's device."""
        return torch.Generator(self.model.device).manual_seed(seed)

    def encoded(self, t: int, data: Batch | None = None) -> Any:
        """H of the observations at time t."""
        batch = self.data if data is None else data
        return self.model.encode({name: x[:, t] for name, x in batch.obs.items()})

    def begin(self, data: Batch | None = None, *, seed: int = 0) -> Any:
        """(B, ...) states after the first observation."""
        h = self.encoded(0, data)
        return self.model.observe(None, None, h, generator=self.generator(seed))

    def observed(self) -> list[Any]:
        """T+1 states (B, ...) along the data, one `observe` at a time."""
        states = [self.begin()]
        for t in range(self.steps):
            states.append(
                self.model.observe(
                    states[-1],
                    self.action_at(t),
                    self.encoded(t + 1),
                    first=self.data.first[:, t + 1],
                    generator=self.generator(t + 1),
                )
            )
        return states

    def imagined(self) -> list[Any]:
        """T+1 states (B, ...) from the first observation on, one `predict` at a time."""
        states = [self.begin()]
        for t in range(self.steps):
            after = self.model.predict(
                states[-1], self.action_at(t), generator=self.generator(t + 1)
            )
            states.append(after)
        return states


class Clause(NamedTuple):
    """One sentence of the contract, and how to see that it is broken."""

    name: str
    find: Callable[[Probe], str | None]  # what is wrong and the mend; None: it holds
    applies: Callable[[Probe], bool] = lambda _: True


def sample_space(space: Space, lead: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Made-up values of a space.

    Args:
        space: images (3 axes, uint8) are coarse blocks of colour.
        lead: axes before the space's own.
        generator: on the cpu.

    Returns:
        (*lead, ...) on the cpu.
    """
    if not isinstance(space, Box):
        return torch.randint(space.n, lead, generator=generator)
    if space.dtype == "uint8":
        return _sample_pixels(space, lead, generator)
    if space.high - space.low > _UNBOUNDED or not math.isfinite(space.high - space.low):
        return torch.randn((*lead, *space.shape), generator=generator)
    unit = torch.rand((*lead, *space.shape), generator=generator)
    return space.low + (space.high - space.low) * unit


def _sample_pixels(space: Box, lead: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Blocks of `_BLOCK` pixels of one value along the last two axes."""
    *front, height, width = (1, *space.shape) if len(space.shape) < 2 else space.shape
    coarse = (*lead, *front, -(-height // _BLOCK), -(-width // _BLOCK))
    low, high = int(space.low), int(space.high) + 1
    blocks = torch.randint(low, high, coarse, generator=generator, dtype=torch.uint8)
    pixels = blocks.repeat_interleave(_BLOCK, -1).repeat_interleave(_BLOCK, -2)
    return pixels[..., :height, :width].reshape(*lead, *space.shape).contiguous()


def sample_batch(
    model: WorldModel[Any],
    shape: tuple[int, int],
    seed: int,
    *,
    obs: Sampler | None,
    extra: Sampler | None,
) -> Batch:
    """Made-up segments with what real ones have: an end, a seam, a new episode, a truncation.

    Every row begins an episode. In row 1 the first transition ends it, the second is the seam
    (not a transition), and observation 2 begins another. The last row is truncated at its end.

    Args:
        model: whose spaces are drawn from.
        shape: (B, T), at least (2, 3).
        seed: of the draw.
        obs: draws observations (lead, generator); None: any values of the spaces.
        extra: draws what agents stored; None: nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, steps = shape
    draw = obs or (
        lambda lead, g: {k: sample_space(s, lead, g) for k, s in model.observations.items()}
    )
    flags = {name: torch.zeros(shape, dtype=torch.bool) for name in ("terminated", "truncated")}
    flags["mask"] = torch.ones(shape, dtype=torch.bool)
    first = torch.zeros((batch, steps + 1), dtype=torch.bool)
    first[:, 0] = first[1, 2] = True
    flags["terminated"][1, 0] = flags["truncated"][-1, -1] = True
    flags["mask"][1, 1] = False
    actions = model.actions
    made = Batch(
        obs=draw((batch, steps + 1), generator),
        action=None if actions is None else sample_space(actions, shape, generator),
        reward=torch.randn(shape, generator=generator),
        first=first,
        extra={} if extra is None else extra(shape, generator),
        **flags,
    )
    return tree.to(made, model.device)


def named_leaves(value: Any, name: str = "state") -> Iterator[tuple[str, Tensor | Objects]]:
    """The leaves of a tree with the path to each, such as ``state.deter``."""
    if isinstance(value, Tensor | Objects):
        yield name, value
    elif isinstance(value, tuple):
        fields = getattr(value, "_fields", range(len(value)))
        for field, part in zip(fields, value, strict=True):
            yield from named_leaves(part, f"{name}.{field}")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from named_leaves(part, f"{name}.{key}")
    elif value is not None:
        raise TypeError(f"{name} is a {type(value).__name__}, not a Tensor or Objects.")


def describe(leaf: Tensor | Objects) -> str:
    """A leaf's shape behind its batch axis, and its dtype."""
    if isinstance(leaf, Objects):
        return "Objects"
    return f"(B, {', '.join(map(str, leaf.shape[1:]))}) {leaf.dtype}".replace("(B, )", "(B,)")


def differs(found: Any, wanted: Any, *, exact: bool = False, name: str = "state") -> str | None:
    """Say where two trees differ; None if they agree.

    Args:
        found: a tree of Tensors and Objects.
        wanted: what it should be.
        exact: bit by bit, rather than up to the rounding of another order of summation.
        name: of the tree, in the message.
    """
    left, right = dict(named_leaves(found, name)), dict(named_leaves(wanted, name))
    if left.keys() != right.keys():
        return f"the leaves are {sorted(left)} in one and {sorted(right)} in the other"
    for path, a in left.items():
        b = right[path]
        if isinstance(a, Objects) or isinstance(b, Objects):
            if a != b:
                return f"the objects of {path} differ"
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{path} is {tuple(a.shape)} {a.dtype}, not {tuple(b.shape)} {b.dtype}"
        gap = _gap(a, b, exact=exact)
        if gap is not None:
            return f"{path} differs by up to {gap:.3g}"
    return None


def _gap(a: Tensor, b: Tensor, *, exact: bool) -> float | None:
    """The largest difference of two tensors, if it is more than rounding."""
    if torch.equal(a, b):
        return None
    x, y = a.detach().double(), b.detach().double()
    coarse = a.dtype in (torch.float16, torch.bfloat16)
    rtol = 3e-2 if coarse else 1e-3
    size = float(y.nan_to_num(0.0, 0.0, 0.0).abs().max())
    rounding = a.is_floating_point() and not exact
    if rounding and torch.isclose(x, y, rtol, 0.1 * rtol * size + 1e-8, equal_nan=True).all():
        return None
    return float((x - y).abs().nan_to_num(torch.inf).max())
