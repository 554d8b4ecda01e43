"""`check_world_model`: true models pass, and for every clause a broken model is refused by name."""

import copy
from dataclasses import replace
from typing import ClassVar, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributions, nn

from reverie.core.centred import Centred
from reverie.core.check import CLAUSES, check_world_model
from reverie.core.errors import BadConfig, ContractBroken
from reverie.core.model import Part, WorldModel
from reverie.core.types import Box, Card, Discrete, Heads, Loss, Objects, Optim
from reverie.envs.kalman import LinearGaussian
from reverie.envs.oracle import Grid
from reverie.envs.rules import LinearSystem
from reverie.envs.toy import ORACLES
from reverie.imagine import imagine, rollout

CARD = Card("tiny", "Tiny", "A", "h, z", "noise", "mse", "none", (), ("reward", "cont"), "none")
STEPWISE = [c.name for c in CLAUSES[:10]]


@pytest.mark.parametrize("name", ORACLES)
def test_oracles_keep_the_contract(name):
    checked = check_world_model(ORACLES[name]())
    assert checked[:10] == STEPWISE


def test_oracles_of_other_sizes_and_batches_do_too():
    check_world_model(Grid("S..\n.#P\n..G", slip=0.3), batch=7, steps=9)
    check_world_model(LinearGaussian(LinearSystem()), batch=2, steps=3)


# -- unbent: a code world model, and a model without actions --------------------------------------


class CodeState(NamedTuple):
    world: Objects[tuple[int, str]]  # (B) counter and mood


class CodeWorld(WorldModel[CodeState]):
    """A world written as Python: its states are tuples, its z is a seed for each row."""

    card = CARD
    observations: ClassVar = {"vector": Box((1,), 0.0, 4.0)}
    actions = Discrete(3)

    def encode(self, obs):
        return CodeState(Objects((round(float(x)), "calm") for x in obs["vector"][:, 0]))

    def observe(self, state, action, h, *, first=None, generator=None):
        return h

    def predict(self, state, action, *, z=None, generator=None):
        if z is None:
            z = torch.randint(2, (len(state.world),), generator=generator)
        rows = zip(state.world.items, action.tolist(), z.tolist(), strict=True)
        return CodeState(
            Objects(((n + a + s) % 5, "wild" if s else "calm") for (n, _), a, s in rows)
        )

    @property
    def heads(self):
        def count(s):
            return torch.tensor([float(n) for n, _ in s.world.items])

        return Heads(
            owner="code",
            reward=lambda s, a, n: count(n),
            cont=lambda n: (count(n) < 4).float(),
            decode=lambda s: {"vector": count(s)[:, None]},
        )


def test_a_code_world_model_keeps_the_contract():
    model = CodeWorld()
    assert check_world_model(model) == STEPWISE  # no weights: nothing to load, nothing to learn
    start = model.encode({"vector": torch.tensor([[0.0], [3.0]])})
    actions = torch.tensor([[1, 1], [0, 2]])
    found = rollout(model, start, actions, generator=torch.Generator().manual_seed(0))
    for row, (first, *rest) in enumerate(found.states.world.items):
        assert first == start.world.items[row]
        for t, (n, mood) in enumerate(rest):
            before = found.states.world.items[row][t][0]
            assert n == (before + actions[row, t].item() + (mood == "wild")) % 5


class Film(WorldModel[tuple]):
    """Video without actions: the next frame is the last one, faded."""

    card = CARD
    observations: ClassVar = {"image": Box((3, 8, 8), 0, 255, "uint8")}
    actions = None

    def __init__(self):
        super().__init__()
        self.fade = nn.Parameter(torch.tensor(0.5))

    def encode(self, obs):
        return obs["image"].float() / 255

    def observe(self, state, action, h, *, first=None, generator=None):
        return (h,)

    def predict(self, state, action, *, z=None, generator=None):
        return (self.fade * state[0],)

    @property
    def heads(self):
        return Heads(owner="film", decode=lambda s: {"image": s[0] * 255})

    def parts(self):
        return (Part("film", self, self._loss, Optim()),)

    def _loss(self, batch, states):
        frame = batch.obs["image"].float() / 255
        error = (self.fade * frame[:, :-1] - frame[:, 1:]).square().mean((2, 3, 4))
        total = (error * batch.mask).mean()
        return Loss(total, {"mse": total.detach()}, (frame,))


