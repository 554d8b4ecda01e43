"""The MuZero claims: train on every seed, write results/muzero_*.json.

    python proofs/muzero.py tictactoe      # muzero_tictactoe: draws against perfect play
    python proofs/muzero.py cartpole       # muzero_cartpole: CartPole-v1
    python proofs/muzero.py connect_four   # muzero_connect_four: wins against one move ahead
    python proofs/muzero.py chance         # muzero_chance: with chance nodes and without

Boards are judged by games against opponents that were not trained with, from both seats; returns
are the mean of the last five evaluations over seeds. Runs lie in runs/ and are gone on with if
they are there, so seeds can be trained apart
(`reverie train muzero --env board/tic_tac_toe --search gumbel --simulations 16 --seed 1
--out runs/muzero-tictactoe-gumbel-1`) and counted later.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import dreamer as returns
import numpy as np
import torch
from matplotlib.figure import Figure

from reverie import envs, evidence
from reverie.checkpoint import load_weights
from reverie.core import registry
from reverie.evaluate.match import match
from reverie.evaluate.opponents import opponents
from reverie.run import Run
from reverie.train import train

GAMES = 500  # of each pair and seat
TRIALS = 2_000_000  # seed of the games that count
RESULTS = Path("results")


def trained(recipe: str, folder: Path, seed: int, settings: dict[str, Any]) -> Run:
    """A finished run, with its weights; trains what is missing."""
    train(registry.recipe(recipe)(seed=seed, **settings), folder)
    run = registry.recipe(recipe)(seed=seed, **settings)
    load_weights(folder, model=run.model)
    run.model.eval()
    return run


def games(run: Run, name: str, against: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Shares of wins, draws and losses by seat and opponent."""
    found: dict[str, dict[str, float]] = {}
    agent: Any = run.agent
    others = opponents(name)
    with closing(envs.make(f"board/{name}", 100)) as env:
        for who in against:
            first = match(env, agent, others[who], games=GAMES, seed=TRIALS)[0]
            second = match(env, others[who], agent, games=GAMES, seed=TRIALS + 1)[1]
            found[f"first, {who}"], found[f"second, {who}"] = first._asdict(), second._asdict()
    return found


def tictactoe(options: argparse.Namespace) -> None:
    """results/muzero_tictactoe.json: Gumbel with 16 simulations, and pUCT with 50 beside it."""
    arms = {
        "gumbel": {"search": "gumbel", "simulations": 16},
        "puct": {"search": "puct", "simulations": 50},
    }
    shared = {"env": "board/tic_tac_toe", "evaluate_every": 3000, "play": 50}
    if options.updates:
        shared["updates"] = options.updates
    tables: dict[str, list[dict[str, dict[str, float]]]] = {}
    folders: dict[str, list[Path]] = {}
    for arm, settings in arms.items():
        for seed in options.seeds:
            folder = options.runs / f"muzero-tictactoe-{arm}-{seed}"
            run = trained("muzero", folder, seed, {**shared, **settings})
            tables.setdefault(arm, []).append(games(run, "tic_tac_toe", ("random", "perfect")))
            folders.setdefault(arm, []).append(folder)

    def worse(arm: str) -> list[float]:
        return [min(t[f"{seat}, perfect"]["draws"] for seat in SEATS) for t in tables[arm]]

    def least(key: str, end: str) -> list[float]:
        return [table[key][end] for table in tables["gumbel"]]

    value, rival = returns.over_seeds(worse("gumbel")), returns.over_seeds(worse("puct"))
    seconds = [returns.spent(folder) for folder in folders["gumbel"]]
    losses = [max(t[f"{seat}, random"]["losses"] for seat in SEATS) for t in tables["gumbel"]]
    bars(RESULTS / "muzero_tictactoe.png", tables)
    evidence.record(
        "muzero_tictactoe",
        what="Draws against perfect play in tic-tac-toe from the worse of both seats, 50 "
        f"simulations, {GAMES} games a seat, after self-play with Gumbel and 16 simulations; "
        "beside it self-play with pUCT and 50, the same number of updates.",
        metric="share of draws",
        value=value.value,
        low=value.low,
        high=value.high,
        better="higher",
        target=0.95,
        baselines={"pUCT, 50 simulations": rival.value},
        seeds=options.seeds,
        steps=evaluated(folders["gumbel"]),
        seconds=sum(seconds),
        command="python proofs/muzero.py tictactoe",
        config={
            "model": "muzero",
            "recipe": "muzero",
            **shared,
            **arms["gumbel"],
            "wins against random, first seat (asked .97)": least("first, random", "wins"),
            "wins against random, second seat (asked .85)": least("second, random", "wins"),
            "losses against random, worse seat (asked .05)": losses,
            "games": tables,
            "seconds a seed (asked 900)": seconds,
            "seconds a seed, pUCT": [returns.spent(folder) for folder in folders["puct"]],
            "threads": torch.get_num_threads(),
            "low and high": "least and largest of the seeds",
        },
        plot="muzero_tictactoe.png",
    )


