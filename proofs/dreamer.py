"""The Dreamer claims: train on every seed, write results/dreamer_v3_*.json and rssm_kalman.json.

    python proofs/dreamer.py kalman     # rssm_kalman: one-step likelihood beside the Kalman filter
    python proofs/dreamer.py cartpole   # dreamer_v3_cartpole: CartPole-v1
    python proofs/dreamer.py swingup    # dreamer_v3_swingup: dm_control cartpole-swingup, vectors
    python proofs/dreamer.py grid       # dreamer_v3_grid: MinAtar breakout
    python proofs/dreamer.py pixels     # dreamer_v3_pixels: two rooms with a goal, 64x64 pictures
    python proofs/dreamer.py line       # dreamer_line: the four schools swing up, at equal steps

Scores are the mean of the last five evaluations over seeds, never the best one. Runs lie in runs/
and are gone on with if they are there, so seeds can be trained apart
(`reverie train dreamer_v3 --seed 1 --out runs/dreamer_v3-cartpole-1 ...`) and counted later.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from matplotlib.figure import Figure
from torch import Tensor

from reverie import envs, evidence
from reverie.agent import RandomAgent
from reverie.core import registry, tree
from reverie.core.types import Act, Batch, Box, Optim
from reverie.data.collect import collect
from reverie.envs import rules
from reverie.envs.rules import LinearSystem
from reverie.envs.toy import Errand
from reverie.evaluate.control import control
from reverie.evaluate.opponents import Legal
from reverie.evaluate.statistics import Interval, mean_interval
from reverie.learner import GradientLearner
from reverie.models.dreamer import PLANET, PlaNet
from reverie.models.muzero_nets import LEGAL
from reverie.models.rssm import RSSM
from reverie.nn.latent import Divergence, Gaussian
from reverie.nn.likelihood import FreeGaussian
from reverie.progress import terminal
from reverie.train import train

RESULTS = Path("results")
LAST = 5  # evaluations that count
SEEDS = 3  # fewer keep no promise
Curve = list[tuple[int, float]]  # (update, or steps of the environment; mean return)
# What differs where the older schools are compared. PlaNet looks 12 decisions ahead, which must be
# long enough to swing up in: its action repeat is its paper's.
LINE: dict[str, dict[str, Any]] = {
    "planet": {"updates": 5000, "evaluate_every": 500, "action_repeat": 8},
    "dreamer_v1": {"updates": 10_500, "evaluate_every": 500},
    "dreamer_v2": {"updates": 10_500, "evaluate_every": 500},
}


# -- the closed form ------------------------------------------------------------------------------

WARM = 8  # observations before the likelihood counts
CHAINS = 16  # of posterior states, whose forecasts are mixed
DRAWS = 16  # of z in each
FLOOR = 0.01  # least deviation of z


def kalman_nll(y: np.ndarray, u: np.ndarray, system: LinearSystem) -> float:
    """Mean one-step NLL, nats, of observations after WARM under the true filter.

    Args:
        y: (B, T+1, P).
        u: (B, T, A).
        system: the matrices.
    """
    mean = np.tile(system.mean, (len(y), 1))
    cov, total = system.cov, []
    for t in range(y.shape[1]):
        if t:
            mean = mean @ system.A.T + u[:, t - 1] @ system.B.T
            cov = system.A @ cov @ system.A.T + system.Q
        seen = system.C @ cov @ system.C.T + system.R
        off = y[:, t] - mean @ system.C.T
        gain = np.linalg.solve(seen, system.C @ cov).T
        if t > WARM:
            square = (off * np.linalg.solve(seen, off.T).T).sum(-1)
            total.append(0.5 * (square + np.linalg.slogdet(2 * np.pi * seen)[1]))
        mean, cov = mean + off @ gain.T, cov - gain @ system.C @ cov
    return float(np.mean(total))


@torch.no_grad()
def rssm_nll(model: RSSM, y: Tensor, u: Tensor) -> float:
    """The same under a model: the mean density that CHAINS of its states give.

    Each chain's density is an integral over z, estimated by DRAWS from the posterior, weighed:
    draws from the prior would need thousands, for the decoder is sure of what z says. The
    estimate's logarithm is biased against the model.

    Args:
        model: its latent is Gaussian, and its decoder says a mean and a deviation.
        y: (B, T+1, P).
        u: (B, T, A).
    """
    rows = tree.repeat((y, u), CHAINS)
    state, total = None, []
    for t in range(y.shape[1]):
        action, seen = rows[1][:, t - 1] if t else None, rows[0][:, t]
        h = model.encode({"vector": seen})
        after = model.observe(state, action, h)
        if t > WARM:
            many = tree.repeat((after.memory, model.posterior.seen(h), seen), DRAWS)
            density = log_densities(model, *many).view(len(y), -1)
            total.append(np.log(CHAINS * DRAWS) - density.logsumexp(1))
        state = after
    return float(torch.stack(total).mean())


def log_densities(model: RSSM, memory: Tensor, seen: Tensor, y: Tensor) -> Tensor:
    """(N,) log p(y | z) + log p(z) - log q(z) at one draw of q each."""
    q, p = normal(model, model.posterior(memory, seen)), normal(model, model.prior(memory))
    z = q.sample()
    loss = model.decoder.vector.loss(torch.cat([memory, z], -1), y)  # type: ignore[union-attr]
    return (p.log_prob(z) - q.log_prob(z)).sum(-1) - loss


def normal(model: RSSM, raw: Tensor) -> torch.distributions.Normal:
    """What raw outputs say of z, without using the latent's own formulas."""
    mean, std = raw.chunk(2, -1)
    return torch.distributions.Normal(mean, torch.nn.functional.softplus(std) + FLOOR)


