"""One imagination trainer on true models with known optima, on Dreamers, and on the 2018 model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import distributions

from reverie.behaviors.actor_critic import V1, V2, V3, ActorCritic
from reverie.core import registry, tree
from reverie.core.errors import BadConfig, MissingHead, SpaceMismatch
from reverie.core.model import Part
from reverie.core.probe import sample_batch
from reverie.core.types import Batch, Box, Discrete, Loss, Optim
from reverie.envs import rules
from reverie.learner import GradientLearner
from reverie.models.dreamer import DREAMER_V3, PIXELS, SCHOOLS, DreamerV3
from reverie.nn.policy import Clipped, OneOf, Squashed

TINY = {"units": 16, "horizon": 3}


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_dreamer_v3_of_size_1m_has_exactly_686456_parameters():
    model = DreamerV3(DREAMER_V3, PIXELS, Discrete(6))
    behavior = ActorCritic(model, V3)
    assert count(model) + count(behavior.actor) + count(behavior.critic) == 686_456


def test_what_nobody_has_lived_is_worth_exactly_nothing():
    model = registry.instance("dreamer_v3")
    behavior = ActorCritic(model, V3)
    states = posterior(model, sample_batch(model, (2, 3), 0, obs=None, extra=None))
    assert behavior.heads.value(tree.flatten(states)).tolist() == [0.0] * 8


def posterior(model, batch):
    with torch.no_grad():
        return model.parts()[0].loss(batch, None).states


# -- distributions --------------------------------------------------------------------------------


def test_one_of_some_against_torch(generator):
    raw = torch.randn(3, 4)
    mixed = 0.9 * raw.softmax(-1) + 0.1 / 4
    ours, theirs = OneOf(raw, Discrete(4), 0.1), distributions.Categorical(probs=mixed)
    action = torch.tensor([0, 3, 2])
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    drawn = ours.sample((20_000,), generator=generator)
    share = F.one_hot(drawn, 4).float().mean(0)
    torch.testing.assert_close(share, mixed, rtol=0, atol=0.015)


def test_a_clipped_normal_has_its_tails_at_the_edges(generator):
    raw = torch.tensor([[0.8, 1.0]])
    ours = Clipped(raw, Box((1,)))
    normal = distributions.Normal(ours.mean, ours.std)
    inside = torch.tensor([[0.3]])
    torch.testing.assert_close(ours.log_prob(inside), normal.log_prob(inside)[:, 0])
    tail = (1 - normal.cdf(torch.ones(1, 1))).log()[:, 0]
    torch.testing.assert_close(ours.log_prob(torch.ones(1, 1)), tail)
    drawn = ours.sample((20_000,), generator=generator)
    assert (drawn == 1).float().mean().item() == pytest.approx(tail.exp().item(), abs=0.015)
    torch.testing.assert_close(ours.entropy(), normal.entropy()[:, 0])


def test_a_squashed_normal_against_torch():
    raw = torch.randn(5, 6)
    ours = Squashed(raw, Box((3,)))
    tanh = distributions.TransformedDistribution(
        distributions.Normal(ours.mean, ours.std), distributions.TanhTransform()
    )
    action = ours.sample().clamp(-0.99, 0.99)
    torch.testing.assert_close(ours.log_prob(action), tanh.log_prob(action).sum(-1))
    assert Squashed(torch.zeros(1, 2), Box((1,))).std.item() == pytest.approx(5.0, abs=1e-3)


# -- known optima ---------------------------------------------------------------------------------


def inferring(model):
    """A part that learns nothing of use, and hands on the states of a true model."""
    nothing = torch.nn.Linear(1, 1)

    def loss(batch: Batch, states) -> Loss:
        found = [
            model.observe(None, None, model.encode({k: v[:, 0] for k, v in batch.obs.items()}))
        ]
        for t in range(batch.mask.shape[1]):
            h = model.encode({k: v[:, t + 1] for k, v in batch.obs.items()})
            found.append(model.observe(found[-1], batch.action[:, t], h))
        return Loss(0 * nothing.weight.sum(), {}, tree.stack(found))

    return Part("infer", nothing, loss, Optim("nothing"))


def played_right(hours=8, rows=4):
    """Segments of the clock played right: o = t, a = t, r = 10 t, and the end."""
    time = torch.arange(hours + 1).float().expand(rows, -1)
    none = torch.zeros(rows, hours, dtype=torch.bool)
    ended = none.clone()
    ended[:, -1] = True
    first = torch.zeros(rows, hours + 1, dtype=torch.bool)
    first[:, 0] = True
    return Batch(
        obs={"vector": time[..., None]},
        action=time[:, :-1].long(),
        reward=10 * time[:, :-1],
        terminated=ended,
        truncated=none,
        mask=~none,
        first=first,
        extra={},
    )


def test_it_learns_to_play_the_clock_in_the_true_models_dream():
    """The right action at t is t and earns 10 t; a shift by one anywhere would earn -1 a step."""
    model = registry.instance("toy/clock")
    hand = model.heads._replace(features=lambda s: F.one_hot(s.time.long().clamp(max=8), 9).float())
    fast = Optim("both", lr=3e-3)
    config = replace(V3, actor=fast, critic=fast, units=32, horizon=4, discount=0.9, slow_rate=0.1)
    behavior = ActorCritic(model, config, heads=hand)
    learner = GradientLearner([inferring(model), *behavior.parts()])
    batch = played_right()
    for _ in range(400):
        learner.update(batch)
    hours = torch.arange(8.0)[:, None]
    states = model.observe(None, None, model.encode({"vector": hours}))
    assert behavior.policy(states).tolist()[1:] == list(range(1, 8))  # at 0 it earns 0, not -1
    worth = behavior.heads.value(states)
    wanted = [sum(0.9 ** (k - t) * 10 * k for k in range(t, 8)) for t in range(8)]
    torch.testing.assert_close(worth, torch.tensor(wanted), rtol=0.1, atol=5.0)


@pytest.mark.parametrize("paper", [V1, V2])
def test_value_gradients_find_the_gain_of_optimal_control(paper):
    """The best push in the linear-Gaussian world is linear in the belief's mean: Riccati."""
    model = registry.instance("toy/linear_gaussian")
    actor, critic = Optim("actor", lr=1e-3), Optim("critic", lr=3e-3)
    config = replace(
        paper,
        actor=actor,
        critic=critic,
        units=32,
        horizon=15,
        discount=0.98,
        entropy=0.0,
        slow_every=10,
    )
    behavior = ActorCritic(model, config)
    learner = GradientLearner([inferring(model), *behavior.parts()])
    system = rules.LinearSystem()
    for _ in range(400):
        y = 0.6 * torch.randn(64, 2, 1)
        none = torch.zeros(64, 1, dtype=torch.bool)
        batch = Batch({"vector": y}, torch.zeros(64, 1, 1), torch.zeros(64, 1), *[none] * 2, ~none,
                      torch.tensor([True, False]).expand(64, 2), {})  # fmt: skip
        learner.update(batch)
    gain = torch.as_tensor(system.riccati(100)[0][0]).float()  # far from the end
    x = torch.tensor([[0.6, 0.0], [-0.6, 0.0], [0.3, 0.3], [0.0, 0.0]])
    found = behavior.distribution(x).mode
    torch.testing.assert_close(found, -x @ gain.T, rtol=0, atol=0.15)


