"""What a training is, as data: a `Run` of `Stage`s. `train` carries it out.

A recipe is a function that returns a `Run`. Nothing here does anything: a stage holds functions
that make its learner, its sampler and its collector when it begins. Imports core, learner and
progress.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from gymnasium.vector import VectorEnv
from torch import nn

from reverie.agent import Agent
from reverie.core.errors import BadConfig
from reverie.core.model import WorldModel
from reverie.core.types import Batch
from reverie.learner import Learner
from reverie.progress import Progress


class Sampler(Protocol):
    """Where batches come from."""

    def __next__(self) -> Batch:
        """The next batch, on the model's device."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """See `Learner.state_dict`. Batches drawn ahead but not handed out do not count."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        ...


class Collector(Protocol):
    """Gathers experience while a stage learns."""

    def collect(self, update: int) -> Mapping[str, float]:
        """Gather some and put it where the sampler finds it.

        Args:
            update: how many updates of the stage were done.

        Returns:
            Numbers to log.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """See `Learner.state_dict`; for a store, its number of episodes."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken: what was gathered after it is dropped."""
        ...


@dataclass(frozen=True)
class Stage:
    """A part of a run. Everything costly is made when the stage begins, by calling what is here.

    Attributes:
        name: of the stage, unlike those of the others.
        updates: how many; 0 for a stage that only prepares.
        learner: makes what learns.
        sampler: makes what gives batches; None: the learner is given None.
        prepare: gathers or encodes data. It is called whenever the stage is entered, after a
            resume too, so it goes on from what is already on the disk.
        collector: makes what gathers experience between updates.
        collect_every: updates between two collections; the first is before the first update.
        evaluate: called with the number of updates done; gives scores.
        evaluate_every: updates between two evaluations.
        finish: called after the last update; gives scores.
        log_every: updates that are averaged into one row of metrics.
    """

    name: str
    updates: int = 0
    learner: Callable[[], Learner] | None = None
    sampler: Callable[[], Sampler] | None = None
    prepare: Callable[[Progress], None] | None = None
    collector: Callable[[], Collector] | None = None
    collect_every: int = 1
    evaluate: Callable[[int], Mapping[str, float]] | None = None
    evaluate_every: int = 1000
    finish: Callable[[Progress], Mapping[str, float]] | None = None
    log_every: int = 50

    def __post_init__(self) -> None:
        """Refuse what cannot run.

        Raises:
            BadConfig: naming the field.
        """
        if self.updates > 0 and self.learner is None:
            raise BadConfig(f"Stage '{self.name}' has {self.updates} updates but no learner.")
        for name in ("collect_every", "evaluate_every", "log_every"):
            if getattr(self, name) < 1:
                raise BadConfig(f"{name} of stage '{self.name}' is below 1. Leave it out or say 1.")


@dataclass(frozen=True)
class Run:
    """All of one training, as a recipe returns it.

    Attributes:
        name: of the recipe.
        seed: from which every generator of the run is seeded.
        model: the world model.
        stages: the run's folder -> what is done there, in order.
        behavior: what is trained to act, or None.
        agent: acts in the world with the model and the behavior, or None.
        world: (num_envs, seed) -> the worlds that the run is about, or None.
        environment: the name of that world, or None.
        unit: of its returns.
        baselines: who plays beside the agent when it is judged, by name.
        config: the recipe's arguments, as JSON values.
    """

    name: str
    seed: int
    model: WorldModel
    stages: Callable[[Path], tuple[Stage, ...]]
    behavior: nn.Module | None = None
    agent: Agent | None = None
    world: Callable[[int, int], VectorEnv] | None = None
    environment: str | None = None
    unit: str = "return"
    baselines: Mapping[str, Agent] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The modules whose weights are the run's result, by name."""
        both = {"model": self.model, "behavior": self.behavior}
        return {name: module for name, module in both.items() if module is not None}


def usable(device: str) -> torch.device:
    """The device of that name, if torch can use it here.

    Args:
        device: as torch spells it: "cpu", "cuda", "cuda:1", ...

    Raises:
        BadConfig: if there is no such device.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", maxsplit=1)[0].rstrip(".")
        raise BadConfig(
            f"The device '{device}' was asked for, but torch cannot use it here ({reason}). "
            "Choose device cpu."
        ) from None
    return torch.device(device)