def cartpole(options: argparse.Namespace) -> None:
    """results/muzero_cartpole.json."""
    settings = {"env": "CartPole-v1", "evaluate_every": 500, "episodes": 10}
    if options.updates:
        settings["updates"] = options.updates
    folders = [options.runs / f"muzero-cartpole-{seed}" for seed in options.seeds]
    for seed, folder in zip(options.seeds, folders, strict=True):
        trained("muzero", folder, seed, settings)
    curves = {folder.name: returns.scores(folder) for folder in folders}
    finals = [last(curve) for curve in curves.values()]
    found, without = returns.over_seeds(finals), returns.blind(settings)
    returns.draw(RESULTS / "muzero_cartpole.png", curves, without, 450.0)
    evidence.record(
        "muzero_cartpole",
        what="MuZero in CartPole-v1 (vectors): the mean of the last 5 evaluations over seeds, 10 "
        "episodes each.",
        metric="return",
        value=found.value,
        low=found.low,
        high=found.high,
        better="higher",
        target=450.0,
        baselines=without,
        seeds=options.seeds,
        steps=evaluated(folders),
        seconds=sum(returns.spent(folder) for folder in folders),
        command="python proofs/muzero.py cartpole",
        config={
            "model": "muzero",
            "recipe": "muzero",
            **settings,
            "seeds, last evaluations": finals,
            "evaluations": curves,
            "seconds a seed (asked 1800)": [returns.spent(folder) for folder in folders],
            "threads": torch.get_num_threads(),
            "low and high": "least and largest of the seeds",
        },
        plot="muzero_cartpole.png",
    )


def connect_four(options: argparse.Namespace) -> None:
    """results/muzero_connect_four.json."""
    settings: dict[str, Any] = {"env": "board/connect_four", "search": "gumbel"}
    settings |= {"simulations": 16, "evaluate_every": 2000, "play": 50}
    if options.updates:
        settings["updates"] = options.updates
    rivals, tables, folders = ("random", "takes wins", "one ahead"), [], []
    for seed in options.seeds:
        folders.append(options.runs / f"muzero-connect_four-{seed}")
        run = trained("muzero", folders[-1], seed, settings)
        tables.append(games(run, "connect_four", rivals))
    wins = {who: [mean_of_seats(t, who, "wins") for t in tables] for who in rivals}
    value = returns.over_seeds(wins["one ahead"])
    bars(RESULTS / "muzero_connect_four.png", {"gumbel": tables})
    evidence.record(
        "muzero_connect_four",
        what="Games of Connect Four won against a player who takes a win, else stops one, else "
        f"moves at random; both seats, 50 simulations, {GAMES} games a seat.",
        metric="share of wins",
        value=value.value,
        low=value.low,
        high=value.high,
        better="higher",
        target=0.8,
        baselines={
            "against one who only takes wins": float(np.mean(wins["takes wins"])),
            "against random moves": float(np.mean(wins["random"])),
        },
        seeds=options.seeds,
        steps=evaluated(folders),
        seconds=sum(returns.spent(folder) for folder in folders),
        command="python proofs/muzero.py connect_four",
        config={
            "model": "muzero",
            "recipe": "muzero",
            **settings,
            "games": tables,
            "seconds a seed (asked 3600)": [returns.spent(folder) for folder in folders],
            "threads": torch.get_num_threads(),
            "low and high": "least and largest of the seeds",
        },
        plot="muzero_connect_four.png",
    )


