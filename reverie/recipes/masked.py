"""I-JEPA and V-JEPA on sprites, or on any pictures and videos, without actions and rewards.

    reverie train ijepa                           # on sprites that drift over motley grounds
    reverie train vjepa --data clips --side 32    # on a folder of mp4 files

On sprites the judge asks what a linear probe reads from the features, and how much more surprised
V-JEPA is by what cannot be. `proofs/masked_jepa.py` puts the rivals beside them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from reverie.agent import RandomAgent
from reverie.core.types import Discrete, Optim
from reverie.data.convert import open_data
from reverie.data.fill import fill
from reverie.data.sample import Sampler
from reverie.data.store import Store
from reverie.envs.toy import Sprites
from reverie.evaluate import sprites
from reverie.evaluate.bands import auc, beats
from reverie.evaluate.statistics import Interval
from reverie.evaluate.surprise import surprise
from reverie.learner import GradientLearner
from reverie.models.ijepa import IJEPA, PIXELS, IJEPAConfig
from reverie.models.vjepa import VJEPA, VJEPAConfig
from reverie.nn.masked import MaskedConfig
from reverie.nn.vit import cut
from reverie.progress import Progress
from reverie.run import Run, Stage, usable

EPISODES = 1000  # of sprites, 24 steps each
PROBED = 200  # episodes of the judge
PAIRS = 200  # of possible and impossible clips
BATCH = 32  # clips; pairs of pictures
SEED = 3_000_000  # of what is judged on; nothing was trained or chosen on it
NETWORKS = MaskedConfig(
    *(64, 3, 2, 32, 2, 2),
    momentum=0.99,
    momentum_updates=5000,
    centred=True,
)
PICTURES = IJEPAConfig(networks=NETWORKS)
# A fast copy soon tells what never changes in a clip, its colour, and nothing else.
CLIPS = VJEPAConfig(patch=8, frames=4, least=2, networks=replace(NETWORKS, momentum=0.9997))


def ijepa(
    *,
    seed: int = 0,
    data: str | None = None,
    side: int | None = None,
    patch: int = 4,
    updates: int = 1000,
    device: str = "cpu",
) -> Run:
    """I-JEPA on single pictures.

    Args:
        seed: of everything.
        data: a store, or data in any format of `reverie data`, with pictures; None: sprites.
        side: pixels to which the pictures of `data` are averaged; None: as they are.
        patch: pixels on each side.
        updates: of the model.
        device: where it lives.
    """
    arguments = dict(locals())
    config = replace(PICTURES, patch=patch, optim=decaying(updates))
    observations = _observations(arguments)
    torch.manual_seed(seed)
    return _run("ijepa", IJEPA(config, observations), 1, arguments)


def vjepa(
    *,
    seed: int = 0,
    data: str | None = None,
    side: int | None = None,
    patch: int = 8,
    frames: int = 4,
    updates: int = 1000,
    device: str = "cpu",
) -> Run:
    """V-JEPA on clips.

    Args:
        seed: of everything.
        data: a store, a folder of mp4 files, or data in any other format of `reverie data`, with
            pictures; None: sprites.
        side: pixels to which the pictures of `data` are averaged; None: as they are.
        patch: pixels on each side.
        frames: of a clip; no episode may be shorter.
        updates: of the model.
        device: where it lives.
    """
    arguments = dict(locals())
    config = replace(CLIPS, patch=patch, frames=frames, optim=decaying(updates))
    observations = _observations(arguments)
    torch.manual_seed(seed)
    return _run("vjepa", VJEPA(config, observations), frames - 1, arguments)


def decaying(updates: int) -> Optim:
    """AdamW whose learning rate falls to a tenth.

    Args:
        updates: until then.
    """
    return Optim("model", 1.5e-3, "adamw", clip_norm=1.0, decay=0.1 ** (1 / updates))


def world(num_envs: int, seed: int) -> VectorEnv:
    """Sprites, with the truth beside the pictures."""
    return Sprites(num_envs, seed=seed)


def sampler(model: IJEPA | VJEPA, path: Path, length: int, seed: int) -> Sampler:
    """Segments of pictures, each within one episode.

    Args:
        model: that learns.
        path: of the store.
        length: transitions.
        seed: of the draws.
    """
    return Sampler(
        *(Store.open(path), BATCH, length),
        packed=False,
        seed=seed,
        modalities=("image",),
        device=model.device,
    )


def features(model: IJEPA | VJEPA, frames: Tensor) -> Tensor:
    """(N, D) what a probe reads of clips (N, F, 3, H, W): the mean over the patches of the moment.

    The encoder itself is read. The papers read its slow copy, which after so few updates has hardly
    left its random weights.

    Args:
        model: I-JEPA sees the last frame, V-JEPA all of them.
        frames: uint8.
    """
    clips = frames[:, -1:] if isinstance(model, IJEPA) else frames
    with torch.no_grad():
        return model.masked.encoder(cut(clips, model.grid))[:, -model.grid.area :].mean(1)


def surprised(model: VJEPA) -> dict[str, Interval]:
    """AUROC of surprise at a shape that jumps, or is gone, by the edit's name.

    Args:
        model: trained on sprites.
    """
    found = {}
    for edit in sprites.impossible(PAIRS, context=model.config.frames + 2, seed=SEED):
        real, edited = surprise(model, edit)
        found[edit.name] = auc(beats(edited, real), np.ones((len(real), len(real))))
    return found


# -- stages ---------------------------------------------------------------------------------------


def _observations(arguments: dict[str, Any]) -> Any:
    """Of the data, or of sprites."""
    if arguments["data"] is None:
        return PIXELS
    with open_data(arguments["data"], size=arguments["side"]) as store:
        return store.observations


def _run(name: str, model: IJEPA | VJEPA, length: int, arguments: dict[str, Any]) -> Run:
    """Collect, learn, judge."""
    model = model.to(usable(arguments["device"]))
    seed, own = arguments["seed"], arguments["data"] is None

    def stages(folder: Path) -> tuple[Stage, ...]:
        data = folder / "data"
        if not own:
            with open_data(arguments["data"], size=arguments["side"]) as store:
                data = store.path
        return (
            Stage("collect", prepare=partial(_collect, data, seed) if own else None),
            Stage(
                "model",
                arguments["updates"],
                lambda: GradientLearner(model.parts()),
                lambda: sampler(model, data, length, seed),
            ),
            Stage("judge", finish=partial(_judged, model) if own else None),
        )

    return Run(
        name=name,
        seed=seed,
        model=model,
        stages=stages,
        world=world if own else None,
        environment="toy/sprites" if own else None,
        config=arguments,
    )


def _collect(path: Path, seed: int, progress: Progress) -> None:
    fill(
        *(path, lambda seed: Sprites(64, seed=seed), RandomAgent(Discrete(1))),
        episodes=EPISODES,
        seed=seed,
        progress=progress,
    )


def _judged(model: IJEPA | VJEPA, progress: Progress) -> dict[str, float]:
    """What a probe reads, and surprise."""
    del progress
    frames = model.config.frames if isinstance(model, VJEPA) else 1
    shown = sprites.clips(PROBED, frames, seed=SEED)
    moments = shown.frames.to(model.device).unbind(1)
    read = torch.stack([features(model, x) for x in moments], 1).cpu()
    found = sprites.probed(read, shown.truth)
    if isinstance(model, VJEPA):
        found |= {f"surprise at {name}": x for name, x in surprised(model).items()}
    return {name: interval.value for name, interval in found.items()}
