"""The claims of PETS and MBPO: train every seed, write results/pets_*.json and mbpo.json.

    python proofs/ensemble.py pets_pendulum   # Pendulum-v1 within 15 episodes
    python proofs/ensemble.py pets_cartpole   # dm_control cartpole-swingup within 20 episodes
    python proofs/ensemble.py mbpo            # Pendulum-v1 and Hopper-v5, beside SAC alone

PETS has no other evaluation than its trials: the score is the mean of the last five. MBPO and SAC
alone have the same real steps, and are evaluated without exploration; the score is the mean of
the last two evaluations. Runs lie in runs/ and are gone on with if they are there, so seeds can be
trained apart (`python proofs/ensemble.py mbpo --seeds 1 --train`) and counted later.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from matplotlib.figure import Figure

from reverie import envs, evidence
from reverie.agent import RandomAgent
from reverie.core import registry
from reverie.evaluate.control import control
from reverie.evaluate.statistics import Interval, mean_interval
from reverie.train import train

RESULTS = Path("results")
TRIALS, EVALUATIONS = 5, 2  # that count, the last ones
Curve = list[tuple[int, float]]  # (decisions in the world, return)


class Claim(NamedTuple):
    """One task, how PETS is trained for it, and what is promised."""

    what: str
    target: float
    options: dict[str, Any]  # of the recipe
    beside: dict[str, dict[str, Any]]  # recipe -> options of what is drawn beside it
    others: tuple[str, ...] = ()  # folders of runs/, with {seed}, that are drawn if they are there


PENDULUM = {"env": "Pendulum-v1", "precision": "bf16"}
SWINGUP = {"env": "dmc/cartpole-swingup", "action_repeat": 4}
CLAIMS: dict[str, Claim] = {
    "pets_pendulum": Claim(
        "PETS in Pendulum-v1 within 15 episodes (3,000 steps), the first at random",
        -250.0,
        {**PENDULUM, "updates": 15},
        {},
    ),
    "pets_cartpole": Claim(
        "PETS in dm_control cartpole-swingup (vectors) within 20 episodes of 250 decisions",
        800.0,
        {
            **SWINGUP,
            "precision": "bf16",
            "updates": 20,
            "steps_per_update": 250,
            "prefill": 250,
            "horizon": 25,
            "samples": 150,
        },
        {
            "mbpo": {
                **SWINGUP,
                "precision": "bf16",
                "steps": 5000,
                "prefill": 500,
                "retrain": 250,
                "starts": 10_000,
                "rollout": (500, 2500, 1, 5),
                "evaluate_every": 500,
            },
        },
        ("dreamer_v3-swingup-{seed}", "tdmpc2-swingup-{seed}"),
    ),
}
# task -> (options of both arms, options of MBPO alone)
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pendulum": (
        {"env": "Pendulum-v1", "steps": 3000, "prefill": 600, "evaluate_every": 400},
        {"retrain": 200, "starts": 4000, "rollout": (0, 1, 2, 2), "precision": "bf16"},
    ),
    "hopper": (
        {"env": "Hopper-v5", "steps": 20_000, "prefill": 2000, "evaluate_every": 2000},
        {
            "retrain": 250,
            "starts": 10_000,
            "rollout": (4000, 16_000, 1, 5),
            "keep": 200_000,
            "precision": "bf16",
        },
    ),
}


def trained(name: str, recipe: str, seed: int, options: dict[str, Any], runs: Path) -> Path:
    """The folder of a finished run; trains what is missing."""
    folder = runs / f"{recipe}-{name}-{seed}"
    train(registry.recipe(recipe)(seed=seed, **options), folder)
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run's metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def trials(folder: Path) -> Curve:
    """(decisions, return) of the episodes of PETS behind its random ones."""
    found = [r for r in rows(folder) if "collect/return" in r]
    return [(int(r["collect/steps"]), r["collect/return"]) for r in found]


def evaluations(folder: Path) -> Curve:
    """(decisions, return) of every evaluation of a run that grows with its updates."""
    config = json.loads((folder / "run.json").read_text())["config"]
    ratio = config.get("steps_per_update") or 1 / config["updates_per_step"]
    found = [r for r in rows(folder) if "evaluate/return" in r]
    return [(int(config["prefill"] + ratio * r["update"]), r["evaluate/return"]) for r in found]


def spent(folders: Sequence[Path]) -> float:
    """Seconds that runs worked."""
    return sum(max(row["seconds"] for row in rows(folder)) for folder in folders)


def last(curve: Curve, count: int) -> float:
    """Mean of the last ones."""
    return float(np.mean([value for _, value in curve[-count:]]))


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean over seeds; the ends are the least and the largest where seeds are few."""
    if len(values) >= 5:
        return mean_interval(values)
    return Interval(float(np.mean(values)), min(values), max(values))


def at_random(options: dict[str, Any]) -> float:
    """What random actions earn in the same world."""
    given = {k: options[k] for k in ("action_repeat", "time_limit") if k in options}
    env: VectorEnv = envs.make(options["env"], 10, seed=0, observe="vector", **given)
    with closing(env):
        agent = RandomAgent(envs.spaces(env)[1])  # type: ignore[arg-type]
        return control("random", env, agent, episodes=50, seed=1_000_000).score.value


