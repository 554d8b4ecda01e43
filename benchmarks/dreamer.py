"""How long one gradient step of DreamerV3 takes: model, actor, critic and replayed values.

    python benchmarks/dreamer.py

Writes results/speed_dreamer.json. Size 1M, pictures of 64x64x3, six actions, imagination 15 from
every step, batch 8 x 32, in turns: strides of 2 and of 1, float32 and bf16. The floor is what a
step's products would take at the rate of one large matrix product, timed in the same turns.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import torch
from harness import alternate
from torch.utils.flop_counter import FlopCounterMode

from reverie import evidence
from reverie.behaviors.actor_critic import V3, ActorCritic
from reverie.core.probe import sample_batch
from reverie.core.types import Discrete
from reverie.evaluate.statistics import mean_interval
from reverie.learner import GradientLearner
from reverie.models.dreamer import DREAMER_V3, PIXELS, DreamerV3
from reverie.nn.conv import Halving

BATCH, OBSERVATIONS, REPEATS, WARMUP = 8, 32, 9, 5
SIDE = 1024  # of the large product


class Step:
    """One gradient step on a fixed batch.

    Args:
        pooled: stride 1 and pooling, not a stride of 2.
        precision: of the losses.
    """

    def __init__(self, precision: str, *, pooled: bool) -> None:
        torch.manual_seed(0)
        config = replace(DREAMER_V3, stack=Halving(4, pooled=pooled))
        self.model = DreamerV3(config, PIXELS, Discrete(6))
        self.behavior = ActorCritic(self.model, V3)
        parts = [*self.model.parts(), *self.behavior.parts()]
        self.learner = GradientLearner(parts, precision=precision)  # type: ignore[arg-type]
        shape = (BATCH, OBSERVATIONS - 1)
        self.batch = sample_batch(self.model, shape, 0, obs=None, extra=None)

    def __call__(self) -> None:
        """Learn once."""
        self.learner.update(self.batch)

    def flops(self) -> int:
        """Of all products of one step."""
        with FlopCounterMode(display=False) as counter:
            self()
        return counter.get_total_flops()

    @torch.no_grad()
    def decide(self) -> None:
        """A hundred policy steps for one environment."""
        obs = {"image": self.batch.obs["image"][:1, 0]}
        state, action = None, torch.zeros(1, dtype=torch.int64)
        for _ in range(100):
            state = self.model.observe(state, action, self.model.encode(obs))
            action = self.behavior.policy(state)


def main() -> None:
    """Time it and write it down."""
    began = time.perf_counter()
    steps = {
        f"stride {2 - pooled}, {precision}": Step(precision, pooled=bool(pooled))
        for pooled in (0, 1)
        for precision in ("float32", "bf16")
    }
    a, b = torch.randn(2, SIDE, SIDE).unbind()
    calls = {**steps, "product": lambda: a @ b, "policy": steps["stride 2, float32"].decide}
    seconds = alternate(calls, repeats=REPEATS, warmup=WARMUP)
    found = {name: mean_interval(values) for name, values in seconds.items()}
    rate = 2 * SIDE**3 / found["product"].value
    floors = {name: steps[name].flops() / rate for name in steps if "float32" in name}
    for name, value in found.items():
        floor = f", floor {floors[name]:.3f} s" if name in floors else ""
        sys.stdout.write(f"{name}: {value} s{floor}\n")
    ours = found["stride 2, float32"]
    evidence.record(
        "speed_dreamer",
        what=f"One gradient step of DreamerV3, size 1M, 64x64x3, batch {BATCH} x {OBSERVATIONS}, "
        "imagination 15 from every step, all losses, float32, stride 2; the others beside it.",
        metric="seconds a step",
        value=ours.value,
        low=ours.low,
        high=ours.high,
        better="lower",
        target=None,
        baselines={name: found[name].value for name in steps if name != "stride 2, float32"},
        seeds=[0],
        steps=REPEATS,
        seconds=time.perf_counter() - began,
        command="python benchmarks/dreamer.py",
        config={
            "model": "dreamer_v3",
            "floor, seconds": floors,
            "GFLOP/s of a large product": rate / 1e9,
            "milliseconds of a policy step, one environment": 10 * found["policy"].value,
            "threads": torch.get_num_threads(),
        },
    )


if __name__ == "__main__":
    main()
