"""JEPA world models in two rooms: learn from wandering without rewards, plan to places on pictures.

20,000 transitions of a drift through 32x32 pixels, one model, and CEM towards a goal image. The
model never saw a task. `proofs/jepa.py` runs the arms of the comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from reverie.agent import BrownianAgent, RandomAgent
from reverie.core.errors import BadConfig
from reverie.core.model import WorldModel
from reverie.core.types import Box, Plan
from reverie.data.fill import fill
from reverie.data.sample import Sampler
from reverie.data.store import Store
from reverie.envs.toy import TwoRooms
from reverie.evaluate.judge import judge
from reverie.learner import GradientLearner
from reverie.models.blocks import Blocks
from reverie.models.jepa import (
    JEPA,
    PAPER,
    PIXELS,
    SCHOOLS,
    SIGREG_TEMPORAL,
    VICREG_TEMPORAL,
    JEPAConfig,
    Terms,
)
from reverie.models.leaping import Leaping, State
from reverie.nn.leap import ViTConfig
from reverie.plan_agent import PlanAgent
from reverie.planners.cem import CEM
from reverie.planners.goal_objectives import Every
from reverie.planners.objective import GoalDistance, Objective, goal_of
from reverie.planners.score import Planner, Warm
from reverie.progress import Progress
from reverie.run import Run, Stage, usable

ACTIONS = Box((2,))
EPISODES = 400  # of 50 steps
BATCH = 128
JUDGED = 100  # tasks

PUBLISHED = CEM(horizon=5, samples=300, iterations=10, elites=30, std=1.0)  # in blocks

Measure = Callable[[Leaping, Tensor], Objective]  # (model, goals (B, D)) -> what plans maximise

SIZES: dict[str, JEPAConfig] = {  # of LeWorldModel, by name
    "small": SCHOOLS["lewm"].config,
    # As published: 32 pixels in patches of 2 make the 16 x 16 that 224 in patches of 14 make.
    "paper": replace(PAPER, vit=ViTConfig(patch=2)),
}


@dataclass(frozen=True)
class InBlocks:
    """Plans whole blocks of a model with a causal predictor, each action by itself; see `Blocks`.

    Its objective sees the moments where blocks end, and no others.
    """

    planner: Planner  # of Boxes; its horizon counts blocks
    block: int

    @property
    def repeat(self) -> int:
        """World steps that each planned block takes."""
        return self.block

    def plan(
        self,
        model: WorldModel[Any],
        state: Any,
        objective: Objective,
        *,
        warm: Warm | None = None,
        generator: torch.Generator | None = None,
    ) -> Plan:
        """See `Planner.plan`."""
        blocks = Blocks(model)  # type: ignore[arg-type]
        plan = self.planner.plan(blocks, state, objective, warm=warm, generator=generator)
        return plan._replace(actions=plan.actions.unflatten(-1, (self.block, -1)).flatten(1, 2))


def lewm(
    *,
    seed: int = 0,
    door: str = "fixed",
    updates: int = 700,
    size: str = "small",
    device: str = "cpu",
) -> Run:
    """LeWorldModel with temporal similarity: its distances lead to the goal.

    Args:
        seed: of everything.
        door: "fixed" in the middle, or "random": another one each episode.
        updates: of the model.
        size: "small", or "paper": the published networks, 18M weights, for an accelerator.
        device: where it lives and plans.

    Raises:
        BadConfig: if there is no such size.
    """
    return two_rooms("lewm", "lewm.two_rooms", SIGREG_TEMPORAL, dict(locals()))


def pldm(*, seed: int = 0, door: str = "fixed", updates: int = 700, device: str = "cpu") -> Run:
    """PLDM with the coefficients of EB-JEPA.

    Args:
        seed: of everything.
        door: "fixed" in the middle, or "random": another one each episode.
        updates: of the model.
        device: where it lives and plans.
    """
    return two_rooms("pldm", "pldm.two_rooms", VICREG_TEMPORAL, dict(locals()))


def two_rooms(school: str, name: str, terms: Terms, arguments: dict[str, Any]) -> Run:
    """The run of one arm.

    Args:
        school: whose class it is, in `SCHOOLS`.
        name: of the run.
        terms: of the loss.
        arguments: of the recipe: seed, door, updates, device, and size if it has several.
    """
    seed, door, updates = arguments["seed"], arguments["door"], arguments["updates"]
    torch.manual_seed(seed)
    row = SCHOOLS[school]
    config = _sized(arguments["size"]) if "size" in arguments else row.config
    config = replace(config, terms=terms, lr_decay=0.03 ** (1 / updates))
    model = row.model(config, PIXELS, ACTIONS).to(usable(arguments["device"]))
    planner = None if config.causal is None else InBlocks(PUBLISHED, config.block)
    agent, world = planning(model, planner=planner), partial(world_of, door)
    baselines = {"random": RandomAgent(ACTIONS)}

    def stages(folder: Path) -> tuple[Stage, ...]:
        return (
            Stage("collect", prepare=partial(wander, folder / "data", door, seed)),
            Stage(
                "model",
                updates,
                lambda: GradientLearner(model.parts(), precision="bf16"),
                lambda: _sampler(model, folder / "data", seed),
            ),
            Stage(
                "judge",
                finish=lambda progress: judged(
                    folder, {"planner": agent, **baselines}, world, progress
                ),
            ),
        )

    return Run(
        name=name,
        seed=seed,
        model=model,
        stages=stages,
        agent=agent,
        baselines=baselines,
        world=world,
        environment="toy/two_rooms",
        unit="steps at the goal",
        config=arguments,
    )


def _sized(name: str) -> JEPAConfig:
    """LeWorldModel of that size."""
    if name not in SIZES:
        raise BadConfig(f"LeWorldModel has no size '{name}'. Choose one of {sorted(SIZES)}.")
    return SIZES[name]


def world_of(door: str, num_envs: int, seed: int, *, task: str = "any") -> VectorEnv:
    """Two rooms as they are judged: a picture, the goal's picture, and the truth for oracles.

    Args:
        door: "fixed" or "random".
        num_envs: rows.
        seed: of the tasks.
        task: "any", "same" room, or "cross": start and goal in different ones.
    """
    observe = ("image", "goal", "vector")
    return TwoRooms(num_envs, observe=observe, door=door, task=task, seed=seed)


def closest(model: Leaping, goal: Tensor) -> Objective:
    """The best step of a plan by the model's own distance.

    Args:
        model: says how far.
        goal: (B, D).
    """
    return GoalDistance(model.heads, goal, over="best")


def planning(
    model: Leaping,
    measure: Measure = closest,
    *,
    horizon: int = 10,
    planner: CEM | InBlocks | None = None,
) -> PlanAgent[State]:
    """CEM in blocks of held actions towards the picture of a goal; replans after each block.

    Args:
        model: plans and says how far.
        measure: what plans maximise.
        horizon: blocks.
        planner: another one, that holds each action for a block, or `InBlocks`; None: the usual.
    """
    block = model.window.block

    def aim(obs: dict[str, Tensor], state: State) -> Objective:
        del state
        wanted = measure(model, goal_of(model, {"image": obs["goal"]}))
        return wanted if isinstance(planner, InBlocks) else Every(block, wanted)

    usual = CEM(horizon=horizon, samples=96, iterations=5, elites=12, std=1.0, repeat=block)
    return PlanAgent(model, planner or usual, aim=aim, replan=block)


@torch.no_grad()
def embeddings(model: Leaping, store: Store) -> tuple[Tensor, Tensor]:
    """What distances are made from: the frozen embeddings of all that was recorded.

    Args:
        model: whose encoder it is.
        store: with the modality 'image'.

    Returns:
        (R, D) float32, and (R-1,) bool: row r+1 is one step after row r.
    """
    images = torch.from_numpy(np.array(store.columns["obs.image"]))
    z = [model.encode({"image": part.to(model.device)}) for part in images.split(1000)]
    first = torch.from_numpy(np.array(store.columns["first"]))
    return torch.cat(z), ~first[1:].to(model.device)


def wander(path: Path, door: str, seed: int, progress: Progress) -> None:
    """Fill a store with a drift through the rooms.

    Args:
        path: of the store.
        door: "fixed" or "random".
        seed: of everything.
        progress: shows a bar.
    """

    def make(seed: int) -> VectorEnv:
        return TwoRooms(64, observe=("image", "vector"), door=door, seed=seed)

    fill(path, make, BrownianAgent(ACTIONS), episodes=EPISODES, seed=seed, progress=progress)


def _sampler(model: JEPA, path: Path, seed: int) -> Sampler:
    config = model.config
    length = config.block * (config.history - 1 + config.leaps)
    store = Store.open(path)
    return Sampler(
        store,
        BATCH,
        length,
        packed=False,  # a segment that runs on into the next episode teaches little
        seed=seed,
        modalities=("image",),
        device=model.device,
    )


def judged(folder: Path, agents: Any, world: Any, progress: Progress) -> dict[str, float]:
    """Success of each agent on the same tasks.

    Args:
        folder: of the run.
        agents: by name, the one that is judged first.
        world: (num_envs, seed) -> worlds.
        progress: shows a bar.
    """
    scores = judge(
        folder,
        agents,
        world,
        environment="toy/two_rooms",
        unit="steps at the goal",
        episodes=JUDGED,
        num_envs=50,
        progress=progress,
    )
    rates = {who: score.success_rate for who, score in scores.items()}
    return {f"{who} success": rate.value for who, rate in rates.items() if rate is not None}
