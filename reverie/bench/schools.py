"""How each school enters a bench: a model of a size that learns in minutes, and its phases.

One function a school: (observations, actions, store, seed) -> Contender, in `SCHOOLS` under the
school's registered name. Imports models, recipes' stages, data and what stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import torch

from reverie.bench.contender import Contender, Phase
from reverie.bench.task import Task, facts
from reverie.core import registry
from reverie.core.model import WorldModel
from reverie.core.types import Discrete, Optim, Space
from reverie.data.sample import Sampler
from reverie.data.store import Store
from reverie.learner import GradientLearner
from reverie.models import dreamer, jepa
from reverie.models.ensemble import PETS, EnsembleConfig
from reverie.models.muzero import MuZero, MuZeroConfig
from reverie.models.tdmpc2 import TDMPC2, TDMPC2Config
from reverie.models.world_models_2018 import WorldModels2018, WorldModels2018Config
from reverie.nn.latent import Categorical, Gaussian, Latent
from reverie.progress import Progress
from reverie.recipes.dreamer import SMALL_V3, thin
from reverie.recipes.tdmpc2 import SMALL
from reverie.recipes.world_models_2018 import write_latents

Enter = Callable[[Mapping[str, Space], Space, Store, int], Contender]


def world_models_2018(
    observations: Mapping[str, Space], actions: Space, store: Store, seed: int
) -> Contender:
    """V on single frames for two fifths of the time, then M on V's latents.

    Args:
        observations: what the model may read; 'image' is needed.
        actions: of the world.
        store: of training data, writable; the modality 'latent' is added, and dropped in the end.
        seed: of weights and batches.

    Raises:
        SpaceMismatch: if there is no image of 64, 32 or 16 pixels.
    """
    known = facts(store)
    predicts = ("reward",) * known["rewards"] + ("done",) * known["ends"]
    torch.manual_seed(seed)
    config = WorldModels2018Config(
        predicts=predicts,
        features=("z", "h"),
        scalar_action=isinstance(actions, Discrete) and actions.n > 1,
        vision_channels=16,
        error_weight=4.0,
        done_weight=4.0,
        ended_weight=1.0,
    )
    model = WorldModels2018(config, dict(observations), actions)
    vision, memory = model.parts()
    vision = vision._replace(optim=Optim("vision", lr=1e-3, clip_norm=200.0))
    memory = memory._replace(optim=Optim("memory", lr=1.5e-3, clip_norm=1.0))

    def finish() -> None:
        if "latent" in store.observations:
            store.drop_observations("latent")

    def encode(progress: Progress) -> None:
        finish()  # what a training that was killed left there
        write_latents(model, store, progress)

    def sampler(batch: int, length: int, modality: str) -> Sampler:
        return Sampler(store, batch, length, seed=seed, modalities=(modality,))

    phases = (
        Phase(
            "V",
            0.4,
            lambda: GradientLearner([vision], precision="bf16"),
            lambda: sampler(32, 0, "image"),
        ),
        Phase(
            "M",
            0.6,
            lambda: GradientLearner([memory], precision="bf16"),
            lambda: sampler(32, 32, "latent"),
            encode,
        ),
    )
    return Contender(model, phases, finish)


def dreamer_v3(
    observations: Mapping[str, Space], actions: Space, store: Store, seed: int
) -> Contender:
    """The RSSM of DreamerV3 in its small preset; no behavior, the bench plans in it.

    Args:
        observations: what the model may read.
        actions: of the world.
        store: of training data.
        seed: of weights and batches.
    """
    torch.manual_seed(seed)
    config = replace(SMALL_V3, cont_weight=float(facts(store)["ends"]))
    model = dreamer.DreamerV3(config, observations, actions)
    return _at_once(model, store, seed, batch=16, length=32)


def _older(
    name: str,
    latent: Latent,
    observations: Mapping[str, Space],
    actions: Space,
    store: Store,
    seed: int,
) -> Contender:
    """A school before DreamerV3, narrow; all of them learn when episodes end, if they do.

    No behavior: the bench plans in it.
    """
    torch.manual_seed(seed)
    row, ends = dreamer.SCHOOLS[name], 10.0 * facts(store)["ends"]
    config = thin(row.config, latent=latent, cont_weight=ends, cont_layers=3)
    model = row.model(config, observations, actions)
    return _at_once(model, store, seed, batch=16, length=32)


def tdmpc2(observations: Mapping[str, Space], actions: Space, store: Store, seed: int) -> Contender:
    """TD-MPC2 in its small preset, learned from what others did.

    Args:
        observations: what the model may read.
        actions: of the world.
        store: of training data.
        seed: of weights and batches.
    """
    torch.manual_seed(seed)
    config = TDMPC2Config(**SMALL, episodic=facts(store)["ends"])
    model = TDMPC2(config, observations, actions)
    return _at_once(model, store, seed, batch=128, length=3, precision="float32")


def muzero(observations: Mapping[str, Space], actions: Space, store: Store, seed: int) -> Contender:
    """MuZero without a search: its policy learns what was done, its value what that was worth.

    Args:
        observations: what the model may read.
        actions: of the world.
        store: of training data.
        seed: of weights and batches.
    """
    torch.manual_seed(seed)
    model = MuZero(MuZeroConfig(), dict(observations), actions)
    return _at_once(model, store, seed, batch=128, length=10, precision="float32")


def pets(observations: Mapping[str, Space], actions: Space, store: Store, seed: int) -> Contender:
    """PETS, each member with bags of its own.

    Args:
        observations: 'vector' is needed.
        actions: of the world.
        store: of training data.
        seed: of weights and batches.

    Raises:
        SpaceMismatch: if there is no vector.
    """
    torch.manual_seed(seed)
    config = EnsembleConfig(ends="learned" if facts(store)["ends"] else None)
    model = PETS(config, dict(observations), actions)
    return _at_once(model, store, seed, batch=64, length=8, precision="float32")


def lewm(observations: Mapping[str, Space], actions: Space, store: Store, seed: int) -> Contender:
    """LeWorldModel with temporal similarity.

    Args:
        observations: 'image' or 'vector'.
        actions: of the world.
        store: of training data.
        seed: of weights and batches.
    """
    return _jepa("lewm", jepa.SIGREG_TEMPORAL, observations, actions, store, seed=seed)


def pldm(observations: Mapping[str, Space], actions: Space, store: Store, seed: int) -> Contender:
    """PLDM with the coefficients of EB-JEPA.

    Args:
        observations: 'image' or 'vector'.
        actions: of the world.
        store: of training data.
        seed: of weights and batches.
    """
    return _jepa("pldm", jepa.VICREG_TEMPORAL, observations, actions, store, seed=seed)


def _jepa(
    name: str,
    terms: jepa.Terms,
    observations: Mapping[str, Space],
    actions: Space,
    store: Store,
    *,
    seed: int,
) -> Contender:
    """A JEPA with these terms, on segments inside episodes."""
    torch.manual_seed(seed)
    row = jepa.SCHOOLS[name]
    model = row.model(replace(row.config, terms=terms, lr=1e-3), dict(observations), actions)
    steps = row.config.block * (row.config.history - 1 + row.config.leaps)
    return _at_once(model, store, seed, batch=128, length=steps, packed=False)


def _at_once(
    model: WorldModel,
    store: Store,
    seed: int,
    *,
    batch: int,
    length: int,
    packed: bool = True,
    precision: Literal["float32", "bf16"] = "bf16",
) -> Contender:
    """A model all of whose parts learn together, the whole time."""

    def sampler() -> Sampler:
        names = tuple(model.observations)
        return Sampler(store, batch, length, seed=seed, modalities=names, packed=packed)

    def learner() -> GradientLearner:
        return GradientLearner(model.parts(), precision=precision)

    return Contender(model, (Phase("model", 1.0, learner, sampler),))


SCHOOLS: dict[str, Enter] = {
    "dreamer_v1": partial(_older, "dreamer_v1", Gaussian(16)),
    "dreamer_v2": partial(_older, "dreamer_v2", Categorical(16, 8, unimix=0.0)),
    "dreamer_v3": dreamer_v3,
    "lewm": lewm,
    "muzero": muzero,
    "pets": pets,
    "planet": partial(_older, "planet", Gaussian(16)),
    "pldm": pldm,
    "tdmpc2": tdmpc2,
    "world_models_2018": world_models_2018,
}
MEMORYLESS = frozenset({"muzero", "pets", "tdmpc2"})  # one moment is all they see


def able(task: Task) -> tuple[str, ...]:
    """Schools that can live in a task's world; PETS foretells numbers only.

    Args:
        task: of the bench.
    """
    numbers = "vector" in (task.memoryless or task.reads)
    return tuple(name for name in SCHOOLS if numbers or name != "pets")


def enter(name: str) -> Enter:
    """How a school enters a bench.

    Raises:
        UnknownName: naming the schools that can.
    """
    if name not in SCHOOLS:
        raise registry.unknown("model", name, SCHOOLS)
    return SCHOOLS[name]
