"""The temperature table's arms dream at the temperature that they name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from reverie.behaviors.evolution import Evolution
from reverie.recipes import doom

PROOF = Path(__file__).resolve().parents[1] / "proofs" / "doom.py"


def test_an_arm_evolves_in_dreams_of_its_own_temperature(monkeypatch):
    spec = importlib.util.spec_from_file_location("proof_doom", PROOF)
    proof = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(proof)
    setup = doom.quick("doom_quick", {"seed": 0, "temperature": 1.0, "device": "cpu"})
    drawn = []

    class Seen(Exception):
        """The search has begun."""

    def evolution(setup, data) -> Evolution:
        model = setup.model
        image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
        state = model.observe(None, None, model.encode({"image": image}))
        state = state._replace(z=torch.zeros_like(state.z))
        noise = torch.full((2, 1, model.config.latent), 0.5).unbind()  # (uniform, normal)
        drawn.append(model.predict(state, torch.zeros(1, dtype=torch.int64), z=noise).z)
        raise Seen

    monkeypatch.setattr(proof.stages, "evolution", evolution)
    for tau in (1.0, 0.01):
        with pytest.raises(Seen):
            proof.arm(setup, Path("nowhere"), tau)
    warm, cold = drawn
    assert not torch.allclose(warm, cold)
