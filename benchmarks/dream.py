"""How fast the 2018 model dreams: latent steps a second at LSTM 256, z 32.

    python benchmarks/dream.py

Writes results/speed_dream.json. The peer is the shape of public implementations, which dream one
episode at a time: the same weights at batch 1, timed alternately in the same run.
"""

from __future__ import annotations

import sys
import time

import torch
from harness import alternate, rate

from reverie import evidence
from reverie.core.types import Box
from reverie.imagine import rollout
from reverie.models.world_models_2018 import WorldModels2018, WorldModels2018Config

BATCH, HORIZON, REPEATS = 1024, 100, 9
PIXELS = {"image": Box((3, 64, 64), 0, 255, "uint8")}


def dreamer(model: WorldModels2018, batch: int, horizon: int, *, bf16: bool):
    """A call that dreams `batch` episodes of `horizon` steps; bf16 as the recipes dream."""
    latent = torch.zeros(batch, model.config.latent)
    start = model.observe(None, None, (latent, latent))
    actions = torch.zeros(batch, horizon, 3)

    def dream() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, bf16):
            return rollout(model, start, actions)

    return dream


def main() -> None:
    """Time it and write it down."""
    began = time.perf_counter()
    torch.manual_seed(0)
    model = WorldModels2018(WorldModels2018Config(), PIXELS, Box((3,))).eval()
    seconds = alternate(
        {
            "batch": dreamer(model, BATCH, HORIZON, bf16=True),
            "float32": dreamer(model, BATCH, HORIZON, bf16=False),
            "one": dreamer(model, 1, 10 * HORIZON, bf16=False),
        },
        repeats=REPEATS,
        warmup=2,
    )
    ours = rate(BATCH * HORIZON, seconds["batch"])
    full, one = rate(BATCH * HORIZON, seconds["float32"]), rate(10 * HORIZON, seconds["one"])
    sys.stdout.write(f"dream, batch {BATCH}: {ours} latent steps/s\n")
    sys.stdout.write(f"in float32: {full} steps/s\nbatch 1: {one} steps/s\n")
    evidence.record(
        "speed_dream",
        what=f"The 2018 model (LSTM 256, z 32) dreams {BATCH} episodes at once, in latent space, "
        "with products in bf16, all states kept.",
        metric="latent steps a second",
        value=ours.value,
        low=ours.low,
        high=ours.high,
        better="higher",
        target=100_000,
        baselines={"in float32": full.value, "one episode at a time": one.value},
        seeds=[0],
        steps=BATCH * HORIZON * REPEATS,
        seconds=time.perf_counter() - began,
        command="python benchmarks/dream.py",
        config={"batch": BATCH, "horizon": HORIZON, "threads": torch.get_num_threads()},
    )


if __name__ == "__main__":
    main()
