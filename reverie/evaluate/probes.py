"""Probes: how well a vector tells another one, on episodes that the probe never saw.

Each episode is told by a probe that was fitted to the others (five folds), so every episode
counts and none is told by heart. Imports core only.

Letters: E episodes, T steps, D features, Y targets, F folds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FOLDS = 5
PENALTIES = tuple(10.0**k for k in range(-8, 4))  # of ridge, times the number of steps
STEPS = 4_000  # that a ridge is fitted to, about; more tell it little
HIDDEN, UPDATES, BATCH, RATE, LOOK = 64, 400, 256, 3e-3, 20  # of the MLP
PIXELS = 64  # principal components of a frame


class Task(NamedTuple):
    """What is to be told from what."""

    features: Tensor  # (E, T, D)
    targets: Tensor  # (E, T, Y)


Probe = Callable[[Task, Tensor, torch.Generator], Tensor]  # (task, others (E, T', D), generator)


def folds(episodes: int, generator: torch.Generator) -> Tensor:
    """(E,) the fold that each episode is told in, as even as can be."""
    order = torch.randperm(episodes, generator=generator)
    found = torch.empty(episodes, dtype=torch.int64)
    found[order] = torch.arange(episodes) % FOLDS
    return found


def ridge(task: Task, others: Tensor, generator: torch.Generator) -> Tensor:
    """Linear probe; its penalty is chosen on a quarter of the episodes that it is fitted to.

    Args:
        task: features and targets of all episodes.
        others: (E, T', D) features that targets are to be told from, such as foreseen ones.
        generator: of the folds, on the CPU.

    Returns:
        (E, T', Y), each episode told by a probe that never saw it.
    """
    fold = folds(len(task.features), generator)
    told = task.targets.new_empty(*others.shape[:2], task.targets.shape[-1])
    for f in range(FOLDS):
        fit, test = (fold != f).nonzero()[:, 0], (fold == f).nonzero()[:, 0]
        if len(test):
            told[test] = _ridge(_rows(task, fit), others[test])
    return told


def _rows(task: Task, rows: Tensor) -> Task:
    """Some episodes of a task."""
    return Task(task.features[rows], task.targets[rows])


def _ridge(task: Task, others: Tensor) -> Tensor:
    """What ridge tells, its penalty chosen on every fourth episode."""
    chosen = torch.arange(len(task.features)) % 4 == 3
    tried = _Solved(_rows(task, (~chosen).nonzero()[:, 0]))
    check = _rows(task, chosen.nonzero()[:, 0])
    spread = task.targets.flatten(0, 1).var(0, unbiased=False).clamp(min=1e-12)
    lost = [
        ((tried.tell(check.features, p) - check.targets).square() / spread).mean()
        for p in PENALTIES
    ]
    best = PENALTIES[int(torch.stack(lost).argmin())]
    return _Solved(task).tell(others, best)


class _Solved:
    """Ridge for every penalty, from one eigendecomposition."""

    def __init__(self, task: Task) -> None:
        x, y = (_thinned(z.flatten(0, 1), STEPS).double() for z in task)
        self.mean, self.centre = x.mean(0), y.mean(0)
        self.scale = _scale(x)
        x = (x - self.mean) / self.scale
        self.values, self.vectors = torch.linalg.eigh(x.T @ x / len(x))
        self.along = self.vectors.T @ (x.T @ (y - self.centre)) / len(x)

    def tell(self, features: Tensor, penalty: float) -> Tensor:
        """(..., Y) of features (..., D)."""
        weights = self.vectors @ (self.along / (self.values.clamp(min=0) + penalty)[:, None])
        told = ((features.double() - self.mean) / self.scale) @ weights + self.centre
        return told.float()


def mlp(task: Task, others: Tensor, generator: torch.Generator) -> Tensor:
    """Probe with one hidden layer of 64, stopped early; those of all folds learn side by side.

    Args:
        task: features and targets of all episodes.
        others: (E, T', D) features that targets are to be told from.
        generator: of the folds, weights and batches, on the CPU.

    Returns:
        (E, T', Y), each episode told by a probe that never saw it.
    """
    device = task.features.device
    fold = folds(len(task.features), generator)
    x, mean, scale = _standard(task.features.float())
    centre, spread = _moments(task.targets.float())
    y = (task.targets - centre) / spread
    net = _Nets(x.shape[-1], y.shape[-1], generator).to(device)
    rows = [(fold != f).nonzero()[:, 0] for f in range(FOLDS)]
    chosen = [r[torch.arange(len(r)) % 4 == 3] for r in rows]
    fitted = [r[torch.arange(len(r)) % 4 != 3] for r in rows]

    def draw(episodes: list[Tensor], count: int) -> Task:
        row = torch.stack(
            [r[torch.randint(len(r), (count,), generator=generator)] for r in episodes]
        ).to(device)
        step = torch.randint(x.shape[1], (FOLDS, count), generator=generator).to(device)
        return Task(x[row, step], y[row, step])

    _fit(net, lambda: draw(fitted, BATCH), draw(chosen, 4 * BATCH))
    return _told(net, (others.float() - mean) / scale, fold.to(device)) * spread + centre


def _standard(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(E, T, D) in units of its spread, with its mean (D,) and spread ()."""
    flat = x.flatten(0, 1)
    mean, scale = flat.mean(0), _scale(flat)
    return (x - mean) / scale, mean, scale


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (Y,) of (E, T, Y)."""
    flat = x.flatten(0, 1)
    return flat.mean(0), flat.std(0, unbiased=False).clamp(min=1e-12)


def _scale(x: Tensor) -> Tensor:
    """One unit for all dimensions of (N, D): one each would make noise of pixels' last ones."""
    return x.var(0, unbiased=False).mean().sqrt().clamp(min=1e-12)


@torch.enable_grad()
def _fit(net: _Nets, draw: Callable[[], Task], check: Task) -> None:
    """Learn, and keep of each fold the weights that were best on the check."""
    optim = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-2)
    best = _loss(net, check).detach()
    kept = [w.detach().clone() for w in net.parameters()]
    for update in range(1, UPDATES + 1):
        optim.zero_grad()
        _loss(net, draw()).sum().backward()
        optim.step()
        if update % LOOK == 0:
            lost = _loss(net, check).detach()
            better = (lost < best)[:, None, None]
            best = torch.minimum(best, lost)
            for keep, w in zip(kept, net.parameters(), strict=True):
                keep.copy_(torch.where(better, w.detach(), keep))
    with torch.no_grad():
        for keep, w in zip(kept, net.parameters(), strict=True):
            w.copy_(keep)


def _loss(net: _Nets, task: Task) -> Tensor:
    """(F,) mean squared errors."""
    return (net(task.features) - task.targets).square().mean((1, 2))


class _Nets(torch.nn.Module):
    """F probes with one hidden layer, as one."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()

        def weights(a: int, b: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.randn(FOLDS, a, b, generator=generator) / a**0.5)

        self.first = weights(inputs, HIDDEN)
        self.second = torch.nn.Parameter(torch.zeros(FOLDS, HIDDEN, outputs))  # begins at the mean
        self.bias = torch.nn.Parameter(torch.zeros(FOLDS, 1, HIDDEN))
        self.shift = torch.nn.Parameter(torch.zeros(FOLDS, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(F, N, Y) of (F, N, D)."""
        return F.silu(x @ self.first + self.bias) @ self.second + self.shift


@torch.no_grad()
def _told(net: _Nets, x: Tensor, fold: Tensor) -> Tensor:
    """(E, T', Y) of features (E, T', D), each episode by the probe of its own fold."""
    first, second = net.first[fold], net.second[fold]
    return F.silu(x @ first + net.bias[fold]) @ second + net.shift[fold]


def components(image: Tensor) -> Tensor:
    """Raw pixels, as far as 64 principal components hold them: the control of every probe.

    The components are fitted to at most 1,000 of the frames; they know no targets.

    Args:
        image: (E, T, C, h, w) uint8.

    Returns:
        (E, T, at most 64) float32.
    """
    flat = image.flatten(2)
    some = _thinned(flat.flatten(0, 1), 1_000).float() / 255
    mean = some.mean(0)
    values, vectors = torch.linalg.eigh((some - mean) @ (some - mean).T)
    kept = (values > 1e-6 * values[-1].clamp(min=1e-6)).nonzero()[-PIXELS:, 0]
    basis = (some - mean).T @ (vectors[:, kept] / values[kept].sqrt())
    return torch.stack([(x.float() / 255 - mean) @ basis for x in flat.unbind(1)], 1)


def _thinned(x: Tensor, most: int) -> Tensor:
    """Every so manieth row, so that hardly more than so many are left."""
    return x[:: max(1, len(x) // most)]