def test_a_model_without_actions_keeps_the_contract():
    model = Film()
    assert check_world_model(model) == [c.name for c in CLAUSES]
    start = (torch.ones(2, 3, 8, 8),)
    found = rollout(model, start, None, horizon=3)
    assert found.actions is None and found.states[0].shape == (2, 4, 3, 8, 8)
    assert found.states[0][0, 3, 0, 0, 0].item() == 0.125
    again = imagine(model, start, lambda s: None, 3)
    assert torch.equal(again.states[0], found.states[0])


# -- a small learned model that keeps every clause, and ways to break each ------------------------


class TinyState(NamedTuple):
    h: Tensor  # (B, 8)
    z: Tensor  # (B, 2)
    t: Tensor  # (B,) int64 steps since the episode began


class Tiny(WorldModel[TinyState]):
    """A recurrent model with a stochastic latent, in the shape of an RSSM."""

    card = CARD
    observations: ClassVar = {"vector": Box((3,))}
    actions = Box((2,))

    def __init__(self):
        super().__init__()
        self.cell = nn.Linear(8 + 2 + 2, 8)
        self.posterior = nn.Linear(8 + 3, 2)
        self.prior = nn.Linear(8, 2)
        self.out = nn.Linear(8 + 2, 3 + 1)

    def encode(self, obs):
        return obs["vector"]

    def step(self, state, action):
        return torch.tanh(self.cell(torch.cat([state.h, state.z, action], -1)))

    def begin(self, n):
        return torch.zeros(n, 8), torch.zeros(n, dtype=torch.int64)

    def observe(self, state, action, h, *, first=None, generator=None):
        deter, t = self.begin(len(h))
        if state is not None:
            go = torch.ones(len(h), dtype=torch.bool) if first is None else ~first
            deter, t = self.step(state, action) * go[:, None], (state.t + 1) * go
        mean = self.posterior(torch.cat([deter, h], -1))
        return TinyState(deter, mean + 0.1 * torch.randn(mean.shape, generator=generator), t)

    def predict(self, state, action, *, z=None, generator=None):
        deter = self.step(state, action)
        if z is None:
            z = torch.randn(state.z.shape, generator=generator)
        return TinyState(deter, self.prior(deter) + 0.1 * z, state.t + 1)

    @property
    def heads(self):
        return Heads(
            owner="tiny",
            reward=lambda s, a, n: self.read(n)[:, 3],
            cont=lambda n: self.read(n)[:, 3].sigmoid(),
            decode=lambda s: {"vector": self.read(s)[:, :3]},
            embed=lambda s: s.h,
            policy=lambda s: distributions.Independent(
                distributions.Uniform(-torch.ones(len(s.h), 2), torch.ones(len(s.h), 2)), 1
            ),
        )

    def read(self, state):
        return self.out(torch.cat([state.h, state.z], -1))

    def parts(self):
        return (Part("model", self, self.loss, Optim()),)

    def infer(self, batch):
        """States in one sweep over time, by the model's own steps."""
        state, found = None, []
        for t in range(batch.first.shape[1]):
            action = batch.action[:, t - 1] if t else None
            state = self.observe(state, action, batch.obs["vector"][:, t], first=batch.first[:, t])
            found.append(state)
        return TinyState(*(torch.stack(leaf, 1) for leaf in zip(*found, strict=True)))

    def loss(self, batch, states):
        states = self.infer(batch)
        read = self.read(states)
        mask = batch.mask.float()
        image = (read[..., :3] - batch.obs["vector"]).square().mean()
        reward = ((read[:, 1:, 3] - batch.reward).square() * mask).mean()
        ahead = self.prior(states.h) - states.z
        total = image + reward + ahead.square().mean()
        return Loss(total, {"image": image.detach(), "reward": reward.detach()}, states)


