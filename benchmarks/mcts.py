"""How fast trees are searched, beside mctx: 50 simulations, 18 actions, a small MLP.

    python benchmarks/mcts.py

Writes results/speed_mcts.json. Both search with the same weights (latent 64, hidden 128) from the
same 64 roots, with the noise of self-play, on the same CPU, in turns; ours on one thread. Before
that their trees are compared: without noise, Gumbel MuZero has one right answer. Compilation is
timed on its own. mctx (Babuschkin et al. 2020, the DeepMind JAX ecosystem) must be importable:
`make bench` makes an environment for it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import torch
import torch.nn.functional as F
from harness import alternate, rate, speedup
from torch import Tensor, nn

from reverie import evidence
from reverie.core.model import WorldModel
from reverie.core.types import Box, Card, Discrete, Heads, Space
from reverie.planners.compiled_mlp import CompiledMLP
from reverie.planners.mcts import MCTS
from reverie.planners.selection import PUCT, Gumbel

BATCH, SIMULATIONS, ACTIONS, LATENT, HIDDEN, DISCOUNT = 64, 50, 18, 64, 128, 0.997
CALLS = 10  # searches of one timed call
ALONE = 200  # the same at batch 1
PLANNERS = {
    "pUCT": MCTS(PUCT(noise=0.25, temperature=1.0), SIMULATIONS, DISCOUNT),
    "Gumbel": MCTS(Gumbel(noise=1.0), SIMULATIONS, DISCOUNT),
}


class Latent(NamedTuple):
    """A root or node, and the reward on the way to it."""

    x: Tensor  # (B, 64)
    reward: Tensor  # (B,)


class Logits(NamedTuple):
    """A policy."""

    logits: Tensor  # (B, 18)


class Network(WorldModel[Latent]):
    """MuZero's g and f as two MLPs."""

    card = Card("benchmark", "", "", "", "", "", "", (), (), "")
    observations: ClassVar[dict[str, Space]] = {"vector": Box((LATENT,))}
    actions = Discrete(ACTIONS)

    def __init__(self) -> None:
        super().__init__()
        self.g = mlp(LATENT + ACTIONS, LATENT + 1)
        self.f = mlp(LATENT, ACTIONS + 1)

    def encode(self, obs: dict[str, Tensor]) -> Latent:
        """The vector is the latent."""
        return Latent(obs["vector"], torch.zeros(len(obs["vector"])))

    def observe(self, state, action, h, *, first=None, generator=None) -> Latent:
        """What was seen."""
        return h

    def predict(self, state, action, *, z=None, generator=None) -> Latent:
        """g, its latent stretched to [0, 1]."""
        after = self.g(torch.cat([state.x, F.one_hot(action, ACTIONS).float()], 1))
        x = after[:, :-1]
        low, high = x.aminmax(dim=1, keepdim=True)
        return Latent((x - low) / (high - low).clamp(min=1e-5), after[:, -1])

    @property
    def heads(self) -> Heads:
        """f is asked for the policy and, about the same state, for the value."""
        last = [torch.empty(0)] * 2  # a latent and what f said about it

        def ask(state: Latent) -> Tensor:
            if state.x is not last[0]:
                last[:] = state.x, self.f(state.x)
            return last[1]

        return Heads(
            "benchmark",
            reward=lambda s, a, n: n.reward,
            value=lambda s: ask(s)[:, -1],
            policy=lambda s: Logits(ask(s)[:, :-1]),
        )


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    """One hidden layer of 128."""
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


def torch_side() -> tuple[Network, Latent]:
    """The network and 64 roots."""
    torch.manual_seed(0)
    model = Network().eval()
    model.requires_grad_(requires_grad=False)
    return model, Latent(torch.rand(BATCH, LATENT), torch.zeros(BATCH))


def compiled(model: Network, planner: MCTS) -> MCTS:
    """The same search in one compiled call."""
    net = CompiledMLP(model.g, model.f, latent=lambda state: state.x, rescale=True)
    return replace(planner, compiled=net)


def rival(model: Network, policy: Callable[..., mctx.PolicyOutput], **options: float):
    """mctx on the same weights: (key, latents) -> its output, jitted."""

    def weights(net: nn.Sequential):
        linears = (net[0], net[2])
        return [(jnp.asarray(x.weight.numpy().T), jnp.asarray(x.bias.numpy())) for x in linears]

    def apply(layers, x):
        (w1, b1), (w2, b2) = layers
        return jax.nn.relu(x @ w1 + b1) @ w2 + b2

    params = (weights(model.g), weights(model.f))

    def recurrent(params, key, action, latent):
        g, f = params
        after = apply(g, jnp.concatenate([latent, jax.nn.one_hot(action, ACTIONS)], 1))
        x, reward = after[:, :-1], after[:, -1]
        low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
        x = (x - low) / jnp.maximum(high - low, 1e-5)
        said = apply(f, x)
        discount = jnp.full_like(reward, DISCOUNT)
        out = mctx.RecurrentFnOutput(
            reward=reward, discount=discount, prior_logits=said[:, :-1], value=said[:, -1]
        )
        return out, x

    @jax.jit
    def search(params, key, latents):
        said = apply(params[1], latents)
        root = mctx.RootFnOutput(prior_logits=said[:, :-1], value=said[:, -1], embedding=latents)
        out = policy(params, key, root, recurrent, SIMULATIONS, **options)
        return out.action, out.action_weights, out.search_tree.summary().visit_counts

    return lambda key, latents: jax.block_until_ready(search(params, key, latents))


