"""The Doom claims: train on every seed, judge in the real game, write results/doom_*.json.

    python proofs/doom.py demo          # doom_demo: recipe doom_quick
    python proofs/doom.py transfer      # doom_dream_transfer: recipe doom, the paper's sizes
    python proofs/doom.py temperature   # doom_temperature: in the dreams of demo

Runs lie in runs/ and are gone on with if they are there, so seeds can be trained apart
(`reverie train world_models_2018.doom --seed 1 --out runs/doom-1`) and counted later.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from reverie import evidence
from reverie.checkpoint import load_weights, write_bytes
from reverie.core.registry import recipe
from reverie.evaluate import report
from reverie.evaluate.control import control
from reverie.evaluate.judge import EVALUATION
from reverie.evaluate.statistics import Interval, mean_interval, seeds_interval
from reverie.models.world_models_2018 import Memory
from reverie.progress import terminal
from reverie.recipes import doom
from reverie.recipes import world_models_2018 as stages
from reverie.train import describe, train

TAUS = (0.1, 0.5, 1.0, 1.15, 1.3)
RESULTS = Path("results")
OURS = "dream-trained controller"
AHEAD = f"{OURS}, looking ahead"


def trained(name: str, seed: int, runs: Path) -> Path:
    """The folder of a finished run; trains what is missing."""
    folder = runs / f"{name}-{seed}"
    train(recipe(f"world_models_2018.{name}")(seed=seed), folder)
    report.write(folder)
    return folder


def returns(folder: Path) -> dict[str, list[float]]:
    """Real returns by agent, as the run was judged."""
    value = json.loads((folder / EVALUATION).read_text())
    return {score["name"]: score["returns"] for score in value["scores"]}


def curve(folder: Path) -> list[float]:
    """Mean dreamed return of every generation."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["mean"] for row in rows if row["stage"] == "controller" and "mean" in row]


def spent(folder: Path) -> float:
    """Seconds that the run worked."""
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    return max(json.loads(row)["seconds"] for row in rows)


def draw(path: Path, folders: Sequence[Path], agents: Sequence[str]) -> None:
    """Scores of every agent and seed beside the baselines, and C's curves."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    first = returns(folders[0])
    bars = [(f"{who}, {f.name}", returns(f)[who]) for who in agents for f in folders]
    bars += [(name, values) for name, values in first.items() if name not in agents]
    for row, (name, values) in enumerate(bars):
        found = mean_interval(values)
        error = [[found.value - found.low], [found.high - found.value]]
        color = "tab:blue" if OURS in name else "0.4"
        left.errorbar(found.value, row, xerr=error, fmt="o", color=color, capsize=3)
    left.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=7)
    left.invert_yaxis()
    left.set_xlabel("tics survived in the real game, mean and 95% interval")
    for folder in folders:
        right.plot(curve(folder), label=folder.name)
    right.set_xlabel("generation of CMA-ES")
    right.set_ylabel("dreamed return, tics of 800")
    right.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def scores(
    name: str, seeds: list[int], runs: Path, agents: Sequence[str]
) -> tuple[list[Path], list[list[list[float]]], dict[str, list[float]]]:
    """Folders, the returns of our agents by seed, and the baselines' returns."""
    folders = [trained(name, seed, runs) for seed in seeds]
    ours = [[returns(folder)[who] for folder in folders] for who in agents]
    others = {k: v for k, v in returns(folders[0]).items() if k not in agents}
    return folders, ours, others