def linear_data(rows: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Observations (rows, steps + 1, P) and random actions (rows, steps, A)."""
    env = envs.make("toy/linear_gaussian", rows, seed=seed, time_limit=steps)
    _, actions = envs.spaces(env)
    with closing(env):
        played = collect(env, RandomAgent(actions), episodes=rows, seed=seed)
    y = torch.from_numpy(np.stack([episode.obs["vector"] for episode in played]))
    return y, torch.from_numpy(np.stack([episode.action for episode in played]))


def kalman_model(seed: int) -> PlaNet:
    """A small Gaussian RSSM without free nats, whose decoder says how sure it is."""
    oracle = registry.instance("toy/linear_gaussian")
    torch.manual_seed(seed)
    config = replace(
        PLANET,
        memory=64,
        hidden=64,
        units=64,
        latent=Gaussian(4, FLOOR),
        layers=1,
        reward_layers=1,
        divergence=Divergence(0.0),
        vector=FreeGaussian(),
        reward_weight=0.0,
        optim=Optim("model", lr=3e-3, decay=0.9985, lr_min=1e-5, clip_norm=10.0),
    )
    return PlaNet(config, oracle.observations, oracle.actions)


def fitted(seed: int, updates: int, batch: int = 32) -> tuple[float, float]:
    """NLL of a trained RSSM and of the filter on the same held-out segments."""
    y, u = linear_data(1500, 32, 10_000 + seed)
    model = kalman_model(seed)
    learner, rng = GradientLearner(model.parts()), np.random.default_rng(seed)
    none = torch.zeros(batch, u.shape[1], dtype=torch.bool)
    first = torch.zeros(batch, u.shape[1] + 1, dtype=torch.bool)
    first[:, 0] = True
    with terminal().task(f"kalman, seed {seed}", updates) as task:
        for _ in range(updates):
            rows = torch.from_numpy(rng.integers(len(y), size=batch))
            reward = torch.zeros(none.shape)
            data = Batch({"vector": y[rows]}, u[rows], reward, none, none, ~none, first, {})
            learner.update(data)
            task.advance(1)
    held_y, held_u = linear_data(200, 32, 20_000 + seed)
    truth = kalman_nll(held_y.double().numpy(), held_u.double().numpy(), LinearSystem())
    return rssm_nll(model.eval(), held_y, held_u), truth


def kalman(options: argparse.Namespace) -> None:
    """results/rssm_kalman.json."""
    began = time.perf_counter()
    found = [fitted(seed, options.updates or 1500) for seed in options.seeds]
    excess = [100 * (ours - truth) / abs(truth) for ours, truth in found]
    low, high = min(excess), max(excess)
    evidence.record(
        "rssm_kalman",
        what="How far the RSSM's one-step likelihood of held-out observations in the linear "
        "Gaussian world stays behind the Kalman filter's, in percent of the filter's; "
        f"{CHAINS} posterior chains mixed, observations after the {WARM}th.",
        metric="excess NLL, percent",
        value=float(np.mean(excess)),
        low=low,
        high=high,
        better="lower",
        target=5.0,
        baselines={},
        seeds=options.seeds,
        steps=(options.updates or 1500) * len(found),
        seconds=time.perf_counter() - began,
        command="python proofs/dreamer.py kalman",
        config={
            "model": "planet",
            "NLL, nats, ours and the filter's": [list(pair) for pair in found],
            "low and high": "least and largest of the seeds",
        },
    )


# -- learning to act ------------------------------------------------------------------------------


class Claim(NamedTuple):
    """One task, how it is trained for, and what is promised."""

    what: str
    target: float
    options: dict[str, Any]  # of the recipe


# One set of hyper-parameters for all four: batch, length, ratio, sizes and rates are the same.
SHARED: dict[str, Any] = {"batch": 8, "length": 16, "steps_per_update": 2.0, "evaluate_every": 250}
CLAIMS: dict[str, Claim] = {
    "cartpole": Claim(
        "DreamerV3 in CartPole-v1 (vectors)",
        450.0,
        {"env": "CartPole-v1", "updates": 6000, "prefill": 500},
    ),
    "swingup": Claim(
        "DreamerV3 in dm_control cartpole-swingup (vectors)",
        600.0,
        {
            "env": "dmc/cartpole-swingup",
            "updates": 30_000,
            "prefill": 1000,
            "action_repeat": 4,
            "episodes": 5,
            "evaluate_every": 1000,
        },
    ),
    "grid": Claim(
        "DreamerV3 in MinAtar breakout (10x10 grid)",
        5.0,  # a DQN's best seed earns 4.5 at equal steps: proofs/model_free.py
        {"env": "minatar/breakout", "updates": 15_000, "prefill": 1000, "evaluate_every": 1000},
    ),
    "pixels": Claim(
        "DreamerV3 in two rooms with a goal (64x64 pictures)",
        38.0,  # 90% of who is told where everything is
        {
            "env": "toy/errand",
            "updates": 4000,
            "prefill": 1000,
            "episodes": 50,
            "evaluate_every": 500,
            "precision": "bf16",
        },
    ),
}


def trained(name: str, recipe: str, seed: int, options: dict[str, Any], runs: Path) -> Path:
    """The folder of a finished run; trains what is missing."""
    folder = runs / f"{recipe}-{name}-{seed}"
    train(registry.recipe(recipe)(seed=seed, **options), folder)
    return folder


def scores(folder: Path) -> Curve:
    """(update, mean return) of every evaluation of a run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(r["update"], r["evaluate/return"]) for r in rows if "evaluate/return" in r]