def check(model: Network, roots: Latent) -> float:
    """The share of roots whose visits mctx's Gumbel MuZero without noise gives as well.

    Raises:
        RuntimeError: if they are few, as then two different searches would be timed.
    """
    planner = replace(PLANNERS["Gumbel"], selection=Gumbel())
    ours = compiled(model, planner).plan(model, roots).extra["visits"].numpy()
    theirs = rival(model, mctx.gumbel_muzero_policy, gumbel_scale=0.0)
    _, _, visits = theirs(jax.random.key(0), jnp.asarray(roots.x.numpy()))
    same = float((ours == np.asarray(visits)).all(1).mean())
    if same < 0.9:  # float32 sums of two libraries differ in the last bits
        raise RuntimeError(f"Only {same:.0%} of the roots have mctx's visit counts.")
    return same


def repeat(search: Callable[[int], object], times: int) -> Callable[[], None]:
    """One timed call: so many searches, each with its own noise."""

    def call() -> None:
        for i in range(times):
            search(i)

    return call


def ours(planner: MCTS, model: Network, roots: Latent, times: int) -> Callable[[], None]:
    """A timed call of our planner."""
    generator = torch.Generator().manual_seed(0)
    return repeat(lambda _: planner.plan(model, roots, generator=generator), times)


def theirs(model: Network, roots: Latent, policy: Callable[..., mctx.PolicyOutput]):
    """A timed call of mctx, and the seconds that its first search took."""
    search, latents = rival(model, policy), jnp.asarray(roots.x.numpy())
    keys = list(jax.random.split(jax.random.key(0), CALLS))
    began = time.perf_counter()
    search(keys[0], latents)
    return repeat(lambda i: search(keys[i], latents), CALLS), time.perf_counter() - began


def first_search() -> None:
    """Print the seconds until our first compiled searches are done, in a process of its own."""
    model, roots = torch_side()
    began = time.perf_counter()
    for planner in PLANNERS.values():
        compiled(model, planner).plan(model, roots)
    sys.stdout.write(f"{time.perf_counter() - began}\n")


def compile_seconds() -> tuple[float, float]:
    """Seconds of our first searches: with nothing in numba's cache, and from it."""
    with tempfile.TemporaryDirectory() as cache:
        found = [
            subprocess.run(
                [sys.executable, __file__, "--first-search"],
                env={**os.environ, "NUMBA_CACHE_DIR": cache},
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for _ in range(2)
        ]
    return float(found[0]), float(found[1])


def timed(repeats: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of all contestants' calls, and of each side's first searches."""
    model, roots = torch_side()
    one = Latent(roots.x[:1], roots.reward[:1])
    policies = {"pUCT": mctx.muzero_policy, "Gumbel": mctx.gumbel_muzero_policy}
    contestants, first = {}, {}
    for name, planner in PLANNERS.items():
        quick = compiled(model, planner)
        contestants[name] = ours(quick, model, roots, CALLS)
        contestants[f"mctx {name}"], first[f"mctx {name}"] = theirs(model, roots, policies[name])
        contestants[f"torch {name}"] = ours(planner, model, roots, CALLS)
        contestants[f"one {name}"] = ours(quick, model, one, ALONE)
    first["reverie, both"], first["reverie, both, from the cache"] = compile_seconds()
    return alternate(contestants, repeats=repeats, warmup=2), first


def write(
    seconds: dict[str, list[float]],
    first: dict[str, float],
    same: float,
    began: float,
    folder: Path,
) -> None:
    """Print all of it and write the claim down."""
    ratio = {name: speedup(seconds[name], seconds[f"mctx {name}"]) for name in PLANNERS}
    work = BATCH * SIMULATIONS * CALLS
    rates = {
        name: rate(SIMULATIONS * ALONE if name.startswith("one") else work, found)
        for name, found in seconds.items()
    }
    lasts = {
        name: 1e3 * float(np.mean(found)) / (ALONE if name.startswith("one") else CALLS)
        for name, found in seconds.items()
    }
    for name, found in rates.items():
        sys.stdout.write(f"{name}: {lasts[name]:.3f} ms a search, {found} simulations/s\n")
    sys.stdout.write(f"ratios: {ratio}\nfirst searches: {first}\nmctx's visits: {same:.0%}\n")
    evidence.record(
        "speed_mcts",
        what=(
            f"Searches of {SIMULATIONS} simulations over {ACTIONS} actions at batch {BATCH} with "
            f"an MLP of {HIDDEN}: how many times as long mctx's MuZero takes on the same CPU; its "
            f"Gumbel MuZero takes {ratio['Gumbel'].value:.1f} times as long (1.2 is the aim)."
        ),
        metric="times mctx's time over ours, pUCT",
        value=ratio["pUCT"].value,
        low=ratio["pUCT"].low,
        high=ratio["pUCT"].high,
        better="higher",
        target=4,
        baselines={"mctx": 1.0},
        seeds=[0],
        steps=sum(map(len, seconds.values())) * CALLS,
        seconds=time.perf_counter() - began,
        command="python benchmarks/mcts.py",
        config={
            "gumbel_ratio": list(ratio["Gumbel"]),
            "gumbel_ratio_target": 1.2,
            "batch_1_simulations_a_second": {n: list(rates[f"one {n}"]) for n in PLANNERS},
            "batch_1_simulations_a_second_target": 125_000,
            "milliseconds_a_search": lasts,
            "torch_milliseconds_target": 12,
            "first_search_seconds": first,
            "roots_with_mctx_visits": same,
            "threads": torch.get_num_threads(),
        },
        folder=folder,
    )


def main() -> None:
    """Time both and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--results", type=Path, default=evidence.FOLDER)
    parser.add_argument("--first-search", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_search:
        first_search()
        return
    began = time.perf_counter()
    torch.set_num_threads(1)  # our products are too small to share; mctx has all cores
    same = check(*torch_side())
    seconds, first = timed(options.repeats)
    write(seconds, first, same, began, options.results)


if __name__ == "__main__":
    main()