def demo(seeds: list[int], runs: Path) -> None:
    """results/doom_demo.json."""
    folders, (ours,), others = scores("doom_quick", seeds, runs, [OURS])
    random, found = mean_interval(others["random"]), seeds_interval(ours)
    per_seed = [mean_interval(values) for values in ours]
    apart = sum(score.low > random.high for score in per_seed)
    RESULTS.mkdir(exist_ok=True)
    draw(RESULTS / "doom_demo.png", folders, [OURS])
    best = max(np.mean(v) for k, v in others.items() if "sweep" in k)
    evidence.record(
        "doom_demo",
        what="Mean survival in the real TakeCover of a controller that only ever lived in its "
        "dream, over that of the uniform random policy; recipe doom_quick, 100 episodes a seed. "
        f"Above random's interval on {apart} of {len(seeds)} seeds.",
        metric="ratio of mean tics survived",
        value=found.value / random.value,
        low=found.low / random.high,
        high=found.high / random.low,
        better="higher",
        target=2.4,
        baselines={"random": 1.0, "best blind sweep": best / random.value},
        seeds=seeds,
        steps=sum(len(values) for values in ours),
        seconds=sum(spent(folder) for folder in folders),
        command="python proofs/doom.py demo",
        config={
            "model": "world_models_2018",
            "recipe": "world_models_2018.doom_quick",
            "random": random._asdict(),
            "seeds": [score._asdict() for score in per_seed],
            "seconds a seed": [spent(folder) for folder in folders],
            "threads": torch.get_num_threads(),
        },
        plot="doom_demo.png",
    )


def transfer(seeds: list[int], runs: Path) -> None:
    """results/doom_dream_transfer.json."""
    folders, (ours, alone), others = scores("doom", seeds, runs, [AHEAD, OURS])
    found, linear = seeds_interval(ours), seeds_interval(alone)
    per_seed = [mean_interval(values) for values in ours]
    sweeps = [mean_interval(v) for k, v in others.items() if "sweep" in k]
    best = max(sweeps, key=lambda sweep: sweep.value)
    above = sum(score.low > best.high for score in per_seed)
    thousand = sum(score.value >= 1000 for score in per_seed)
    RESULTS.mkdir(exist_ok=True)
    draw(RESULTS / "doom_dream_transfer.png", folders, [AHEAD, OURS])
    evidence.record(
        "doom_dream_transfer",
        what="Survival in the real TakeCover of an agent that only ever lived in its dream: the "
        "linear controller, which looks 32 steps ahead in the dream before each decision; recipe "
        "doom (the paper's sizes), 100 episodes a seed, cap 2,100 tics. At least 1,000 on "
        f"{thousand} of {len(seeds)} seeds; above the best blind sweep's interval on {above}. "
        "The controller alone, as in the paper, stands among the baselines.",
        metric="mean tics survived",
        value=found.value,
        low=found.low,
        high=found.high,
        better="higher",
        target=1000.0,
        baselines={
            "the controller alone": linear.value,
            **{name: float(np.mean(values)) for name, values in others.items()},
        },
        seeds=seeds,
        steps=sum(len(values) for values in ours),
        seconds=sum(spent(folder) for folder in folders),
        command="python proofs/doom.py transfer",
        config={
            "model": "world_models_2018",
            "recipe": "world_models_2018.doom",
            "seeds": [score._asdict() for score in per_seed],
            "seeds, controller alone": [mean_interval(v)._asdict() for v in alone],
            "controller alone": linear._asdict(),
            "best blind sweep": best._asdict(),
            "seconds a seed": [spent(folder) for folder in folders],
            "threads": torch.get_num_threads(),
        },
        plot="doom_dream_transfer.png",
    )


def sweep(folder: Path) -> dict[str, Any]:
    """Evolve C anew at every temperature, and with an untrained M, in one run's dream.

    Kept in the run's evaluation.json, for its report, as soon as an arm is done.
    """
    path = folder / EVALUATION
    setup = doom.quick("doom_quick", describe(folder)["config"])
    load_weights(folder, model=setup.model, behavior=setup.controller)
    kept = {row["temperature"]: row for row in json.loads(path.read_text()).get("temperature", [])}
    for tau in TAUS:
        if tau not in kept:
            kept[tau] = {"temperature": tau, **arm(setup, folder, tau)}
            keep(path, temperature=sorted(kept.values(), key=lambda row: row["temperature"]))
    if "untrained M" not in json.loads(path.read_text()):
        torch.manual_seed(setup.seed)
        memory = setup.model.memory
        fresh = Memory(setup.model.config, memory.input.in_features)
        memory.load_state_dict(fresh.state_dict())
        keep(path, **{"untrained M": arm(setup, folder, 1.0)})
    report.write(folder)
    return json.loads(path.read_text())


