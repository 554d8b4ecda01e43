"""What a model sees and what it dreams, as figures of a page: any school, pictures or vectors.

`reconstructions` and `dream` ask the model through the contract (see `film`) and give HTML;
`temperature` draws how dreamed and real scores part. Imports film, figures and page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from reverie.core.errors import MissingHead
from reverie.core.model import WorldModel
from reverie.data.episode import Episode
from reverie.evaluate import film as films
from reverie.evaluate import page
from reverie.evaluate.figures import Bar, Line, lines, number
from reverie.evaluate.statistics import Interval

STEPS = 64  # of the dream beside reality
CELLS = 8  # pictures in a row
GAIN = 2.0  # of the difference that is shown
TRACES = 6  # components of a vector that are drawn
_PLOT = {"width": 340, "height": 210, "xlabel": "steps after the model stopped looking"}


class Temperature(NamedTuple):
    """One agent of a sweep."""

    tau: float  # of the dreams that it was trained in
    dream: Interval  # its score there
    real: Interval  # and in the world


def reconstructions(
    model: WorldModel, episodes: Sequence[Episode], generator: torch.Generator | None = None
) -> list[str]:
    """Frames above what encode and decode leave of them.

    Args:
        model: with `decode`.
        episodes: of its world, at least one.
        generator: on the model's device; None: torch's default one.

    Raises:
        MissingHead: if the model draws no picture.
        SpaceMismatch: if the episodes are of another world.
    """
    names = episodes[0].obs
    obs = {name: np.concatenate([episode.obs[name] for episode in episodes]) for name in names}
    rows = len(next(iter(obs.values())))
    few = np.linspace(0, rows - 1, min(CELLS, rows)).round().astype(int)
    obs = {name: value[few] for name, value in obs.items()}
    drawn = films.reconstruct(model, obs, generator)
    name = films.picture(model, drawn)
    if name is None:
        raise MissingHead(_no_picture(model, drawn))
    seen, left = films.rgb(obs[name]), films.rgb(drawn[name])
    error = np.abs(seen.astype(float) - left).mean((1, 2, 3))
    plain = np.abs(seen - seen.mean(0)).mean()
    rows_of = [
        ("real", "real", page.image(films.strip(seen), f"{len(few)} real frames")),
        ("decoded", "dream", page.image(films.strip(left), "the same frames, decoded")),
    ]
    caption = (
        "Below each frame stands what is left of it after encode and decode: what is missing "
        "there the model cannot foresee, and an agent cannot react to. The numbers are the mean "
        f"error per pixel, {number(error.mean())} of 255 on average, where showing the mean of "
        f"these frames each time would err by {number(plain)}."
    )
    return [page.figure(page.strip(rows_of, [("error", [number(e) for e in error])]), caption)]


def dream(
    model: WorldModel, episode: Episode, generator: torch.Generator | None = None
) -> list[str]:
    """The end of an episode beside the model's dreams of it, moving, in a strip, and in numbers.

    Args:
        model: with `decode`.
        episode: of its world.
        generator: on the model's device; None: torch's default one.

    Raises:
        MissingHead: if the model draws nothing.
        SpaceMismatch: if the episode is of another world.
    """
    made = films.film(model, episode, STEPS, generator=generator)
    acts = "" if model.actions is None else " under the actions that were really taken"
    ends = "the world ended the episode" if made.ended else "the recording ended"
    intro = (
        f"The model watched the episode up to step {made.start:,}. From there it sees nothing more "
        f"and predicts {made.steps} steps{acts}, up to where {ends}."
    )
    name = films.picture(model, made.dream)
    body = _traces(made) if name is None else _pictures(made, name)
    return [page.paragraph(intro), *body, page.grid(_numbers(made, name))]


def temperature(rows: Sequence[Temperature], best: Bar | None, unit: str) -> str:
    """Dreamed and real score by the temperature of the dream.

    Args:
        rows: at least one.
        best: of the baselines.
        unit: of the scores.
    """
    rows = sorted(rows)
    tau = [row.tau for row in rows]
    both = {"dream": [row.dream for row in rows], "real": [row.real for row in rows]}
    curves = []
    for role, scores in both.items():
        value, low, high = (list(column) for column in zip(*scores, strict=True))
        curves.append(Line(tau, value, low, high, role, role, dots=True))
    if best is not None:
        ends = [min(tau), max(tau)]
        curves.append(Line(ends, [best.value] * 2, label=best.name, role="muted", dashed=True))
    narrow, wide = (
        lines(
            curves,
            "Score by temperature",
            xlabel="temperature of the dream",
            ylabel=unit,
            width=width,
            height=height,
            xticks=tau,
        )
        for width, height in ((350, 300), (760, 360))
    )
    return page.figure(
        page.by_width(narrow, wide),
        "Each agent was trained in dreams of one temperature (logarithmic axis), then scored in "
        "that dream and in the real world; bars are 95% intervals. Where the dream's score is far "
        "above the real one, the agent learned to live on the dream's mistakes.",
    )


def _pictures(made: films.Film, name: str) -> list[str]:
    """The GIF and the filmstrip."""
    both = films.beside(made, name)
    real, dreamed = np.split(both, 2, axis=-1)
    moving = page.moving(
        films.gif(both),
        films.still(both[-1]),
        "Reality left, the dream right, moving",
        width="32rem",
    )
    sides = (
        '<div class="sides"><span class="real">real</span><span class="dream">dream</span></div>'
    )
    at = np.linspace(0, made.steps, min(CELLS, made.steps + 1)).round().astype(int)
    apart = films.difference(real, dreamed, GAIN)
    rows = [
        ("real", "real", page.image(films.strip(real[at]), "real frames")),
        ("dream", "dream", page.image(films.strip(dreamed[at]), "dreamed frames")),
        ("difference", "", page.image(films.strip(apart[at]), "difference")),
    ]
    by_step = films.difference(real, dreamed).mean((1, 2, 3))
    cells = [("step", [f"{t}" for t in at]), ("error", [number(by_step[t]) for t in at])]
    return [
        page.figure(
            sides + moving,
            "Left is what happened, right what the model dreamed from the same start. The dream is "
            "one draw of what might have happened, so look for what keeps its shape and what "
            "melts, and for whether the view moves as the actions tell it to.",
        ),
        page.figure(
            page.strip(rows, cells),
            f"The same {made.steps} steps, time to the right; the third row is bright where the "
            f"two differ ({GAIN:g} times as bright as the difference itself). The last line is "
            "the mean difference per pixel, of 255; step 0 was still seen.",
        ),
    ]


def _numbers(made: films.Film, name: str | None) -> list[str]:
    """The distance, the predicted end and the predicted reward along the film."""
    steps = np.arange(1, made.steps + 1)
    many = f"{len(next(iter(made.dream.values())))} dreams"
    parts = []
    if name is not None:
        parts.append(_distance(made, name, many))
    if made.cont is not None:
        curve = _spread(steps, made.cont, "", "dream")
        plot = lines([curve], "Chance to go on", ylabel="a step", ylim=(0, 1.05), **_PLOT)
        really = "The episode really ended at the last step" if made.ended else "It really went on"
        words = (
            f"The model's chance, at each step of {many}, that the episode goes on; the band holds "
            f"nine tenths of them. {really}, and a dip is where the model expected an end."
        )
        parts.append(page.figure(plot, words))
    if made.dream_reward is not None:
        both = [_spread(steps, made.dream_reward, "dream", "dream")]
        if made.reward is not None:
            both.append(Line(steps, made.reward, label="real", role="real", dashed=True))
        plot = lines(both, "Reward", ylabel="a step", **_PLOT)
        words = (
            f"What the model expected to earn in {many}, mean and the band of nine tenths, beside "
            "what was paid. An agent trained in the dream learns from the solid line alone."
        )
        parts.append(page.figure(plot, words))
    return parts


def _distance(made: films.Film, name: str, many: str) -> str:
    """How fast dreams leave reality, beside a world that stands still."""
    real = films.rgb(made.real[name]).astype(np.float32)
    dreams = films.rgb(made.dream[name]).astype(np.float32)
    apart = np.stack([np.abs(one - real).mean((1, 2, 3)) for one in dreams])
    still = np.abs(real - real[0]).mean((1, 2, 3))
    steps = np.arange(made.steps + 1)
    both = [
        _spread(steps, apart, "dreams", "dream"),
        Line(steps, still, label="nothing moves", role="muted", dashed=True),
    ]
    plot = lines(both, "Distance from reality", ylabel="of 255, a pixel", **_PLOT)
    words = (
        f"The mean difference per pixel of {many} from reality, and the band of nine tenths. "
        "Below the dashed line a dream knows more than its first frame, repeated."
    )
    return page.figure(plot, words)


def _traces(made: films.Film) -> list[str]:
    """Vectors: each component against time, dreamed and real."""
    steps = np.arange(made.steps + 1)
    plots = []
    for name, real in made.real.items():
        flat = real.reshape(len(real), -1)
        dreams = made.dream[name].reshape(len(made.dream[name]), len(real), -1)
        for i in range(min(TRACES, flat.shape[1])):
            both = [
                _spread(steps, dreams[:, :, i], "dream", "dream"),
                Line(steps, flat[:, i], label="real", role="real", dashed=True),
            ]
            plots.append(lines(both, f"{name} {i}", **_PLOT))
    words = (
        "Each plot is one component of what the world shows, really and in the model's dreams "
        "(mean, and the band of nine tenths). A band that holds the dashed line is a dream that "
        "knows what it does not know."
    )
    return [page.figure(page.grid(plots), words)] if plots else []


def _spread(x: NDArray, y: NDArray, label: str, role: str) -> Line:
    """The mean of (N, H) dreams with the band that holds nine tenths of them."""
    low, high = np.quantile(y, (0.05, 0.95), axis=0)
    return Line(x, y.mean(0), low, high, label, role)


def _no_picture(model: WorldModel, drawn: dict[str, np.ndarray]) -> str:
    """Why there is nothing to look at."""
    return (
        f"Pictures were asked for, but {model.heads.owner} draws {', '.join(drawn) or 'nothing'}, "
        "and none of it is an image; its dream is drawn as curves below."
    )
