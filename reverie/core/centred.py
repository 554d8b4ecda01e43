"""`Centred`: a mode in which every random draw of torch becomes the centre of its distribution.

Two paths through one model draw their noise in different orders, so they can be compared only
where there is none. Under this mode a Gaussian gives its mean, a categorical its likeliest
class, a coin the likelier side, a permutation the identity. It works below autograd, on the
random operators themselves, so it also reaches `torch.distributions`. Imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def _factory(value: float) -> Callable[..., Tensor]:
    """A draw of a given size, such as `randn(size)`, as a constant."""

    def full(size: Sequence[int], **options: Any) -> Tensor:
        return torch.full(tuple(size), value, **options)

    return full


def _like(value: float) -> Callable[..., Tensor]:
    """A draw of another tensor's size, such as `randn_like(x)`, as a constant."""
    return lambda x, **options: torch.full_like(x, value, **options)


def _normal(mean: Tensor | float = 0.0, std: Any = 1.0, size: Any = None, **options: Any) -> Tensor:
    """The mean, at the shape that the draw has."""
    if size is not None:
        return torch.full(tuple(size), float(mean), **options)
    like = std if isinstance(std, Tensor) else mean
    shape = torch.broadcast_shapes(torch.as_tensor(mean).shape, like.shape)  # type: ignore
    return torch.as_tensor(mean, dtype=like.dtype, device=like.device).expand(shape).clone()  # type: ignore


def _bernoulli(chance: Tensor, p: float | None = None) -> Tensor:
    """The likelier side of each coin; a fair one falls on 0."""
    return (chance > 0.5).to(chance.dtype) if p is None else torch.full_like(chance, float(p > 0.5))


def _bernoulli_(x: Tensor, p: Tensor | float = 0.5) -> Tensor:
    """The likelier side of each coin, written into x."""
    return x.copy_((torch.as_tensor(p) > 0.5).expand_as(x))


def _multinomial(weights: Tensor, count: int, replacement: bool = False) -> Tensor:  # noqa: FBT001, FBT002
    """The likeliest class, or the likeliest ones in order if each is drawn once."""
    if replacement:
        best = weights.argmax(-1, keepdim=True)
        return best.expand(*weights.shape[:-1], count).clone()
    return weights.topk(count, dim=-1).indices


def _randint(*bounds_and_size: Any, **options: Any) -> Tensor:
    """The middle of low..high-1."""
    *bounds, size = bounds_and_size
    low, high = (0, bounds[0]) if len(bounds) == 1 else bounds
    options.setdefault("dtype", torch.int64)
    return torch.full(tuple(size), (low + high - 1) // 2, **options)


def _randint_like(x: Tensor, *bounds: int, **options: Any) -> Tensor:
    """The middle of low..high-1."""
    low, high = (0, bounds[0]) if len(bounds) == 1 else bounds
    return torch.full_like(x, (low + high - 1) // 2, **options)


def _dropout(x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:  # noqa: FBT001
    """Nothing is dropped."""
    del p, train
    return x.clone(), torch.ones_like(x, dtype=torch.bool)


_CENTRES: dict[str, Callable[..., Any]] = {
    "aten::randn": _factory(0.0),
    "aten::randn_like": _like(0.0),
    "aten::rand": _factory(0.5),
    "aten::rand_like": _like(0.5),
    "aten::normal": _normal,
    "aten::normal_": lambda x, mean=0.0, std=1.0: x.fill_(mean),
    "aten::uniform_": lambda x, low=0.0, high=1.0: x.fill_((low + high) / 2),
    "aten::exponential_": lambda x, rate=1.0: x.fill_(1.0 / rate),
    "aten::log_normal_": lambda x, mean=1.0, std=2.0: x.fill_(mean).exp_(),
    "aten::cauchy_": lambda x, median=0.0, sigma=1.0: x.fill_(median),
    "aten::_standard_gamma": lambda alpha: alpha.clone(),
    "aten::_sample_dirichlet": lambda alpha: alpha / alpha.sum(-1, keepdim=True),
    "aten::poisson": torch.round,
    "aten::bernoulli": _bernoulli,
    "aten::bernoulli_": _bernoulli_,
    "aten::multinomial": _multinomial,
    "aten::randint": _randint,
    "aten::randint_like": _randint_like,
    "aten::randperm": torch.arange,
    "aten::native_dropout": _dropout,
}


class Centred(TorchDispatchMode):
    """``with Centred(): ...``: inside, nothing is random. Generators are not advanced."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace a random operator by its centre; let all others pass."""
        del types
        options = dict(kwargs or {})
        centre = _CENTRES.get(func._schema.name)
        if centre is None:
            return func(*args, **options)
        options.pop("generator", None)
        return centre(*args, **options)