def spent(folder: Path) -> float:
    """Seconds that the run worked."""
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    return max(json.loads(row)["seconds"] for row in rows)


class Idle:
    """Never acts. The carry is None."""

    def __init__(self, actions: Box) -> None:
        self._shape = actions.shape

    def initial(self, batch: int) -> None:
        """Nothing is carried."""

    def act(self, carry: None, obs: Any, first: Tensor, **_: Any) -> tuple[None, Act]:
        """Zeros (B, A)."""
        del carry, obs
        return None, Act(torch.zeros(len(first), *self._shape), {})


class Guide:
    """Walks to the goal of `toy/errand`, through the door: it is told where everything is."""

    def initial(self, batch: int) -> None:
        """Nothing is carried."""

    def act(self, carry: None, obs: Any, first: Tensor, **_: Any) -> tuple[None, Act]:
        """Steps (B, 2) towards the goal, or the door's near side, or its far side."""
        del carry, first
        x = obs["vector"]
        place, goal, door = x[:, :2], x[:, 2:4], x[:, 4]
        before = torch.stack([torch.full_like(door, rules.WALL_LEFT), door], 1)
        behind = torch.stack([torch.full_like(door, rules.WALL_RIGHT + 0.1), door], 1)
        astray = (place[:, 1] - door).abs() > rules.DOOR_HALF
        door_way = torch.where((astray & (place[:, 0] <= rules.WALL_LEFT))[:, None], before, behind)
        aim = torch.where((place[:, 0] < rules.WALL_RIGHT)[:, None], door_way, goal)
        return None, Act((aim - place) / rules.STEP, {})


