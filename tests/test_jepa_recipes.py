"""The JEPA recipes, tiny, from collecting to the judge; names, shapes and what embeddings are."""

from __future__ import annotations

import json

import pytest
import torch

from reverie.core.registry import recipe
from reverie.data.store import Store
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
