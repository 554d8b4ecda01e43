"""`reverie.load(path)`: a trained run as one object that acts, imagines and is evaluated.

The run's recipe is built again from `run.json`, then its weights are read: no code is ever loaded
from a file. Imports what a run is made of, and the registry.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie import checkpoint
from reverie.agent import Agent, RandomAgent
from reverie.core import registry, tree
from reverie.core.errors import BadCheckpoint, BadConfig, ReverieError
from reverie.core.model import WorldModel, need
from reverie.core.types import Act, Space
from reverie.data.store import Store
from reverie.envs import spaces
from reverie.evaluate.card import Beside, report_card
from reverie.evaluate.control import Control, control
from reverie.evaluate.fork import fork
from reverie.evaluate.planning import planning
from reverie.evaluate.scrambled import Scrambled
from reverie.evaluate.states import VISITED, Source, check_fits, gather_states, held_states
from reverie.imagine import rollout
from reverie.progress import Progress
from reverie.run import Run
from reverie.train import describe

CONTEXT, HORIZON = 4, 50  # of a report card: observations given, and steps ahead at most
STATES = 40  # episodes of each kind of states


class Loaded:
    """A trained run.

    Attributes:
        folder: where it lies.
        run: as its recipe returned it, with the trained weights.
    """

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self.run = folder, run

    @property
    def model(self) -> WorldModel:
        """The world model, in evaluation mode."""
        return self.run.model

    @property
    def behavior(self) -> nn.Module | None:
        """What was trained to act, or None."""
        return self.run.behavior

    @property
    def agent(self) -> Agent:
        """Who acts.

        Raises:
            BadConfig: if the recipe trains a model without a behavior.
        """
        if self.run.agent is None:
            raise BadConfig(
                f"The run in {self.folder} trained a model but nothing that acts. "
                "Plan with its model, or train a behavior in its dreams."
            )
        return self.run.agent

    def act(
        self,
        carry: Any,
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Act]:
        """Choose actions for B worlds; begin with ``carry = loaded.agent.initial(B)``.

        Args:
            carry: what this returned before.
            obs: (B, ...) each modality; images uint8 0..255.
            first: (B,) bool: rows where an episode begins.
            explore: act as while collecting.
            generator: of all randomness; None: torch's default one.
        """
        return self.agent.act(carry, obs, first, explore=explore, generator=generator)

    @torch.no_grad()
    def imagine(
        self, obs: dict[str, Tensor], actions: Tensor, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """What the model thinks will be seen from here on under given actions.

        Args:
            obs: (B, ...) the first observation of B episodes.
            actions: (B, H, A) float in [-1, 1] or (B, H) int64.
            generator: of the dream's randomness.

        Returns:
            (B, H+1, ...) each modality in its own units, the first one as reconstructed.

        Raises:
            MissingHead: if the model does not decode.
        """
        (decode,) = need(self.model.heads, "decode", what="Loaded.imagine")
        obs, actions = tree.to(obs, self.model.device), actions.to(self.model.device)
        state = self.model.observe(None, None, self.model.encode(obs), generator=generator)
        states = rollout(self.model, state, actions, generator=generator).states
        shape = (len(actions), actions.shape[1] + 1)
        seen = decode(tree.flatten(states))
        return {name: x.unflatten(0, shape) for name, x in seen.items()}

    def evaluate(self, episodes: int = 100, *, seed: int = 1_000_000, num_envs: int = 8) -> Control:
        """Play whole episodes of the run's own world.

        Args:
            episodes: at least 5.
            seed: of the worlds; the default is one that no recipe trains on.
            num_envs: worlds at once.

        Raises:
            BadConfig: if the run names no world, or nothing in it acts.
        """
        env = self.world(num_envs, seed)
        try:
            return control(self.run.name, env, self.agent, episodes=episodes, seed=seed)
        finally:
            env.close()

    def report_card(
        self,
        episodes: int = 100,
        *,
        seed: int = 1_000_000,
        num_envs: int = 8,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """All that can be measured of the run's model, and of what acts with it, in its own world.

        Visited states are those of the run's agent; where a run has none, random actions visit
        them, and CEM in the model acts, beside the same planner with shuffled predictions.

        Args:
            episodes: that every agent plays, at least 5.
            seed: of the worlds; the default is one that no recipe trains on.
            num_envs: worlds at once.
            progress: shows bars.

        Raises:
            BadConfig: if the run names no world.
            BadData: if too few episodes are long enough to predict.
            SpaceMismatch: if the model does not fit its world.
        """
        env = self.world(num_envs, seed)
        try:
            observations, actions = spaces(env)
        finally:
            env.close()
        where = self.run.environment or "its world"
        check_fits(self.model, observations, actions, where)
        missing: list[str] = []
        scores = self._scores(actions, episodes, seed, num_envs, missing, progress)
        lengths = sorted(scores[0].lengths)
        horizon = max(1, min(HORIZON, lengths[len(lengths) // 4] - CONTEXT + 1))
        explorer = self.run.agent or RandomAgent(actions)
        source = Source(
            self.world,
            explorer,
            RandomAgent(actions),
            CONTEXT,
            horizon,
            STATES,
            num_envs,
        )
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="states") as name:
            states = Path(name)
            gather_states(states, source, seed=seed + 1, progress=progress)
            return report_card(
                self.model,
                held_states(states, context=CONTEXT, horizon=horizon, device=self.model.device),
                name=f"{self.run.name}, seed {self.run.seed}",
                environment=where,
                unit=self.run.unit,
                by="success" if self._by_success(scores[0]) else "return",
                beside=self._beside(observations, source, states / VISITED, seed, missing),
                scores=scores,
                missing=missing,
                seed=seed,
            )

    def _scores(
        self,
        actions: Space,
        episodes: int,
        seed: int,
        num_envs: int,
        missing: list[str],
        progress: Progress | None,
    ) -> list[Control]:
        """Of the run's agent, or of planning in its model, and of the baselines."""
        agents: dict[str, tuple[Agent, WorldModel | None]] = {}
        if self.run.agent is not None:
            agents[self.run.name] = self.run.agent, self.model
        else:
            try:
                twin = Scrambled(self.model)
                agents["planning in the model"] = planning(self.model), self.model
                agents["the same planner, shuffled predictions"] = planning(twin), twin
            except ReverieError as error:
                missing.append(str(error))
        others: Mapping[str, Agent] = self.run.baselines or {"random": RandomAgent(actions)}
        agents |= {name: (agent, None) for name, agent in others.items()}
        env = self.world(num_envs, seed)
        try:
            return [
                control(
                    name, env, agent, episodes=episodes, seed=seed, model=model, progress=progress
                )
                for name, (agent, model) in agents.items()
            ]
        finally:
            env.close()

    def _by_success(self, score: Control) -> bool:
        """Whether success says more than the return: where the run has no unit of its own."""
        return self.run.unit == "return" and score.success is not None

    def _beside(
        self,
        observations: dict[str, Space],
        source: Source,
        visited: Path,
        seed: int,
        missing: list[str],
    ) -> Beside:
        """What the model is measured against, as far as it is known here."""
        about = describe(self.folder)
        known = registry.names("oracle")
        names = [n for n in (self.run.environment, f"{self.run.environment}".lower()) if n in known]
        try:
            forks = fork(
                self.world,
                pairs=source.episodes,
                context=source.context,
                horizon=source.horizon,
                seed=seed,
            )
        except ReverieError as error:
            forks = None
            missing.append(str(error))
        return Beside(
            truth="vector" if "vector" in observations else None,
            oracle=registry.oracle(names[0])() if names else None,
            untrained=registry.recipe(about["name"])(**about["config"]).model.eval(),
            forks=forks,
            history=Store.open(visited),
        )

    def world(self, num_envs: int, seed: int) -> Any:
        """The world that the run is about, as `reverie.envs.make` gives it.

        Raises:
            BadConfig: if the run names none.
        """
        if self.run.world is None:
            raise BadConfig(f"The run in {self.folder} names no world. Evaluate its predictions.")
        return self.run.world(num_envs, seed)


