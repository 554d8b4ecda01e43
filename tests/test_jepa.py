"""JEPA world models: the contract at several windows, leaps against steps, seams, messages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from reverie.core.check import check_world_model
from reverie.core.errors import BadConfig, ShapeMismatch, SpaceMismatch
from reverie.core.types import Batch, Box, Discrete, Space
from reverie.imagine import rollout
from reverie.models.jepa import NOTHING, PIXELS, SCHOOLS, SIGREG_TEMPORAL, JEPAConfig, LeWorldModel

THIN = JEPAConfig(latent=4, channels=(4, 4), hidden=8)
VECTOR: dict[str, Space] = {"vector": Box((2,), -4.0, 4.0)}


class Count(nn.Module):
    """A predictor that adds up what was done: the embedding moves by the sum of the actions."""

    calls = 0

    def forward(self, z: Tensor, action: Tensor, n: Tensor) -> Tensor:
        self.calls += 1
        assert (action[:, -1].abs().sum(-1) > 0).sum(-1).equal(n)  # nothing after the moment
        return z[:, -1] + action[:, -1].sum(1)


class Drift(nn.Module):
    """A predictor of history: goes on as it did in the last block, and forgets the actions."""

    def forward(self, z: Tensor, action: Tensor, n: Tensor) -> Tensor:
        return z[:, -1] + (z[:, -1] - z[:, -2]) * (n / action.shape[2])[:, None]


def walker(predictor: nn.Module, **changes) -> LeWorldModel:
    """A model whose embedding is the observation itself."""
    config = replace(JEPAConfig(terms=NOTHING, latent=2, hidden=8), **changes)
    model = LeWorldModel(config, VECTOR, Box((2,)))
    model.encoder, model.predictor = nn.Identity(), predictor
    return model.eval()


def walked(batch: int, steps: int, seed: int = 0) -> Batch:
    """Walks whose place is the sum of the actions so far."""
    g = torch.Generator().manual_seed(seed)
    action = torch.rand(batch, steps, 2, generator=g) + 0.1
    place = torch.cat([torch.zeros(batch, 1, 2), action.cumsum(1)], 1)
    no = torch.zeros(batch, steps, dtype=torch.bool)
    first = torch.zeros(batch, steps + 1, dtype=torch.bool)
    first[:, 0] = True
    return Batch({"vector": place}, action, torch.zeros(batch, steps), no, no, ~no, first, {})


@pytest.mark.parametrize("name", SCHOOLS)
def test_the_siblings_keep_the_contract(name):
    assert len(check_world_model(SCHOOLS[name].small())) == 15


@pytest.mark.parametrize(
    ("changes", "observations", "actions"),
    [
        ({"history": 3, "block": 1, "leaps": 2}, PIXELS, Discrete(3)),
        ({"history": 1, "block": 2, "leaps": 2}, VECTOR, Box((2,))),
        ({"history": 2, "block": 2, "leaps": 1, "momentum": 0.9}, VECTOR, Discrete(2)),
    ],
)
def test_it_keeps_the_contract_at_other_windows(changes, observations, actions):
    assert check_world_model(LeWorldModel(replace(THIN, **changes), observations, actions))


def test_single_steps_are_the_leaps_of_the_loss():
    """Foreseen moments of a walk, one action at a time, are where the walk really goes."""
    model, data = walker(Count(), block=3, leaps=2), walked(5, 8)
    start = model.observe(None, None, model.encode({"vector": data.obs["vector"][:, 0]}))
    states = rollout(model, start, data.action).states
    for t in range(9):
        found = model.embed(type(start)(*(x[:, t] for x in states)))
        torch.testing.assert_close(found, data.obs["vector"][:, t])
    assert model._loss(data, None).total.item() == pytest.approx(0, abs=1e-10)


def test_the_network_is_called_once_a_block():
    predictor = Count()
    model, data = walker(predictor, block=4), walked(3, 8)
    start = model.observe(None, None, data.obs["vector"][:, 0])
    rollout(model, start, data.action)
    assert predictor.calls == 2


def test_rows_inside_and_at_the_end_of_a_block_stand_side_by_side():
    model, data = walker(Count(), block=3), walked(2, 7)
    place, action = data.obs["vector"], data.action
    early = model.observe(None, None, place[:1, 0])
    late = model.observe(None, None, place[1:, 0])
    late = model.predict(late, action[1:, 0])  # one step ahead of the other row
    both = type(early)(*(torch.cat(pair) for pair in zip(early, late, strict=True)))
    for t in range(5):
        both = model.predict(both, torch.stack([action[0, t], action[1, t + 1]]))
        wanted = torch.stack([place[0, t + 1], place[1, t + 2]])
        torch.testing.assert_close(model.embed(both), wanted)


def test_a_history_is_read_a_block_apart():
    """At rest, then a step of (1, 2) each time: the last block moved by (2, 4)."""
    model = walker(Drift(), history=2, block=2, leaps=1)
    place = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
    still = torch.zeros(1, 2)
    state = model.observe(None, None, place[:1])
    for t in (1, 2, 3):
        state = model.observe(state, still, place[t : t + 1])
    one = model.predict(state, still)
    two = model.predict(one, still)
    assert model.embed(one).tolist() == [[3.0, 6.0]]
    assert model.embed(two).tolist() == [[4.0, 8.0]]
    begun = model.observe(None, None, place[3:])  # before an episode the world stood still
    assert model.embed(model.predict(begun, still)).tolist() == [[2.0, 4.0]]


def test_a_leap_over_a_seam_does_not_count():
    model = walker(Count(), block=2, leaps=2)
    data = walked(64, 4)
    data.obs["vector"][:, 3:] += 100.0  # another episode begins at observation 3
    whole = model._loss(data, None).total.item()
    data.mask[:, 2] = False
    assert whole > 1000
    assert model._loss(data, None).total.item() == pytest.approx(0, abs=1e-10)


def test_a_slow_copy_is_what_is_predicted():
    config = replace(THIN, terms=NOTHING, momentum=0.5, block=1, leaps=1)
    model = LeWorldModel(config, VECTOR, Box((2,)))
    (part,) = model.parts()
    data = walked(6, 1)
    loss = part.loss(data, None)
    gradient = torch.autograd.grad(loss.total, list(model.encoder.parameters()))
    assert any(g.abs().max() > 0 for g in gradient)
    before = model.target.copy.body(data.obs["vector"][:, 0]).clone()
    weight = model.target.copy.project[0].weight.clone()
    with torch.no_grad():
        model.encoder.project[0].weight.add_(2.0)
    part.after()
    torch.testing.assert_close(model.target.copy.project[0].weight, weight + 1.0)
    torch.testing.assert_close(model.target.copy.body(data.obs["vector"][:, 0]), before)


def test_alarms_and_terms_are_logged():
    model = LeWorldModel(replace(THIN, terms=SIGREG_TEMPORAL, block=1), VECTOR, Box((2,)))
    found = model._loss(walked(8, 3), None).terms
    named = {"prediction", "sigreg", "temporal_similarity", "std", "rank", "motion"}
    assert set(found) == named
    total = model.eval()._loss(walked(8, 3), None)
    assert total.terms["temporal_similarity"] > 0


def test_what_cannot_be_is_one_sentence():
    with pytest.raises(BadConfig, match="halves the picture 3 times, but 30 x 30 pixels do not"):
        LeWorldModel(JEPAConfig(), {"image": Box((3, 30, 30), 0, 255, "uint8")}, Box((2,)))
    with pytest.raises(SpaceMismatch, match=r"reads 'image' or 'vector', but found \['sound'\]"):
        LeWorldModel(JEPAConfig(), {"sound": Box((8,))}, Box((2,)))
    with pytest.raises(SpaceMismatch, match="predicts under actions, but the world has none"):
        LeWorldModel(JEPAConfig(), PIXELS, None)
    with pytest.raises(BadConfig, match=r"terms names \['sig'\]. Choose of \['covariance', "):
        LeWorldModel(JEPAConfig(terms=(("sig", 1.0),)), PIXELS, Box((2,)))
    model = walker(Count(), block=5, leaps=3)
    with pytest.raises(ShapeMismatch, match=r"segments of 15 transitions .* but these have 4\."):
        model._loss(walked(2, 4), None)
    with pytest.raises(SpaceMismatch, match="but action is None"):
        model.predict(model.observe(None, None, torch.zeros(1, 2)), None)
