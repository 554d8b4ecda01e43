"""What a model's states know: the true state from them, now and foreseen; and signs of collapse.

A probe alone proves little: pixels and random weights can be read as well, so both stand beside
it, and so does a probe of shuffled labels, which must tell nothing. Imports core and what stands
beside it.

Letters: E episodes, H steps ahead, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core.model import WorldModel
from reverie.evaluate import probes
from reverie.evaluate.bands import Array, Column, explained, measured, ratio, told
from reverie.evaluate.forecast import Held
from reverie.evaluate.measure import Measure
from reverie.evaluate.prediction import changing
from reverie.evaluate.rivals import Rival, rivals

DEAD = 0.05  # standard deviation below which a dimension says nothing
BLOCKS = 20  # of episodes, drawn again for the interval of the effective rank
SHAPES: dict[str, tuple[str, probes.Probe]] = {
    "linear": ("A linear probe", probes.ridge),
    "mlp": ("A small MLP", probes.mlp),
}


@torch.no_grad()
def measures(
    model: WorldModel[Any],
    held: Held,
    *,
    truth: str | None = None,
    untrained: WorldModel[Any] | None = None,
    generator: torch.Generator | None = None,
) -> list[Measure]:
    """What can be read from a model's states.

    Args:
        model: any world model with `features` or `embed`; others get no measure.
        held: segments that it did not learn from.
        truth: modality of the true state; None: no probes.
        untrained: the same school with random weights; None: it does not stand beside.
        generator: of the models' and probes' randomness.

    Returns:
        probe_linear, probe_mlp, and the same of foreseen states, probe_linear_ahead and
        probe_mlp_ahead; dead_dimensions, effective_rank and straightness.

    Raises:
        BadData: if there are fewer than 5 episodes, or a state is not finite.
    """
    if _reader(model) is None:
        return []
    seed = torch.randint(2**62, (), generator=generator, device=_place(generator))
    random = torch.Generator().manual_seed(int(seed))
    own = rivals(model, held, generator=generator)["model"]
    raw = None if untrained is None else rivals(untrained, held, generator=generator)["model"]
    found = _probes(own, raw, held, truth, random) if truth is not None else []
    return [*found, *_collapse(own, raw), *_straightness(own, raw)]


def _place(generator: torch.Generator | None) -> torch.device | None:
    """Where a generator draws."""
    return None if generator is None else generator.device


def _reader(model: WorldModel[Any]) -> Callable[..., Tensor] | None:
    """What a probe reads."""
    return model.heads.features or model.heads.embed


# --- probes ---------------------------------------------------------------------------------------


def _probes(
    own: Rival, raw: Rival | None, held: Held, truth: str, random: torch.Generator
) -> list[Measure]:
    """Both probes of states that saw everything, and of foreseen ones."""
    if truth not in held.batch.obs:
        return []
    true = held.batch.obs[truth][:, held.context - 1 :].flatten(2).float()
    true = true[..., changing(true)]
    if not true.shape[-1]:
        return []
    found = []
    for name, (words, probe) in SHAPES.items():
        found += _probe(name, words, probe, (own, raw, held), (true, random))
    return found


def _probe(
    name: str,
    words: str,
    probe: probes.Probe,
    whose: tuple[Rival, Rival | None, Held],
    truth: tuple[Tensor, torch.Generator],
) -> list[Measure]:
    """One probe, now and ahead, beside its controls."""
    (own, raw, held), (true, random) = whose, truth
    now: dict[str, tuple[Column, ...]] = {}
    ahead: dict[str, tuple[Column, ...]] = {}
    for who, rival in {"model": own, "untrained": raw}.items():
        head = None if rival is None else rival.heads.features or rival.heads.embed
        if rival is not None and head is not None:
            task, length = probes.Task(rival.known(head), true), rival.horizon + 1
            both = torch.cat([task.features, rival.foreseen(head)], 1)
            guess = probe(task, both, random)
            now[who] = told(guess[:, :length], true)
            ahead[who] = told(guess[:, length + 1 :], true[:, 1:])
    shuffled = _shuffled(true, random)
    features = own.known(_features(own))
    now["shuffled labels"] = told(
        probe(probes.Task(features, shuffled), features, random), shuffled
    )
    if "image" in held.batch.obs:
        frames = probes.components(held.batch.obs["image"][:, held.context - 1 :])
        now["pixels"] = told(probe(probes.Task(frames, true), frames, random), true)
    last = told(true[:, :1], true[:, 1:])  # who knows the present for sure and foresees nothing
    return [
        _r2(
            now,
            f"probe_{name}",
            f"{words} tells the true state from the model's state.",
            steps=False,
        ),
        _r2(
            {**ahead, "copy": last},
            f"probe_{name}_ahead",
            f"{words} that was fitted to seen states tells the true state from foreseen ones.",
            steps=True,
        ),
    ]


def _features(rival: Rival) -> Callable[..., Tensor]:
    """What a probe reads; `measures` made sure of it."""
    return rival.heads.features or getattr(rival.heads, "embed")  # noqa: B009


def _shuffled(true: Tensor, random: torch.Generator) -> Tensor:
    """The truth of other episodes, in another order of time."""
    episodes, steps = true.shape[:2]
    rows = torch.stack([torch.randperm(steps, generator=random) for _ in range(episodes)])
    mixed = true.roll(1, 0)[torch.randperm(episodes, generator=random)]
    return mixed.gather(1, rows.to(true.device)[..., None].expand_as(true))


def _r2(columns: dict[str, tuple[Column, ...]], name: str, what: str, *, steps: bool) -> Measure:
    """R2 against the horizon, or of all steps together."""

    def statistic(error: Array, first: Array, second: Array) -> Array:
        found = explained(error, first, second)
        return found if steps else found.mean(1)

    return measured(
        columns,
        statistic,
        name=name,
        group="understanding",
        what=what,
        unit="R2",
        better="higher",
    )


# --- collapse -------------------------------------------------------------------------------------


def _collapse(own: Rival, raw: Rival | None) -> list[Measure]:
    """Alarms: dimensions that hardly move, and how many directions there are. Ask both."""
    seen = {who: _embedded(r) for who, r in {"model": own, "untrained": raw}.items() if r}
    moments = {who: (x.mean(1), x.square().mean(1)) for who, x in seen.items()}
    dead = measured(
        moments,
        lambda first, second: (second - first**2 < DEAD**2).mean(1),
        name="dead_dimensions",
        group="understanding",
        what=f"Share of the embedding's dimensions with a standard deviation below {DEAD}: an "
        "alarm together with a low effective_rank.",
        unit="share",
        better="lower",
    )
    rank = measured(
        {who: _blocks(x) for who, x in seen.items()},
        lambda first, second: effective_rank(second - first[:, :, None] * first[:, None]),
        name="effective_rank",
        group="understanding",
        what="How many directions the embedding uses: exp of the entropy of its singular values.",
        unit="dimensions",
        better="higher",
    )
    return [dead, rank]


def _embedded(rival: Rival) -> Tensor:
    """(E, H+1, D) the embedding, or the features, of states that saw everything."""
    return rival.known(rival.heads.embed or _features(rival)).double()


def _blocks(x: Tensor) -> tuple[Array, Array]:
    """Moments of at most 20 blocks of episodes: first (blocks, D), second (blocks, D, D)."""
    count = min(BLOCKS, len(x))
    first, second = [], []
    for block in x.tensor_split(count):
        flat = block.flatten(0, 1)
        first.append(flat.mean(0))
        second.append(flat.T @ flat / len(flat))
    return torch.stack(first).cpu().numpy(), torch.stack(second).cpu().numpy()


def effective_rank(covariance: Array) -> Array:
    """exp of the entropy of the singular values, that is of the root of the eigenvalues.

    Args:
        covariance: (R, D, D) of the embedding.

    Returns:
        (R,) in 1..D; 0 where nothing varies.

    Source:
        Roy & Vetterli 2007, eq. 4.
    """
    values = np.sqrt(np.clip(np.linalg.eigvalsh(covariance), 0, None))
    total = values.sum(1, keepdims=True)
    share = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(1)
    return np.where(total[:, 0] > 0, np.exp(entropy), 0.0)


# --- straightness ---------------------------------------------------------------------------------


def _straightness(own: Rival, raw: Rival | None) -> list[Measure]:
    """The mean cosine between one step of the embedding and the next."""
    columns = {}
    for who, rival in {"model": own, "untrained": raw}.items():
        if rival is not None:
            cosines, counts = straightness(_embedded(rival))
            if bool(counts.sum() > 0):
                columns[who] = (cosines, counts)
    if "model" not in columns:
        return []
    return [
        measured(
            columns,
            ratio,
            name="straightness",
            group="understanding",
            what="Mean cosine between a step of the embedding and the next one, where both move.",
            unit="cosine",
            better="higher",
        )
    ]


def straightness(path: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines between neighbouring steps.

    Args:
        path: (E, T, D), T >= 3 for there to be any.

    Returns:
        (E,) their sum, and (E,) how many pairs of steps both moved.
    """
    step = path[:, 1:] - path[:, :-1]
    length = step.square().sum(-1).sqrt()
    clear = (length[:, 1:] > 0) & (length[:, :-1] > 0)
    product = (step[:, 1:] * step[:, :-1]).sum(-1)
    cosine = product / (length[:, 1:] * length[:, :-1]).clamp(min=1e-300)
    return (cosine * clear).sum(1), clear.double().sum(1)
