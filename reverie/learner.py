"""What learns: the `Learner` protocol, and `GradientLearner`, which serves nearly all of them.

A learner turns a batch into new parameters and says in numbers how it went. Models and behaviors
give `Part`s; `GradientLearner` steps them. What does not learn by gradients (evolution, program
synthesis) implements `Learner` itself. Imports core and nn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from reverie.core import tree
from reverie.core.errors import BadCheckpoint, BadConfig
from reverie.core.model import Part
from reverie.core.types import Batch, Optim
from reverie.nn.laprop import LaProp

Metrics = Mapping[str, Tensor | float]  # by 'part/term'; tensors are () and may still be computing


class Learner(Protocol):
    """What the one loop of `train` asks of anything that learns."""

    def update(self, batch: Batch | None) -> Metrics:
        """Learn once.

        Args:
            batch: from the stage's sampler; None where the stage has none.

        Returns:
            Numbers by name. All must be finite: the loop stops a run at the first that is not.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs and no module holds.

        Nested dicts, lists and tuples of tensors, NumPy arrays, numbers, strings, bools and None.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        ...


class _Group(NamedTuple):
    """Parts that step together."""

    optim: Optim
    parts: tuple[Part, ...]
    params: list[nn.Parameter]
    optimizer: torch.optim.Optimizer


class GradientLearner:
    """Steps parts by their gradients.

    Parts that name an equal `Optim` form a group: their totals are summed, differentiated once and
    stepped once, and states pass between them with their graph. Groups step in the order of their
    first part, and the states that pass from one group to the next are detached. Only the group's
    own parameters receive gradients, whatever its losses pass through.

    Modules are in training mode during an update and in evaluation mode otherwise.

    Metrics: ``part/term`` of each loss term, ``part/total``, and for each group ``optim/grad_norm``
    (before clipping) and ``optim/lr`` (of this step).

    Args:
        parts: what learns, in the order in which states flow.
        precision: "bf16" computes the losses under autocast; parameters stay float32.

    Raises:
        BadConfig: if names repeat, a parameter belongs to two groups, a group has none, or an
            optimizer's kind or the precision is not known.
    """

    def __init__(
        self, parts: Sequence[Part], *, precision: Literal["float32", "bf16"] = "float32"
    ) -> None:
        if precision not in ("float32", "bf16"):
            raise BadConfig(f"precision is {precision!r}. Choose 'float32' or 'bf16'.")
        _check_names("part", [part.name for part in parts])
        optims = list(dict.fromkeys(part.optim for part in parts))
        _check_names("unequal Optim", [optim.name for optim in optims])
        self._bf16 = precision == "bf16"
        self._groups = [_group(o, tuple(p for p in parts if p.optim == o)) for o in optims]
        _check_disjoint(self._groups)

    def update(self, batch: Batch | None) -> dict[str, Tensor | float]:
        """One step of every group. Nothing here waits for the device.

        Args:
            batch: handed to every part's loss.

        Returns:
            See the class; tensors are detached, ().
        """
        metrics: dict[str, Tensor | float] = {}
        states: Any = None
        with _training([part.module for group in self._groups for part in group.parts]):
            for group in self._groups:
                states = self._step(group, batch, tree.detach(states), metrics)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The optimizers' states, learning rates included, by the optimizer's name."""
        return {group.optim.name: group.optimizer.state_dict() for group in self._groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            BadCheckpoint: if it was taken from other parts.
        """
        names = {group.optim.name for group in self._groups}
        if names != set(state):
            raise BadCheckpoint(
                f"The checkpoint has the optimizers {sorted(state)}, but the parts name "
                f"{sorted(names)}. Go on with the parts it was taken from."
            )
        for group in self._groups:
            try:
                group.optimizer.load_state_dict(state[group.optim.name])
            except ValueError as error:
                raise BadCheckpoint(
                    f"The checkpoint's optimizer '{group.optim.name}' steps other parameters "
                    f"({error}). Go on with the parts it was taken from."
                ) from None

    def _step(
        self, group: _Group, batch: Any, states: Any, metrics: dict[str, Tensor | float]
    ) -> Any:
        """Sum the group's losses, differentiate, clip, step; returns the states for the next."""
        totals: list[Tensor] = []
        device = group.params[0].device.type
        for part in group.parts:
            with torch.autocast(device, torch.bfloat16, enabled=self._bf16):
                loss = part.loss(batch, states)
            totals.append(loss.total.float())
            states = states if loss.states is None else loss.states
            metrics[f"{part.name}/total"] = loss.total.detach()
            metrics.update({f"{part.name}/{k}": v.detach() for k, v in loss.terms.items()})
        group.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(totals).sum(), inputs=group.params)
        metrics[f"{group.optim.name}/grad_norm"] = _clip(group)
        metrics[f"{group.optim.name}/lr"] = _set_rate(group)
        group.optimizer.step()
        for part in group.parts:
            if part.after is not None:
                part.after()
        return states