def keep(path: Path, **more: Any) -> None:
    """Add to an evaluation.json."""
    write_bytes(path, json.dumps({**json.loads(path.read_text()), **more}, indent=1).encode())


def arm(setup: stages.Setup, folder: Path, tau: float) -> dict[str, Any]:
    """Dreamed and real score of a controller evolved at one temperature."""
    began = time.perf_counter()
    torch.manual_seed(setup.seed)
    setup.model.temperature = tau
    with torch.no_grad():
        setup.controller.weights.zero_()
    search = stages.evolution(setup, folder / "data")
    with terminal().task(f"{folder.name}, temperature {tau}", setup.effort.generations) as task:
        for _ in range(setup.effort.generations):
            task.advance(1, **search.update())
    env = setup.game.make(setup.game.num_envs, 0)
    try:
        real = control("evolved", env, setup.agent, episodes=100, seed=1_000_000)
    finally:
        env.close()
    dream = stages.dreamed(setup, folder / "data")
    return {
        "dream": dream._asdict(),
        "real": real.score._asdict(),
        "returns": real.returns,
        "seconds": time.perf_counter() - began,
    }


def temperature(seeds: list[int], runs: Path) -> None:
    """results/doom_temperature.json."""
    began = time.perf_counter()
    found = [sweep(trained("doom_quick", seed, runs)) for seed in seeds]
    table = {}
    for k, tau in enumerate(TAUS):
        rows = [value["temperature"][k] for value in found]
        real = seeds_interval([row["returns"] for row in rows])
        table[tau] = {"real": real, "dream": float(np.mean([r["dream"]["value"] for r in rows]))}
    blind = seeds_interval([value["untrained M"]["returns"] for value in found])
    cold = table[TAUS[0]]
    picture(RESULTS / "doom_temperature.png", table, blind)
    evidence.record(
        "doom_temperature",
        what="How far a cold dream flatters: dreamed over real survival of controllers evolved at "
        "temperature 0.1, in the dreams of doom_quick; the whole table is in config.",
        metric="dreamed tics over real tics at temperature 0.1",
        value=cold["dream"] / cold["real"].value,
        low=cold["dream"] / cold["real"].high,
        high=cold["dream"] / cold["real"].low,
        better="higher",
        target=None,
        baselines={
            f"at temperature {tau}": row["dream"] / row["real"].value
            for tau, row in table.items()
            if tau != TAUS[0]
        },
        seeds=seeds,
        steps=len(seeds) * (len(TAUS) + 1) * 100,
        seconds=time.perf_counter() - began,
        command="python proofs/doom.py temperature",
        config={
            "recipe": "world_models_2018.doom_quick",
            "table": {
                str(tau): {"dream": row["dream"], "real": row["real"]._asdict()}
                for tau, row in table.items()
            },
            "untrained M, real": blind._asdict(),
        },
        plot="doom_temperature.png",
    )


def picture(path: Path, table: dict[float, Any], blind: Interval) -> None:
    """Dreamed and real score against the temperature."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    taus = list(table)
    reals = [table[tau]["real"] for tau in taus]
    axes.plot(taus, [table[tau]["dream"] for tau in taus], "o--", label="dreamed")
    low = [real.value - real.low for real in reals]
    high = [real.high - real.value for real in reals]
    values = [real.value for real in reals]
    axes.errorbar(taus, values, yerr=[low, high], fmt="o-", capsize=3, label="real game")
    axes.axhspan(blind.low, blind.high, color="0.85", label="real game, untrained M")
    axes.set_xlabel("temperature of the dream that C was evolved in")
    axes.set_ylabel("tics survived")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse the words and go."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claim", choices=("demo", "transfer", "temperature"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    claims = {"demo": demo, "transfer": transfer, "temperature": temperature}
    claims[options.claim](options.seeds, options.runs)
    sys.stdout.write(evidence.table(evidence.load_all()) + "\n")


if __name__ == "__main__":
    main()
