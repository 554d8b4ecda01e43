"""`bench`: the same data and the same wall clock for every model, one judge, one leaderboard.

    OUT/bench.json      what was asked          OUT/data/           collected once
    OUT/models/...      see `entry`             OUT/baselines.json  scores of those who stand beside
    OUT/leaderboard.json and leaderboard.html   what was found

Each step looks at what is there first, so a bench that was killed goes on where it stopped, and a
model that joins later is compared with those that were there. Imports the files beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reverie import checkpoint
from reverie.bench.board import CONTROL, leaderboard
from reverie.bench.boardpage import board_page
from reverie.bench.entry import Entry
from reverie.bench.judging import Judge, kept_baselines
from reverie.bench.schools import enter
from reverie.bench.task import Task, gather
from reverie.core.errors import BadConfig
from reverie.progress import Progress, Silent

DATA_SEED = 0  # of the worlds; the seeds of a bench are those of trainings


def bench(
    task: Task,
    models: Sequence[str],
    *,
    seconds: float,
    out: Path,
    seeds: Sequence[int] = (0,),
    by: str = CONTROL,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train, judge and rank models on a task.

    Args:
        task: the question.
        models: names in `schools.SCHOOLS`.
        seconds: of wall clock that each training gets.
        out: folder of the bench; goes on with what is there.
        seeds: of the trainings.
        by: "control", or the prediction metric that models are ordered by.
        progress: shows bars.

    Returns:
        The leaderboard, which is also in `leaderboard.json` and on a page beside it.

    Raises:
        BadConfig: if there is no model or seed, or the folder is of another bench.
        UnknownName: if a model cannot enter, or no model has the metric.
        SpaceMismatch: if a model cannot live in the task's world.
    """
    progress = progress or Silent()
    for name in models:
        enter(name)
    if not models or not seeds:
        raise BadConfig(f"A bench needs models and seeds, but got {models} and {seeds}. Name some.")
    _claim(task, seconds, out)
    gather(task, out / "data", seed=DATA_SEED, progress=progress)
    train = out / "data" / "train"
    entries = [
        Entry(name, seed, out / "models" / f"{name}-{seed}", task, train)
        for name in dict.fromkeys(models)
        for seed in dict.fromkeys(seeds)
    ]
    for entry in entries:
        entry.fit(seconds, progress)
    judge = Judge(task, out / "data", seed=DATA_SEED, progress=progress)
    baselines = kept_baselines(judge, out / "baselines.json")
    for entry in entries:
        judge.entry(entry, baselines)
    board = leaderboard(task, entries, baselines, by=by)
    checkpoint.write_bytes(out / "leaderboard.json", json.dumps(board, indent=1).encode())
    checkpoint.write_bytes(out / "leaderboard.html", board_page(board).encode())
    return board


def _claim(task: Task, seconds: float, out: Path) -> None:
    """Say what the folder is for, or refuse one that is for something else."""
    asked = {
        "task": task.name,
        "budget": seconds,
        "transitions": task.transitions,
        "episodes": task.episodes,
    }
    path = out / "bench.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        wrong = [f"{k} {found.get(k)}, not {v}" for k, v in asked.items() if found.get(k) != v]
        if wrong:
            raise BadConfig(
                f"{out} holds another bench: {'; '.join(wrong)}. Choose another --out, or ask for "
                "the same."
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(path, json.dumps(asked, indent=1).encode())