def blind(options: dict[str, Any]) -> dict[str, float]:
    """What random actions earn in the same world, and doing nothing where that can be done."""
    given = {k: options[k] for k in ("action_repeat", "time_limit") if k in options}
    env: VectorEnv = envs.make(options["env"], 10, seed=0, **given)
    with closing(env):
        observations, actions = envs.spaces(env)
        chance = Legal() if LEGAL in observations else RandomAgent(actions)
        agents: dict[str, Any] = {"random": chance}
        if isinstance(actions, Box):
            agents["doing nothing"] = Idle(actions)
        return {
            who: control(who, env, agent, episodes=50, seed=1_000_000).score.value
            for who, agent in agents.items()
        }


def guided(options: dict[str, Any]) -> dict[str, float]:
    """What `Guide` earns, in the world that it knows."""
    if options["env"] != "toy/errand":
        return {}
    world = Errand(50, observe=("vector",))
    return {"told everything": control("told", world, Guide(), episodes=500, seed=1).score.value}


def model_free(name: str) -> dict[str, float]:
    """What a DQN earns there at equal steps, if `proofs/model_free.py` measured it."""
    path = RESULTS / f"model_free_{name}.json"
    return {"DQN at equal steps": evidence.load(path).value} if path.is_file() else {}


def over_seeds(values: list[float]) -> Interval:
    """Mean over seeds; the ends are the least and the largest where seeds are few."""
    if len(values) >= 5:
        return mean_interval(values)
    return Interval(float(np.mean(values)), min(values), max(values))


def claim(name: str, options: argparse.Namespace) -> None:
    """results/dreamer_v3_NAME.json."""
    said = CLAIMS[name]
    settings = {**SHARED, **said.options}
    if options.updates:
        settings["updates"] = options.updates
    folders = [trained(name, "dreamer_v3", s, settings, options.runs) for s in options.seeds]
    curves = {folder.name: scores(folder) for folder in folders}
    finals = [float(np.mean([v for _, v in curve[-LAST:]])) for curve in curves.values()]
    found, without = over_seeds(finals), blind(settings)
    plot = RESULTS / f"dreamer_v3_{name}.png"
    draw(plot, curves, without, said.target)
    evidence.record(
        f"dreamer_v3_{name}",
        what=f"{said.what}, size small: the mean of the last {LAST} evaluations over seeds, "
        f"{settings.get('episodes', 10)} episodes each.",
        metric="return",
        value=found.value,
        low=found.low,
        high=found.high,
        better="higher",
        target=said.target,
        baselines={**without, **guided(settings), **model_free(name)},
        seeds=options.seeds,
        steps=int(settings["prefill"] + settings["steps_per_update"] * settings["updates"]),
        seconds=sum(spent(folder) for folder in folders),
        command=f"python proofs/dreamer.py {name}",
        config={
            "model": "dreamer_v3",
            "recipe": "dreamer_v3",
            **settings,
            "seeds, last evaluations": finals,
            "evaluations": curves,
            "seconds a seed": [spent(folder) for folder in folders],
            "threads": torch.get_num_threads(),
            "low and high": "least and largest of the seeds",
        },
        plot=plot.name,
    )


