"""How long PETS takes to learn and to plan, beside mbrl-lib, in turns.

    python benchmarks/pets.py

Writes results/speed_pets.json. An epoch over 10,000 transitions (observation 18, action 6, 5
members of 4 layers of 200, batches of 32 for each member), and one plan of CEM (500 candidates,
15 steps, 20 particles, 5 iterations), float32 and bf16. The rival is as shipped: its normaliser,
its bootstraps, its TS-infinity; once more with the float32 products that oneDNN makes ("medium"),
which both of us would gain from.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gymnasium
import numpy as np
import torch
from harness import alternate, speedup

from reverie import evidence
from reverie.core.types import Box
from reverie.evaluate.statistics import mean_interval
from reverie.models.ensemble import PETS, EnsembleConfig
from reverie.models.ensemble_fit import Fit, FitConfig, Rows
from reverie.planners.cem import CEM
from reverie.planners.objective import Return

OBS, ACT, MEMBERS, LAYERS, UNITS = 18, 6, 5, 4, 200
STEPS, BATCH = 10_000, 32
CANDIDATES, HORIZON, PARTICLES, ITERATIONS = 500, 15, 20, 5


def numbers() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Observations, actions, next observations and rewards of made-up steps."""
    rng = np.random.default_rng(0)
    obs, after = rng.normal(size=(2, STEPS, OBS)).astype(np.float32)
    action = rng.uniform(-1, 1, (STEPS, ACT)).astype(np.float32)
    return obs, action, after, rng.normal(size=STEPS).astype(np.float32)


def our_model(precision: str) -> PETS:
    """Untrained, of the benchmark's size; its worlds never end, as the rival's."""
    torch.manual_seed(0)
    config = EnsembleConfig(MEMBERS, MEMBERS, LAYERS, UNITS, ends=None, precision=precision)  # type: ignore[arg-type]
    return PETS(config, {"vector": Box((OBS,), -torch.inf, torch.inf)}, Box((ACT,)))


def our_epoch() -> Callable[[], object]:
    """One epoch of `Fit`."""
    model = our_model("float32")
    obs, action, after, reward = (torch.from_numpy(x) for x in numbers())
    rows, target = torch.cat([obs, action], 1), torch.cat([after - obs, reward[:, None]], 1)
    data = Rows(rows, target, after, torch.zeros(STEPS, dtype=torch.bool))
    fit = Fit(model, lambda: None, FitConfig(batch=BATCH))  # type: ignore[arg-type, return-value]
    own = torch.randint(STEPS, (MEMBERS, STEPS))
    return lambda: fit.epoch(data, own)


def our_plan(precision: str) -> Callable[[], object]:
    """One plan from one state."""
    model = our_model(precision)
    planner = CEM(
        horizon=HORIZON,
        samples=CANDIDATES,
        iterations=ITERATIONS,
        elites=CANDIDATES // 10,
        std=0.5,
        momentum=0.1,
        particles=PARTICLES,
    )
    state = model.observe(None, None, torch.zeros(1, OBS))
    return lambda: planner.plan(model, state, Return(model.heads))


