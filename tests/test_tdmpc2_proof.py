"""What the proof of TD-MPC2 counts: decisions in the world, and when a score was first reached."""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path

import pytest

from reverie.core import registry

PROOF = Path(__file__).resolve().parents[1] / "proofs" / "tdmpc2.py"


@pytest.fixture(scope="module")
def proof():
    spec = importlib.util.spec_from_file_location("proof_tdmpc2", PROOF)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_curve_is_told_in_decisions_of_the_world(proof, tmp_path):
    """1000 random ones, 400 updates on them alone, then one a decision."""
    rows = [{"update": 300, "evaluate/return": 1.0}, {"update": 400, "collect/return": 9.0}]
    rows += [{"update": 900, "evaluate/return": 7.0}, {"update": 1400, "evaluate/return": 5.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    curve = proof.scores(tmp_path, {"prefill": 1000, "pretrain": 400})
    assert curve == [(1000, 1.0), (1500, 7.0), (2000, 5.0)]
    assert proof.first_reached(curve, 5.0) == 1500
    assert proof.first_reached(curve, 8.0) is None


def test_claims_ask_for_what_the_recipe_takes(proof):
    known = set(inspect.signature(registry.recipe("tdmpc2")).parameters)
    for said in proof.CLAIMS.values():
        assert set(said.options) <= known
        assert said.options["updates"] >= proof.LAST * said.options["evaluate_every"]
    targets = {name: (said.target, said.minutes) for name, said in proof.CLAIMS.items()}
    assert targets["swingup"] == (800.0, 60.0)
    assert targets["pendulum"] == (-200.0, 5.0)
    assert targets["locomotion"][1] == 90.0
