"""Training against the clock: every model gets the same data and the same seconds.

A `Contender` is a model with the phases in which it learns; `schools.py` has one for each school.
A phase gets its share of the budget, what it prepares included. Imports core, learner and data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from reverie.core.errors import BadConfig, NonFinite
from reverie.core.model import WorldModel
from reverie.data.sample import Sampler
from reverie.learner import Learner
from reverie.progress import Progress, Silent

CHECKED = 20  # updates between two looks at whether the loss is finite


class Phase(NamedTuple):
    """One stretch of learning."""

    name: str
    share: float  # of the budget; those of a contender sum to 1
    learner: Callable[[], Learner]
    sampler: Callable[[], Sampler]
    prepare: Callable[[Progress], None] | None = None


class Contender(NamedTuple):
    """A model and how it learns."""

    model: WorldModel[Any]
    phases: tuple[Phase, ...]
    finish: Callable[[], None] | None = None  # tidies what its phases left in the store


class Snapshot(NamedTuple):
    """A model's weights at one moment of its training."""

    seconds: float  # of the budget that were spent
    updates: int
    weights: dict[str, torch.Tensor]


def fit(
    contender: Contender,
    seconds: float,
    *,
    moments: Sequence[float] = (1.0,),
    progress: Progress | None = None,
) -> list[Snapshot]:
    """Train for so many seconds of wall clock.

    Args:
        contender: its model is trained in place, and left in evaluation mode.
        seconds: the whole budget, data loading and preparations included.
        moments: shares of the budget, rising, the last one 1.0, at which weights are kept.
        progress: shows a bar a phase.

    Returns:
        One snapshot a moment. A moment within a preparation is taken when that is over.

    Raises:
        BadConfig: if the budget or the shares make no sense.
        NonFinite: if a loss is NaN or infinite.
    """
    shares = [phase.share for phase in contender.phases]
    if seconds <= 0 or abs(sum(shares) - 1) > 1e-6 or min(shares) <= 0:
        raise BadConfig(
            f"A budget above 0 s and shares that sum to 1 are needed, but got {seconds} s and "
            f"{shares}. Mend the contender or the budget."
        )
    if list(moments) != sorted(moments) or not moments or moments[-1] != 1.0:
        raise BadConfig(f"moments must rise to 1.0, but they are {list(moments)}.")
    run = _Run(contender, seconds, [*moments], progress or Silent())
    try:
        for phase in contender.phases:
            run.phase(phase)
    finally:
        if contender.finish is not None:
            contender.finish()
    contender.model.eval()
    run.snapshot(1.0)
    return run.taken


class _Run:
    """The clock of one training; it stands still while nothing is trained."""

    def __init__(
        self, contender: Contender, seconds: float, moments: list[float], progress: Progress
    ) -> None:
        self.model, self.seconds, self.moments = contender.model, seconds, moments
        self.progress, self.taken = progress, []
        self.share, self.updates, self.began = 0.0, 0, time.perf_counter()

    def spent(self) -> float:
        """Share of the budget that is gone."""
        return (time.perf_counter() - self.began) / self.seconds

    def phase(self, phase: Phase) -> None:
        """Prepare, then update until the phase's share is over."""
        self.share += phase.share
        if phase.prepare is not None:
            phase.prepare(self.progress)
        learner, sampler = phase.learner(), phase.sampler()
        try:
            with self.progress.task(phase.name, 100, 0) as bar:
                self._learn(phase.name, learner, sampler, bar)
        finally:
            sampler.close()

    def _learn(self, name: str, learner: Learner, sampler: Sampler, bar: Any) -> None:
        """Update again and again."""
        first, told = self.spent(), 0
        while (now := self.spent()) < self.share:
            self.snapshot(now)
            metrics = learner.update(next(sampler))
            self.updates += 1
            if self.updates % CHECKED == 1:
                bad = [key for key, v in metrics.items() if not torch.isfinite(torch.as_tensor(v))]
                if bad:
                    raise NonFinite(
                        f"{bad[0]} of phase '{name}' is not finite after {self.updates} updates. "
                        "Lower its learning rate."
                    )
            percent = min(100, int(100 * (now - first) / max(self.share - first, 1e-9)))
            bar.advance(percent - told, updates=self.updates)
            told = percent

    def snapshot(self, now: float) -> None:
        """Keep the weights if a moment has come."""
        if self.moments and now >= self.moments[0]:
            self.moments.pop(0)
            weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
            self.taken.append(Snapshot(now * self.seconds, self.updates, weights))
            self.snapshot(now)
