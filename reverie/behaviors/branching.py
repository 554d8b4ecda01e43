"""MBPO: a behavior learns from short rollouts of a model, branched from real states.

`Branching` is a `Learner`. Whenever there are enough new real steps it has the model fitted anew,
lets the behavior act in it for a few steps from states of the real data, and keeps what comes of
it; each update then learns from a batch of that and of some real steps. Imports core, imagine and
learner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadConfig
from reverie.core.model import Part, WorldModel, need
from reverie.core.types import Batch
from reverie.imagine import imagine
from reverie.learner import GradientLearner, Learner

Observed = dict[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long rollouts are: from `least` to `most`, linear between two numbers of real steps.

    Source: Janner et al. 2019, appendix C.
    """

    first: int = 0  # real steps
    last: int = 1
    least: int = 1
    most: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense (BadConfig)."""
        if not (self.first < self.last and 1 <= self.least <= self.most):
            raise BadConfig(
                f"A schedule of rollouts needs first < last and 1 <= least <= most, but has "
                f"{self.first}, {self.last}, {self.least} and {self.most}."
            )

    def __call__(self, steps: int) -> int:
        """The length after so many real steps."""
        share = (steps - self.first) / (self.last - self.first)
        length = self.least + share * (self.most - self.least)
        return int(min(max(length, self.least), self.most))


@dataclass(frozen=True)
class BranchingConfig:
    """How model and behavior take turns."""

    schedule: Schedule = Schedule()
    retrain: int = 250  # real steps after which the model is fitted anew
    starts: int = 20_000  # rollouts begun after each fit
    keep: int = 100_000  # dreamed steps that are remembered
    batch: int = 256  # steps of an update

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense (BadConfig)."""
        for name in ("retrain", "starts", "keep", "batch"):
            if getattr(self, name) < 1:
                raise BadConfig(f"BranchingConfig.{name} is {getattr(self, name)}. Say 1 or more.")