def load(folder: str | Path, *, device: str | None = None) -> Loaded:
    """A trained run.

    Args:
        folder: of the run, as `reverie train` made it.
        device: where its modules go; None: where they were trained.

    Raises:
        BadCheckpoint: if there is no run, it was not trained yet, or its weights do not fit.
        UnknownName: if its recipe is not registered here.
        BadConfig: if a device is named that torch cannot use here, or that the recipe cannot take.
    """
    folder = Path(folder)
    said = describe(folder)
    checkpoints = folder / "checkpoint"
    state = checkpoint.load(checkpoints)
    if state["index"] < len(state["stages"]):
        raise BadCheckpoint(
            f"The run in {folder} was to be loaded, but it stands in stage "
            f"'{state['stages'][state['index']]}' of {', '.join(state['stages'])}. "
            "Train it to the end: the same command goes on where it stopped."
        )
    if device is not None and "device" not in said["config"]:
        raise BadConfig(
            f"The run in {folder} was to be loaded on {device}, but its recipe '{said['name']}' "
            "takes no device. Load it without one."
        )
    elsewhere = {} if device is None else {"device": device}
    run = registry.recipe(said["name"])(**{**said["config"], **elsewhere})
    checkpoint.load_weights(folder, **run.modules)
    for module in run.modules.values():
        module.eval()
    return Loaded(folder, run)
