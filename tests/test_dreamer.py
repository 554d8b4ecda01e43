"""The four recipes, tiny, from random steps to the judge: online, resumed, offline, frozen."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from reverie.core.errors import BadCheckpoint, BadConfig, SpaceMismatch
from reverie.core.registry import recipe
from reverie.core.types import Act, Box, Discrete
from reverie.data.convert import convert
from reverie.data.fresh import Fresh
from reverie.data.store import Store
from reverie.learner import GradientLearner
from reverie.loaded import load
from reverie.plan_agent import Planned
from reverie.progress import Silent
from reverie.recipes.dreaming import NoisyPlans
from reverie.train import train

QUICK = {
    "updates": 12,
    "steps_per_update": 2.0,
    "prefill": 30,
    "batch": 2,
    "length": 4,
    "evaluate_every": 6,
    "episodes": 2,
}
SHORT = {"env": "toy/linear_gaussian", "time_limit": 8}
WORLDS = {
    "planet": {"env": "CartPole-v1", "time_limit": 3},
    "dreamer_v1": SHORT,
    "dreamer_v2": SHORT,
    "dreamer_v3": {"env": "CartPole-v1", "time_limit": 6},
}


def rows(folder):
    """All that a run says, but for how long it took."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


@pytest.mark.parametrize("name", WORLDS)
def test_every_recipe_goes_from_random_steps_to_the_judge(name, tmp_path):
    run = recipe(name)(seed=1, **QUICK, **WORLDS[name])
    train(run, tmp_path, progress=Silent())
    with Store.open(tmp_path / "data") as store:
        assert 30 + 2 * 10 <= store.steps < 30 + 2 * 10 + 8  # whole episodes, as many as are due
    said = rows(tmp_path)
    scores = [row["evaluate/return"] for row in said if "evaluate/return" in row]
    assert len(scores) == 2
    assert {"finish/random", f"finish/{name}"} <= set(said[-1])
    loaded = load(tmp_path)  # built again from its own config
    assert loaded.run.config == run.config
    kept = run.model.state_dict()
    assert all(torch.equal(v, kept[k]) for k, v in loaded.model.state_dict().items())


