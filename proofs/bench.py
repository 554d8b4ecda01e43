"""Makes results/bench_TASK.json: the leaderboard of all schools on one task.

    python proofs/bench.py two_rooms
    python proofs/bench.py cartpole --budget 5m

What is in the bench's folder already is not trained again, so a school that joins later costs its
own time only. The evidence is about the best model; the whole table is in its config.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from reverie import catalog, evidence
from reverie.bench import show
from reverie.bench.budget import seconds_of
from reverie.bench.run import bench
from reverie.bench.schools import able
from reverie.bench.tasks import TASKS, task_of
from reverie.progress import terminal


def record(board: dict[str, Any], command: str, seconds: float) -> Path:
    """results/bench_TASK.json."""
    best = next(row for row in board["rows"] if row["control"] is not None)
    others = {row["name"]: row for row in board["rows"] if row["name"] != best["name"]}
    others |= {row["name"]: row for row in board["baselines"]}
    values = {name: row["control"]["value"] for name, row in others.items() if row["control"]}
    twin = best["scrambled"]
    if twin is not None:
        values[f"{best['name']}, predictions shuffled"] = twin["value"]
    return evidence.record(
        f"bench_{board['task']}",
        what=f"Control by planning in the best of {len(board['rows'])} learned models on "
        f"'{board['task']}' ({best['name']}), all trained on the same {board['transitions']:,} "
        f"transitions for the same {board['budget']:g} s; the whole leaderboard, with the rank "
        "correlation of each prediction metric with control, is in config.",
        metric=board["unit"],
        **best["control"],
        better="higher",
        target=None,
        baselines=values,
        seeds=board["seeds"],
        steps=board["transitions"],
        seconds=seconds,
        command=command,
        config={
            "model": best["name"],
            "rows": [_short(row) for row in board["rows"]],
            "baselines": board["baselines"],
            "beside": board["beside"],
            "correlation": board["correlation"],
            "against": board["against"],
            "episodes": board["episodes"],
            "missing": board["missing"],
        },
    )


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """A row, its metrics as values with their ends."""
    prediction = {name: value["value"] for name, value in row["prediction"].items()}
    return {**row, "prediction": prediction}


def main() -> None:
    """Parse the words and go."""
    parser = argparse.ArgumentParser(description="Makes results/bench_TASK.json.")
    parser.add_argument("task", choices=tuple(TASKS))
    parser.add_argument("--models", help="with commas between; default: all that can enter")
    parser.add_argument("--budget", default="5m", help="of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    began = time.perf_counter()
    task = task_of(options.task)
    board = bench(
        task,
        options.models.split(",") if options.models else able(task),
        seconds=seconds_of(options.budget),
        out=options.runs / f"bench-{options.task}",
        seeds=options.seeds,
        progress=terminal(),
    )
    catalog.show(show.table(board))
    command = f"python proofs/bench.py {options.task} --budget {options.budget}"
    if options.seeds != [0]:
        command += f" --seeds {' '.join(map(str, options.seeds))}"
    trained = sum(row["seconds"] * len(row["seeds"]) for row in board["rows"])
    path = record(board, command, max(trained, time.perf_counter() - began))
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
