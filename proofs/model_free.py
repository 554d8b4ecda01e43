"""A model-free rival for a Dreamer claim: stable-baselines3's DQN in the same world, equal steps.

    .venv-bench/bin/python proofs/model_free.py grid     # results/model_free_grid.json

It plays as many steps as `proofs/dreamer.py grid` does, learns as often from as many (one update
for two steps), and is scored alike: the mean of the last five evaluations over seeds. That proof
puts this score beside its own if the file is there. stable-baselines3 (Raffin et al. 2021, JMLR 22)
must be importable; `make bench` makes an environment for it. The network is that of MinAtar's
authors (Young & Tian 2019, arXiv 1903.03176): 16 filters of 3x3, 128 units.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from dreamer import CLAIMS, LAST, SHARED, blind, over_seeds
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from reverie import envs, evidence
from reverie.core.vector import gymnasium_space

SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-4,
    "batch_size": 32,
    "gamma": 0.99,
    "train_freq": 2,
    "target_update_interval": 1000,
    "exploration_fraction": 0.3,
    "exploration_final_eps": 0.02,
}
TRIALS = 1_000_000  # seed of evaluation worlds, as in the recipes


class Alone(gymnasium.Env):
    """One of our worlds as others take it: no batch, one picture.

    Args:
        name: of the world.
        seed: of it.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._env = envs.make(name, 1, seed=seed)
        observations, actions = envs.spaces(self._env)
        self.observation_space = gymnasium_space(observations["image"])
        self.action_space = gymnasium_space(actions)  # type: ignore[arg-type]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Begin."""
        super().reset(seed=seed)
        return self._env.reset()[0]["image"][0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Go on."""
        obs, reward, ended, cut, _ = self._env.step(np.asarray([action]))
        return obs["image"][0], float(reward[0]), bool(ended[0]), bool(cut[0]), {}


class Seen(BaseFeaturesExtractor):
    """One convolution and one dense layer.

    Args:
        space: of the picture.
    """

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        super().__init__(space, 128)
        channels, height, width = space.shape
        flat = 16 * (height - 2) * (width - 2)
        layers = [nn.Conv2d(channels, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(flat, 128)]
        self.net = nn.Sequential(*layers, nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        """(N, 128) of pictures in [0, 1]."""
        return self.net(image)


class Evaluations(BaseCallback):
    """Mean return of whole episodes, every so many steps.

    Args:
        world: the name.
        every: steps.
        episodes: of each evaluation.
    """

    def __init__(self, world: str, every: int, episodes: int) -> None:
        super().__init__()
        self.found: list[tuple[int, float]] = []
        self._env, self._every, self._episodes = Alone(world, TRIALS), every, episodes

    def _on_step(self) -> bool:
        if self.num_timesteps % self._every == 0:
            returns = [self._play() for _ in range(self._episodes)]
            self.found.append((self.num_timesteps, float(np.mean(returns))))
        return True

    def _play(self) -> float:
        """The return of an episode."""
        (obs, _), total, over = self._env.reset(), 0.0, False
        while not over:
            action, _ = self.model.predict(obs, deterministic=True)
            obs, reward, ended, cut, _ = self._env.step(action)
            total, over = total + reward, ended or cut
        return total


def learned(world: str, settings: dict[str, Any], steps: int, seed: int) -> list[tuple[int, float]]:
    """(step, mean return) of the evaluations of one DQN."""
    every = int(settings["steps_per_update"] * settings["evaluate_every"])
    evaluations = Evaluations(world, every, settings.get("episodes", 10))
    agent = DQN(
        "CnnPolicy",
        Alone(world, seed),
        buffer_size=steps,
        learning_starts=settings["prefill"],
        seed=seed,
        device="cpu",
        policy_kwargs={"features_extractor_class": Seen, "net_arch": []},
        **SETTINGS,
    )
    agent.learn(steps, callback=evaluations)
    return evaluations.found


def main() -> None:
    """Learn on every seed and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claim", choices=[n for n, c in CLAIMS.items() if "grid" in n])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="instead of the claim's own")
    parser.add_argument("--results", type=Path, default=evidence.FOLDER)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began, settings = time.perf_counter(), {**SHARED, **CLAIMS[options.claim].options}
    own = settings["prefill"] + settings["steps_per_update"] * settings["updates"]
    steps = options.steps or int(own)
    curves = {seed: learned(settings["env"], settings, steps, seed) for seed in options.seeds}
    finals = [float(np.mean([v for _, v in curve[-LAST:]])) for curve in curves.values()]
    found = over_seeds(finals)
    evidence.record(
        f"model_free_{options.claim}",
        what=f"DQN (stable-baselines3) in {settings['env']} at as many steps as DreamerV3 has: the "
        f"mean of the last {LAST} evaluations over seeds.",
        metric="return",
        value=found.value,
        low=found.low,
        high=found.high,
        better="higher",
        target=None,
        baselines=blind(settings),
        seeds=options.seeds,
        steps=steps,
        seconds=time.perf_counter() - began,
        command=f"python proofs/model_free.py {options.claim}",
        config={
            **SETTINGS,
            "seeds, last evaluations": finals,
            "evaluations": {str(seed): curve for seed, curve in curves.items()},
            "low and high": "least and largest of the seeds",
        },
        folder=options.results,
    )
    sys.stdout.write(f"{found}, seeds {finals}\n")


if __name__ == "__main__":
    main()
