"""`reverie.load(path)`: a trained run as one object that acts, imagines and is evaluated.

The run's recipe is built again from `run.json`, then its weights are read: no code is ever loaded
from a file. Imports what a run is made of, and the registry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie import checkpoint
from reverie.agent import Agent
from reverie.core import registry, tree
from reverie.core.errors import BadCheckpoint, BadConfig
from reverie.core.model import WorldModel, need
from reverie.core.types import Act
from reverie.evaluate.control import Control, control
from reverie.imagine import rollout
from reverie.run import Run
from reverie.train import describe


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
