"""`load`: a run's folder back as something that acts, imagines and is judged.

    run = reverie.load("runs/demo")
    action, carry = run.act(obs)            # carry comes back in at the next step
    dream = run.imagine(obs, actions)       # a Rollout
    score = run.evaluate(episodes=100)      # a Control with intervals

The recipe named in `run.json` builds the run again with the arguments that are written there;
then its weights are loaded. Imports everything below recipes, and these by name only.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie import envs
from reverie.agent import Agent, PolicyAgent, RandomAgent
from reverie.checkpoint import load_weights
from reverie.core import registry
from reverie.core.errors import BadCheckpoint, BadConfig
from reverie.core.model import WorldModel
from reverie.core.types import Rollout
from reverie.evaluate.control import Control, control
from reverie.imagine import imagine, rollout
from reverie.progress import Progress
from reverie.train import Run

Observations = Mapping[str, Tensor | np.ndarray]  # (B, ...) each, images uint8


@dataclass(frozen=True)
class Trained:
    """A finished (or half-finished) run with its weights.

    Attributes:
        folder: it was loaded from.
        run: as its recipe built it; its modules hold the weights of the last whole stage.
    """

    folder: Path
    run: Run

    @property
    def model(self) -> WorldModel[Any]:
        """The world model."""
        return self.run.model

    def policy(self, state: Any) -> Tensor:
        """The behavior's actions (B, A) or (B,) for the model's states (B, ...).

        Raises:
            BadConfig: if the run trained no behavior.
        """
        behavior, features = self.run.behavior, self.model.heads.features
        if behavior is None or features is None:
            raise BadConfig(
                f"{self.folder} holds a model but nothing that acts. Train a recipe with a "
                "behavior, or plan with run.model."
            )
        return behavior(features(state))

    @property
    def agent(self) -> PolicyAgent[Any]:
        """What acts in a real world: follows it with the model and asks `policy`."""
        return PolicyAgent(self.model, self.policy)

    @torch.no_grad()
    def act(
        self, obs: Observations, carry: Any = None, *, first: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """The action for what is seen now.

        Args:
            obs: (B, ...) each modality.
            carry: what the call before returned; None: every row begins an episode.
            first: (B,) bool: rows where an episode begins; None: none but with carry None.

        Returns:
            (B, A) or (B,) actions, and the carry of the next call.
        """
        seen = _tensors(obs)
        batch = len(next(iter(seen.values())))
        if first is None:
            first = torch.full((batch,), carry is None)
        agent = self.agent
        carry = agent.initial(batch) if carry is None else carry
        carry, act = agent.act(carry, seen, first)
        return act.action, carry

    @torch.no_grad()
    def imagine(
        self,
        obs: Observations,
        actions: Tensor | None = None,
        *,
        horizon: int = 50,
        seed: int = 0,
    ) -> Rollout:
        """Dream on from what is seen.

        Args:
            obs: (B, ...) each modality: the first observation of an episode.
            actions: (B, H, A) or (B, H) to follow; None: the run's own behavior acts.
            horizon: steps, where the behavior acts.
            seed: of the dream.
        """
        generator = torch.Generator(self.model.device).manual_seed(seed)
        h = self.model.encode(_tensors(obs))
        state = self.model.observe(None, None, h, generator=generator)
        if actions is not None or self.model.actions is None:
            steps = horizon if actions is None else None
            return rollout(self.model, state, actions, horizon=steps, generator=generator)
        return imagine(self.model, state, self.policy, horizon, generator=generator)

    def evaluate(
        self,
        *,
        agent: Agent | None = None,
        name: str = "",
        episodes: int = 100,
        seed: int = 0,
        num_envs: int = 8,
        progress: Progress | None = None,
    ) -> Control:
        """Let the behavior act in the run's real world, without exploring.

        Args:
            agent: instead of the run's own, for a baseline under the same protocol.
            name: of the agent in tables; none: the run's.
            episodes: started and finished, at least 5.
            seed: of the worlds; equal seeds give paired starts.
            num_envs: worlds at once.
            progress: shows a bar if given.

        Raises:
            BadConfig: if the run has no behavior or no environment.
        """
        if self.run.environment is None:
            raise BadConfig(f"{self.folder} names no environment. Evaluate its model instead.")
        agent = agent or self.agent
        with contextlib.closing(envs.make(self.run.environment, num_envs, seed=seed)) as env:
            return control(
                *(name or self.run.name, env, agent),
                episodes=episodes,
                seed=seed,
                progress=progress,
            )

    def compare(self, **protocol: Any) -> list[Control]:
        """The run's behavior and random actions under one protocol, see `evaluate`.

        Raises:
            BadConfig: if the run has no behavior or no environment.
        """
        own = self.evaluate(**protocol)
        actions = self.model.actions
        if actions is None:
            return [own]
        return [own, self.evaluate(agent=RandomAgent(actions), name="random", **protocol)]


def load(folder: str | Path) -> Trained:
    """Build a run again from its folder and load its weights.

    Args:
        folder: of a run: it holds `run.json` and, from the end of the first stage on, weights.

    Raises:
        BadCheckpoint: if it is no run's folder, or has no weights yet, or they do not fit.
        UnknownName: if the recipe is not registered.
    """
    folder = Path(folder)
    about = describe(folder)
    run = registry.recipe(about["name"])(seed=about["seed"], **about["config"])
    load_weights(folder, **run.modules)
    for module in run.modules.values():
        module.eval()
    return Trained(folder, run)


def describe(folder: str | Path) -> dict[str, Any]:
    """What `run.json` of a run's folder says: name, seed, environment, config, stages, versions.

    Raises:
        BadCheckpoint: if there is none, or it is damaged.
    """
    path = Path(folder) / "run.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if {"name", "seed", "environment", "config"} <= set(about):
            return about
    except FileNotFoundError:
        raise BadCheckpoint(
            f"{folder} holds no run: there is no {path}. Give the folder that `reverie train` made."
        ) from None
    except (ValueError, TypeError) as error:
        raise BadCheckpoint(f"{path} is damaged ({error}). Train again.") from None
    raise BadCheckpoint(f"{path} is not the description of a run. Give a run's folder.")


def _tensors(obs: Observations) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value) for name, value in obs.items()}
