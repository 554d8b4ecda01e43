"""Error against horizon: in pixels, in the embedding, of true states, rewards and endings.

Each number stands beside those of copying what was last seen ("copy"), of the best constant
("mean"), of the same model under another episode's actions ("action-blind") and of the true model
("oracle"). A model gets the measures that its heads and the data allow, and no others. The
segments may be of visited states, of counterfactual actions or of a shifted world: they are
passed in. Imports core and what stands beside it.

Letters: E episodes, H steps ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.model import WorldModel
from reverie.core.types import Heads
from reverie.evaluate import pixels
from reverie.evaluate.bands import Array, auc, beats, explained, measured, ratio, told
from reverie.evaluate.forecast import Held, along
from reverie.evaluate.measure import Measure
from reverie.evaluate.rivals import Rival, rivals

USELESS = 0.5  # copy-normalised error at which a forecast is no longer of use
Rivals = Mapping[str, Rival]


@torch.no_grad()
def measures(
    model: WorldModel[Any],
    held: Held,
    *,
    truth: str | None = None,
    oracle: WorldModel[Any] | None = None,
    generator: torch.Generator | None = None,
) -> list[Measure]:
    """All that can be said about a model's forecasts of these segments.

    Args:
        model: any world model.
        held: segments that it did not learn from.
        truth: modality of the true state, scored where the model decodes it; None: "vector".
        oracle: the true model; None: nobody has it.
        generator: of the models' randomness.

    Returns:
        Any of psnr, ssim, lpips, state_r2, embedding_error, useful_horizon, reward_r2 and
        termination_auc.

    Raises:
        BadData: if there are fewer than 5 episodes, or a prediction is not finite.
        SpaceMismatch: if the model reads what the segments do not have.
    """
    beside = rivals(model, held, oracle=oracle, generator=generator)
    return [
        *_pixels(beside, held),
        *_states(beside, held, truth or "vector"),
        *_embedding(beside),
        *_rewards(beside, held),
        *_endings(beside, held),
    ]


# --- pixels ---------------------------------------------------------------------------------------


class _Frames(NamedTuple):
    """One way to compare frames."""

    name: str
    what: str
    unit: str
    better: Any
    distance: Callable[[Tensor, Tensor], Tensor]


def _pixels(beside: Rivals, held: Held) -> list[Measure]:
    """PSNR, SSIM and LPIPS of decoded images, those that can be computed."""
    drawing = _able(beside, "decode", lambda head, rival: "image" in _first(head, rival))
    if "image" not in held.batch.obs or "model" not in drawing:
        return []
    image = held.batch.obs["image"][:, held.context - 1 :]
    ways = _ways(image)
    values = {way.name: _compare(way, drawing, image) for way in ways}
    return [
        measured(
            {who: (x,) for who, x in values[way.name].items()},
            name=way.name,
            group="prediction",
            what=way.what,
            unit=way.unit,
            better=way.better,
        )
        for way in ways
    ]


def _ways(image: Tensor) -> list[_Frames]:
    """How frames of this size can be compared."""
    least = min(image.shape[-2:])
    ways = [_Frames("psnr", "Mean PSNR of each decoded frame.", "dB", "higher", pixels.psnr)]
    if least >= pixels.WINDOW:
        ways.append(
            _Frames("ssim", "Structural similarity of frames.", "similarity", "higher", pixels.ssim)
        )
    distance = pixels.lpips(image.device) if least >= pixels.LPIPS_LEAST else None
    if distance is not None and image.shape[2] == 3:
        ways.append(_Frames("lpips", "Learned distance of frames.", "distance", "lower", distance))
    return ways


def _compare(way: _Frames, drawing: Rivals, image: Tensor) -> dict[str, Tensor]:
    """(E, H) of everyone; frames are decoded step by step and not kept."""
    last, mean = image[:, 0].float(), image[:, 1:].float().mean((0, 1)).expand_as(image[:, 0])
    scores: dict[str, list[Tensor]] = {who: [] for who in (*drawing, "copy", "mean")}
    steps = {
        who: tree.unstack(rival.forecast.imagined, rival.horizon + 1)
        for who, rival in drawing.items()
    }
    for t in range(1, image.shape[1]):
        guesses = {"copy": last, "mean": mean}
        for who, rival in drawing.items():
            guesses[who] = _decode(rival.heads)(steps[who][t])["image"]
        for who, guess in guesses.items():
            scores[who].append(way.distance(guess, image[:, t]))
    return {who: torch.stack(x, 1) for who, x in scores.items()}


# --- true states ----------------------------------------------------------------------------------


def _states(beside: Rivals, held: Held, truth: str) -> list[Measure]:
    """R2 of the decoded state, each dimension in units of its own spread."""
    seeing = _able(beside, "decode", lambda head, rival: truth in _first(head, rival))
    if truth not in held.batch.obs or "model" not in seeing:
        return []
    true = held.batch.obs[truth][:, held.context - 1 :].flatten(2).double()
    moves = changing(true)
    if not bool(moves.any()):
        return []
    true = true[..., moves]
    guesses = {who: _decoded(rival, truth)[:, 1:, moves] for who, rival in seeing.items()}
    guesses |= {"copy": true[:, :1], "mean": true[:, 1:].mean((0, 1))}
    return [
        measured(
            {who: told(guess, true[:, 1:]) for who, guess in guesses.items()},
            explained,
            name="state_r2",
            group="prediction",
            what=f"Share of the variance of '{truth}' that the decoded forecast explains, a mean "
            "over those of its dimensions that change.",
            unit="R2",
            better="higher",
        )
    ]


def changing(true: Tensor) -> Tensor:
    """Dimensions of (E, T, D) that change within an episode; a goal or a fixed door does not.

    Returns:
        (D,) bool.
    """
    return (true != true[:, :1]).any(1).any(0)


# --- embedding ------------------------------------------------------------------------------------


def _embedding(beside: Rivals) -> list[Measure]:
    """Copy-normalised error, and how many steps ahead it is of use."""
    columns: dict[str, tuple[Tensor, Tensor]] = {}
    for who, rival in _able(beside, "embed").items():
        head = _head(rival.heads, "embed")
        foreseen, seen = rival.foreseen(head), rival.known(head)
        moved = _distance(seen[:, :1], seen[:, 1:])
        columns[who] = _distance(foreseen[:, 1:], seen[:, 1:]), moved
        if who == "model":
            columns["copy"] = moved, moved
            columns["mean"] = _distance(seen[:, 1:].mean((0, 1)), seen[:, 1:]), moved
    if "model" not in columns or not bool((columns["model"][1].mean(0) > 0).all()):
        return []
    columns = {who: x for who, x in columns.items() if bool((x[1].mean(0) > 0).all())}
    error = measured(
        columns,
        ratio,
        name="embedding_error",
        group="prediction",
        what="Squared error of the foreseen embedding over that of copying the last known one.",
        unit="of copying",
        better="lower",
    )
    useful = measured(
        columns,
        useful_horizon,
        name="useful_horizon",
        group="prediction",
        what=f"First step ahead at which embedding_error exceeds {USELESS}; one more than the "
        "steps tested where it never does.",
        unit="steps",
        better="higher",
    )
    return [error, useful]


def useful_horizon(error: Array, moved: Array) -> Array:
    """First step ahead with a copy-normalised error above 0.5; H+1 if there is none.

    Args:
        error: (R, H) mean squared errors.
        moved: (R, H) those of copying.

    Returns:
        (R,).
    """
    over = error > USELESS * moved
    return np.where(over.any(1), over.argmax(1) + 1, over.shape[1] + 1).astype(np.float64)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """(E, H) squared."""
    return (a.double() - b.double()).square().sum(-1)


# --- rewards and endings --------------------------------------------------------------------------


def _rewards(beside: Rivals, held: Held) -> list[Measure]:
    """R2 of the expected reward of each step."""
    paid = _able(beside, "reward")
    if held.batch.reward is None or "model" not in paid:
        return []
    true = held.batch.reward[:, held.context - 1 :].double()
    if bool((true == true[0, 0]).all()):
        return []
    guesses = {who: _expected(rival, held) for who, rival in paid.items()}
    if held.context > 1:
        guesses["copy"] = held.batch.reward[:, held.context - 2, None]
    guesses["mean"] = true.mean().expand_as(true)
    return [
        measured(
            {who: told(guess[..., None], true[..., None]) for who, guess in guesses.items()},
            explained,
            name="reward_r2",
            group="prediction",
            what="Share of the variance of rewards that the forecast explains.",
            unit="R2",
            better="higher",
        )
    ]


def _expected(rival: Rival, held: Held) -> Tensor:
    """(E, H) what the reward head says of the imagined transitions."""
    head, states = _head(rival.heads, "reward"), rival.forecast.imagined
    steps = tree.unstack(states, rival.horizon + 1)
    before, after = tree.stack(steps[:-1]), tree.stack(steps[1:])
    actions = rival.forecast.actions
    if actions is None:
        return along(lambda s, n: head(s, None, n), before, after, length=rival.horizon)
    return along(head, before, actions, after, length=rival.horizon)


def _endings(beside: Rivals, held: Held) -> list[Measure]:
    """AUC of the foreseen ending, among moments that are equally far ahead."""
    ended = held.batch.terminated[:, held.context - 1 :].cpu().numpy().astype(np.float64)
    pairs = np.einsum("eh,fh->ef", ended, 1 - ended)
    telling = _able(beside, "cont")
    if "model" not in telling or not pairs.any():
        return []
    found = {}
    for who, rival in telling.items():
        cont = rival.foreseen(_head(rival.heads, "cont")).double().cpu().numpy()
        found[who] = auc(_won(1 - cont[:, 1:], ended), pairs)
        if who == "model":
            found["copy"] = auc(_won(np.repeat(1 - cont[:, :1], ended.shape[1], 1), ended), pairs)
    own = found.pop("model")
    what = "Whether moments that ended the episode were foreseen as likelier to end it than moments"
    return [
        Measure(
            name="termination_auc",
            group="prediction",
            what=f"{what} as far ahead that did not.",
            unit="AUC",
            better="higher",
            value=own,
            baselines=found,
        )
    ]


def _won(score: Array, ended: Array) -> Array:
    """(E, E) pairs of an ending and a step as far ahead that went on, ordered rightly."""
    return np.sum(
        [beats(s, s) * y[:, None] * (1 - y)[None] for s, y in zip(score.T, ended.T, strict=True)],
        0,
    )


# --- heads ----------------------------------------------------------------------------------------


def _able(
    beside: Rivals, head: str, fits: Callable[[Any, Rival], bool] = lambda head, rival: True
) -> dict[str, Rival]:
    """Those who have a head that fits."""
    return {
        who: rival
        for who, rival in beside.items()
        if getattr(rival.heads, head) is not None and fits(_head(rival.heads, head), rival)
    }


def _head(heads: Heads, name: str) -> Callable[..., Tensor]:
    """A head that `_able` made sure of."""
    return getattr(heads, name)


def _decode(heads: Heads) -> Callable[..., dict[str, Tensor]]:
    """The decoder that `_able` made sure of."""
    return getattr(heads, "decode")  # noqa: B009


def _decoded(rival: Rival, modality: str) -> Tensor:
    """(E, H+1, D) a modality of the imagined states."""
    decode = _decode(rival.heads)
    return rival.foreseen(lambda state: decode(state)[modality].flatten(1))


def _first(head: Any, rival: Rival) -> dict[str, Tensor]:
    """What a decoder draws of the first state."""
    steps = tree.unstack(rival.forecast.imagined, rival.horizon + 1)
    return head(tree.take(steps[0], slice(0, 1)))
