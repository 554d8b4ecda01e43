"""The 2018 recipes, tiny, from collecting to the page: stages, resume, rounds, loading."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie import envs
from reverie.agent import BrownianAgent, RandomAgent, SweepAgent, WanderAgent
from reverie.behaviors.evolution import Controller, EvolutionConfig
from reverie.core.errors import BadConfig, Collapsed, SpaceMismatch
from reverie.core.registry import names, recipe
from reverie.core.types import Box, Discrete, Optim
from reverie.data.fill import ROUND, fill
from reverie.data.store import Store
from reverie.evaluate.judge import judge
from reverie.models.world_models_2018 import DOOM, PIXELS, WorldModels2018
from reverie.progress import Silent
from reverie.recipes import world_models_2018 as stages
from reverie.train import train


def pixels(num_envs: int, seed: int):
    """A game that is over within 12 steps, drawn as large as V needs."""
    return envs.make("CartPole-v1", num_envs, seed=seed, observe="image", time_limit=12)


def tiny(seed: int = 0, **arguments) -> stages.Setup:
    actions = Discrete(2)
    config = replace(DOOM, latent=4, hidden=8, vision_channels=4)
    torch.manual_seed(seed)
    model = WorldModels2018(config, PIXELS, actions)
    controller = Controller(20, actions, ordered=True, bias=False)
    game = stages.Game(
        environment="CartPole-v1",
        unit="steps balanced",
        make=pixels,
        explorer=WanderAgent(actions, low=1, high=3),
        baselines={"random": RandomAgent(actions)},
        decisions=12,
        num_envs=2,
    )
    effort = stages.Effort(
        episodes=6,
        vision=Optim("vision"),
        vision_updates=3,
        vision_batch=4,
        memory=Optim("memory"),
        memory_updates=3,
        memory_batch=2,
        memory_length=4,
        generations=2,
        evolution=EvolutionConfig(4, 2, horizon=5, seed=seed),
        components=3,
    )
    return stages.Setup("tiny", model, controller, game, effort, seed, arguments)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(stages, "STARTS", 20)
    monkeypatch.setattr(stages, "CONTEXT", 3)
    monkeypatch.setattr(stages, "JUDGED", 5)
    monkeypatch.setattr(stages, "SPREAD", 0.0)  # a V of few updates has hardly seen anything


def results(folder):
    """All that a run says, but for how long it took."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_a_vision_that_says_the_same_of_every_frame_is_not_built_on(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "SPREAD", 1e-6)
    setup = tiny()
    for layer in (setup.model.vision.mu, setup.model.vision.logvar):
        layer.weight.data.zero_()
    setup = replace(setup, effort=replace(setup.effort, vision_updates=0))
    with pytest.raises(Collapsed, match="mu deviates by 0.0000 from frame to frame"):
        train(stages.run_of(setup), tmp_path, progress=Silent())
    assert "latent" not in Store.open(tmp_path / "data").observations


def test_two_rounds_from_collecting_to_the_judge(tmp_path):
    setup = tiny()
    setup = replace(setup, effort=replace(setup.effort, rounds=2, again=4))
    train(stages.run_of(setup), tmp_path, progress=Silent())
    seen = list(dict.fromkeys(row["stage"] for row in results(tmp_path)))
    assert seen == ["vision", "memory", "controller", "memory-2", "controller-2", "judge"]
    value = json.loads((tmp_path / "evaluation.json").read_text())
    assert [score["name"] for score in value["scores"]] == ["dream-trained controller", "random"]
    assert all(len(score["returns"]) == 5 for score in value["scores"])
    assert 0 <= value["dream"]["low"] <= value["dream"]["value"] <= value["dream"]["high"]
    with Store.open(tmp_path / "data") as store:
        assert len(store) == 10
        assert set(store.observations) == {"image", "latent"}
        latent = store.columns["obs.latent"]
        image = torch.from_numpy(np.array(store.columns["obs.image"][-3:]))
    with torch.no_grad():
        again = torch.cat(setup.model.encode({"image": image}), -1)
    np.testing.assert_allclose(latent[-3:], again.numpy(), atol=2e-2)  # encoded in bf16
    assert len(Store.open(tmp_path / "played")) == 5


def test_a_run_that_is_stopped_in_its_evolution_goes_on_as_if_it_had_not(tmp_path, monkeypatch):
    train(stages.run_of(tiny()), tmp_path / "whole", progress=Silent())
    update = stages.Evolution.update

    def stop(self, batch=None):
        if len(self.history) == 1:
            raise KeyboardInterrupt
        return update(self, batch)

    monkeypatch.setattr(stages.Evolution, "update", stop)
    with pytest.raises(KeyboardInterrupt):
        train(stages.run_of(tiny()), tmp_path / "cut", progress=Silent(), save_every_s=0)
    monkeypatch.setattr(stages.Evolution, "update", update)
    train(stages.run_of(tiny()), tmp_path / "cut", progress=Silent())
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