def test_a_run_that_is_stopped_goes_on_as_if_it_had_not(tmp_path, monkeypatch):
    make = recipe("dreamer_v3")
    train(make(**QUICK, **WORLDS["dreamer_v3"]), tmp_path / "whole", progress=Silent())
    update, done = GradientLearner.update, []

    def stop(self, batch):
        done.append(1)
        if len(done) == 9:
            raise KeyboardInterrupt
        return update(self, batch)

    monkeypatch.setattr(GradientLearner, "update", stop)
    run = make(**QUICK, **WORLDS["dreamer_v3"])
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "cut", progress=Silent(), save_every_s=0)
    monkeypatch.setattr(GradientLearner, "update", update)
    train(make(**QUICK, **WORLDS["dreamer_v3"]), tmp_path / "cut", progress=Silent())
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose data and model others use."""
    folder = tmp_path_factory.mktemp("finished")
    train(recipe("dreamer_v3")(**QUICK, **WORLDS["dreamer_v3"]), folder, progress=Silent())
    return folder


def test_a_store_is_enough_to_learn_from(finished, tmp_path):
    before = Store.open(finished / "data").steps
    options = {**QUICK, **WORLDS["dreamer_v3"], "data": str(finished / "data")}
    train(recipe("dreamer_v3")(**options), tmp_path, progress=Silent())
    assert Store.open(finished / "data").steps == before
    assert not (tmp_path / "data").exists()
    assert any("model/total" in row for row in rows(tmp_path))


def test_data_of_any_format_is_enough_and_no_world_is_needed(finished, tmp_path):
    convert(finished / "data", tmp_path / "recorded", to="npz")
    run = recipe("dreamer_v3")(**QUICK, data=str(tmp_path / "recorded"))
    assert run.world is None
    train(run, tmp_path / "run", progress=Silent())
    said = rows(tmp_path / "run")
    assert any("model/total" in row for row in said)
    assert not any("evaluate/return" in row or "finish/random" in row for row in said)
    assert load(tmp_path / "run").model.actions == Discrete(2)


def test_data_that_a_world_does_not_fit_is_one_sentence(finished):
    with pytest.raises(SpaceMismatch, match=r"Pendulum-v1 shows 'vector' of shape \(3,\)"):
        recipe("dreamer_v3")(env="Pendulum-v1", data=str(finished / "data"))


def test_a_behavior_is_trained_in_a_frozen_models_dreams(finished, tmp_path):
    run = recipe("dreamer_v3")(**QUICK, time_limit=6, frozen=str(finished), seed=5)
    assert run.environment == "CartPole-v1"  # that of the frozen run
    begun = run.behavior.actor[0][0].weight.clone()
    train(run, tmp_path, progress=Silent())
    world = load(finished).model.state_dict()
    assert all(torch.equal(v, world[k]) for k, v in run.model.state_dict().items())
    assert not torch.equal(run.behavior.actor[0][0].weight, begun)
    assert recipe("dreamer_v3")(**run.config).config == run.config


def test_a_model_that_learned_without_a_world_can_be_frozen_too(finished, tmp_path):
    train(
        recipe("dreamer_v3")(**QUICK, data=str(finished / "data")),
        tmp_path / "offline",
        progress=Silent(),
    )
    run = recipe("dreamer_v3")(**QUICK, frozen=str(tmp_path / "offline"), seed=5)
    assert run.world is None
    train(run, tmp_path / "dreamt", progress=Silent())
    assert any("actor/total" in row for row in rows(tmp_path / "dreamt"))


def test_what_a_recipe_cannot_use_is_refused():
    with pytest.raises(BadConfig, match="size is '2M'. Choose 'small' or one of 1M, 12M"):
        recipe("dreamer_v3")(size="2M")
    with pytest.raises(SpaceMismatch, match="Value gradients pass through Box actions"):
        recipe("dreamer_v1")(env="CartPole-v1")


def test_older_schools_read_small_pictures_too():
    model = recipe("dreamer_v2")(env="toy/two_rooms").model
    assert model.observations["image"].shape == (3, 32, 32)


def test_fresh_data_comes_first_and_once():
    """Segments of 3 transitions take 4 rows: 0, 4, 8 wait among 10; then 12 once there are 14."""
    fresh, rng = Fresh(3), np.random.default_rng(0)
    assert fresh.draw(rng, 10, 2).index.tolist() == [0, 4]
    third = fresh.draw(rng, 10, 2).index.tolist()
    assert third[0] == 8
    assert 0 <= third[1] < 10
    again = Fresh(3)
    again.load_state_dict(fresh.state_dict())
    assert again.draw(np.random.default_rng(1), 14, 1).index.tolist() == [12]
    assert fresh.draw(rng, 12, 50).index.max() < 12
    with pytest.raises(BadCheckpoint, match="A queue of fresh data"):
        fresh.load_state_dict({"leaves": 1})


class Idle:
    """Plans to do nothing."""

    def __init__(self, action):
        self.action = action

    def initial(self, batch):
        return None

    def act(self, carry, obs, first, *, explore=False, generator=None):
        none = torch.zeros(len(first))
        return Planned(None, self.action, None, None, none, {}), Act(
            self.action, {"plan_score": none}
        )


def test_noise_is_what_the_planner_remembers_to_have_done(generator):
    first = torch.ones(20_000, dtype=torch.bool)
    noisy = NoisyPlans(Idle(torch.zeros(20_000, 1)), Box((1,)))
    carry, act = noisy.act(None, {}, first, explore=True, generator=generator)
    assert torch.equal(carry.action, act.action)
    assert act.action.std().item() == pytest.approx(0.3, abs=0.01)
    assert act.extra == {}
    assert not noisy.act(None, {}, first, generator=generator)[1].action.any()
    noisy = NoisyPlans(Idle(torch.zeros(20_000, dtype=torch.int64)), Discrete(4))
    _, act = noisy.act(None, {}, first, explore=True, generator=generator)
    assert (act.action > 0).float().mean().item() == pytest.approx(0.1 * 3 / 4, abs=0.01)
