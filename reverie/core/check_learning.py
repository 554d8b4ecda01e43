"""The clauses of `check_world_model` about what learns. Imports core only.

Groups are parts that name an equal `Optim`: they step together and their states flow with their
graph; to parts of another group states are handed detached. Losses are compared in evaluation
mode under `Centred`, and trained in training mode with their noise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reverie.core import tree
from reverie.core.centred import Centred
from reverie.core.model import Part, WorldModel
from reverie.core.probe import Clause, Probe, differs
from reverie.core.types import Batch, Loss, Optim

_RATE = 3e-3  # learning rate at least, while overfitting
_GAIN = 0.02  # share of the loss that must go
_EVERY = 20  # updates after which overfitting looks whether it is done
_DRAWS = 4  # of the noise, whenever it looks


class _Learned(NamedTuple):
    """A part and its loss on a batch."""

    part: Part
    loss: Loss


def _losses(model: WorldModel[Any], batch: Batch) -> list[_Learned]:
    """The losses of all parts in order; states flow as in training."""
    found: list[_Learned] = []
    states, optim = None, None
    for part in model.parts():
        if states is not None and part.optim != optim:
            states = tree.detach(states)
        loss = part.loss(batch, states)
        if loss.states is not None:
            states, optim = loss.states, part.optim
        found.append(_Learned(part, loss))
    return found


def _quiet_losses(probe: Probe, batch: Batch) -> list[_Learned]:
    """The losses where nothing is random and nothing is trained."""
    with torch.no_grad(), Centred():
        return _losses(probe.model, batch)


def _trainable(module: nn.Module) -> dict[Tensor, str]:
    """Parameters that learn, with their names."""
    return {p: name for name, p in module.named_parameters() if p.requires_grad}


def _well_formed(probe: Probe) -> str | None:
    """Each loss is one finite number to differentiate, with detached terms."""
    learned = _losses(probe.model, probe.data)
    names = [part.name for part, _ in learned]
    if len(set(names)) < len(names):
        return f"its parts are named {names}. Give each its own name."
    for part, loss in learned:
        total = loss.total
        if total.dim() or not total.requires_grad or not total.isfinite():
            return (
                f"the total of '{part.name}' has shape {tuple(total.shape)}, value(s) {total.sum()}"
                f" and requires_grad={total.requires_grad}. Return one finite number with a graph."
            )
        odd = [k for k, term in loss.terms.items() if term.dim() or term.requires_grad]
        if odd or not loss.terms:
            return f"the terms {odd} of '{part.name}' are no detached scalars. Name at least one."
        if not _trainable(part.module):
            return f"'{part.name}' has no parameter to train. Leave it out of parts()."
    return None


def _masked(probe: Probe) -> str | None:
    """What stands where the mask is False changes no loss."""
    data, other = probe.data, probe.other
    seam = ~data.mask
    flipped = {name: getattr(data, name) ^ seam for name in ("terminated", "truncated")}
    changed = data._replace(
        action=_filled(data.action, other.action, seam),
        reward=_filled(data.reward, other.reward, seam),
        extra={k: _filled(x, other.extra[k], seam) for k, x in data.extra.items()},
        **flipped,
    )
    pairs = zip(_quiet_losses(probe, data), _quiet_losses(probe, changed), strict=True)
    for before, after in pairs:
        gap = differs(after.loss.total, before.loss.total, name="total")
        if gap:
            return (
                f"when action, reward and ends at masked steps change, the {gap} in "
                f"'{before.part.name}'. Weigh each transition by batch.mask."
            )
    return None


def _filled(kept: Tensor | None, fill: Tensor | None, where: Tensor) -> Tensor | None:
    """Kept values, others where the mask (B, T) says."""
    if kept is None or fill is None:
        return None
    return torch.where(where.view(*where.shape, *(1,) * (kept.dim() - 2)), fill, kept)


def _causal(probe: Probe) -> str | None:
    """What comes after an observation leaves the state at it bit-equal."""
    data, other = probe.data, probe.other
    before = _quiet_losses(probe, data)
    times = torch.arange(probe.steps + 1, device=probe.model.device).expand(probe.batch, -1)
    for t in range(probe.steps):
        late = times > t  # (B, T+1)
        changed = data._replace(
            obs={k: _filled(x, other.obs[k], late) for k, x in data.obs.items()},
            action=_filled(data.action, other.action, late[:, 1:]),
            reward=_filled(data.reward, other.reward, late[:, 1:]),
        )
        for (part, old), (_, new) in zip(before, _quiet_losses(probe, changed), strict=True):
            if old.states is None:
                continue
            early = slice(None), slice(t + 1)
            gap = differs(_at(new.states, early), _at(old.states, early), exact=True)
            if gap:
                return (
                    f"when what follows observation {t} changes, up to there {gap} in "
                    f"'{part.name}'. Let a state depend on its past alone."
                )
    return None


def _at(states: Any, index: tuple[slice, slice]) -> Any:
    """A stretch of time of stacked states."""
    return tree.map(lambda x: x[index], states)


@torch.no_grad()
def _paths_agree(probe: Probe) -> str | None:
    """States inferred in parallel by a loss are those of `observe`, one at a time."""
    with Centred():
        stepped = tree.stack(probe.observed())
    for part, loss in _quiet_losses(probe, probe.data):
        if loss.states is not None:
            gap = differs(loss.states, stepped)
            if gap:
                return (
                    f"against observing step by step, {gap} in '{part.name}'. Begin states where "
                    "batch.first, and use action[t] between observation t and t+1."
                )
    return None


def _gradients(probe: Probe) -> str | None:
    """Gradients reach every parameter of a part, and none outside of its group."""
    model = probe.model.train()
    learned = _losses(model, probe.data)
    everything = {**_trainable(model)}
    for part, _ in learned:
        everything |= {
            p: name for p, name in _trainable(part.module).items() if p not in everything
        }
    for part, loss in learned:
        group = [p.module for p, _ in learned if p.optim == part.optim]
        own = _trainable(part.module)
        grouped = {p for module in group for p in _trainable(module)}
        found = torch.autograd.grad(
            loss.total, list(everything), allow_unused=True, retain_graph=True
        )
        for (parameter, name), gradient in zip(everything.items(), found, strict=True):
            if gradient is None and parameter in own:
                return (
                    f"the loss of '{part.name}' does not reach its parameter '{name}'. Use it, "
                    "freeze it, or move it to the part that trains it."
                )
            if gradient is not None and not gradient.isfinite().all():
                return f"'{part.name}' gives '{name}' a gradient that is not finite. Guard it."
            if gradient is not None and parameter not in grouped and gradient.any():
                return (
                    f"the loss of '{part.name}' reaches '{name}', which it does not train. Detach "
                    "it, or name the same Optim in both parts."
                )
    probe.model.eval()
    return None


def _overfits(probe: Probe) -> str | None:
    """Each group of parts, trained alone, fits one fixed batch better."""
    model = probe.model
    weights = deepcopy(model.state_dict())
    for optim in dict.fromkeys(part.optim for part in model.parts()):
        model.train()
        before = after = _group_total(probe, optim)
        for done in _train_group(probe, optim, probe.overfit_updates):
            if done % _EVERY == 0 or done == probe.overfit_updates:
                after = _group_total(probe, optim)
                if after < before - _GAIN * abs(before):
                    break
        else:
            names = [part.name for part in model.parts() if part.optim == optim]
            return (
                f"after {probe.overfit_updates} updates on one batch the loss of {names} went from "
                f"{before:.4g} to {after:.4g}. Look for a wrong sign or a cut graph."
            )
        model.load_state_dict(weights)
        model.eval()
    return None


def _group_total(probe: Probe, optim: Optim) -> float:
    """The summed losses of a group, the mean over a few fixed draws of the noise."""
    total = 0.0
    for seed in range(_DRAWS):
        torch.manual_seed(seed)
        with torch.no_grad():
            learned = _losses(probe.model, probe.data)
        total += sum(float(loss.total) for part, loss in learned if part.optim == optim)
    return total / _DRAWS


def _train_group(probe: Probe, optim: Optim, updates: int) -> Iterator[int]:
    """Plain Adam steps of one group on the made-up batch; yields how many are done."""
    parts = [part for part in probe.model.parts() if part.optim == optim]
    parameters = list(dict.fromkeys(p for part in parts for p in _trainable(part.module)))
    optimizer = torch.optim.Adam(parameters, lr=max(optim.lr, _RATE))
    for update in range(updates):
        torch.manual_seed(_DRAWS + update)
        learned = _losses(probe.model, probe.data)
        total = torch.stack([loss.total for part, loss in learned if part.optim == optim]).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for part in parts:
            if part.after is not None:
                part.after()
        yield update + 1


def _round_trip(probe: Probe) -> str | None:
    """A model whose weights were trained away and loaded again predicts what it did."""
    model = probe.model
    weights = deepcopy(model.state_dict())
    strange = [key for key, value in weights.items() if not isinstance(value, Tensor)]
    if strange:
        return f"its state_dict holds {strange}, which are no Tensors. Register buffers instead."
    before = _predicted(probe)
    for optim in dict.fromkeys(part.optim for part in model.parts()):
        model.train()
        deque(_train_group(probe, optim, 2), maxlen=0)
    model.eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.zeros_like(value))
    model.load_state_dict(weights)
    gap = differs(_predicted(probe), before)
    return gap and (
        f"after training on and loading the weights back {gap}. Register whatever changes as a "
        "parameter or buffer."
    )


@torch.no_grad()
def _predicted(probe: Probe) -> Any:
    """What the model observes and predicts, where nothing is random."""
    with Centred():
        return (probe.observed()[-1], probe.imagined()[-1])


def _learns(probe: Probe) -> bool:
    """Whether anything does."""
    return bool(probe.model.parts())


def _infers(probe: Probe) -> bool:
    """Whether a loss hands on the states that it inferred."""
    return any(loss.states is not None for _, loss in _quiet_losses(probe, probe.data))


LEARNING: tuple[Clause, ...] = (
    Clause("losses are well formed", _well_formed, _learns),
    Clause("causality", _causal, _infers),
    Clause("loss path equals step path", _paths_agree, _infers),
    Clause("masked steps do not count", _masked, _learns),
    Clause("gradients", _gradients, _learns),
    Clause("overfits a fixed batch", _overfits, lambda p: _learns(p) and p.overfit_updates > 0),
    Clause("state_dict round trip", _round_trip, lambda p: bool(p.model.state_dict())),
)
