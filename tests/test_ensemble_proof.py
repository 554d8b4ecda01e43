"""The proofs of PETS and MBPO, tiny: runs that are there are counted, claims are written."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from reverie.evidence import load

PROOF = Path(__file__).resolve().parents[1] / "proofs" / "ensemble.py"
TINY = {"env": "Pendulum-v1", "time_limit": 10, "episodes": 5}
PLAN = {"updates": 3, "steps_per_update": 10, "prefill": 20, "horizon": 2, "samples": 4}
PLAN |= {"particles": 2, "epochs": 1, "iterations": 1}
ARM = {**TINY, "steps": 50, "prefill": 30, "evaluate_every": 10}
DREAM = {"retrain": 20, "starts": 8, "epochs": 1, "updates_per_step": 1}


@pytest.fixture
def proof(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("ensemble_proof", PROOF)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    beside = {"mbpo": {**ARM, **DREAM}}
    claim = module.Claim("PETS, tiny", -1.0, {**TINY, **PLAN}, beside, ("other-swingup-{seed}",))
    monkeypatch.setattr(module, "CLAIMS", {"pets_cartpole": claim})
    monkeypatch.setattr(module, "ARMS", {"pendulum": (ARM, DREAM), "hopper": (ARM, DREAM)})
    return module


def run(proof, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["ensemble.py", *words, "--seeds", "0"])
    proof.main()


def test_pets_is_counted_beside_mbpo_and_what_others_have_left(proof, monkeypatch, tmp_path):
    other = tmp_path / "runs" / "other-swingup-0"
    other.mkdir(parents=True)
    config = {"prefill": 100, "steps_per_update": 2.0}
    (other / "run.json").write_text(json.dumps({"config": config}))
    (other / "metrics.jsonl").write_text('{"update": 50, "seconds": 1, "evaluate/return": 7.0}\n')
    run(proof, monkeypatch, "pets_cartpole", "--train")
    assert not (tmp_path / "results").exists()
    run(proof, monkeypatch, "pets_cartpole")
    found = load("results/pets_cartpole.json")
    assert [step for step, _ in found.config["trials"]["pets-cartpole-0"]] == [30, 40]
    values = [value for _, value in found.config["trials"]["pets-cartpole-0"]]
    assert found.value == pytest.approx(sum(values) / 2)
    assert found.config["beside"]["other-swingup-0"] == [[200, 7.0]]
    assert {"random", "mbpo"} <= set(found.baselines)
    assert Path("results/pets_cartpole.png").is_file()


def test_mbpo_is_counted_beside_sac_alone_at_equal_steps(proof, monkeypatch):
    run(proof, monkeypatch, "mbpo")
    found = load("results/mbpo.json")
    curves = found.config["evaluations"]
    assert set(curves) == {f"{a}-{t}-0" for a in ("mbpo", "sac") for t in ("pendulum", "hopper")}
    assert [step for step, _ in curves["sac-hopper-0"]] == [40, 50]
    assert [step for step, _ in curves["mbpo-hopper-0"]] == [40, 50]
    assert found.target == pytest.approx(found.baselines["sac, hopper"])