def claim(name: str, options: argparse.Namespace) -> None:
    """results/pets_*.json."""
    said = CLAIMS[name]
    task = name.removeprefix("pets_")
    folders = [trained(task, "pets", s, said.options, options.runs) for s in options.seeds]
    beside = {
        recipe: [trained(task, recipe, s, more, options.runs) for s in options.seeds]
        for recipe, more in said.beside.items()
    }
    if options.train:
        return
    curves = {f.name: trials(f) for f in folders}
    finals = [last(curve, TRIALS) for curve in curves.values()]
    others = {f.name: evaluations(f) for found in beside.values() for f in found}
    for pattern in said.others:
        for folder in (options.runs / pattern.format(seed=s) for s in options.seeds):
            if (folder / "metrics.jsonl").is_file():
                others[folder.name] = evaluations(folder)
    found, random = over_seeds(finals), at_random(said.options)
    baselines = {
        recipe: float(np.mean([last(evaluations(f), EVALUATIONS) for f in fs]))
        for recipe, fs in beside.items()
    }
    plot = RESULTS / f"{name}.png"
    draw(plot, {**curves, **others}, {"random": random, "target": said.target})
    evidence.record(
        name,
        what=f"{said.what}, size small: the mean of the last {TRIALS} trials over seeds.",
        metric="return",
        value=found.value,
        low=found.low,
        high=found.high,
        better="higher",
        target=said.target,
        baselines={"random": random, **baselines},
        seeds=options.seeds,
        steps=max(steps for curve in curves.values() for steps, _ in curve),
        seconds=spent(folders),
        command=f"python proofs/ensemble.py {name}",
        config={
            "model": "pets",
            "recipe": "pets",
            **said.options,
            "seeds, last trials": finals,
            "trials": curves,
            "beside": others,
            "threads": torch.get_num_threads(),
            "low and high": "least and largest of the seeds",
        },
        plot=plot.name,
    )


def mbpo(options: argparse.Namespace) -> None:
    """results/mbpo.json: both tasks, both arms."""
    folders: dict[str, list[Path]] = {}
    for task, (both, own) in ARMS.items():
        for recipe, more in (("mbpo", own), ("sac", {})):
            arm = {**both, **more}
            folders[f"{recipe}, {task}"] = [
                trained(task, recipe, s, arm, options.runs) for s in options.seeds
            ]
    if options.train:
        return
    finals = {
        name: [last(evaluations(f), EVALUATIONS) for f in some] for name, some in folders.items()
    }
    found, sac = over_seeds(finals["mbpo, hopper"]), max(finals["sac, hopper"])
    means = {name: float(np.mean(values)) for name, values in finals.items()}
    curves = {f.name: evaluations(f) for some in folders.values() for f in some}
    randoms = {f"random, {task}": at_random(both) for task, (both, _) in ARMS.items()}
    plot = RESULTS / "mbpo.png"
    draw(plot, curves, {})
    evidence.record(
        "mbpo",
        what="MBPO in Hopper-v5 and Pendulum-v1 beside SAC alone at equal real steps (20,000 and "
        f"3,000): the mean of the last {EVALUATIONS} evaluations over seeds; the value is "
        "Hopper's, the target is the best seed of SAC alone there.",
        metric="return, Hopper-v5",
        value=found.value,
        low=found.low,
        high=found.high,
        better="higher",
        target=sac,
        baselines={**{k: v for k, v in means.items() if k != "mbpo, hopper"}, **randoms},
        seeds=options.seeds,
        steps=sum(both["steps"] for both, _ in ARMS.values()),
        seconds=sum(spent(some) for some in folders.values()),
        command="python proofs/ensemble.py mbpo",
        config={
            "model": "mbpo",
            "recipe": "mbpo",
            "arms": {task: {"both": both, "mbpo": own} for task, (both, own) in ARMS.items()},
            "seeds, last evaluations": finals,
            "evaluations": curves,
            "threads": torch.get_num_threads(),
            "low and high": "least and largest of the seeds",
        },
        plot=plot.name,
    )


def draw(path: Path, curves: dict[str, Curve], lines: dict[str, float]) -> None:
    """Return over decisions in the world; one panel a task, which follows the recipe's name."""
    curves = {name.replace("-swingup-", "-cartpole-"): curve for name, curve in curves.items()}
    tasks = list(dict.fromkeys(name.split("-")[-2] for name in curves))
    figure = Figure(figsize=(6 * len(tasks), 3.8), layout="constrained")
    for axes, task in zip(np.atleast_1d(figure.subplots(1, len(tasks))), tasks, strict=True):
        for name, curve in curves.items():
            if name.split("-")[-2] == task:
                axes.plot(*zip(*curve, strict=True), label=name, linewidth=1.2)
        for style, (label, height) in zip((":", "--"), lines.items(), strict=False):
            axes.axhline(height, color="0.5", linestyle=style, label=label)
        axes.set(xlabel="decisions in the world", ylabel="return", title=task)
        axes.legend(fontsize=6)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse the words and go."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("claim", choices=(*CLAIMS, "mbpo"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--train", action="store_true", help="train these seeds; write nothing")
    options = parser.parse_args()
    if options.claim == "mbpo":
        mbpo(options)
    else:
        claim(options.claim, options)
    if not options.train:
        sys.stdout.write(evidence.table(evidence.load_all()) + "\n")


if __name__ == "__main__":
    main()
