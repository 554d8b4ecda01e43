"""V-JEPA 2-AC and DINO-WM in two rooms: a frozen encoder, what actions do to it, and CEM.

    reverie train vjepa2_ac.two_rooms
    reverie train dino_wm.two_rooms --encoder facebook/dinov2-small
    reverie train dino_wm.two_rooms --encoder timm:vit_small_patch14_dinov2.lvd142m

Without a named encoder a V-JEPA of ours learns one first, from the same wandering, without looking
at the actions; nothing is downloaded. Features are computed once and kept in the store beside the
frames, so that training touches the predictor only.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reverie.agent import RandomAgent
from reverie.core.types import Box
from reverie.data.sample import Sampler
from reverie.data.store import Store
from reverie.learner import GradientLearner
from reverie.models.frozen import FrozenEncoder, OwnFrames, TimmFrames, TransformersFrames
from reverie.models.ijepa import PIXELS
from reverie.models.vjepa import VJEPA, VJEPAConfig
from reverie.models.vjepa2_ac import FEATURES, SCHOOLS, FrozenWorld
from reverie.planners.cem import CEM
from reverie.progress import Progress
from reverie.recipes import jepa
from reverie.recipes.masked import CLIPS, decaying, sampler
from reverie.run import Run, Stage, usable

BATCH = 128  # segments of features
PLANNER = CEM(horizon=6, samples=64, iterations=4, elites=8, std=1.0, repeat=5)
ROOMS: VJEPAConfig = replace(CLIPS, still=0.25)  # the encoder's own


def vjepa2_ac(
    *,
    seed: int = 0,
    door: str = "fixed",
    encoder: str | None = None,
    encoder_updates: int = 600,
    updates: int = 1000,
    device: str = "cpu",
) -> Run:
    """V-JEPA 2-AC: an action-conditioned predictor of a frozen V-JEPA's features.

    Args:
        seed: of everything.
        door: "fixed" in the middle, or "random": another one each episode.
        encoder: see the module; None: a V-JEPA of ours is trained first.
        encoder_updates: of that V-JEPA.
        updates: of the predictor.
        device: where it lives and plans.
    """
    return frozen_world("vjepa2_ac", dict(locals()))


def dino_wm(
    *,
    seed: int = 0,
    door: str = "fixed",
    encoder: str | None = None,
    encoder_updates: int = 600,
    updates: int = 1000,
    device: str = "cpu",
) -> Run:
    """DINO-WM: a causal predictor of frozen patch features, the action beside every patch.

    Args:
        seed: of everything.
        door: "fixed" in the middle, or "random": another one each episode.
        encoder: see the module; None: a V-JEPA of ours is trained first.
        encoder_updates: of that V-JEPA.
        updates: of the predictor.
        device: where it lives and plans.
    """
    return frozen_world("dino_wm", dict(locals()))


def frozen_world(school: str, arguments: dict[str, Any]) -> Run:
    """The run of one school.

    Args:
        school: in `SCHOOLS`.
        arguments: of the recipe.
    """
    seed, door, updates = arguments["seed"], arguments["door"], arguments["updates"]
    torch.manual_seed(seed)
    model = made(school, arguments).to(usable(arguments["device"]))
    agent, place = jepa.planning(model, planner=PLANNER), partial(jepa.world_of, door)
    baselines = {"random": RandomAgent(jepa.ACTIONS)}

    def stages(folder: Path) -> tuple[Stage, ...]:
        data = folder / "data"
        return (
            Stage("collect", prepare=partial(jepa.wander, data, door, seed)),
            *_first(model.encoder, data, arguments),
            Stage(
                "model",
                updates,
                lambda: GradientLearner(model.parts()),
                lambda: _sampler(model, data, seed),
                partial(keep_features, model.encoder, data),
            ),
            Stage(
                "judge",
                finish=lambda progress: jepa.judged(
                    folder, {"planner": agent, **baselines}, place, progress
                ),
            ),
        )

    return Run(
        name=f"{school}.two_rooms",
        seed=seed,
        model=model,
        stages=stages,
        agent=agent,
        baselines=baselines,
        world=place,
        environment="toy/two_rooms",
        unit="steps at the goal",
        config=arguments,
    )


def made(school: str, arguments: dict[str, Any]) -> FrozenWorld:
    """The model, its encoder untrained or fetched.

    Args:
        school: in `SCHOOLS`.
        arguments: of the recipe.
    """
    row = SCHOOLS[school]
    config = replace(row.config, optim=decaying(arguments["updates"]))
    return row.model(config, PIXELS, jepa.ACTIONS, encoder_of(arguments))


def encoder_of(arguments: dict[str, Any]) -> FrozenEncoder:
    """The frozen encoder that a recipe names, or one of ours that is still to be trained.

    Args:
        arguments: of the recipe.
    """
    name = arguments["encoder"]
    if name is None:
        config = replace(ROOMS, optim=decaying(arguments["encoder_updates"]))
        return OwnFrames(VJEPA(config, PIXELS))
    library, _, rest = name.partition(":")
    return TimmFrames(rest) if library == "timm" else TransformersFrames(name)


@torch.no_grad()
def keep_features(encoder: FrozenEncoder, path: Path, progress: Progress) -> None:
    """Write an encoder's features of every frame into a store, as the modality 'features'.

    Args:
        encoder: frozen from now on.
        path: of the store, with the modality 'image'; what it has already is left as it is.
        progress: shows a bar.
    """
    device = next(encoder.parameters()).device

    def features(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        image = torch.from_numpy(rows["image"].copy()).to(device)
        return {FEATURES: torch.cat([encoder(x) for x in image.split(256)]).cpu().numpy()}

    with Store.open(path, writable=True) as store:
        if FEATURES not in store.observations:
            box = Box((encoder.patches, encoder.width), -float("inf"), float("inf"))
            store.add_observations({FEATURES: box}, features, progress=progress)


def _first(encoder: FrozenEncoder, data: Path, arguments: dict[str, Any]) -> tuple[Stage, ...]:
    """The training of an encoder of ours; nothing for others."""
    if not isinstance(encoder, OwnFrames):
        return ()
    model = encoder.model
    return (
        Stage(
            "encoder",
            arguments["encoder_updates"],
            lambda: GradientLearner(model.parts()),
            lambda: sampler(model, data, model.config.frames - 1, arguments["seed"]),
        ),
    )


def _sampler(model: FrozenWorld, path: Path, seed: int) -> Sampler:
    return Sampler(
        *(Store.open(path), BATCH, model.window.steps),
        packed=False,
        seed=seed,
        modalities=(FEATURES,),
        device=model.device,
    )
