"""How long a generation of CMA-ES takes, dreams included: 64 candidates, 16 episodes, 500 steps.

    python benchmarks/evolution.py

Writes results/speed_evolution.json. No dream ends early here: `cont` is held near 1, so every one
of the 512,000 steps is dreamed. Beside it: CMA-ES alone, its ask and tell.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import torch
from harness import alternate

from reverie import evidence
from reverie.behaviors.evolution import Controller, Evolution, EvolutionConfig
from reverie.core.types import Box
from reverie.evaluate.statistics import mean_interval
from reverie.models.world_models_2018 import WorldModels2018, WorldModels2018Config

POPULATION, EPISODES, HORIZON, REPEATS = 64, 16, 500, 5
PIXELS = {"image": Box((3, 64, 64), 0, 255, "uint8")}


def main() -> None:
    """Time it and write it down."""
    began = time.perf_counter()
    torch.manual_seed(0)
    config = replace(WorldModels2018Config(), predicts=("done",))
    model = WorldModels2018(config, PIXELS, Box((3,))).eval()
    with torch.no_grad():
        model.memory.scalars["done"].bias.fill_(-30.0)  # nothing ends
    controller = Controller(config.latent + config.hidden, Box((3,)))
    latent = torch.zeros(EPISODES, config.latent)

    def starts(n: int, generator: torch.Generator):
        return model.observe(None, None, (latent[:n], latent[:n]), generator=generator)

    learner = Evolution(model, controller, starts, EvolutionConfig(POPULATION, EPISODES, HORIZON))
    empty = Evolution(model, controller, starts, EvolutionConfig(POPULATION, EPISODES, 0))
    seconds = alternate({"all": learner.update, "cma": empty.update}, repeats=REPEATS, warmup=1)
    ours, cma = mean_interval(seconds["all"]), mean_interval(seconds["cma"])
    sys.stdout.write(f"a generation: {ours} s; ask and tell alone: {cma} s\n")
    evidence.record(
        "speed_evolution",
        what="One generation of CMA-ES over 867 weights, every step of every dream included.",
        metric="seconds a generation",
        value=ours.value,
        low=ours.low,
        high=ours.high,
        better="lower",
        target=8.0,
        baselines={"ask and tell alone": cma.value},
        seeds=[0],
        steps=POPULATION * EPISODES * HORIZON * REPEATS,
        seconds=time.perf_counter() - began,
        command="python benchmarks/evolution.py",
        config={
            "population": POPULATION,
            "episodes": EPISODES,
            "horizon": HORIZON,
            "hidden": config.hidden,
            "latent": config.latent,
            "threads": torch.get_num_threads(),
        },
    )


if __name__ == "__main__":
    main()
