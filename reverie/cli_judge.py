"""`reverie eval` and `reverie bench`: the judging half of the command line.

Like `cli`, this imports nothing heavy until a command runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path


def say(line: str) -> None:
    """One line to the user."""
    sys.stdout.write(line + "\n")


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that counts something."""

    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of {least} or more")
        return int(text)

    return count


def eval_options(parser: argparse.ArgumentParser) -> None:
    """What `eval` takes."""
    parser.epilog = (
        "Every agent plays the same starts. The card goes into the run's folder: card.json, and "
        "card.html, one page that needs no other file."
    )
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--episodes", type=at_least(5), default=100, help="5 or more, default 100")
    parser.add_argument("--seed", type=at_least(0), default=1_000_000, help="of the worlds")
    parser.add_argument("--device", help="where the model acts; default: where it was trained")
    parser.add_argument("--num-envs", type=at_least(1), default=8, help="worlds at once, default 8")
    parser.add_argument("--metric", help="print this one alone, as psnr")
    parser.add_argument("--json", action="store_true", help="print the card as JSON")


def evaluate(options: argparse.Namespace, rest: list[str]) -> None:
    """Write the card of a run and print it."""
    from reverie import catalog
    from reverie.evaluate import cardpage, cardtable
    from reverie.evaluate.card import measure_of
    from reverie.loaded import load
    from reverie.progress import Silent, terminal

    loaded = load(options.run, device=options.device)
    quiet = options.json or options.metric
    card = loaded.report_card(
        options.episodes,
        seed=options.seed,
        num_envs=options.num_envs,
        progress=Silent() if quiet else terminal(),
    )
    page = cardpage.write(options.run, card)
    if options.metric:
        say(cardtable.line(measure_of(card, options.metric)))
    elif options.json:
        say(json.dumps(card, indent=1))
    else:
        catalog.show(cardtable.table(card))
        say(f"The page is {page}")


# -- bench -----------------------------------------------------------------------------------------


def bench_options(parser: argparse.ArgumentParser) -> None:
    """What `bench` takes."""
    parser.epilog = (
        "Example: reverie bench two_rooms --models world_models_2018 --budget 5m. Data are "
        "collected once; what is in the folder already is not done again, so a bench that was "
        "killed goes on, and a model that joins later is compared with those that were there."
    )
    parser.add_argument("task", help="two_rooms, cartpole, pusht or doom")
    parser.add_argument(
        "--models", type=_words, help="schools, with commas between; default: all that can enter"
    )
    parser.add_argument(
        "--budget", default="5m", help="wall clock of each training: 90s, 5m, 1h; default 5m"
    )
    parser.add_argument(
        "--seeds", type=_numbers, default=(0,), help="of the trainings, as 0,1,2; default 0"
    )
    parser.add_argument("--out", type=Path, help="folder of the bench, default runs/bench-TASK")
    parser.add_argument(
        "--by", default="control", help="what models are ordered by: control, or a metric as psnr"
    )


def bench(options: argparse.Namespace, rest: list[str]) -> None:
    """Train, judge and rank, and print the leaderboard."""
    from reverie.bench.budget import seconds_of

    seconds = seconds_of(options.budget)
    from reverie import catalog
    from reverie.bench import run, show
    from reverie.bench.schools import able
    from reverie.bench.tasks import task_of
    from reverie.progress import terminal

    task = task_of(options.task)
    out = options.out or Path("runs") / f"bench-{task.name}"
    board = run.bench(
        task,
        options.models or able(task),
        seconds=seconds,
        out=out,
        seeds=options.seeds,
        by=options.by,
        progress=terminal(),
    )
    catalog.show(show.table(board))
    say(f"The leaderboard is {out / 'leaderboard.html'}")


def _words(text: str) -> tuple[str, ...]:
    """The type of an option that lists names."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}' names nothing")
    return found


def _numbers(text: str) -> tuple[int, ...]:
    """The type of an option that lists seeds."""
    return tuple(at_least(0)(word) for word in _words(text))