def line(options: argparse.Namespace) -> None:
    """results/dreamer_line.json: all four swing up, at equal steps of the environment.

    DreamerV3's curves are those of dreamer_v3_swingup. A curve that results/dreamer_line.json has
    from the same settings is not measured again, and seeds that not all of them have do not count.
    """
    shared = {**SHARED, **CLAIMS["swingup"].options}
    curves, seconds = known(shared)
    for recipe, own in LINE.items():
        settings = {**shared, **own}
        for seed in options.seeds:
            if f"{recipe}-swingup-{seed}" not in curves:
                trained("swingup", recipe, seed, settings, options.runs)
        for folder in sorted(options.runs.glob(f"{recipe}-swingup-*")):
            if finished(folder, settings):
                curve = [(steps(settings, u), value) for u, value in scores(folder)]
                curves[folder.name], seconds[folder.name] = curve, spent(folder)
    tried = sorted({int(name.rpartition("-")[2]) for name in curves})
    seeds = [seed for seed in tried if all(f"{n}-swingup-{seed}" in curves for n in LINE)]
    newest = evidence.load(RESULTS / "dreamer_v3_swingup.json")
    counted = {f"{recipe}-swingup-{seed}" for recipe in LINE for seed in seeds}
    found = {name: curve for name, curve in curves.items() if name in counted} | {
        name: [(steps(newest.config, u), value) for u, value in curve]
        for name, curve in newest.config["evaluations"].items()
    }
    even = min(steps({**shared, **own}, own["updates"]) for own in LINE.values())
    found = {name: [at for at in curve if at[0] <= even] for name, curve in found.items()}
    table: dict[str, list[float]] = {}
    for name, curve in found.items():
        table.setdefault(school(name), []).append(float(np.mean([v for _, v in curve[-LAST:]])))
    weakest = min(LINE, key=lambda name: np.mean(table[name]))
    value, without = over_seeds(table[weakest]), blind(shared)
    plot = RESULTS / "dreamer_line.png"
    draw(plot, found, without, CLAIMS["swingup"].target, along="steps of the environment")
    evidence.record(
        "dreamer_line",
        what=f"The weakest of PlaNet, Dreamer and DreamerV2, {weakest}, in dm_control cartpole-"
        f"swingup (vectors): the mean of the last {LAST} evaluations over seeds, after {even:,} "
        "steps of the environment; beside it the others and DreamerV3 after as many.",
        metric="return",
        value=value.value,
        low=value.low,
        high=value.high,
        better="higher",
        target=CLAIMS["swingup"].target if len(seeds) >= SEEDS else None,
        baselines={
            **{name: float(np.mean(each)) for name, each in table.items() if name != weakest},
            **without,
        },
        seeds=seeds,
        steps=even,
        seconds=sum(seconds.values()),
        command="python proofs/dreamer.py line",
        config={
            "model": weakest,
            "recipe": "planet, dreamer_v1, dreamer_v2, dreamer_v3",
            "shared": shared,
            "own": LINE,
            "last evaluations by seed": table,
            "evaluations": curves,
            "seconds a seed": seconds,
            "low and high": "least and largest of the seeds",
        },
        plot=plot.name,
    )


def known(shared: dict[str, Any]) -> tuple[dict[str, Curve], dict[str, float]]:
    """Curves of `line` that were measured with the same settings, and the seconds they took."""
    path = RESULTS / "dreamer_line.json"
    if not path.is_file():
        return {}, {}
    config = evidence.load(path).config
    own = config["own"] if config["shared"] == shared else {}
    names = [n for n in config["evaluations"] if own.get(school(n)) == LINE.get(school(n))]
    curves = {n: [(int(x), float(v)) for x, v in config["evaluations"][n]] for n in names}
    return curves, {n: config["seconds a seed"][n] for n in names}


def finished(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a run of these settings came to its end."""
    config = json.loads((folder / "run.json").read_text())["config"]
    same = all(config.get(name) == value for name, value in settings.items())
    return same and [u for u, _ in scores(folder)][-1:] == [settings["updates"]]


def school(name: str) -> str:
    """The recipe of a run's name."""
    return name.partition("-")[0]


def steps(settings: Mapping[str, Any], update: int) -> int:
    """Of the environment, until then."""
    decided = settings["prefill"] + settings["steps_per_update"] * update
    return int(settings["action_repeat"] * decided)


def draw(
    path: Path,
    curves: dict[str, Curve],
    without: dict[str, float],
    target: float | None,
    *,
    along: str = "updates",
) -> None:
    """Every seed's evaluations, beside who learned nothing; a colour for each school."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    schools = list(dict.fromkeys(school(name) for name in curves))
    for name, curve in curves.items():
        color = f"C{schools.index(school(name))}" if len(schools) > 1 else None
        axes.plot(*zip(*curve, strict=True), label=name, color=color, linewidth=1.2)
    for (who, value), style in zip(without.items(), (":", "-."), strict=False):
        axes.axhline(value, color="0.5", linestyle=style, label=who)
    if target is not None:
        axes.axhline(target, color="0.5", linestyle="--", label="target")
    axes.set_xlabel(along)
    axes.set_ylabel("return, mean of an evaluation")
    axes.legend(fontsize=7)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse the words and go."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claim", choices=("kalman", *CLAIMS, "line"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, help="instead of the claim's own")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    whole = {"kalman": kalman, "line": line}
    if options.claim in whole:
        whole[options.claim](options)
    else:
        claim(options.claim, options)
    sys.stdout.write(evidence.table(evidence.load_all()) + "\n")


if __name__ == "__main__":
    main()
