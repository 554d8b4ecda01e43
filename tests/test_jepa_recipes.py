"""The JEPA recipes, tiny, from collecting to the judge; names, shapes and what embeddings are."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from reverie.core.errors import BadConfig
from reverie.core.registry import recipe
from reverie.data.store import Store
from reverie.models.jepa import PAPER, PIXELS, LeWorldModel
from reverie.nn.causal import CausalConfig
from reverie.nn.leap import ViTConfig
from reverie.progress import Silent
from reverie.recipes import jepa as recipes
from reverie.train import train


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(recipes, "EPISODES", 3)
    monkeypatch.setattr(recipes, "BATCH", 4)
    monkeypatch.setattr(recipes, "JUDGED", 5)
    monkeypatch.setattr(recipes, "CEM", lambda **k: _CEM(**{**k, "samples": 6, "elites": 2}))


_CEM = recipes.CEM


@pytest.mark.parametrize("name", ["lewm.two_rooms", "pldm.two_rooms"])
def test_from_collecting_to_the_judge(name, tmp_path):
    run = recipe(name)(seed=1, door="random", updates=3)
    train(run, tmp_path, progress=Silent())
    value = json.loads((tmp_path / "evaluation.json").read_text())
    assert [score["name"] for score in value["scores"]] == ["planner", "random"]
    assert all(len(score["success"]) == 5 for score in value["scores"])
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"model/std", "model/rank", "model/motion"} <= set(rows[0])
    with Store.open(tmp_path / "data") as store:
        z, step = recipes.embeddings(run.model, store)
        assert z.shape == (3 * 51, 64)
        assert step.shape == (3 * 51 - 1,)
        assert int(step.sum()) == 3 * 50
        again = run.model.encode(
            {"image": torch.from_numpy(store.columns["obs.image"][7:8].copy())}
        )
    torch.testing.assert_close(z[7:8], again.detach())


def test_the_published_size_by_its_name():
    """A picture of 32 pixels is cut as one of 224 is: 16 x 16 patches; only that layer differs."""
    run = recipe("lewm.two_rooms")(size="paper")
    assert run.model.encoder.grid == (1, 16, 16)
    assert sum(p.numel() for p in run.model.parameters()) == pytest.approx(18e6, rel=0.01)
    assert run.config["size"] == "paper"
    with pytest.raises(BadConfig, match=r"no size 'huge'. Choose one of \['paper', 'small'\]"):
        recipe("lewm.two_rooms")(size="huge")


def test_blocks_are_planned_and_carried_out_action_by_action():
    torch.manual_seed(0)
    sizes = {"vit": ViTConfig(16, 8, 1, 2, 16), "causal": CausalConfig(1, 2, 4, 16, 4)}
    model = LeWorldModel(replace(PAPER, latent=8, **sizes), PIXELS, recipes.ACTIONS).eval()
    planner = recipes.InBlocks(_CEM(horizon=3, samples=8, iterations=2, elites=4), 5)
    agent, world = recipes.planning(model, planner=planner), recipes.world_of("fixed", 2, 0)
    obs = {name: torch.from_numpy(x) for name, x in world.reset()[0].items()}
    carry, first, taken = agent.initial(2), torch.ones(2, dtype=torch.bool), []
    for _ in range(6):
        carry, act = agent.act(carry, obs, first)
        taken.append(act.action)
        first = torch.zeros_like(first)
    assert torch.stack(taken).shape == (6, 2, 2)
    assert len({tuple(action[0].tolist()) for action in taken}) == 6  # none is held
    assert carry.warm["warm_mean"].shape == (2, 3, 10)
