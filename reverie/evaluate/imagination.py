"""Control over the imagination: do the model's futures follow the actions that it is given?

`measures` asks how much worse a forecast gets under another episode's actions; `counterfactual`
asks whether the difference that an action makes in the dream is the one that it makes in the
world. A model without actions has none of these. Imports core and what stands beside it.

Letters: E episodes, H steps ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.model import WorldModel, need
from reverie.core.types import Heads
from reverie.evaluate import pixels
from reverie.evaluate.bands import Column, measured, ratio
from reverie.evaluate.forecast import Held, along, beginning, recorded
from reverie.evaluate.fork import Forks
from reverie.evaluate.measure import Measure
from reverie.evaluate.rivals import Rival, both, twins
from reverie.imagine import rollout

FAINT = 1e-6  # squared difference, as a share of the largest one, below which it has no direction


@torch.no_grad()
def measures(
    model: WorldModel[Any],
    held: Held,
    *,
    oracle: WorldModel[Any] | None = None,
    forks: Forks | None = None,
    generator: torch.Generator | None = None,
) -> list[Measure]:
    """How far a model's futures depend on its actions, and rightly so.

    Args:
        model: any world model.
        held: segments that it did not learn from.
        oracle: the true model: the most that can be reached; None: nobody has it.
        forks: pairs of segments with the same past; None: consistency is not asked.
        generator: of the models' randomness.

    Returns:
        Any of controllability, delta_psnr and counterfactual.

    Raises:
        BadData: if there are fewer than 5 episodes, or a prediction is not finite.
    """
    if model.actions is None:
        return []
    asked = [("model", model)] + ([] if oracle is None else [("oracle", oracle)])
    pairs: dict[str, tuple[Rival, Rival]] = {}
    for who, one in asked:
        if set(one.observations) <= set(held.batch.obs) or who == "model":
            own, blind = both(one, held, generator=generator)
            if blind is not None:
                length = held.horizon
                pairs[who] = Rival(one.heads, own, length), Rival(one.heads, blind, length)
    found = [*_controllability(pairs), *_delta_psnr(pairs, held)]
    if forks is not None and model.heads.embed is not None:
        found += counterfactual(model, forks, generator=generator)
    return found


def _controllability(pairs: dict[str, tuple[Rival, Rival]]) -> list[Measure]:
    """1 - error under the real actions / error under others, in the embedding."""
    columns: dict[str, tuple[Column, ...]] = {}
    for who, (own, blind) in pairs.items():
        head = own.heads.embed
        if head is not None:
            seen = own.known(head)[:, 1:].double()
            lost = [(r.foreseen(head)[:, 1:] - seen).square().sum(-1).sum(1) for r in (own, blind)]
            if bool(lost[1].sum() > 0):
                columns[who] = tuple(lost)
    if "model" not in columns:
        return []
    return [
        measured(
            columns,
            lambda real, other: 1 - ratio(real, other),
            name="controllability",
            group="imagination",
            what="1 - squared error of the foreseen embedding under the real actions over that "
            "under another episode's: 0 if actions are ignored, 1 at best.",
            unit="share",
            better="higher",
        )
    ]


def _delta_psnr(pairs: dict[str, tuple[Rival, Rival]], held: Held) -> list[Measure]:
    """PSNR that the real actions are worth."""
    if "image" not in held.batch.obs:
        return []
    true = held.batch.obs["image"][:, held.context :]
    columns = {
        who: (_psnr(own, true) - _psnr(blind, true),)
        for who, (own, blind) in pairs.items()
        if own.heads.decode is not None and _draws(own)
    }
    if "model" not in columns:
        return []
    return [
        measured(
            columns,
            name="delta_psnr",
            group="imagination",
            what="PSNR of the forecast under the real actions less that under another episode's.",
            unit="dB",
            better="higher",
        )
    ]


def _draws(rival: Rival) -> bool:
    """Whether a model decodes images."""
    steps = tree.unstack(rival.forecast.imagined, rival.horizon + 1)
    return "image" in _decode(rival.heads)(tree.take(steps[0], slice(0, 1)))


def _psnr(rival: Rival, true: Tensor) -> Tensor:
    """(E, H) of the imagined frames, decoded step by step and not kept."""
    steps, decode = tree.unstack(rival.forecast.imagined, rival.horizon + 1), _decode(rival.heads)
    return torch.stack(
        [pixels.psnr(decode(s)["image"], true[:, t]) for t, s in enumerate(steps[1:])], 1
    )


def _decode(heads: Heads) -> Callable[..., dict[str, Tensor]]:
    """The decoder of a model that has one."""
    return getattr(heads, "decode")  # noqa: B009


# --- forks ----------------------------------------------------------------------------------------


@torch.no_grad()
def counterfactual(
    model: WorldModel[Any], forks: Forks, *, generator: torch.Generator | None = None
) -> list[Measure]:
    """Whether another action makes the same difference in the dream as in the world.

    Both dreams begin in the same state and draw the same noise.

    Args:
        model: any world model that acts and has `embed`.
        forks: pairs of segments with the same past.
        generator: of the model's randomness.

    Returns:
        "counterfactual", the cosine between foreseen and true difference by steps ahead; nothing
        if nothing acts, or if the actions make no difference to the true embedding.

    Raises:
        MissingHead: if the model has no embedding.
        BadData: if there are fewer than 5 pairs, or a prediction is not finite.
    """
    (embed,) = need(model.heads, "embed", what="counterfactual")
    if model.actions is None:
        return []
    noise, length = twins(model, generator), forks.one.horizon + 1
    start, one = beginning(model, forks.one, generator=next(noise))
    _, other = beginning(model, forks.other, generator=next(noise))
    dreams = [
        rollout(model, start, recorded(model, held), generator=next(noise)).states for held in forks
    ]

    def difference(a: Any, b: Any) -> Tensor:
        return (along(embed, a, length=length) - along(embed, b, length=length))[:, 1:].double()

    dreamed, true = difference(*dreams), difference(one, other)
    size = true.square().sum(-1)
    clear = (size > FAINT * size.max()).double()
    if not bool((clear.sum(0) > 0).all()):
        return []
    return [
        measured(
            {"model": (cosine(dreamed, true) * clear, clear)},
            ratio,
            name="counterfactual",
            group="imagination",
            what="Cosine between the difference that other actions make in the foreseen embedding "
            "and the one that they made in the world.",
            unit="cosine",
            better="higher",
        )
    ]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of the last axis; 0 where one of them is 0."""
    length = a.square().sum(-1).sqrt() * b.square().sum(-1).sqrt()
    return torch.where(length > 0, (a * b).sum(-1) / length.clamp(min=1e-300), 0.0)
