"""One picture of a data set: frames of its episodes, or traces where nothing is to be seen.

Imports core and data; pillow and matplotlib when a sheet is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reverie.core.errors import BadData
from reverie.data.episode import Episode
from reverie.data.source import Source, is_picture

_EPISODES, _FRAMES = 6, 10  # rows of the sheet, frames in each
_TILE, _GAP, _TITLE = 96, 4, 14  # pixels
_LINES = 8  # elements of a vector that are drawn


def contact_sheet(source: Source, path: str | Path) -> None:
    """Draw episodes from the first to the last, evenly spaced, as a PNG.

    Args:
        source: of the episodes.
        path: of the picture; an older one is replaced.

    Raises:
        BadData: if there is no episode.
    """
    if len(source) == 0:
        raise BadData("Data was to be drawn, but there is no episode. Record some.")
    chosen = np.unique(np.linspace(0, len(source) - 1, _EPISODES).round().astype(int)).tolist()
    names = [name for name, space in source.schema.observations.items() if is_picture(space)]
    if names:
        _frames(source, chosen, names).save(path, format="PNG")
    else:
        _traces(source, chosen, Path(path))


def _frames(source: Source, chosen: list[int], names: list[str]) -> Any:
    """Rows of frames, one a camera and episode, each under its title."""
    from PIL import Image, ImageDraw

    rows = []
    for i in chosen:
        episode = source[i]
        rows += [(f"episode {i}, {_ending(episode)}, {n}", episode.obs[n]) for n in names]
    height, width = _TITLE + _TILE + _GAP, _TILE + _GAP
    sheet = Image.new("RGB", (_GAP + _FRAMES * width, _GAP + len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (title, images) in enumerate(rows):
        top = _GAP + row * height
        draw.text((_GAP, top), title, fill="black")
        times = np.linspace(0, len(images) - 1, _FRAMES).round().astype(int)
        for column, t in enumerate(np.unique(times)):
            tile = Image.fromarray(_colour(images[t])).resize((_TILE, _TILE), 0)
            sheet.paste(tile, (_GAP + column * width, top + _TITLE))
    return sheet


def _colour(image: np.ndarray) -> np.ndarray:
    """(C, H, W) to (H, W, 3); channels beyond the third are not shown."""
    shown = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, 0)
    return np.ascontiguousarray(shown.transpose(1, 2, 0))


def _ending(episode: Episode) -> str:
    """Its length and its end."""
    end = (
        "terminated" if episode.terminated[-1] else "truncated" if episode.truncated[-1] else "cut"
    )
    return f"{len(episode)} steps, {end}"


def _traces(source: Source, chosen: list[int], path: Path) -> None:
    """Lines over time: observations, actions, rewards; a row an episode."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = _columns(source[chosen[0]])
    size = (3.2 * len(columns), 1.6 * len(chosen))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(chosen), len(columns), squeeze=False)
    for row, i in enumerate(chosen):
        episode = source[i]
        for axis, (name, value) in zip(grid[row], _columns(episode).items(), strict=True):
            axis.plot(value.reshape(len(value), -1)[:, :_LINES], linewidth=0.8)
            axis.tick_params(labelsize=6)
            if row == 0:
                axis.set_title(name, fontsize=8)
        grid[row][0].set_ylabel(f"episode {i}\n{_ending(episode)}", fontsize=6)
    FigureCanvasAgg(figure).print_png(str(path))


def _columns(episode: Episode) -> dict[str, np.ndarray]:
    """What is drawn of an episode."""
    found = dict(episode.obs)
    if episode.action is not None:
        found["action"] = episode.action
    if episode.reward is not None:
        found["reward"] = episode.reward
    return found