def chance(options: argparse.Namespace) -> None:
    """results/muzero_chance.json: the same world with chance nodes and without."""
    settings: dict[str, Any] = {"env": "board/coin", "search": "gumbel", "simulations": 16}
    settings |= {"episodes": 500, "evaluate_every": 250}
    if options.updates:
        settings["updates"] = options.updates
    arms = {"muzero": {"play": 50}, "stochastic_muzero": {"codes": 4}}
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    folders = []
    for recipe, more in arms.items():
        for seed in options.seeds:
            folders.append(options.runs / f"{recipe}-chance-{seed}")
            trained(recipe, folders[-1], seed, {**settings, **more})
            name = folders[-1].name
            curves.setdefault(recipe, {})[name] = returns.scores(folders[-1])
    finals = {arm: [last(curve) for curve in found.values()] for arm, found in curves.items()}
    pairs = zip(finals["stochastic_muzero"], finals["muzero"], strict=True)
    gain = returns.over_seeds([ours - plain for ours, plain in pairs])
    without = returns.blind(settings)
    both = {**curves["muzero"], **curves["stochastic_muzero"]}
    returns.draw(RESULTS / "muzero_chance.png", both, without, 2.5)
    evidence.record(
        "muzero_chance",
        what="How much more Stochastic MuZero earns than MuZero at equal steps where a coin may "
        "be declined (2.5, the best possible) or tossed and played (2.0 if played right): the "
        "mean of the last 5 evaluations, 500 episodes each, seed by seed.",
        metric="return above MuZero's",
        value=gain.value,
        low=gain.low,
        high=gain.high,
        better="higher",
        target=0.3,
        baselines={
            "Stochastic MuZero's return": float(np.mean(finals["stochastic_muzero"])),
            "MuZero's return": float(np.mean(finals["muzero"])),
            "random's return": without["random"],
        },
        seeds=options.seeds,
        steps=evaluated(folders),
        seconds=sum(returns.spent(folder) for folder in folders),
        command="python proofs/muzero.py chance",
        config={
            "model": "stochastic_muzero",
            "recipe": "stochastic_muzero",
            **settings,
            "seeds, last evaluations": finals,
            "threads": torch.get_num_threads(),
            "low and high": "least and largest of the seeds",
        },
        plot="muzero_chance.png",
    )


SEATS = ("first", "second")


def last(curve: list[tuple[int, float]]) -> float:
    """The mean of the evaluations that count."""
    return float(np.mean([value for _, value in curve[-returns.LAST :]]))


def mean_of_seats(table: dict[str, dict[str, float]], who: str, end: str) -> float:
    """A share over both seats."""
    return float(np.mean([table[f"{seat}, {who}"][end] for seat in SEATS]))


def evaluated(folders: list[Path]) -> int:
    """Decisions in the world of all runs."""
    total = 0
    for folder in folders:
        rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
        total += int(max(row.get("collect/steps", 0) for row in rows))
    return total


def bars(path: Path, tables: dict[str, list[dict[str, dict[str, float]]]]) -> None:
    """Wins, draws and losses of every arm and seed, a bar each."""
    rows = [
        (f"{arm} {seed}: {pair}", ends)
        for arm, found in tables.items()
        for seed, table in enumerate(found)
        for pair, ends in table.items()
    ]
    figure = Figure(figsize=(7, 1 + 0.22 * len(rows)), layout="constrained")
    axes, left = figure.subplots(), np.zeros(len(rows))
    for end, color in (("wins", "tab:green"), ("draws", "0.7"), ("losses", "tab:red")):
        width = np.array([ends[end] for _, ends in rows])
        axes.barh(range(len(rows)), width, left=left, color=color, label=end)
        left = left + width
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("share of games")
    axes.legend(fontsize=7)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


CLAIMS: dict[str, Callable[[argparse.Namespace], None]] = {
    "tictactoe": tictactoe,
    "cartpole": cartpole,
    "connect_four": connect_four,
    "chance": chance,
}


def main() -> None:
    """Parse the words and go."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claim", choices=CLAIMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, help="instead of what fits the world")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    CLAIMS[options.claim](options)
    sys.stdout.write(evidence.table(evidence.load_all()) + "\n")


if __name__ == "__main__":
    main()
