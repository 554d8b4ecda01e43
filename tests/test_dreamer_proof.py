"""The closed form behind rssm_kalman: two filters agree, and a trained RSSM comes near them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import distributions

from reverie.core import registry
from reverie.envs.rules import LinearSystem

PROOF = Path(__file__).resolve().parents[1] / "proofs" / "dreamer.py"


@pytest.fixture(scope="module")
def proof():
    spec = importlib.util.spec_from_file_location("proof_dreamer", PROOF)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_filter_of_the_proof_is_that_of_the_true_model(proof):
    """Forecasts of the library's belief, one observation ahead, under torch's own density."""
    y, u = proof.linear_data(20, 16, seed=0)
    model = registry.instance("toy/linear_gaussian")
    state, total = None, []
    for t in range(17):
        action = u[:, t - 1] if t else None
        if t > proof.WARM:
            ahead = model._moved(state, action)
            cov = model._C @ ahead.cov @ model._C.T + model._R
            seen = distributions.MultivariateNormal(ahead.mean @ model._C.T, cov)
            total.append(-seen.log_prob(y[:, t]))
        state = model.observe(state, action, y[:, t])
    found = proof.kalman_nll(y.double().numpy(), u.double().numpy(), LinearSystem())
    assert found == pytest.approx(torch.stack(total).mean().item(), abs=1e-4)


def test_the_guide_reaches_every_goal_of_the_errand(proof):
    world = proof.Errand(50, observe=("vector",))
    found = proof.control("guide", world, proof.Guide(), episodes=200, seed=0)
    assert found.success_rate.value == 1.0 and found.score.value > 40
    random = proof.blind({"env": "toy/errand"})
    assert random["doing nothing"] == 0.0 and 0.1 < random["random"] < 2.0


@pytest.mark.slow
def test_an_rssm_comes_within_five_percent_of_the_kalman_filter(proof):
    ours, truth = proof.fitted(0, 1500)
    assert truth <= ours <= truth + 0.05 * abs(truth)


def test_curves_of_the_line_are_kept_only_with_their_settings(proof, tmp_path, monkeypatch):
    monkeypatch.setattr(proof, "RESULTS", tmp_path)
    assert proof.known({"a": 1}) == ({}, {})
    curve = {"planet-swingup-0": [[1000, 2.0]], "dreamer_v1-swingup-0": [[500, 3.0]]}
    config = {
        "shared": {"a": 1},
        "own": {**proof.LINE, "dreamer_v1": {"updates": 1}},
        "evaluations": curve,
        "seconds a seed": dict.fromkeys(curve, 5.0),
    }
    numbers = {"value": 1.0, "low": 1.0, "high": 1.0, "better": "higher", "target": None}
    words = {"what": "What.", "metric": "m", "command": "c"}
    proof.evidence.record(
        "dreamer_line",
        **words,
        **numbers,
        baselines={},
        seeds=[0],
        steps=1,
        seconds=1.0,
        config=config,
        folder=tmp_path,
    )
    assert proof.known({"a": 1}) == ({"planet-swingup-0": [(1000, 2.0)]}, {"planet-swingup-0": 5.0})
    assert proof.known({"a": 2}) == ({}, {})


def test_only_whole_runs_of_the_same_settings_count(proof, tmp_path):
    settings = {"updates": 20, "env": "x"}
    rows = [{"update": 10, "evaluate/return": 1.0}, {"update": 20, "model/total": 1.0}]
    (tmp_path / "run.json").write_text(json.dumps({"config": {**settings, "seed": 3}}))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not proof.finished(tmp_path, settings)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"update": 20, "evaluate/return": 2.0}) + "\n")
    assert proof.finished(tmp_path, settings)
    assert not proof.finished(tmp_path, {**settings, "env": "y"})
