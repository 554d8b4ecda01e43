"""How an ensemble learns from all that was seen: epochs, bootstraps, early stopping, elites.

`Fit` is a `Learner`: one update trains on everything until held-out steps are foretold no better.
Each member has a bootstrap of its own, is stopped at its own best epoch, and those that err least
become the elites. Which steps are held out follows from their number and the seed alone, so what
was held out once is never trained on. Imports core and the ensemble.

Source: Janner et al. 2019, appendix C; early stopping as in Chua et al.'s and Janner et al.'s
published code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reverie.core.errors import BadConfig, BadData
from reverie.models.ensemble import LOWER, Ensemble, Transitions
from reverie.nn.flat import side_by_side
from reverie.nn.soft_nll import soft_nll

_BLOCK = 8192  # held-out rows that are looked at together
_TOGETHER = 64  # batches that are gathered together


@dataclass(frozen=True)
class FitConfig:
    """When an update of `Fit` ends, and on what it trains."""

    epochs: int = 25  # at most
    batch: int = 32  # steps of each member
    held: float = 0.2  # share of the steps that is held out ...
    held_most: int = 5000  # ... but no more than so many
    patience: int = 5  # epochs without gain after which it ends
    gain: float = 0.01  # of the error of a member, relative, that counts

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense (BadConfig)."""
        if min(self.epochs, self.batch, self.patience) < 1 or not 0 < self.held < 1:
            raise BadConfig(
                f"Fit needs epochs, batch and patience of 1 or more and 0 < held < 1, but has "
                f"{self.epochs}, {self.batch}, {self.patience} and {self.held}."
            )


class Rows(NamedTuple):
    """Steps as the networks see them: normalised."""

    rows: Tensor  # (N, D + A)
    target: Tensor  # (N, O)
    after: Tensor  # (N, D)
    terminated: Tensor  # (N,)

    def take(self, index: Tensor | slice) -> Rows:
        """Some rows of all."""
        return Rows(*(x[index] for x in self))

    def split(self, count: int) -> Iterator[Rows]:
        """Where each member has rows of its own (E, N, ...): so many of each at a time."""
        own = (x.split(count, 1) for x in self[:2])
        shared = (x.split(count) for x in self[2:])
        yield from map(Rows._make, zip(*own, *shared, strict=True))