def test_every_recipe_builds_and_names_its_stages(tmp_path):
    for name in names("recipe"):
        run = recipe(name)(seed=3)
        built = [stage.name for stage in run.stages(tmp_path)]
        assert built[0] in {"collect", "self_play"}
        assert built[-1] == "judge"
        assert run.seed == 3
        assert run.name == {"gumbel_muzero": "muzero"}.get(name, name)  # with another search
        json.dumps(dict(run.config))
        assert recipe(run.name)(**run.config).config == run.config


def test_a_device_that_is_not_there_is_one_sentence():
    with pytest.raises(BadConfig, match="'cuda:99' was asked for, but torch cannot use it"):
        recipe("world_models_2018.doom_quick")(device="cuda:99")
    with pytest.raises(BadConfig, match="'gpu'"):
        recipe("world_models_2018.car_racing")(device="gpu")


def test_a_store_is_filled_the_same_however_often_it_is_cut(tmp_path):
    agent = WanderAgent(Discrete(2), low=1, high=3)

    def make(seed: int):
        return pixels(2, seed)

    def rows(path):
        with Store.open(path) as store:
            return [(len(episode), episode.action.tolist()) for episode in store]

    episodes = ROUND + 3
    fill(tmp_path / "whole", make, agent, episodes=episodes, seed=1)
    fill(tmp_path / "cut", make, agent, episodes=episodes, seed=1)
    with Store.open(tmp_path / "cut", writable=True) as store:
        store.truncate(ROUND + 1)
    fill(tmp_path / "cut", make, agent, episodes=episodes, seed=1)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    fill(tmp_path / "cut", make, agent, episodes=episodes + 2, seed=1, begin=episodes)
    assert rows(tmp_path / "cut")[:episodes] == rows(tmp_path / "whole")
    assert len(rows(tmp_path / "cut")) == episodes + 2


def test_the_judge_wants_agents_and_episodes(tmp_path):
    with pytest.raises(BadConfig, match="0 agents and 100 episodes"):
        judge(tmp_path, {}, pixels, environment="x", unit="y")
    agents = {"random": RandomAgent(Discrete(2))}
    with pytest.raises(BadConfig, match="1 agents and 4 episodes"):
        judge(tmp_path, agents, pixels, environment="x", unit="y", episodes=4)


def drive(agent, steps: int, batch: int = 1, *, first_at=()):
    """Actions (steps, batch) of an agent that sees nothing."""
    generator = torch.Generator().manual_seed(0)
    carry, taken = agent.initial(batch), []
    for t in range(steps):
        first = torch.full((batch,), t == 0 or t in first_at)
        carry, act = agent.act(carry, {}, first, generator=generator)
        taken.append(act.action)
    return torch.stack(taken)


def test_a_blind_sweep_turns_after_so_many_decisions():
    taken = drive(SweepAgent(Discrete(3), 4, 4), 16)[:, 0].tolist()
    assert taken[:4] == [taken[0]] * 4
    assert set(taken) == {0, 2}
    assert taken[:8] == taken[8:]
    assert taken[4] != taken[0]


def test_a_wanderer_keeps_its_pace_and_begins_anew():
    taken = drive(WanderAgent(Discrete(3), low=10, high=10, turning=1.0), 400, batch=64)
    runs = (taken[1:] != taken[:-1]).float().mean().item()
    assert runs == pytest.approx(1 / 10, abs=0.02)
    assert set(taken.flatten().tolist()) == {0, 1, 2}
    fast = drive(WanderAgent(Discrete(3), low=1, high=1, turning=0.0), 400, batch=64)
    assert (fast[1:] == fast[:-1]).float().mean().item() == pytest.approx(1 / 3, abs=0.02)


def test_a_drift_starts_where_it_is_told_and_stays_inside():
    agent = BrownianAgent(Box((2,)), start=(0.0, -1.0), std=0.1)
    taken = drive(agent, 300, batch=50, first_at=(200,))
    assert taken.abs().max() <= 1
    assert taken[0, :, 1].mean().item() == pytest.approx(-0.96, abs=0.02)
    assert taken[200, :, 1].mean().item() == pytest.approx(-0.96, abs=0.02)
    assert taken[1:200, :, 0].std() > 3 * taken[0, :, 0].std()


def test_agents_refuse_spaces_that_they_cannot_walk():
    for make in (lambda space: SweepAgent(space, 1, 2), WanderAgent):
        with pytest.raises(SpaceMismatch, match="Use RandomAgent or BrownianAgent"):
            make(Box((2,)))
    with pytest.raises(SpaceMismatch, match="Use SweepAgent or RandomAgent"):
        BrownianAgent(Discrete(3))
