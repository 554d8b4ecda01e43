"""All that outsiders may do to a model's state: take, repeat, stack, cat, where, detach, to, size.

A state is a NamedTuple (or tuple, dict, None) whose leaves are Tensors with leading axis B, or
`Objects`. These functions look at the nesting, never at the meaning. Imports core.types only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from reverie.core.types import Objects

T = TypeVar("T")


def _walk(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Apply fn to each leaf (Tensor or Objects) of trees of one structure."""
    if tree is None:
        return None
    if isinstance(tree, Tensor | Objects):
        return fn(tree, *rest)
    if isinstance(tree, tuple):
        parts = [_walk(fn, *leaves) for leaves in zip(tree, *rest, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    if isinstance(tree, dict):
        return {key: _walk(fn, tree[key], *(other[key] for other in rest)) for key in tree}
    raise TypeError(f"A state is made of Tensors and Objects, but it holds {type(tree).__name__}.")


def leaves(tree: Any) -> list[Tensor | Objects]:
    """The leaves in order."""
    found: list[Tensor | Objects] = []
    _walk(found.append, tree)
    return found


def map(fn: Callable[..., Tensor], tree: T, *rest: T) -> T:
    """Apply fn to every Tensor leaf of trees of one structure; Objects of the first pass through.

    Args:
        fn: Tensors, one of each tree, to a Tensor.
        tree: gives the structure.
        rest: more trees of the same structure.
    """
    return _walk(lambda x, *r: x if isinstance(x, Objects) else fn(x, *r), tree, *rest)


def size(tree: Any) -> int:
    """The leading axis B (of the first leaf).

    Raises:
        ValueError: if the tree has no leaf.
    """
    found = leaves(tree)
    if not found:
        raise ValueError("The batch size was asked of a state without any leaf.")
    first = found[0]
    return len(first) if isinstance(first, Objects) else int(first.shape[0])


def take(tree: T, index: Tensor | slice) -> T:
    """Rows of the leading axis.

    Args:
        tree: leading axis B.
        index: (N,) int64, (B,) bool, or a slice.
    """
    if isinstance(index, slice):
        return _walk(
            lambda x: Objects(x.items[index]) if isinstance(x, Objects) else x[index], tree
        )

    def rows(x: Tensor | Objects) -> Tensor | Objects:
        if isinstance(x, Tensor):
            return x[index.to(x.device)]
        chosen = index.nonzero()[:, 0] if index.dtype == torch.bool else index
        return Objects(x.items[i] for i in chosen.tolist())

    return _walk(rows, tree)


def repeat(tree: T, n: int) -> T:
    """Each row n times in a row: (B, ...) -> (B * n, ...), row b at b*n .. b*n+n-1."""

    def rows(x: Tensor | Objects) -> Tensor | Objects:
        if isinstance(x, Objects):
            return Objects(item for item in x.items for _ in range(n))
        return x.repeat_interleave(n, dim=0)

    return _walk(rows, tree)


def stack(trees: Sequence[T], dim: int = 1) -> T:
    """States in time order to one tree with a new axis: H times (B, ...) -> (B, H, ...).

    An `Objects` leaf becomes `Objects` of B tuples of H objects; only dim=1 is possible there.
    """

    def join(*xs: Tensor | Objects) -> Tensor | Objects:
        if isinstance(xs[0], Objects):
            if dim != 1:
                raise ValueError(f"Objects can be stacked along axis 1 only, not {dim}.")
            return Objects(zip(*(x.items for x in xs if isinstance(x, Objects)), strict=True))
        return torch.stack([x for x in xs if isinstance(x, Tensor)], dim)

    return _walk(join, *trees)


def unstack(tree: T, length: int) -> list[T]:
    """The inverse of `stack` along axis 1: (B, H, ...) -> H times (B, ...)."""

    def at(t: int) -> Callable[[Any], Any]:
        return lambda x: Objects(item[t] for item in x.items) if isinstance(x, Objects) else x[:, t]

    return [_walk(at(t), tree) for t in range(length)]


def cat(trees: Sequence[T]) -> T:
    """Batches to one batch along the leading axis."""

    def join(*xs: Tensor | Objects) -> Tensor | Objects:
        if isinstance(xs[0], Objects):
            return Objects(item for x in xs if isinstance(x, Objects) for item in x.items)
        return torch.cat([x for x in xs if isinstance(x, Tensor)], 0)

    return _walk(join, *trees)


def where(condition: Tensor, yes: T, no: T) -> T:
    """Row by row: yes where the condition holds, else no.

    Args:
        condition: (B,) bool.
        yes: leading axis B.
        no: leading axis B, the same structure.
    """

    def pick(a: Tensor | Objects, b: Tensor | Objects) -> Tensor | Objects:
        if isinstance(a, Objects) and isinstance(b, Objects):
            rows = zip(condition.tolist(), a.items, b.items, strict=True)
            return Objects(x if chosen else y for chosen, x, y in rows)
        assert isinstance(a, Tensor) and isinstance(b, Tensor)  # noqa: S101
        return torch.where(condition.view(-1, *(1,) * (a.dim() - 1)), a, b)

    return _walk(pick, yes, no)


def detach(tree: T) -> T:
    """The same values without their graph."""
    return map(lambda x: x.detach(), tree)


def to(tree: T, device: torch.device | str) -> T:
    """The same values on another device; Objects stay where they are."""
    return map(lambda x: x.to(device), tree)


def flatten(tree: T) -> T:
    """(B, T, ...) -> (B * T, ...): every inferred state as a start of its own. Tensors only."""
    return map(lambda x: x.flatten(0, 1), tree)