def test_a_learned_model_keeps_every_clause_and_is_left_as_it_was():
    model = Tiny().train()
    model.out.eval()
    weights = copy.deepcopy(model.state_dict())
    before = torch.random.get_rng_state()
    assert check_world_model(model) == [c.name for c in CLAUSES]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.training and not model.out.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
    assert all(p.grad is None for p in model.parameters())
    assert "overfits a fixed batch" not in check_world_model(model, overfit_updates=0)


class NoCard(Tiny):
    card = "tiny"


class UnknownHeadOnCard(Tiny):
    card = replace(CARD, heads=("rewards",))


class DoublePrecision(Tiny):
    def predict(self, state, action, *, z=None, generator=None):
        after = super().predict(state, action, generator=generator)
        return after._replace(z=after.z.double())


class TimeFirst(Tiny):
    def observe(self, state, action, h, *, first=None, generator=None):
        after = super().observe(state, action, h, first=first, generator=generator)
        return after._replace(h=after.h.t())


class WritesToItsInput(Tiny):
    def predict(self, state, action, *, z=None, generator=None):
        state.t.add_(1)
        return super().predict(state, action, generator=generator)


class CountsCalls(Tiny):
    calls = 0

    def predict(self, state, action, *, z=None, generator=None):
        self.calls += 1
        after = super().predict(state, action, generator=generator)
        return after._replace(h=after.h + 0.1 * self.calls)


class IgnoresTheGenerator(Tiny):
    def predict(self, state, action, *, z=None, generator=None):
        return super().predict(state, action)


class IgnoresFirst(Tiny):
    def observe(self, state, action, h, *, first=None, generator=None):
        return super().observe(state, action, h, generator=generator)


class BeginsAllRows(Tiny):
    def observe(self, state, action, h, *, first=None, generator=None):
        if first is not None and first.any():
            state = None
        return super().observe(state, action, h, generator=generator)


class MixesRows(Tiny):
    def predict(self, state, action, *, z=None, generator=None):
        after = super().predict(state, action, generator=generator)
        return after._replace(h=after.h - after.h.mean(0))


class CountsRows(Tiny):
    """Row i alone is row 0: only the comparison with a batch of one shows it."""

    def predict(self, state, action, *, z=None, generator=None):
        after = super().predict(state, action, generator=generator)
        return after._replace(h=after.h + torch.arange(len(after.h))[:, None])


class KeepsContextOutsideTheState(Tiny):
    def observe(self, state, action, h, *, first=None, generator=None):
        self.context = h[:, :2]
        return super().observe(state, action, h, first=first, generator=generator)

    def predict(self, state, action, *, z=None, generator=None):
        after = super().predict(state, action, generator=generator)
        return after._replace(z=after.z + self.context)


class OneClockForAllRows(Tiny):
    """As a key-value cache with one position for the whole batch."""

    def predict(self, state, action, *, z=None, generator=None):
        after = super().predict(state, action, generator=generator)
        return after._replace(h=after.h + 0.1 * state.t[0])


class OddHead(Tiny):
    odd: ClassVar = {}

    @property
    def heads(self):
        return super().heads._replace(**self.odd)


class ContIsALogit(OddHead):
    odd: ClassVar = {"cont": lambda n: n.h[:, 0] * 100}


class RewardHasAColumn(OddHead):
    odd: ClassVar = {"reward": lambda s, a, n: n.h[:, :1]}


class DecodesAnotherShape(OddHead):
    odd: ClassVar = {"decode": lambda s: {"vector": s.h}}


class DecodesABareTensor(OddHead):
    odd: ClassVar = {"decode": lambda s: s.h[:, :3]}


class ActsOutside(OddHead):
    odd: ClassVar = {
        "policy": lambda s: distributions.Independent(
            distributions.Uniform(3 * torch.ones(len(s.h), 2), 4 * torch.ones(len(s.h), 2)), 1
        )
    }


class PolicyHasNoJointDensity(OddHead):
    odd: ClassVar = {
        "policy": lambda s: distributions.Uniform(-torch.ones(len(s.h), 2), torch.ones(len(s.h), 2))
    }


class HeadIsNotThere(OddHead):
    odd: ClassVar = {"value": NotImplemented}


class HeadMixesRows(OddHead):
    odd: ClassVar = {"embed": lambda s: s.h - s.h.mean(0)}


