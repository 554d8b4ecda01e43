"""What a data set holds, in numbers: one pass, one episode in memory. Imports core and data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from reverie.core.errors import BadData
from reverie.core.types import Discrete
from reverie.data.episode import Episode
from reverie.data.moments import Moments
from reverie.data.source import Source, is_picture
from reverie.progress import Progress, Silent

BINS = 10  # of the histogram of an action element, over [-1, 1]
_BLOCK = 256  # images that are turned to float64 at once


@dataclass(frozen=True)
class Stats:
    """Of all episodes.

    Attributes:
        columns: name -> running statistics: of each element of a vector, each channel of an image.
        lengths: (E,) transitions of each episode.
        returns: (E,) sum of rewards; None: recorded without.
        ends: 'terminated', 'truncated' and 'cut' -> episodes that end so.
        actions: (A, BINS) how often an element lies in a tenth of [-1, 1], or (1, n) how often
            each action was taken; None: recorded without.
        success: (known, successes) by the episodes' info.
    """

    columns: dict[str, Moments]
    lengths: np.ndarray
    returns: np.ndarray | None
    ends: dict[str, int]
    actions: np.ndarray | None
    success: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """A JSON value."""
        return {
            "episodes": len(self.lengths),
            "steps": int(self.lengths.sum()),
            "lengths": _spread(self.lengths),
            "returns": None if self.returns is None else _spread(self.returns),
            "ends": self.ends,
            "success": {"known": self.success[0], "successes": self.success[1]},
            "actions": None if self.actions is None else self.actions.tolist(),
            "columns": {
                name: {
                    "rows": found.count,
                    **{key: getattr(found, key).tolist() for key in ("mean", "std", "low", "high")},
                }
                for name, found in self.columns.items()
            },
        }


def measure(source: Source, *, progress: Progress | None = None) -> Stats:
    """Read all episodes once.

    Args:
        source: of the episodes.
        progress: told of those that are done.

    Raises:
        BadData: if there is none, or one breaks the contract.
    """
    if len(source) == 0:
        raise BadData("Data was to be measured, but there is no episode. Record some.")
    columns: dict[str, Moments] = {}
    lengths, returns = [], []
    ends = {"terminated": 0, "truncated": 0, "cut": 0}
    actions, known = None, []
    with (progress or Silent()).task("measure", len(source)) as task:
        for i in range(len(source)):
            episode = source[i]
            _add(columns, episode, source)
            lengths.append(len(episode))
            ends[_end(episode)] += 1
            if episode.reward is not None:
                returns.append(float(episode.reward.astype(np.float64).sum()))
            if episode.action is not None:
                counts = _counts(episode.action, source)
                actions = counts if actions is None else actions + counts
            if episode.info.get("success") is not None:
                known.append(bool(episode.info["success"]))
            task.advance(1)
    return Stats(
        columns,
        np.array(lengths),
        np.array(returns) if returns else None,
        ends,
        actions,
        (len(known), sum(known)),
    )


def _add(columns: dict[str, Moments], episode: Episode, source: Source) -> None:
    """Take in one more episode."""
    rows = {f"obs.{name}": value for name, value in episode.obs.items()}
    rows |= {f"extra.{name}": value for name, value in episode.extra.items()}
    if episode.reward is not None:
        rows["reward"] = episode.reward
    if episode.action is not None and episode.action.ndim > 1:
        rows["action"] = episode.action
    pictures = {f"obs.{n}" for n, s in source.schema.observations.items() if is_picture(s)}
    for name, value in rows.items():
        moments = columns.setdefault(name, Moments())
        for start in range(0, len(value), _BLOCK):
            part = value[start : start + _BLOCK]
            if name in pictures:
                part = part.transpose(0, 2, 3, 1).reshape(-1, part.shape[1])
            moments.add(part)


def _end(episode: Episode) -> str:
    """How an episode ends; both at once counts as the world's end."""
    if episode.terminated[-1]:
        return "terminated"
    return "truncated" if episode.truncated[-1] else "cut"


def _counts(action: np.ndarray, source: Source) -> np.ndarray:
    """How often each action was taken, or each element lay in each bin."""
    space = source.schema.actions
    if isinstance(space, Discrete):
        return np.bincount(action, minlength=space.n)[None]
    flat = action.reshape(len(action), -1)
    bins = np.clip(((flat + 1) / 2 * BINS).astype(int), 0, BINS - 1)
    return np.stack([np.bincount(column, minlength=BINS) for column in bins.T])


def _spread(values: np.ndarray) -> dict[str, float]:
    """Smallest, mean, largest."""
    return {
        "low": float(values.min()),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "high": float(values.max()),
    }