def _set_rate(group: _Group) -> float:
    """Set, count and return the learning rate of this step: warm-up times decay."""
    optim, (settings,) = group.optim, group.optimizer.param_groups
    steps = settings["steps"] = settings["steps"] + 1
    steady = max(optim.lr * optim.decay ** (steps - 1), optim.lr_min)
    settings["lr"] = steady * min(1.0, steps / max(1, optim.warmup))
    return settings["lr"]


def _clip(group: _Group) -> Tensor:
    """Clip the gradients by value, then by norm; returns the norm that they had before."""
    grads = [p.grad for p in group.params if p.grad is not None]
    norm = nn.utils.get_total_norm(grads)
    if group.optim.clip_value is not None:
        nn.utils.clip_grad_value_(group.params, group.optim.clip_value)
    if group.optim.clip_norm is not None:
        now = norm if group.optim.clip_value is None else nn.utils.get_total_norm(grads)
        nn.utils.clip_grads_with_norm_(group.params, group.optim.clip_norm, now)
    return norm


def _group(optim: Optim, parts: tuple[Part, ...]) -> _Group:
    """Collect the trainable parameters of parts (each once) and make their optimizer."""
    found = (p for part in parts for p in part.module.parameters() if p.requires_grad)
    params = list(dict.fromkeys(found))
    if not params:
        names = ", ".join(part.name for part in parts)
        raise BadConfig(
            f"Optim '{optim.name}' steps {names}, which have no trainable parameter. "
            "Give the part the module that learns, or leave it out."
        )
    return _Group(optim, parts, params, _optimizer(optim, params))


def _optimizer(optim: Optim, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """What `Optim.kind` names."""
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "laprop": LaProp}
    if optim.kind not in kinds:
        raise BadConfig(f"Optim '{optim.name}' is of kind {optim.kind!r}. Choose {list(kinds)}.")
    more: dict[str, Any] = {"weight_decay": optim.weight_decay}
    if optim.kind == "laprop":
        more = {"agc": optim.agc}
    group = {"params": params, "steps": 0}  # steps are kept with the optimizer's state
    return kinds[optim.kind]([group], lr=optim.lr, betas=optim.betas, eps=optim.eps, **more)


def _check_names(what: str, names: Sequence[str]) -> None:
    """Refuse a name that stands for two things."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadConfig(f"The name {', '.join(twice)} stands for more than one {what}. Rename one.")


def _check_disjoint(groups: Sequence[_Group]) -> None:
    """Refuse a parameter that two optimizers would step."""
    owner: dict[nn.Parameter, str] = {}
    for group in groups:
        for param in group.params:
            if owner.setdefault(param, group.optim.name) != group.optim.name:
                raise BadConfig(
                    f"A parameter of shape {tuple(param.shape)} is stepped by both Optim "
                    f"'{owner[param]}' and Optim '{group.optim.name}'. Give each part only the "
                    "module that it learns, or let both parts name the same Optim."
                )


@contextmanager
def _training(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Training mode inside, evaluation mode after."""
    for module in modules:
        module.train()
    try:
        yield
    finally:
        for module in modules:
            module.eval()