class HeadFails(OddHead):
    @staticmethod
    def fail(s):
        raise NotImplementedError("later")

    odd: ClassVar = {"value": fail}


class TotalIsAVector(Tiny):
    def loss(self, batch, states):
        loss = super().loss(batch, states)
        return loss._replace(total=loss.total.expand(3))


class TermsKeepTheGraph(Tiny):
    def loss(self, batch, states):
        loss = super().loss(batch, states)
        return loss._replace(terms={"total": loss.total})


class IgnoresTheMask(Tiny):
    def loss(self, batch, states):
        return super().loss(batch._replace(mask=torch.ones_like(batch.mask)), states)


class LooksAhead(Tiny):
    def infer(self, batch):
        states = super().infer(batch)
        return states._replace(h=states.h + 0.01 * states.h.mean(1, keepdim=True))


class LossIgnoresFirst(Tiny):
    def infer(self, batch):
        first = batch.first.clone()
        first[:, 1:] = False
        return super().infer(batch._replace(first=first))


class LossShiftsActions(Tiny):
    def infer(self, batch):
        late = F.pad(batch.action[:, :-1], (0, 0, 1, 0))
        return super().infer(batch._replace(action=late))


class HasADeadWeight(Tiny):
    def __init__(self):
        super().__init__()
        self.dead = nn.Linear(2, 2)


class TrainsAnothersWeights(Tiny):
    """Two parts with optimizers of their own, and the second reaches the first's weights."""

    def parts(self):
        rest = nn.ModuleList([self.cell, self.posterior, self.out])

        def loss(batch, states):
            states = self.infer(batch)
            total = (self.prior(states.h) - states.z.detach()).square().mean()
            return Loss(total, {"prior": total.detach()})

        def rest_loss(batch, states):
            found = self.loss(batch, states)
            return found._replace(states=None)

        return (
            Part("prior", self.prior, loss, Optim("prior")),
            Part("rest", rest, rest_loss, Optim("rest")),
        )


class ClimbsTheLoss(Tiny):
    """The value is right, the gradient points the other way."""

    def loss(self, batch, states):
        loss = super().loss(batch, states)
        return loss._replace(total=2 * loss.total.detach() - loss.total)


class HidesWhatItLearns(Tiny):
    scale = 1.0

    def predict(self, state, action, *, z=None, generator=None):
        after = super().predict(state, action, generator=generator)
        return after._replace(h=after.h * self.scale)

    def parts(self):
        def after():
            self.scale += 0.1

        return (Part("model", self, self.loss, Optim(), after),)


BROKEN = [
    ("card and spaces", NoCard, "Set the class attribute"),
    ("card and spaces", UnknownHeadOnCard, "that nobody has"),
    ("shapes and dtypes", DoublePrecision, "Return the same record"),
    ("shapes and dtypes", TimeFirst, "8 rows for a batch of 3"),
    ("inputs are left alone", WritesToItsInput, "inputs.0.t differs"),
    ("time is passed", CountsCalls, "put it in the state"),
    ("same generator, same result", IgnoresTheGenerator, "Draw from the `generator`"),
    ("first begins an episode", IgnoresFirst, "where first is True"),
    ("first begins an episode", BeginsAllRows, "where first is False"),
    ("rows are independent", MixesRows, "when the other rows change"),
    ("rows are independent", CountsRows, "alone in its batch"),
    ("states survive the tree", KeepsContextOutsideTheState, "after tree.take"),
    ("rollout equals iterated predict", OneClockForAllRows, "stepping every state"),
    ("heads", ContIsALogit, "probabilities"),
    ("heads", RewardHasAColumn, r"reward gave \(3, 1\)"),
    ("heads", DecodesAnotherShape, r"\(3, 8\), not \(3, 3\)"),
    ("heads", DecodesABareTensor, "Return a dict"),
    ("heads", ActsOutside, "outside of Box"),
    ("heads", PolicyHasNoJointDensity, "Independent"),
    ("heads", HeadIsNotThere, "A head is a function"),
    ("heads", HeadMixesRows, "alone in its batch"),
    ("heads", HeadFails, r"raised NotImplementedError \(later\)"),
    ("losses are well formed", TotalIsAVector, "one finite number"),
    ("losses are well formed", TermsKeepTheGraph, "no detached scalars"),
    ("masked steps do not count", IgnoresTheMask, "batch.mask"),
    ("causality", LooksAhead, "past alone"),
    ("loss path equals step path", LossIgnoresFirst, "Begin states where"),
    ("loss path equals step path", LossShiftsActions, "between observation t and t"),
    ("gradients", HasADeadWeight, "does not reach its parameter 'dead.weight'"),
    ("gradients", TrainsAnothersWeights, "reaches 'cell.weight', which it does not train"),
    ("overfits a fixed batch", ClimbsTheLoss, "wrong sign"),
    ("state_dict round trip", HidesWhatItLearns, "parameter or buffer"),
]