def their_parts() -> tuple[object, object, object]:
    """The rival's model, its trainer and its batches."""
    from mbrl.models import GaussianMLP, ModelTrainer, OneDTransitionRewardModel
    from mbrl.types import TransitionBatch
    from mbrl.util.replay_buffer import BootstrapIterator

    torch.manual_seed(0)
    net = GaussianMLP(
        OBS + ACT,
        OBS + 1,
        "cpu",
        num_layers=LAYERS,
        ensemble_size=MEMBERS,
        hid_size=UNITS,
        propagation_method="fixed_model",
        learn_logvar_bounds=True,
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    model = OneDTransitionRewardModel(net, normalize=True, normalize_double_precision=True)
    obs, action, after, reward = numbers()
    no = np.zeros(STEPS, bool)
    steps = TransitionBatch(obs, action, after, reward, no, no)
    model.update_normalizer(steps)
    batches = BootstrapIterator(
        *(steps, BATCH, MEMBERS), shuffle_each_epoch=True, permute_indices=False
    )
    return model, ModelTrainer(model, optim_lr=1e-3, weight_decay=3e-5), batches


def their_epoch() -> Callable[[], object]:
    """One epoch of the rival's trainer, without its evaluation."""
    _, trainer, batches = their_parts()
    return lambda: trainer.train(batches, num_epochs=1, evaluate=False, silent=True)  # type: ignore[attr-defined]


def their_plan() -> Callable[[], object]:
    """One plan of the rival's optimizer and model environment."""
    from mbrl.models import ModelEnv
    from mbrl.planning.trajectory_opt import CEMOptimizer

    model, *_ = their_parts()
    world = gymnasium.Env()
    world.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
    world.action_space = gymnasium.spaces.Box(-1, 1, (ACT,), np.float32)

    def never(action: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        del action
        return torch.zeros(len(after), 1, dtype=torch.bool)

    dream = ModelEnv(world, model, never, None, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    optimizer = CEMOptimizer(
        num_iterations=ITERATIONS,
        elite_ratio=0.1,
        population_size=CANDIDATES,
        lower_bound=[[-1.0] * ACT] * HORIZON,
        upper_bound=[[1.0] * ACT] * HORIZON,
        alpha=0.1,
        device=torch.device("cpu"),
        return_mean_elites=True,
    )
    state, start = np.zeros(OBS, np.float32), torch.zeros(HORIZON, ACT)
    return lambda: optimizer.optimize(
        lambda actions: dream.evaluate_action_sequences(actions, state, PARTICLES), start
    )


@contextmanager
def medium() -> Iterator[None]:
    """Let float32 products take the path of oneDNN, which is AVX-512 where MKL's is not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def with_medium(call: Callable[[], object]) -> Callable[[], object]:
    """The same call under `medium`."""

    def run() -> object:
        with medium():
            return call()

    return run


def main() -> None:
    """Time them and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--results", default=str(evidence.FOLDER))
    options = parser.parse_args()
    began = time.perf_counter()
    calls = {
        "epoch, ours": our_epoch(),
        "epoch, mbrl-lib": their_epoch(),
        "plan, ours": our_plan("float32"),
        "plan, ours, medium": our_plan("medium"),
        "plan, ours, bf16": our_plan("bf16"),
        "plan, mbrl-lib": their_plan(),
    }
    flagged = ("epoch, ours", "epoch, mbrl-lib", "plan, mbrl-lib")
    more = {f"{name}, medium": with_medium(calls[name]) for name in flagged}
    seconds = alternate({**calls, **more}, repeats=options.repeats)
    found = {name: mean_interval(values) for name, values in seconds.items()}
    ratios = {
        "epoch": speedup(seconds["epoch, ours"], seconds["epoch, mbrl-lib"]),
        "epoch, both medium": speedup(
            seconds["epoch, ours, medium"], seconds["epoch, mbrl-lib, medium"]
        ),
        "plan": speedup(seconds["plan, ours"], seconds["plan, mbrl-lib"]),
        "plan, medium": speedup(seconds["plan, ours, medium"], seconds["plan, mbrl-lib"]),
        "plan, bf16": speedup(seconds["plan, ours, bf16"], seconds["plan, mbrl-lib"]),
        "plan, both medium": speedup(
            seconds["plan, ours, medium"], seconds["plan, mbrl-lib, medium"]
        ),
    }
    for name, value in (*found.items(), *ratios.items()):
        sys.stdout.write(f"{name}: {value}\n")
    epoch = ratios["epoch"]
    evidence.record(
        "speed_pets",
        what=f"An epoch over {STEPS:,} transitions, {MEMBERS} members of {LAYERS} x {UNITS}, "
        f"batch {BATCH}: mbrl-lib's time over ours, in turns, float32; plans beside it.",
        metric="times faster than mbrl-lib 0.2.0",
        value=epoch.value,
        low=epoch.low,
        high=epoch.high,
        better="higher",
        target=2.5,
        baselines={"mbrl-lib": 1.0},
        seeds=[0],
        steps=options.repeats,
        seconds=time.perf_counter() - began,
        command="python benchmarks/pets.py",
        config={
            "model": "pets",
            "seconds": {name: value.value for name, value in found.items()},
            "times faster": {name: [*value] for name, value in ratios.items()},
            "plan": f"{CANDIDATES} x {HORIZON} x {PARTICLES} particles x {ITERATIONS} iterations",
            "targets of plans": {"float32 or medium": 1.7, "bf16": 4.0},
            "threads": torch.get_num_threads(),
        },
        folder=options.results,
    )


if __name__ == "__main__":
    main()
