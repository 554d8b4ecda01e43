"""Evolution in a dream: weight counts, bins, batching, exact resume, and that it learns."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from reverie.behaviors.evolution import Controller, Evolution, EvolutionConfig, principal
from reverie.core.errors import BadConfig, MissingHead, NonFinite
from reverie.core.model import WorldModel
from reverie.core.types import Box, Card, Discrete, Heads


class Place(NamedTuple):
    x: Tensor  # (B, 1)


class Line(WorldModel[Place]):
    """A point on a line, moved by the action; the nearer to 0 it stays, the likelier it lives."""

    card = Card("line", "Line", "oracle", "x", "none", "none", "none", (), (), "none")

    def __init__(self, **heads):
        super().__init__()
        self.observations, self.actions = {"vector": Box((1,))}, Discrete(3)
        self.lent = heads

    def encode(self, obs):
        return obs["vector"]

    def observe(self, state, action, h, *, first=None, generator=None):
        return Place(h)

    def predict(self, state, action, *, z=None, generator=None):
        drift = 0.1 * torch.randn(state.x.shape, generator=generator)
        return Place(state.x + 0.5 * (action[:, None].float() - 1) + drift)

    @property
    def heads(self):
        own = {
            "cont": lambda s: torch.exp(-s.x[:, 0].square() / 8),
            "features": lambda s: torch.cat([s.x, s.x.square()], -1),
        }
        return Heads("line", **{**own, **self.lent})


def starts(n, generator):
    return Place(2 * torch.randn(n, 1, generator=generator))


def evolution(model=None, **changes):
    model = model or Line()
    controller = Controller(2, Discrete(3), ordered=True)
    config = EvolutionConfig(**{"population": 16, "episodes": 8, "horizon": 30, **changes})
    return Evolution(model, controller, starts, config), controller


def test_the_papers_controllers_have_their_weights():
    car = Controller(32 + 256, Box((3,)))
    doom = Controller(64 + 2 * 512, Discrete(3), ordered=True, bias=False)
    assert (len(car.weights), len(doom.weights)) == (867, 1088)


def test_ordered_actions_are_cut_at_a_third():
    controller = Controller(1, Discrete(3), ordered=True, bias=False)
    controller.weights.fill_(1.0)
    outputs = torch.tensor([-9.0, -0.34, -0.33, 0.0, 0.33, 0.34, 9.0]).clamp(-0.9999, 0.9999)
    actions = controller(outputs.atanh()[:, None])
    assert actions.tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_unordered_actions_are_the_largest_output_and_boxes_are_squashed():
    discrete = Controller(2, Discrete(2), bias=False)
    discrete.weights.copy_(torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert discrete(torch.tensor([[2.0, 1.0], [1.0, 2.0]])).tolist() == [0, 1]
    box = Controller(1, Box((1,)), bias=True)
    box.weights.copy_(torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(box(torch.tensor([[0.5]])), torch.tensor([[2.0]]).tanh())


def test_a_population_dreams_as_each_candidate_would_alone():
    learner, _ = evolution()
    weights = torch.randn(5, 3)
    together = learner.dream(weights, torch.Generator().manual_seed(1))
    worse_rest = weights.clone()
    worse_rest[1:] += 5.0
    changed = learner.dream(worse_rest, torch.Generator().manual_seed(1))
    assert together.shape == (5, 8)
    assert torch.equal(together[0], changed[0])
    assert not torch.equal(together[1:], changed[1:])


def test_the_fitness_is_the_expected_survival():
    """cont is always 0.5: 0.5 + 0.25 + ... = 1 - 0.5**H steps."""
    model = Line(cont=lambda s: torch.full((len(s.x),), 0.5))
    learner, _ = evolution(model, horizon=8, survival=4.0)
    found = learner.dream(torch.zeros(2, 3), torch.Generator())
    torch.testing.assert_close(found, torch.full((2, 8), 4 * (1 - 0.5**8)))


def test_rewards_count_while_the_dream_goes_on():
    """Reward 2, cont 0.5, discount 0.9: sum of 2 * 0.9**t * 0.5**t."""
    half = torch.full((16,), 0.5)
    model = Line(cont=lambda s: half, reward=lambda s, a, n: torch.full((16,), 2.0))
    learner, _ = evolution(model, horizon=3, discount=0.9)
    found = learner.dream(torch.zeros(2, 3), torch.Generator())
    torch.testing.assert_close(found, torch.full((2, 8), 2 * (1 + 0.45 + 0.45**2)))


def test_it_learns_to_stay_alive():
    learner, controller = evolution()
    judge = torch.Generator().manual_seed(99)
    before = learner.dream(controller.weights[None], judge).mean().item()
    for _ in range(25):
        metrics = learner.update()
    after = learner.dream(controller.weights[None], judge.manual_seed(99)).mean().item()
    assert set(metrics) == {"best", "mean", "worst", "sigma"}
    assert after > 2 * before


def test_a_resumed_search_is_the_same_search():
    whole, controller = evolution()
    for _ in range(3):
        whole.update()
    saved = whole.state_dict()
    expected = whole.update(), controller.weights.clone()
    resumed, other = evolution()
    resumed.load_state_dict(saved)
    assert resumed.update() == expected[0]
    assert torch.equal(other.weights, expected[1])


def test_principal_directions_whiten_and_carry_a_bias():
    torch.manual_seed(0)
    features = 3 + torch.randn(4000, 2) @ torch.randn(2, 6)  # two directions in six numbers
    seen = features @ principal(features, 2)
    torch.testing.assert_close(seen[:, :2].mean(0), torch.zeros(2), atol=1e-2, rtol=0)
    torch.testing.assert_close(seen[:, :2].T.cov(), torch.eye(2), atol=2e-2, rtol=0)
    assert seen[:, 2].mean().item() == pytest.approx(1, abs=1e-2)
    assert seen[:, 2].std() < 0.05
    with pytest.raises(BadConfig, match="7 principal components"):
        principal(features, 7)


def test_a_search_along_directions_sets_weights_along_them():
    """Two features, searched along (1, 1) alone: both weights of each output stay equal."""
    controller = Controller(2, Discrete(3), bias=True)
    basis = torch.tensor([[1.0], [1.0]])
    learner = Evolution(Line(), controller, starts, EvolutionConfig(8, 2, 5), basis=basis)
    learner.update()
    matrix, bias = controller.weights[:6].view(2, 3), controller.weights[6:]
    assert torch.equal(matrix[0], matrix[1])
    assert matrix.abs().min() > 0
    assert bias.abs().min() > 0


def test_bad_input_is_refused():
    with pytest.raises(MissingHead, match="Evolution needs features"):
        evolution(Line(features=None))
    with pytest.raises(MissingHead, match="Evolution needs cont"):
        evolution(Line(cont=None))
    with pytest.raises(BadConfig, match="population"):
        evolution(population=1)
    learner, _ = evolution(Line(cont=lambda s: torch.full((len(s.x),), torch.nan)))
    with pytest.raises(NonFinite, match="generation 0"):
        learner.update()