@pytest.mark.parametrize(
    ("clause", "broken", "why"), BROKEN, ids=[b.__name__ for _, b, _ in BROKEN]
)
def test_a_broken_model_is_refused_by_the_clause_that_it_breaks(clause, broken, why):
    model = broken()
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises(ContractBroken, match=f"^{broken.__name__} breaks '{clause}': .*{why}"):
        check_world_model(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_every_clause_has_a_model_that_breaks_it():
    assert {clause for clause, _, _ in BROKEN} == {clause.name for clause in CLAUSES}


def test_too_small_a_batch_is_refused():
    with pytest.raises(BadConfig, match="batch >= 2 and steps >= 3"):
        check_world_model(Tiny(), batch=1)


def test_given_observations_and_extras_are_used():
    seen = []

    class Reads(Tiny):
        def loss(self, batch, states):
            seen.append((batch.extra["weight"].shape, batch.obs["vector"].unique().tolist()))
            return super().loss(batch, states)

    check_world_model(
        Reads(),
        obs=lambda lead, g: {"vector": torch.randint(2, (*lead, 3), generator=g).float()},
        extra=lambda lead, g: {"weight": torch.rand(lead, generator=g)},
        overfit_updates=20,
    )
    assert all(found == (torch.Size([3, 4]), [0.0, 1.0]) for found in seen)


# -- the noise-free mode -------------------------------------------------------------------------


def test_centred_gives_the_centre_of_every_distribution(generator):
    weights = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
    one, state = torch.ones(2), generator.get_state()
    with Centred():
        found = {
            "randn": torch.randn(2, generator=generator),
            "randn_like": torch.randn_like(one),
            "rand": torch.rand(2, generator=generator),
            "normal": torch.normal(one, 2 * one, generator=generator),
            "normal_": torch.empty(2).normal_(3.0, 1.0, generator=generator),
            "uniform_": torch.empty(2).uniform_(0, 4),
            "multinomial": torch.multinomial(weights, 1, generator=generator)[:, 0],
            "bernoulli": torch.bernoulli(weights)[0],
            "randint": torch.randint(2, 5, (2,), generator=generator),
            "randperm": torch.randperm(2, generator=generator),
            "Normal": distributions.Normal(5 * one, one).rsample(),
            "Categorical": distributions.Categorical(weights).sample(),
            "Bernoulli": distributions.Bernoulli(weights).sample()[1],
            "OneHot": distributions.OneHotCategorical(weights).sample()[0],
            "gumbel": F.gumbel_softmax(weights.log(), hard=True)[0],
        }
    assert {name: value.tolist() for name, value in found.items()} == {
        "randn": [0, 0],
        "randn_like": [0, 0],
        "rand": [0.5, 0.5],
        "normal": [1, 1],
        "normal_": [3, 3],
        "uniform_": [2, 2],
        "multinomial": [1, 0],
        "bernoulli": [0, 1],
        "randint": [3, 3],
        "randperm": [0, 1],
        "Normal": [5, 5],
        "Categorical": [1, 0],
        "Bernoulli": [1, 0],
        "OneHot": [0, 1],
        "gumbel": [0, 1],
    }
    assert torch.equal(generator.get_state(), state)


def test_centred_lets_gradients_through():
    mean = torch.ones(2, requires_grad=True)
    with Centred():
        drawn = distributions.Normal(3 * mean, 1.0).rsample()
    assert torch.autograd.grad(drawn.sum(), mean)[0].tolist() == [3, 3]
