"""What CEM costs beyond the network it asks: in the 2018 dream and in PlaNet's RSSM.

    python benchmarks/planners.py

Writes results/speed_planners.json. In turns: a whole plan (noise, candidates, rollout, objective,
elites, fit), and the bare calls of `predict` and the reward head on as many rows for as many
steps. What the plan takes longer is the planner's own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import alternate, rate
from torch import Tensor

from reverie import evidence
from reverie.core import tree
from reverie.core.model import WorldModel
from reverie.core.types import Box
from reverie.evaluate.statistics import Interval, ratio_interval
from reverie.models.dreamer import PLANET, PlaNet
from reverie.models.world_models_2018 import WorldModels2018, WorldModels2018Config
from reverie.planners.cem import CEM
from reverie.planners.objective import Return

PLANNER = CEM(horizon=12, samples=1000, iterations=5, elites=100)
ROWS = PLANNER.samples * PLANNER.horizon * PLANNER.iterations  # candidates x horizon of one plan
ACTIONS = Box((3,))


def models() -> dict[str, tuple[WorldModel[Any], Any]]:
    """Each model with a state to plan from, batch 1."""
    torch.manual_seed(0)
    pixels = {"image": Box((3, 64, 64), 0, 255, "uint8")}
    obs = {"image": torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)}
    dreams = WorldModels2018(WorldModels2018Config(predicts=("reward",)), pixels, ACTIONS).eval()
    planet = PlaNet(PLANET, pixels, ACTIONS).eval()
    found = {}
    with torch.no_grad():
        for name, model in {"2018": dreams, "PlaNet": planet}.items():
            found[name] = (model, model.observe(None, None, model.encode(obs)))
    return found


def planned(model: WorldModel[Any], state: Any) -> Callable[[], object]:
    """A call that makes one plan."""
    generator, objective = torch.Generator().manual_seed(0), Return(model.heads)
    return lambda: PLANNER.plan(model, state, objective, generator=generator)


def bare(model: WorldModel[Any], state: Any) -> Callable[[], object]:
    """A call that asks the network as often, about as many rows, and nothing else."""
    generator, reward = torch.Generator().manual_seed(0), model.heads.reward
    start = tree.repeat(state, PLANNER.samples)
    shape = (PLANNER.horizon, PLANNER.samples, *ACTIONS.shape)
    actions = (0.6 * torch.randn(shape)).clamp(-1, 1).unbind()

    @torch.no_grad()
    def ask() -> Tensor:
        total = torch.zeros(PLANNER.samples)
        for _ in range(PLANNER.iterations):
            before = start
            for action in actions:
                after = model.predict(before, action, generator=generator)
                total = total + reward(before, action, after)
                before = after
        return total

    return ask


def main() -> None:
    """Time it and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--results", type=Path, default=evidence.FOLDER)
    options = parser.parse_args()
    began = time.perf_counter()
    overhead, config = {}, {"threads": torch.get_num_threads(), **vars(PLANNER)}
    for name, (model, state) in models().items():
        seconds = alternate(
            {"plan": planned(model, state), "bare": bare(model, state)},
            repeats=options.repeats,
            warmup=2,
        )
        ratio = ratio_interval(seconds["plan"], seconds["bare"])
        overhead[name] = Interval(*(100 * (x - 1) for x in ratio))
        whole, alone = rate(ROWS, seconds["plan"]), rate(ROWS, seconds["bare"])
        sys.stdout.write(f"{name}: {whole} candidates x horizon/s, bare calls {alone}\n")
        sys.stdout.write(f"{name}: planner overhead {overhead[name]} %\n")
        config |= {
            f"{name}_overhead_percent": list(overhead[name]),
            f"{name}_candidate_steps_a_second": list(whole),
            f"{name}_bare_steps_a_second": list(alone),
        }
    worst = max(overhead.values())
    evidence.record(
        "speed_planners",
        what="CEM in the 2018 model (LSTM 256, z 32) and in PlaNet's RSSM: how much longer a plan "
        "takes than the bare calls of predict and reward for the same candidates; the worse one.",
        metric="planner overhead, percent of the bare network calls",
        value=worst.value,
        low=worst.low,
        high=worst.high,
        better="lower",
        target=15,
        baselines={f"in {name}": found.value for name, found in overhead.items()},
        seeds=[0],
        steps=2 * options.repeats * len(overhead),
        seconds=time.perf_counter() - began,
        command="python benchmarks/planners.py",
        config=config,
        folder=options.results,
    )


if __name__ == "__main__":
    main()