class Branching:
    """Fits the model, branches rollouts, and lets the behavior learn from them.

    Args:
        model: needs `decode` and `reward`, and no memory: a rollout begins at one observation.
        parts: of the behavior.
        explore: (state, generator) -> action: the behavior while it explores.
        fit: learns the model.
        steps: how many real steps there are.
        starts: n -> n real observations (n, ...) by modality.
        config: how they take turns.

    Raises:
        MissingHead: if the model cannot say what is seen or earned.
    """

    def __init__(
        self,
        model: WorldModel[Any],
        parts: tuple[Part, ...],
        explore: Callable[[Any, torch.Generator | None], Tensor],
        fit: Learner,
        *,
        steps: Callable[[], int],
        starts: Callable[[int], Observed],
        config: BranchingConfig,
    ) -> None:
        need(model.heads, "decode", "reward", what="Branching")
        self.config, self.dreamed = config, Ring(config.keep)
        self._model, self._explore, self._fit = model, explore, fit
        self._steps, self._starts, self._fitted = steps, starts, -config.retrain
        self._learner = GradientLearner(parts)

    def update(self, batch: Batch | None) -> Mapping[str, Tensor | float]:
        """Fit and branch if that is due, then learn from one batch.

        Args:
            batch: (B, 1) real steps; fewer than `config.batch`, the rest is dreamed. None: all is.
        """
        metrics: dict[str, Tensor | float] = {}
        steps = self._steps()
        if steps - self._fitted >= self.config.retrain:
            self._fitted = steps
            fitted = self._fit.update(None)
            metrics |= {f"model/{name}": value for name, value in fitted.items()}
            length = self.config.schedule(steps)
            self._branch(length)
            metrics |= {"model/rollout": length}
        real = 0 if batch is None else len(batch.mask)
        dreamed = self.dreamed.sample(self.config.batch - real)
        mixed = dreamed if batch is None else joined(batch, dreamed)
        return {**metrics, **self._learner.update(mixed)}

    def state_dict(self) -> dict[str, Any]:
        """Optimizers, what was dreamed, and when the model was fitted."""
        return {
            "fit": self._fit.state_dict(),
            "behavior": self._learner.state_dict(),
            "dreamed": self.dreamed.state_dict(),
            "fitted": self._fitted,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._fit.load_state_dict(state["fit"])
        self._learner.load_state_dict(state["behavior"])
        self.dreamed.load_state_dict(state["dreamed"])
        self._fitted = state["fitted"]

    def _branch(self, length: int) -> None:
        """Roll out from real states and remember every step up to the end of its episode."""
        obs = tree.to(self._starts(self.config.starts), self._model.device)
        self.dreamed.add(branched(self._model, self._explore, obs, length))


@torch.no_grad()
def branched(
    model: WorldModel[Any],
    explore: Callable[[Any, torch.Generator | None], Tensor],
    obs: Observed,
    length: int,
) -> Batch:
    """What a behavior lives through in a model, step by step.

    Args:
        model: with `decode` and `reward`; where it has `cont`, endings are drawn from it.
        explore: (state, generator) -> action.
        obs: (N, ...) by modality, where it begins.
        length: steps H of each rollout.

    Returns:
        (M, 1) steps of all rollouts, M <= N H: none after an ending.
    """
    heads, start = model.heads, model.observe(None, None, model.encode(obs))
    dream = imagine(model, start, lambda s: explore(s, None), length)
    before = tree.flatten(tree.map(lambda x: x[:, :-1], dream.states))
    after = tree.flatten(tree.map(lambda x: x[:, 1:], dream.states))
    action = dream.actions.flatten(0, 1)  # type: ignore[union-attr]
    reward = heads.reward(before, action, after)  # type: ignore[misc]
    over = torch.zeros_like(reward, dtype=torch.bool)
    if heads.cont is not None:
        over = torch.rand_like(reward) >= heads.cont(after)
    gone = over.view(-1, length).long().cumsum(1) - over.view(-1, length).long()
    lived = gone.flatten() == 0
    seen, came = heads.decode(before), heads.decode(after)  # type: ignore[misc]
    pairs = {name: torch.stack([seen[name], came[name]], 1)[lived] for name in seen}
    return _batch(pairs, action[lived], reward[lived], over[lived])


class Ring:
    """The newest dreamed steps.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int) -> None:
        self._size, self._kept = size, None  # (N, 1) Batch, the oldest first

    def __len__(self) -> int:
        """How many there are."""
        return 0 if self._kept is None else len(self._kept.mask)

    def add(self, batch: Batch) -> None:
        """Take in (N, 1) steps; the oldest make room."""
        both = batch if self._kept is None else joined(self._kept, batch)
        self._kept = _rows(both, slice(-self._size, None))

    def sample(self, n: int) -> Batch:
        """(n, 1) steps, with replacement."""
        if self._kept is None:
            raise BadConfig("Steps were asked of an empty ring. Add some first.")
        index = torch.randint(len(self), (n,), device=self._kept.mask.device)
        return _rows(self._kept, index)

    def state_dict(self) -> dict[str, Any]:
        """All that is kept."""
        return {} if self._kept is None else self._kept._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._kept = Batch(**state) if state else None


def joined(one: Batch, other: Batch) -> Batch:
    """Two batches (B, T) of one length as one."""
    return Batch(
        obs={name: torch.cat([one.obs[name], other.obs[name]]) for name in other.obs},
        action=torch.cat([one.action, other.action]),  # type: ignore[list-item]
        reward=torch.cat([one.reward, other.reward]),  # type: ignore[list-item]
        terminated=torch.cat([one.terminated, other.terminated]),
        truncated=torch.cat([one.truncated, other.truncated]),
        mask=torch.cat([one.mask, other.mask]),
        first=torch.cat([one.first, other.first]),
        extra={},
    )


def _rows(batch: Batch, index: Tensor | slice) -> Batch:
    """Some rows of a batch."""
    return tree.map(lambda x: x[index], batch)


def _batch(obs: Observed, action: Tensor, reward: Tensor, over: Tensor) -> Batch:
    """Single steps (N, 2, ...), (N, ...), (N,), (N,) as a batch (N, 1)."""
    no = torch.zeros_like(over[:, None])
    first = torch.zeros_like(over[:, None]).expand(-1, 2).clone()
    return Batch(obs, action[:, None], reward[:, None], over[:, None], no, ~no, first, {})
