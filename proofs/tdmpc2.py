"""The claims about TD-MPC2: train every seed on one thread, write results/.

    python proofs/tdmpc2.py pendulum      # tdmpc2_pendulum: Pendulum-v1, 5 minutes a seed
    python proofs/tdmpc2.py swingup       # tdmpc2_swingup: dm_control cartpole-swingup, 60 minutes
    python proofs/tdmpc2.py locomotion    # tdmpc2_locomotion: dm_control walker-walk, 90 minutes

Runs lie in runs/ and are gone on with if they are there, so seeds can be trained apart
(`--seeds 1 --train-only`) and counted later. A claim's value is the mean of the last evaluations
over all seeds, never the best; decisions until a score was first reached stand beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from reverie import envs, evidence
from reverie.agent import RandomAgent
from reverie.core import registry
from reverie.evaluate.control import control
from reverie.evaluate.statistics import Interval, mean_interval
from reverie.train import train

RESULTS = Path("results")
LAST = 5  # evaluations that count
Curve = list[tuple[int, float]]  # decisions, mean return


class Claim(NamedTuple):
    """One task, how it is trained for, and what is promised."""

    what: str
    target: float
    minutes: float  # of a seed, at most
    thresholds: tuple[float, ...]  # whose first crossing is told
    published: dict[str, float]  # mean return by decisions, as the authors' own files have them
    options: dict[str, Any]  # of the recipe


DMC: dict[str, Any] = {"action_repeat": 2, "episode_length": 500, "episodic": False}
CLAIMS: dict[str, Claim] = {
    "pendulum": Claim(
        "Pendulum-v1",
        -200.0,
        5.0,
        (-250.0, -200.0),
        {},
        {
            "env": "Pendulum-v1",
            "episode_length": 200,
            "episodic": False,
            "prefill": 600,
            "pretrain": 600,
            "updates": 4000,
            "evaluate_every": 500,
            "episodes": 10,
        },
    ),
    "swingup": Claim(
        "dm_control cartpole-swingup (vectors, action repeat 2)",
        800.0,
        60.0,
        (600.0, 800.0),
        {"100000": 839.0, "200000": 872.0, "500000": 876.0, "1000000": 876.0},
        {
            "env": "dmc/cartpole-swingup",
            **DMC,
            "prefill": 2500,
            "pretrain": 1500,
            "updates": 40_000,
            "evaluate_every": 2500,
            "episodes": 3,
        },
    ),
    "locomotion": Claim(
        "dm_control walker-walk (vectors, action repeat 2)",
        700.0,
        90.0,
        (500.0, 700.0, 900.0),
        {"100000": 962.0, "200000": 973.0, "500000": 979.0, "1000000": 980.0},
        {
            "env": "dmc/walker-walk",
            **DMC,
            "prefill": 2500,
            "pretrain": 2500,
            "updates": 60_000,
            "evaluate_every": 4000,
            "episodes": 3,
        },
    ),
}


def decisions(update: int, options: dict[str, Any]) -> int:
    """Taken in the world when so many updates are done, random ones included."""
    return options["prefill"] + max(0, update - options["pretrain"])


def trained(name: str, seed: int, options: dict[str, Any], runs: Path) -> Path:
    """The folder of a finished run; trains what is missing."""
    folder = runs / f"tdmpc2-{name}-{seed}"
    train(registry.recipe("tdmpc2")(seed=seed, **options), folder)
    return folder


def scores(folder: Path, options: dict[str, Any]) -> Curve:
    """Every evaluation of a run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        (decisions(r["update"], options), r["evaluate/return"])
        for r in rows
        if "evaluate/return" in r
    ]


def spent(folder: Path) -> float:
    """Seconds that the run worked, evaluations included."""
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    return max(json.loads(row)["seconds"] for row in rows)


def first_reached(curve: Curve, threshold: float) -> int | None:
    """Decisions at the first evaluation of at least so much; None: never."""
    return next((steps for steps, value in curve if value >= threshold), None)


def at_random(options: dict[str, Any]) -> Interval:
    """What random actions earn in the same world."""
    given = {k: options[k] for k in ("action_repeat", "time_limit") if k in options}
    with closing(envs.make(options["env"], 10, seed=0, **given)) as env:
        agent = RandomAgent(envs.spaces(env)[1])
        return control("random", env, agent, episodes=50, seed=1_000_000).score


def over_seeds(values: list[float]) -> Interval:
    """Mean over seeds; the ends are the least and the largest where seeds are few."""
    if len(values) >= 5:
        return mean_interval(values)
    return Interval(float(np.mean(values)), min(values), max(values))


def claim(name: str, options: argparse.Namespace) -> None:
    """results/tdmpc2_NAME.json."""
    said = CLAIMS[name]
    settings = dict(said.options) | ({"updates": options.updates} if options.updates else {})
    folders = [trained(name, seed, settings, options.runs) for seed in options.seeds]
    if options.train_only:
        return
    curves = {folder.name: scores(folder, settings) for folder in folders}
    finals = [float(np.mean([v for _, v in curve[-LAST:]])) for curve in curves.values()]
    found, random = over_seeds(finals), at_random(settings)
    plot = RESULTS / f"tdmpc2_{name}.png"
    draw(plot, curves, random.value, said)
    evidence.record(
        f"tdmpc2_{name}",
        what=f"TD-MPC2 in {said.what}, size small: the mean of the last {LAST} evaluations over "
        f"seeds, {settings['episodes']} episodes each.",
        metric="return",
        value=found.value,
        low=found.low,
        high=found.high,
        better="higher",
        target=said.target,
        baselines={"random": random.value},
        seeds=options.seeds,
        steps=decisions(settings["updates"], settings),
        seconds=sum(spent(folder) for folder in folders),
        command=f"python proofs/tdmpc2.py {name}",
        config={
            "model": "tdmpc2",
            "recipe": "tdmpc2",
            **settings,
            "seeds, last evaluations": finals,
            "evaluations, by decisions": curves,
            "decisions until first at least": {
                str(t): [first_reached(curve, t) for curve in curves.values()]
                for t in said.thresholds
            },
            "published, size 5M, by decisions": said.published,
            "minutes a seed": [spent(folder) / 60 for folder in folders],
            "minutes a seed, at most": said.minutes,
            "threads": torch.get_num_threads(),
            "low and high": "least and largest of the seeds",
        },
        plot=plot.name,
    )
    sys.stdout.write(evidence.table(evidence.load_all()) + "\n")


def draw(path: Path, curves: dict[str, Curve], random: float, said: Claim) -> None:
    """Every seed's evaluations, beside random actions, the target and the published curve."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), label=name)
    axes.axhline(random, color="0.5", linestyle=":", label="random")
    axes.axhline(said.target, color="0.5", linestyle="--", label="target")
    for steps, value in list(said.published.items())[:1]:
        axes.plot(int(steps), value, "k*", label="published, size 5M")
    axes.set_xlabel("decisions in the world")
    axes.set_ylabel("return, mean of an evaluation")
    axes.legend(fontsize=7)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse the words and go."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claim", choices=tuple(CLAIMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, help="instead of the claim's own")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--train-only", action="store_true", help="write nothing but the runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    claim(options.claim, options)


if __name__ == "__main__":
    main()
