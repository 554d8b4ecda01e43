"""What MuZero and its kin learn from a search's results: targets of K unrolled steps, and losses.

`targets` reads a batch once; everything about ends, cuts and whose turn it is stands there. The
losses are (B, K or K+1), one number a position, until `summed`. Imports core and nn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.types import Batch, Discrete, Loss, Space
from reverie.nn.policy import Clipped


class Goal(NamedTuple):
    """How far targets look."""

    unroll: int  # K, steps of the model
    steps: int  # n, rewards before a value is trusted
    fade: float  # what a value is multiplied by one step earlier; below 0: the turn passes


class Targets(NamedTuple):
    """What K+1 unrolled positions of B segments are to say, and whether that is known."""

    value: Tensor  # (B, K+1) n-step returns, of whoever is to move; 0 after the end
    known: Tensor  # (B, K+1) 1 where the value is: somebody acted there, or the world had ended
    policy: Tensor  # (B, K+1, A) what a search found, or the action taken; weights of candidates
    candidates: Tensor | None  # (B, K+1, A, ...) the Box actions that the policy speaks of
    acted: Tensor  # (B, K+1) 1 where somebody acted
    reward: Tensor  # (B, K, 1) of the transitions; 0 after the end
    lasting: Tensor  # (B, K) 1 where the reward is known
    seen: Tensor  # (B, K) 1 where the observation after transition k is of the same episode


def targets(batch: Batch, actions: Space, goal: Goal, value: Callable[[], Tensor]) -> Targets:
    """What a batch has to teach at its first K+1 positions, K = `goal.unroll` at most.

    The world's end is absorbing: after it rewards and values are 0 and the policy is not asked.
    After a cut (the clock, the recorder, the segment's own end) nothing is known. A return stops
    at the end without a bootstrap; at a cut it takes the last value that a search gave before.

    Args:
        batch: (B, T). `extra` may have 'search_policy' (B, T, A) and 'root_value' (B, T), and for a
            Box 'candidates' (B, T, A, ...). Without them the policy is the action that was taken.
        actions: the space.
        goal: how far, and how values fade.
        value: () -> (B, T) asked where no search gave a value.
    """
    steps = batch.mask.shape[1]
    depth = min(goal.unroll, steps)
    live, over = _reached(batch, depth)
    acted = live & _padded(batch.mask, depth)
    root = batch.extra["root_value"] if "root_value" in batch.extra else value()
    reward = torch.zeros_like(root) if batch.reward is None else batch.reward
    returns = n_step(reward, root, batch.terminated, batch.mask, goal.fade, goal.steps)
    policy, candidates = _searched(batch, actions)
    going, known = acted[:, :depth], acted | over
    return Targets(
        value=torch.where(acted, _padded(returns, depth), 0.0),
        known=known.float(),
        policy=_padded(policy, depth),
        candidates=None if candidates is None else _padded(candidates, depth),
        acted=acted.float(),
        reward=torch.where(going, reward[:, :depth], 0.0).unsqueeze(-1),
        lasting=known[:, :depth].float(),
        seen=going.float(),
    )


def n_step(
    reward: Tensor, value: Tensor, terminated: Tensor, mask: Tensor, fade: float, steps: int
) -> Tensor:
    """(B, T) returns of n rewards and then a value, or of fewer where an end or a cut is nearer.

    Args:
        reward: (B, T) of transition t.
        value: (B, T) of the state before it.
        terminated: (B, T) bool: it ended the world.
        mask: (B, T) bool: it is one.
        fade: discount; negative where the next value is an opponent's.
        steps: n.
    """
    last = ~mask.roll(-1, 1)  # whether nothing is known after transition t
    last[:, -1] = True
    cut, keep = last & ~terminated, fade * (~terminated).float()
    found = value
    for _ in range(steps):
        found = torch.where(cut, value, reward + keep * found.roll(-1, 1))
    return found


def _reached(batch: Batch, depth: int) -> tuple[Tensor, Tensor]:
    """(B, K+1) bool each: real transitions led here all the way; the world ended before."""
    live, over = torch.ones_like(batch.mask[:, 0]), torch.zeros_like(batch.mask[:, 0])
    both = [(live, over)]
    for k in range(depth):
        live, ended = live & batch.mask[:, k], batch.terminated[:, k]
        over = over | (live & ended)
        both.append((live, over))
    found = [torch.stack(side, 1) for side in zip(*both, strict=True)]
    return found[0], found[1]


def _searched(batch: Batch, actions: Space) -> tuple[Tensor, Tensor | None]:
    """What a search found at each step (B, T, A), and the Box actions that it speaks of."""
    if "search_policy" in batch.extra:
        return batch.extra["search_policy"], batch.extra.get("candidates")
    action = batch.action
    assert action is not None  # noqa: S101
    if isinstance(actions, Discrete):
        return F.one_hot(action, actions.n).float(), None
    return action.new_ones((*batch.mask.shape, 1)), action.unsqueeze(2)


def _padded(x: Tensor, depth: int) -> Tensor:
    """(B, T, ...) -> (B, K+1, ...), with zeros where T = K."""
    if x.shape[1] > depth:
        return x[:, : depth + 1]
    return torch.cat([x, torch.zeros_like(x[:, :1])], 1)


def policy_loss(raw: Tensor, aims: Targets, actions: Space) -> Tensor:
    """(B, K+1) cross-entropy of raw policies (B, K+1, W) against what searches found."""
    if isinstance(actions, Discrete):
        return -(aims.policy * raw.float().log_softmax(-1)).sum(-1)
    assert aims.candidates is not None  # noqa: S101
    likely = Clipped(raw.unsqueeze(-2), actions).log_prob(aims.candidates)
    return -(aims.policy * likely).sum(-1)


def taken(batch: Batch, actions: Space, depth: int) -> Tensor:
    """(B, K, ...) the actions of the first K transitions; any where there is no transition.

    After the end every action must lead nowhere, so those there are drawn.
    """
    action = batch.action
    assert action is not None  # noqa: S101
    action, real = action[:, :depth], batch.mask[:, :depth]
    if isinstance(actions, Discrete):
        drawn = torch.randint(actions.n, action.shape, device=action.device)
    else:
        drawn = 2 * torch.rand(action.shape, device=action.device) - 1
    return torch.where(real.view(*real.shape, *(1,) * (action.dim() - 2)), action, drawn)


def summed(batch: Batch, lost: dict[str, Tensor], weights: dict[str, float]) -> Loss:
    """The mean over rows of all losses (B, K or K+1); position 0 counts 1, the others 1/K.

    Args:
        batch: with the rows' weights in `extra['weight']` (B, T), if they have some.
        lost: by name; (B, K) begins at position 1.
        weights: of each.
    """
    depth = min(x.shape[1] for x in lost.values())
    importance = batch.extra["weight"][:, 0] if "weight" in batch.extra else None
    total, terms = torch.zeros((), device=batch.mask.device), {}
    for name, loss in lost.items():
        shares = torch.full((loss.shape[1],), 1 / depth, device=loss.device)
        shares[: loss.shape[1] - depth] = 1.0
        rows = (loss * shares).sum(1)
        total = total + weights[name] * (rows if importance is None else importance * rows).mean()
        terms[name] = loss.detach().mean()
    return Loss(total, terms)
