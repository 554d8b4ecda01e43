"""The search in one compiled call against the search of the same network in torch."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import BadConfig, ShapeMismatch
from reverie.core.model import WorldModel
from reverie.core.types import Box, Card, Discrete, Heads
from reverie.planners.compiled_mlp import CompiledMLP
from reverie.planners.mcts import MCTS, draws
from reverie.planners.selection import PUCT, Gumbel


class Latent(NamedTuple):
    x: Tensor  # (B, D)
    reward: Tensor  # (B,) of the step that led here


class Logits(NamedTuple):
    """A policy; Categorical would round its logits as it normalises them."""

    logits: Tensor  # (B, A)


class Small(WorldModel[Latent]):
    """MuZero's g and f, as torch has them."""

    card = Card("small", "", "", "", "", "", "", (), (), "")
    observations: ClassVar = {"vector": Box((1,))}

    def __init__(self, g: nn.Sequential, f: nn.Sequential, *, rescale: bool) -> None:
        super().__init__()
        self.g, self.f, self.rescale = g, f, rescale
        self.actions = Discrete(f[-1].out_features - 1)

    def encode(self, obs):
        raise NotImplementedError

    observe = encode

    def predict(self, state, action, *, z=None, generator=None):
        taken = F.one_hot(action, self.actions.n).float()
        x, reward = self.g(torch.cat([state.x, taken], 1)).split([state.x.shape[1], 1], 1)
        if self.rescale:
            low, high = x.aminmax(dim=1, keepdim=True)
            x = (x - low) / (high - low).clamp(min=1e-5)
        return Latent(x, reward[:, 0])

    @property
    def heads(self):
        return Heads(
            "small",
            reward=lambda s, a, n: n.reward,
            value=lambda s: self.f(s.x)[:, -1],
            policy=lambda s: Logits(self.f(s.x)[:, :-1]),
        )

    def compiled(self) -> CompiledMLP:
        return CompiledMLP(self.g, self.f, latent=lambda s: s.x, rescale=self.rescale)


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for one, two in pairwise(sizes):
        layers += [nn.Linear(one, two), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def dense(seed: int, *, rescale: bool) -> Small:
    """As one would train it: 18 actions, latent 64, hidden 128."""
    torch.manual_seed(seed)
    return Small(mlp(64 + 18, 128, 65), mlp(64, 128, 19), rescale=rescale).requires_grad_(False)


def plain(seed: int, *, rescale: bool) -> Small:
    """Every unit reads one number of the latent, and one action at most, so that nothing rounds
    in one order of summing and not in another: both searches must agree to the last bit."""
    draw = torch.Generator().manual_seed(seed)
    model = Small(mlp(6 + 4, 24, 7), mlp(6, 24, 5), rescale=rescale).requires_grad_(False)
    for net, latent in ((model.g, 6), (model.f, 6)):
        for i, layer in enumerate(net[::2]):
            layer.weight.zero_()
            layer.bias.zero_()
            reads = latent if i == 0 else layer.in_features
            one = torch.randint(reads, (layer.out_features,), generator=draw)
            sign = torch.randint(0, 2, one.shape, generator=draw) * 1.5 - 0.5
            layer.weight[range(len(one)), one] = sign
            if layer.in_features > reads:  # g's first one: an eighth, several times
                eighths = torch.randint(-8, 9, (layer.out_features, 4), generator=draw)
                layer.weight[:, reads:] = eighths / 8
    return model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def both_searches(planner: MCTS, model: Small, b: int, mask: Tensor | None = None):
    x = torch.rand(b, model.g[0].in_features - model.actions.n, generator=generator(9))
    state = Latent((x * 64).round() / 64, torch.zeros(b))
    quick = MCTS(**{**vars(planner), "compiled": model.compiled()})
    slow = planner.plan(model, state, generator=generator(), mask=mask)
    fast = quick.plan(model, state, generator=generator(), mask=mask)
    return slow, fast


SEARCHES = {
    "puct": MCTS(PUCT(), 50),
    "puct, noise": MCTS(PUCT(noise=0.25, temperature=1.0), 50),
    "puct, two players": MCTS(PUCT(), 40, 1.0, players=2),
    "gumbel": MCTS(Gumbel(), 50),
    "gumbel, noise": MCTS(Gumbel(noise=1.0, considered=3), 33, 0.9),
}


@pytest.mark.parametrize("rescale", [False, True], ids=["as it is", "rescaled"])
@pytest.mark.parametrize("planner", SEARCHES.values(), ids=SEARCHES)
def test_both_paths_agree_to_the_last_bit(planner, rescale):
    mask = torch.rand(12, 4, generator=generator(5)) < 0.7
    mask[:, 2] = True
    for seed in range(5):
        slow, fast = both_searches(planner, plain(seed, rescale=rescale), 12, mask)
        assert torch.equal(slow.extra["visits"], fast.extra["visits"])
        assert torch.equal(slow.actions, fast.actions)
        assert torch.equal(slow.extra["root_value"], fast.extra["root_value"])
        assert torch.equal(slow.extra["search_policy"], fast.extra["search_policy"])
        assert slow.extra["visits"].max() < planner.simulations  # or all this would be easy


@pytest.mark.parametrize("rescale", [False, True], ids=["as it is", "rescaled"])
@pytest.mark.parametrize("planner", SEARCHES.values(), ids=SEARCHES)
def test_both_paths_agree_on_a_network_as_it_is_trained(planner, rescale):
    slow, fast = both_searches(planner, dense(1, rescale=rescale), 8)
    assert torch.equal(slow.extra["visits"], fast.extra["visits"])
    assert torch.equal(slow.actions, fast.actions)
    torch.testing.assert_close(slow.extra["root_value"], fast.extra["root_value"])
    torch.testing.assert_close(slow.extra["search_policy"], fast.extra["search_policy"])


@pytest.mark.parametrize("sizes", [(), (7,), (9, 5)], ids=["one", "two", "three"])
def test_any_number_of_layers(sizes):
    torch.manual_seed(2)
    model = Small(mlp(3 + 2, *sizes, 4), mlp(3, *sizes, 3), rescale=True).requires_grad_(False)
    slow, fast = both_searches(MCTS(PUCT(), 20), model, 5)
    assert torch.equal(slow.extra["visits"], fast.extra["visits"])
    torch.testing.assert_close(slow.score, fast.score)


@pytest.mark.parametrize("b", [1, 3, 4, 7, 64])
def test_products_are_those_of_torch_and_each_rows_own(b):
    """Rows are multiplied four at a time and inputs four at a time; here neither comes out even."""
    torch.manual_seed(b)
    model = Small(mlp(6 + 3, 21, 7), mlp(6, 21, 13, 4), rescale=False).requires_grad_(False)
    x = torch.randn(b, 6)
    logits, value = model.compiled().root(x.numpy())
    torch.testing.assert_close(torch.from_numpy(logits), model.f(x)[:, :-1])
    torch.testing.assert_close(torch.from_numpy(value), model.f(x)[:, -1])
    for i in range(b):
        alone, _ = model.compiled().root(x[i : i + 1].numpy())
        assert (alone[0] == logits[i]).all()


def test_a_row_alone_is_searched_as_in_the_batch():
    model = dense(0, rescale=True)
    planner = MCTS(PUCT(), 50, compiled=model.compiled())
    x = torch.rand(6, 64, generator=generator())
    whole = planner.plan(model, Latent(x, torch.zeros(6)))
    for b in range(6):
        alone = planner.plan(model, Latent(x[b : b + 1], torch.zeros(1)))
        assert torch.equal(alone.extra["visits"][0], whole.extra["visits"][b])


def test_the_weights_are_those_of_the_moment():
    model = plain(0, rescale=False)
    state = Latent(torch.rand(3, 6, generator=generator()), torch.zeros(3))
    planner = MCTS(PUCT(), 20, compiled=model.compiled())
    before = planner.plan(model, state)
    model.f[-1].bias[-1] += 1000  # of the value
    after = planner.plan(model, state)
    renewed = MCTS(PUCT(), 20, compiled=model.compiled()).plan(model, state)
    assert torch.equal(before.score, after.score)
    assert (renewed.score > before.score + 900).all()


def test_networks_that_do_not_fit_are_refused():
    g, f = mlp(6 + 4, 24, 7), mlp(6, 24, 5)

    def make(g, f):
        return CompiledMLP(g, f, latent=lambda s: s.x, rescale=True)

    with pytest.raises(BadConfig, match="prediction is made of .*Tanh"):
        make(g, nn.Sequential(nn.Linear(6, 5), nn.Tanh()))
    with pytest.raises(BadConfig, match=r"dynamics is made of \[\]"):
        make(nn.Sequential(), f)
    with pytest.raises(ShapeMismatch, match="Put the reward last in g"):
        make(mlp(6 + 4, 24, 6), f)
    with pytest.raises(ShapeMismatch, match="24 outputs stands before one of 23 inputs"):
        make(nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(23, 7)), f)


def test_models_that_do_not_fit_are_refused():
    model = plain(0, rescale=False)
    state = Latent(torch.zeros(2, 6), torch.zeros(2))
    compiled = model.compiled()
    with pytest.raises(BadConfig, match="without chance, cont or lent heads"):
        MCTS(PUCT(), 5, compiled=compiled, heads=model.heads).plan(model, state)
    with pytest.raises(BadConfig, match="without chance, cont or lent heads"):
        MCTS(PUCT(), 5, compiled=compiled, chance=draws(2)).plan(model, state)
    with pytest.raises(BadConfig, match=r"searches Discrete\(4\) actions"):
        MCTS(PUCT(), 5, compiled=compiled).plan(dense(0, rescale=False), state)
    with pytest.raises(ShapeMismatch, match=r"shape \(B, 6\), but the state's have \(2, 5\)"):
        MCTS(PUCT(), 5, compiled=compiled).plan(model, Latent(torch.zeros(2, 5), state.reward))
