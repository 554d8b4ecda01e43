"""What a run's folder holds, read as far as it can be, for its report.

A `RunFolder` opens with `run.json` alone; all else is read when it is first asked for, and what is
missing or damaged raises there, in one sentence that a page can show. Imports core, checkpoint,
data and its neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from reverie import checkpoint
from reverie.core.errors import BadCheckpoint, BadData, ReverieError
from reverie.core.model import WorldModel
from reverie.data.episode import Episode
from reverie.data.store import Store
from reverie.evaluate import curves
from reverie.evaluate.statistics import Interval


@dataclass
class RunFolder:
    """A run's folder, read as far as it can be; what cannot be read raises when it is asked for."""

    folder: Path
    about: dict[str, Any]  # run.json
    log: curves.Log
    given: WorldModel | None
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    @property
    def title(self) -> str:
        """Recipe and seed."""
        return (
            f"{self.about.get('name', self.folder.name)}, seed {self.about.get('seed', 'unknown')}"
        )

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """evaluation.json."""
        path = self.folder / "evaluation.json"
        if not path.is_file():
            raise BadData(
                "This run has not been evaluated yet: its last stage writes evaluation.json. "
                "Train it to the end."
            )
        return _json(path, BadData, "Evaluate the run again.")

    @cached_property
    def controls(self) -> list[dict[str, Any]]:
        """The scores in it, the run's own agent first."""
        found = self.evaluation.get("scores")
        fits = isinstance(found, list) and all(isinstance(c, dict) and "name" in c for c in found)
        if not found or not fits:
            raise BadData("evaluation.json holds no scores. Evaluate the run again.")
        return found

    @cached_property
    def model(self) -> WorldModel:
        """The world model, trained as far as it is."""
        return self.given or checkpoint.load_model(self.folder)

    @cached_property
    def store(self) -> Store:
        """The run's data; the last one by name where there are several."""
        found = sorted((self.folder / "data").glob("**/schema.json"))
        if not found:
            raise BadData("This run keeps no episodes in data/.")
        return Store.open(found[-1].parent)

    @cached_property
    def played(self) -> Store | None:
        """Episodes that the run's own agent played when it was judged; None: none are kept."""
        path = self.folder / "played"
        return Store.open(path) if (path / "schema.json").is_file() else None

    @cached_property
    def seconds(self) -> dict[str, float]:
        """How long each stage took: as the evaluation tells it, else by the clock of the log."""
        try:
            told = self.evaluation.get("seconds") or {}
        except BadData:
            told = {}
        return {**self.log.seconds, **{k: float(v) for k, v in told.items() if v is not None}}

    def episodes(self) -> tuple[list[Episode], str]:
        """Real episodes to look at, and a sentence that says which.

        Raises:
            BadData: if there are none.
        """
        if self.played is not None and len(self.played):
            return list(self.played), (
                "The frames are of episodes that the trained agent played when it was judged; "
                "nothing was learned from them."
            )
        total = len(self.store)
        if total == 0:
            raise BadData("The run's data/ holds no episode yet.")
        return [self.store[i] for i in range(max(0, total - 4), total)], (
            f"The frames are from the end of the {count(total, 'episode')} in the run's data; "
            "training may have drawn from them."
        )

    def typical(self) -> Episode:
        """The episode whose return is in the middle of those to look at.

        Raises:
            BadData: if there are none.
        """
        episodes, _ = self.episodes()
        worth = [len(e) if e.reward is None else float(e.reward.sum()) for e in episodes]
        order = sorted(range(len(episodes)), key=worth.__getitem__)
        return episodes[order[len(order) // 2]]


def open_run(folder: str | Path, model: WorldModel | None = None) -> RunFolder:
    """The run of a folder.

    Args:
        folder: finished or under way.
        model: in place of the one in the folder.

    Raises:
        BadCheckpoint: if there is no run, or its `run.json` is damaged.
    """
    folder = Path(folder)
    path = folder / "run.json"
    if not path.is_file():
        raise BadCheckpoint(
            f"A report was asked for, but {folder} holds no run (no run.json). "
            "Give the folder that `reverie train` wrote."
        )
    about = _json(path, BadCheckpoint, "Choose another run.")
    return RunFolder(folder.resolve(), about, curves.read(folder / "metrics.jsonl"), model)


def _json(path: Path, error: type[ReverieError], mend: str) -> dict[str, Any]:
    """An object in a file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise error(f"{path.name} is damaged ({cause}). {mend}") from None
    if not isinstance(value, dict):
        raise error(f"{path.name} is damaged (it holds no JSON object). {mend}")
    return value


def interval(value: Any, what: str) -> Interval:
    """An interval as evaluations write it."""
    try:
        return Interval(float(value["value"]), float(value["low"]), float(value["high"]))
    except (TypeError, KeyError, ValueError):
        raise BadData(
            f"evaluation.json has no value with its interval for {what}. Evaluate the run again."
        ) from None


def score(control: Mapping[str, Any]) -> Interval:
    """The mean return of one agent."""
    return interval(control.get("score"), f"the score of {control.get('name', 'an agent')}")


def count(n: int, what: str) -> str:
    """1 episode, 1,200 episodes."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
