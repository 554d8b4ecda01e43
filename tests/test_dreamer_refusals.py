"""What a Dreamer cannot use: one sentence each, before anything is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie import checkpoint
from reverie.core.errors import BadCheckpoint, BadData, NonFinite, SpaceMismatch
from reverie.core.probe import sample_batch
from reverie.core.registry import recipe
from reverie.core.types import Box, Discrete, Space
from reverie.data.episode import Episode
from reverie.data.store import Store
from reverie.models.dreamer import DREAMER_V3, PIXELS, DreamerV3, sized
from reverie.progress import Silent
from reverie.train import train

TINY = {"updates": 4, "batch": 2, "length": 4, "prefill": 20, "evaluate_every": 4, "episodes": 2}


def episode(steps=12, side=None):
    """Twelve steps of a vector, or of pictures."""
    shape = (steps + 1, 3, side, side) if side else (steps + 1, 3)
    name, dtype = ("image", np.uint8) if side else ("vector", np.float32)
    return Episode(
        obs={name: np.zeros(shape, dtype)},
        action=np.zeros(steps, np.int64),
        reward=np.ones(steps, np.float32),
        terminated=np.zeros(steps, bool),
        truncated=np.arange(steps) == steps - 1,
    )


def filled(path, one):
    """A store of four such episodes."""
    spaces: dict[str, Space] = {
        name: Box(x.shape[1:], 0, 255, "uint8") if x.dtype == np.uint8 else Box(x.shape[1:])
        for name, x in one.obs.items()
    }
    with Store.create(path, spaces, None if one.action is None else Discrete(2)) as store:
        for _ in range(4):
            store.append(one)
    return path


def test_a_reward_that_is_no_number_does_not_enter_a_store(tmp_path):
    broken = episode()
    broken.reward[3] = np.nan
    with pytest.raises(BadData, match="reward must be finite, but row 3 holds NaN or infinity"):
        filled(tmp_path / "data", broken)


def test_a_reward_that_became_no_number_stops_the_run_and_is_named(tmp_path):
    path = filled(tmp_path / "data", episode())
    rewards = np.lib.format.open_memmap(path / "reward.npy", mode="r+")
    rewards[:] = np.nan
    rewards.flush()
    del rewards
    run = recipe("dreamer_v3")(**TINY, data=str(path))
    said = r"Stage 'dream' asks for finite numbers, .* at update 1\. Its batch is in .*, whose "
    with pytest.raises(NonFinite, match=said + "reward holds NaN or infinity"):
        train(run, tmp_path / "run", progress=Silent())
    kept = checkpoint.load(tmp_path / "run" / "checkpoint")
    assert all(torch.isfinite(w).all() for w in kept["weights"]["model"].values())


@pytest.mark.parametrize("name", ["dreamer_v2", "dreamer_v3", "planet"])
def test_pictures_that_no_stack_takes_are_refused_by_every_recipe(name, tmp_path):
    path = filled(tmp_path / "data", episode(side=84))
    said = r"halves a picture down to between 4 and 8 .*, but \(3, 84, 84\) ends at 21x21. Make"
    with pytest.raises(SpaceMismatch, match=said):
        recipe(name)(**TINY, data=str(path))


def test_pictures_of_another_size_than_the_model_was_built_for_are_refused():
    model = DreamerV3(DREAMER_V3, PIXELS, Discrete(2))
    batch = sample_batch(model, (2, 3), 0, obs=None, extra=None)
    small = batch._replace(obs={"image": batch.obs["image"][..., :32, :32]})
    with pytest.raises(SpaceMismatch, match=r"reads 'image' of shape \(3, 64, 64\), but the data"):
        model.parts()[0].loss(small, None)


def test_actions_that_a_method_cannot_use_are_refused(tmp_path):
    chosen = filled(tmp_path / "chosen", episode())
    with pytest.raises(SpaceMismatch, match="Value gradients pass through Box actions"):
        recipe("dreamer_v1")(**TINY, data=str(chosen))
    seen = filled(tmp_path / "seen", replace(episode(), action=None))
    for name in ("planet", "dreamer_v1", "dreamer_v2", "dreamer_v3"):
        with pytest.raises(SpaceMismatch, match="needs something to see and something to do"):
            recipe(name)(**TINY, data=str(seen))


def test_a_frozen_run_of_another_size_or_school_is_refused(tmp_path):
    data = str(filled(tmp_path / "data", episode()))
    train(recipe("dreamer_v3")(**TINY, data=data), tmp_path / "small", progress=Silent())
    small = str(tmp_path / "small")
    said = r"small is a run of dreamer_v3 of size small, but dreamer_v3 of size 1M was asked for. "
    with pytest.raises(BadCheckpoint, match=said + "Ask for dreamer_v3 with --size small"):
        recipe("dreamer_v3")(frozen=small, size="1M")
    with pytest.raises(BadCheckpoint, match="but dreamer_v2 of size small was asked for"):
        recipe("dreamer_v2")(frozen=small)
    with pytest.raises(BadCheckpoint, match="holds no run.json. Give the folder of a run"):
        recipe("dreamer_v3")(frozen=str(tmp_path))


def test_weights_of_another_size_are_refused_and_nothing_is_loaded(tmp_path):
    vector: dict[str, Space] = {"vector": Box((3,))}
    saved, other = (DreamerV3(sized(size), vector, Discrete(2)) for size in ("1M", "12M"))
    checkpoint.save_model(tmp_path, saved)
    before = {name: x.clone() for name, x in other.state_dict().items()}
    said = r"'model' in .* is of another model than this DreamerV3: .* has shape .*, the model "
    with pytest.raises(BadCheckpoint, match=said):
        checkpoint.load_weights(tmp_path, model=other)
    assert all(torch.equal(x, before[name]) for name, x in other.state_dict().items())