class Fit:
    """Trains an ensemble on all steps, again and again as there are more.

    Args:
        model: the ensemble.
        data: gives all steps, the old ones first.
        config: when to stop.
        seed: of what is held out; the rest is drawn from torch's default generator.
    """

    def __init__(
        self,
        model: Ensemble,
        data: Callable[[], Transitions],
        config: FitConfig | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.model, self.config = model, config or FitConfig()
        self._data, self._seed = data, seed
        on = model.config
        self._flat = side_by_side(tuple(model.parameters()))
        self._optimizer = torch.optim.Adam(
            [self._flat], lr=on.lr, weight_decay=on.weight_decay, fused=True
        )

    def update(self, batch: Any = None) -> dict[str, float]:
        """Train until held-out steps are foretold no better.

        Args:
            batch: not looked at; the data comes from the function that was given.

        Returns:
            Epochs, steps, errors in normalised units: of the elites on held-out steps, and nll.

        Raises:
            BadData: if there is too little, something is not finite, or nothing varies.
        """
        del batch
        steps = self._data()
        check_steps(steps)
        known, held = self._parted(steps)
        self.model.train()
        best = self._held_errors(held)
        kept, still, nll, epoch = self._weights(), 0, 0.0, 0
        own = torch.randint(len(known.rows), (len(best), len(known.rows)), device=best.device)
        while still < self.config.patience and epoch < self.config.epochs:
            nll, epoch = self.epoch(known, own), epoch + 1
            now = self._held_errors(held)
            gained = now < best * (1 - self.config.gain)
            best = torch.where(gained, now, best)
            pairs = zip(self._weights(), kept, strict=True)
            kept = [_chosen(gained, new, old) for new, old in pairs]
            still = 0 if bool(gained.any()) else still + 1
        self._restore(kept)
        self.model.eval()
        error = self._crown(best)
        return {"epochs": epoch, "steps": len(steps.before), "nll": nll, "held_mse": error}

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state."""
        return {"optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._optimizer.load_state_dict(state["optimizer"])

    # --- data -----------------------------------------------------------------------------------

    def _parted(self, steps: Transitions) -> tuple[Rows, Rows]:
        """What is trained on and what is held out; the scales are those of the former."""
        n, config, model = len(steps.before), self.config, self.model
        drawn = np.random.default_rng(self._seed).random(n)  # those of fewer steps begin alike
        out = np.flatnonzero(drawn < config.held)[: config.held_most]
        held = torch.zeros(n, dtype=torch.bool)
        held[torch.from_numpy(out)] = True
        held = held.to(steps.before.device)
        rows, target = model.raw(steps)
        weight = (~held).float()
        for scale, values in ((model.inputs, rows), (model.targets, target)):
            scale.forget()
            scale.add(values, weight)
        rows, target = model.inputs.scaled(rows), model.targets.scaled(target)
        data = Rows(rows, target, steps.after, steps.terminated)
        return data.take(~held), data.take(held)

    def epoch(self, data: Rows, own: Tensor) -> float:
        """Train each member once on its own bootstrap, in an order drawn anew.

        Args:
            data: N steps.
            own: (E, N) int64 the rows that each member has.

        Returns:
            The mean negative log-likelihood without its constant, nats a number.
        """
        order = own.gather(1, torch.rand(own.shape, device=own.device).argsort(1))
        total, batches = torch.zeros((), device=own.device), 0
        for some in order.split(_TOGETHER * self.config.batch, 1):
            steps = Rows(
                *(data.rows[some], data.target[some]),
                *(data.after[some[0]], data.terminated[some[0]]),
            )
            for part in steps.split(self.config.batch):
                total += self._step(part)
                batches += 1
        return float(total / (2 * batches))

    def _step(self, steps: Rows) -> Tensor:
        """One step of Adam on rows (E, B, ...); () their loss."""
        model = self.model
        self._flat.grad.zero_()  # type: ignore[union-attr]
        loss = model.ending_loss(steps.after, steps.terminated)
        if steps.rows.device.type == "cpu":
            nll = self._by_hand(steps)
        else:
            nll = model.errors(steps.rows, steps.target)[0].mean(1)
            loss = loss + nll.sum() + model.bounds()
        if loss.requires_grad:
            loss.backward()
        self._optimizer.step()
        return nll.detach().mean()

    @torch.no_grad()
    def _by_hand(self, steps: Rows) -> Tensor:
        """(E,) losses; writes their gradients and those of `Ensemble.bounds`, without autograd."""
        model = self.model
        raw, trace = model.net.traced(steps.rows)
        nll, pull, lower, upper = soft_nll(raw, steps.target, model.lower, model.upper, LOWER)
        model.net.pull(trace, pull)
        model.lower.grad.copy_(lower - model.config.penalty)  # type: ignore[union-attr]
        model.upper.grad.copy_(upper + model.config.penalty)  # type: ignore[union-attr]
        return nll

    @torch.no_grad()
    def _held_errors(self, held: Rows) -> Tensor:
        """(E,) mean squared error of each member on what is held out."""
        parts = zip(held.rows.split(_BLOCK), held.target.split(_BLOCK), strict=True)
        sums = [self.model.errors(rows, target)[1].sum(1) for rows, target in parts]
        return torch.stack(sums).sum(0) / len(held.rows)

    # --- members --------------------------------------------------------------------------------

    def _weights(self) -> list[Tensor]:
        """Copies of what each member has of its own, leading axis E."""
        return [p.detach().clone() for p in self.model.net.parameters()]

    @torch.no_grad()
    def _restore(self, weights: list[Tensor]) -> None:
        """Give each member these."""
        for p, kept in zip(self.model.net.parameters(), weights, strict=True):
            p.copy_(kept)

    @torch.no_grad()
    def _crown(self, errors: Tensor) -> float:
        """Let those that err least foretell; their mean error."""
        rank = errors.argsort()
        elites = self.model.config.elites
        self.model.elites.copy_(rank)
        self.model.trusted.fill_(elites)
        return float(errors[rank[:elites]].mean())


def _chosen(gained: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Member by member the new weights where they gained."""
    return torch.where(gained.view(-1, *(1,) * (new.dim() - 1)), new, old)


def check_steps(steps: Transitions) -> None:
    """Refuse steps that teach an ensemble nothing.

    Raises:
        BadData: naming what is wrong.
    """
    for name, values in steps._asdict().items():
        bad = ~torch.isfinite(values.float()).reshape(len(values), -1).all(1)
        if bad.any():
            row = int(bad.nonzero()[0])
            raise BadData(
                f"An ensemble learns from finite numbers, but '{name}' of step {row} of "
                f"{len(values)} is not. Leave the episode out, or mend the recording."
            )
    if len(steps.before) < 10:
        raise BadData(
            f"An ensemble is fitted to 10 steps or more, some of them held out, but there are "
            f"{len(steps.before)}. Collect more first."
        )
    seen = torch.cat([steps.before, steps.after])
    if bool((seen == seen[:1]).all()):
        raise BadData(
            f"Nothing varies in the {len(steps.before)} steps that an ensemble was given: every "
            "observation is the same. Look at how they were recorded."
        )