# -- on learned models ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "paper"), [("dreamer_v1", V1), ("dreamer_v2", V2), ("dreamer_v3", V3)]
)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_each_paper_learns_its_parts_in_one_update(name, paper, precision):
    model = registry.instance(name, small=True)
    config = replace(paper, **TINY)
    behavior = ActorCritic(model, config)
    learner = GradientLearner([*model.parts(), *behavior.parts()], precision=precision)
    before = [p.clone() for p in behavior.actor.parameters()]
    batch = sample_batch(model, (2, 4), 0, obs=None, extra=None)
    for _ in range(2):
        metrics = learner.update(batch)
    assert all(torch.isfinite(torch.as_tensor(v)).all() for v in metrics.values())
    pairs = zip(before, behavior.actor.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    state = tree.flatten(posterior(model, batch))
    for action in (behavior.policy(state), behavior.explore(state)):
        assert action.shape == (10, 2)
        assert action.abs().max() <= 1


def test_the_dream_of_the_2018_model_will_do():
    """It has no reward head: a step survived earns 1."""
    model = registry.instance("world_models_2018", small=True)
    config = replace(V3, actor=Optim("a"), critic=Optim("a"), **TINY)
    behavior = ActorCritic(model, config)
    batch = sample_batch(model, (2, 4), 0, obs=None, extra=None)
    metrics = GradientLearner([*model.parts(), *behavior.parts()]).update(batch)
    assert 0 < metrics["actor/return"] < 3


def test_the_actors_value_gradients_leave_the_world_alone():
    model = registry.instance("dreamer_v1", small=True)
    behavior = ActorCritic(model, replace(V1, **TINY))
    batch = sample_batch(model, (2, 4), 0, obs=None, extra=None)
    states = posterior(model, batch)
    world = {name: p.clone() for name, p in model.named_parameters()}
    fixed = Part("infer", torch.nn.Linear(1, 1), lambda b, s: fake(states), Optim("nothing"))
    GradientLearner([fixed, *behavior.parts()]).update(batch)
    assert all(torch.equal(p, world[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def fake(states):
    return Loss(torch.zeros((), requires_grad=True) * 1.0, {}, states)


def test_replayed_returns_by_hand():
    """Three rewards 1, discount 1/2, lambda 1; an end, a seam, a start; boots 10, 20, 30, 40.

    t=2: 1 + 40/2 = 21; t=1 is the seam; t=0 ended: 1. Had the clock ended it: 1 + 20/2 = 11.
    """
    model = registry.instance("dreamer_v3", small=True)
    behavior = ActorCritic(model, replace(V3, discount=0.5, lam=1.0, **TINY))
    yes = torch.tensor([[True, False, False]])
    first = torch.tensor([[True, False, True, False]])
    boot = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    ones = torch.ones(1, 3)
    batch = Batch({}, None, ones, yes, yes & False, ~first[:, 1:], first, {})
    assert behavior._replayed_returns(batch, ones, boot)[0, [0, 2]].tolist() == [1.0, 21.0]
    batch = batch._replace(terminated=yes & False, truncated=yes)
    assert behavior._replayed_returns(batch, ones, boot)[0, [0, 2]].tolist() == [11.0, 21.0]
    batch = batch._replace(truncated=yes & False)  # a recording that just stops
    assert behavior._replayed_returns(batch, ones, boot)[0, [0, 2]].tolist() == [11.0, 21.0]


def test_dreams_from_an_end_count_nothing():
    model = registry.instance("dreamer_v3", small=True)
    behavior = ActorCritic(model, replace(V3, **TINY))
    batch = sample_batch(model, (2, 4), 0, obs=None, extra=None)
    weight = behavior._actor_loss(batch, posterior(model, batch)).states.weight
    alive = weight[0].view(2, 5).tolist()
    assert alive == [[1, 1, 1, 1, 1], [1, 0, 1, 1, 1]]  # row 1: the world ended at once


def test_the_slow_critic_is_copied_when_it_is_due():
    model = registry.instance("dreamer_v2", small=True)
    behavior = ActorCritic(model, replace(V2, slow_every=3, **TINY))
    learner = GradientLearner([*model.parts(), *behavior.parts()])
    batch = sample_batch(model, (2, 4), 0, obs=None, extra=None)
    begun = behavior.slow.out.weight.clone()
    same = []
    for _ in range(6):
        learner.update(batch)
        same.append(torch.equal(behavior.slow.out.weight, behavior.critic.out.weight))
    assert same == [False, False, True, False, False, True]
    assert not torch.equal(begun, behavior.slow.out.weight)


def test_the_slow_critic_follows_at_its_rate():
    model = registry.instance("dreamer_v3", small=True)
    behavior = ActorCritic(model, replace(V3, **TINY))
    with torch.no_grad():
        behavior.critic.out.weight.fill_(1.0)
    behavior._after()
    behavior._after()
    assert behavior.slow.out.weight[0, 0].item() == pytest.approx(1 - 0.98**2)


# -- refusals -------------------------------------------------------------------------------------


def test_what_cannot_be_learned_is_refused_in_one_sentence():
    model = registry.instance("dreamer_v3")
    with pytest.raises(SpaceMismatch, match="Value gradients pass through Box actions"):
        ActorCritic(model, V1)
    box = registry.instance("dreamer_v1", small=True)
    together = replace(V1, actor=V1.critic)
    with pytest.raises(BadConfig, match="both must not step together"):
        ActorCritic(box, together)
    with pytest.raises(MissingHead, match="ActorCritic needs features"):
        ActorCritic(box, V1, heads=box.heads._replace(features=None))
    with pytest.raises(MissingHead, match=r"ActorCritic .without a reward head. needs cont"):
        ActorCritic(box, V1, heads=box.heads._replace(reward=None, cont=None))
    wide = DreamerV3(
        SCHOOLS["dreamer_v3"].small().design, {"vector": Box((2,))}, Box((1,), -2.0, 2.0)
    )
    with pytest.raises(SpaceMismatch, match=r"acts in \[-1, 1\], but the Box is -2.0..2.0"):
        ActorCritic(wide, V3)
    with pytest.raises(BadConfig, match="Put the model's parts before it"):
        GradientLearner(ActorCritic(box, V1).parts()).update(
            sample_batch(box, (2, 4), 0, obs=None, extra=None)
        )
