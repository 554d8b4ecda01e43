"""SAC and branched rollouts against hand-worked targets, a bandit, and a world that counts."""

import json
import math
from typing import ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor

from reverie.behaviors.branching import (
    Branching,
    BranchingConfig,
    Ring,
    Schedule,
    branched,
    joined,
)
from reverie.behaviors.sac import SAC, SACConfig
from reverie.core.errors import BadConfig, MissingHead, SpaceMismatch
from reverie.core.model import WorldModel
from reverie.core.registry import recipe
from reverie.core.types import Batch, Box, Discrete, Heads
from reverie.learner import GradientLearner
from reverie.models.ensemble_fit import Fit
from reverie.progress import Silent
from reverie.recipes import mbpo
from reverie.train import train


class Count(NamedTuple):
    x: Tensor  # (B, 1)


class Counter(WorldModel[Count]):
    """x' = x + 1 whatever is done; a step earns x; the world ends at 3."""

    observations: ClassVar = {"vector": Box((1,), -10.0, 10.0)}
    actions: Box | Discrete = Box((1,))

    def encode(self, obs):
        return obs["vector"]

    def observe(self, state, action, h, *, first=None, generator=None):
        return Count(h)

    def predict(self, state, action, *, z=None, generator=None):
        return Count(state.x + 1)

    @property
    def heads(self):
        return Heads(
            owner="counter",
            reward=lambda s, a, n: s.x[:, 0],
            cont=lambda n: (n.x[:, 0] < 3).float(),
            decode=lambda s: {"vector": s.x},
            features=lambda s: s.x,
        )


def batch_of(before, action, reward, after, *, terminated=None, truncated=None, mask=None):
    """Single steps (N, 1) of scalars."""
    n = len(before)
    flags = [torch.tensor(f or [False] * n)[:, None] for f in (terminated, truncated)]
    seen = torch.tensor([before, after], dtype=torch.float32).T[..., None]
    kept = torch.tensor(mask or [True] * n)[:, None]
    first = torch.zeros(n, 2, dtype=torch.bool)
    acted = torch.tensor(action, dtype=torch.float32)[:, None, None]
    reward = torch.tensor(reward, dtype=torch.float32)[:, None]
    return Batch({"vector": seen}, acted, reward, *flags, kept, first, {})


def sac(**changes):
    torch.manual_seed(0)
    return SAC(Counter(), SACConfig(**{"units": 16, **changes}))


def constant(net, *outputs):
    """A net that says the same whatever it is asked."""
    with torch.no_grad():
        for weight, bias in zip(net.weights, net.biases, strict=True):
            weight.zero_(), bias.zero_()
        for m, said in enumerate(outputs):
            net.biases[-1][m] = torch.tensor(said)


# -- losses ---------------------------------------------------------------------------------------


def test_critics_are_pulled_to_the_hand_worked_target():
    agent = sac(begin=1e-9, discount=0.9)
    constant(agent.critic, [2.0], [5.0])
    constant(agent.slow, [10.0], [20.0])
    # The lesser slow critic says 10. Targets: 1 + 0.9 * 10 (also where the clock ends), and 3
    # where the world ends. The last row is no step.
    batch = batch_of(
        [0, 0, 0, 0],
        [0.0] * 4,
        [1, 3, 1, 99],
        [1, 1, 1, 1],
        terminated=[False, True, False, False],
        truncated=[False, False, True, False],
        mask=[True, True, True, False],
    )
    critic, actor, _ = agent.parts()
    loss = critic.loss(batch, None)
    wanted = (0.5 * ((2 - 10) ** 2 + (5 - 10) ** 2) * 2 + 0.5 * ((2 - 3) ** 2 + (5 - 3) ** 2)) / 3
    assert loss.total.item() == pytest.approx(wanted, rel=1e-5)
    assert loss.terms["q"].item() == pytest.approx(3.5)
    assert actor.loss(batch, loss.states).total.item() == pytest.approx(-2.0, rel=1e-5)


def test_surprise_is_worth_as_much_as_the_temperature_says():
    agent = sac(begin=0.5, discount=1.0)
    constant(agent.slow, [0.0], [0.0])
    constant(agent.critic, [0.0], [0.0])
    # A narrow normal around 0 (log deviation -5): tanh is the identity there, so the entropy is
    # the normal's, 0.5 log(2 pi e) - 5.
    constant(agent.actor, [0.0, -20.0])
    n = 20_000
    batch = batch_of([0.0] * n, [0.0] * n, [0.0] * n, [0.0] * n)
    critic, actor, temperature = agent.parts()
    moves = critic.loss(batch, None)
    entropy = 0.5 * math.log(2 * math.pi * math.e) - 5
    acted = actor.loss(batch, moves.states)
    assert acted.terms["entropy"].item() == pytest.approx(entropy, abs=0.03)
    assert acted.total.item() == pytest.approx(-0.5 * entropy, abs=0.03)
    # Aimed at -1 nat, and it has -3.6: the temperature is to rise.
    warmer = temperature.loss(batch, acted.states).total
    (slope,) = torch.autograd.grad(warmer, agent.temperature.log)
    assert slope.item() == pytest.approx(entropy + 1, abs=0.03) and slope < 0


def test_slow_critics_follow_by_their_rate():
    agent = sac(slow_rate=0.25)
    constant(agent.critic, [8.0], [4.0])
    constant(agent.slow, [0.0], [0.0])
    agent.parts()[0].after()
    assert agent.slow.biases[-1].flatten().tolist() == [2.0, 1.0]


def test_each_part_steps_its_own_parameters_only():
    agent = sac()
    before = {name: p.clone() for name, p in agent.named_parameters()}
    GradientLearner(agent.parts()[:1]).update(batch_of([0, 1], [0.1, 0.2], [1, 2], [1, 2]))
    changed = {
        n.split(".")[0] for n, p in agent.named_parameters() if not torch.equal(p, before[n])
    }
    assert changed == {"critic", "slow"}


def test_it_learns_where_the_best_action_lies():
    agent = sac(lr=3e-3, discount=0.0, begin=0.1)
    learner = GradientLearner(agent.parts())
    rng = torch.Generator().manual_seed(0)
    for _ in range(250):
        action = torch.rand(64, generator=rng) * 2 - 1
        reward = -10 * (action - 0.5).square()
        batch = batch_of([0.0] * 64, action.tolist(), reward.tolist(), [0.0] * 64)
        found = learner.update(batch)
    state = Count(torch.zeros(500, 1))
    assert agent.policy(state)[0].item() == pytest.approx(0.5, abs=0.12)
    assert agent.explore(state, rng).std() > 0.03
    assert found["temperature/alpha"] > 0
    assert agent.heads.value(state)[0].item() == pytest.approx(0.0, abs=0.6)


def test_states_of_a_part_before_it_are_read_instead():
    agent, batch = sac(), batch_of([1, 2], [0.1, 0.2], [1, 2], [2, 3])
    inferred = Count(batch.obs["vector"])
    torch.manual_seed(0)
    alone = agent.parts()[0].loss(batch, None).total
    torch.manual_seed(0)
    assert torch.equal(agent.parts()[0].loss(batch, inferred).total, alone)


def test_what_it_cannot_use_is_one_sentence():
    world = Counter()
    world.actions = Discrete(2)
    with pytest.raises(SpaceMismatch, match="SAC acts in a Box of .* these actions are Discrete"):
        SAC(world)
    with pytest.raises(MissingHead, match="SAC needs features"):
        SAC(Counter(), heads=Counter().heads._replace(features=None))
    batch = batch_of([0], [0.0], [1], [1])._replace(reward=None)
    with pytest.raises(BadConfig, match="recorded without them"):
        sac().parts()[0].loss(batch, None)
    with pytest.raises(SpaceMismatch, match="SAC acts in a Box"):
        recipe("mbpo")(env="CartPole-v1")


# -- rollouts -------------------------------------------------------------------------------------


def test_the_schedule_is_the_papers():
    hopper = Schedule(20, 150, 1, 15)  # epochs
    assert [hopper(e) for e in (1, 20, 29, 30, 85, 149, 150, 999)] == [1, 1, 1, 2, 8, 14, 15, 15]
    assert Schedule(20, 150, 1, 1)(77) == 1
    with pytest.raises(BadConfig, match="first < last"):
        Schedule(5, 5)


def test_rollouts_stop_where_the_world_ends():
    obs = {"vector": torch.tensor([[0.0], [2.0], [-9.0]])}
    found = branched(Counter(), lambda s, g: s.x / 10, obs, 5)
    pairs = found.obs["vector"][..., 0].tolist()
    assert pairs == [[0, 1], [1, 2], [2, 3], [2, 3], *([x, x + 1] for x in range(-9, -4))]
    assert found.reward[:, 0].tolist() == [0, 1, 2, 2, -9, -8, -7, -6, -5]
    assert found.terminated[:, 0].tolist() == [False, False, True, True, *[False] * 5]
    assert found.action[:3, 0, 0].tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert found.mask.all() and not found.truncated.any()


def test_a_ring_keeps_the_newest():
    ring = Ring(3)
    with pytest.raises(BadConfig, match="empty ring"):
        ring.sample(1)
    ring.add(batch_of([1, 2], [0, 0], [1, 2], [0, 0]))
    ring.add(batch_of([3, 4], [0, 0], [3, 4], [0, 0]))
    assert len(ring) == 3
    assert set(ring.sample(200).reward.flatten().tolist()) == {2, 3, 4}
    again = Ring(3)
    again.load_state_dict(ring.state_dict())
    assert torch.equal(again.sample(0).mask, ring.sample(0).mask) and len(again) == 3
    both = joined(ring.sample(2), batch_of([7], [0], [7], [8]))
    assert both.obs["vector"].shape == (3, 2, 1) and both.reward[2, 0] == 7


def test_the_model_is_fitted_when_there_are_enough_new_steps():
    class Counted:
        times = 0

        def update(self, batch):
            self.times += 1
            return {"epochs": 1.0}

    agent, fit, real = sac(), Counted(), [100]
    learner = Branching(
        *(Counter(), agent.parts(), agent.explore, fit),
        steps=lambda: real[0],
        starts=lambda n: {"vector": torch.zeros(n, 1)},
        config=BranchingConfig(Schedule(100, 400, 1, 4), retrain=50, starts=10, keep=25, batch=8),
    )
    seen = []
    for steps in (100, 149, 150, 200, 220, 400):
        real[0] = steps
        found = learner.update(batch_of([0], [0], [0], [1]))
        seen.append((fit.times, found.get("model/rollout"), len(learner.dreamed)))
    # Rollouts from 0 are over after three steps; the ring keeps 25.
    assert seen == [(1, 1, 10), (1, None, 10), (2, 1, 20), (3, 2, 25), (3, None, 25), (4, 4, 25)]


# -- recipes --------------------------------------------------------------------------------------

TINY = {"env": "Pendulum-v1", "time_limit": 20, "steps": 100, "prefill": 40, "episodes": 5}
TINY |= {"evaluate_every": 40}
DREAM = {"updates_per_step": 2, "retrain": 30, "starts": 50, "keep": 200, "epochs": 2}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(mbpo, "_BATCH", 16)


def results(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_mbpo_goes_on_as_if_it_had_never_stopped(tmp_path, monkeypatch):
    run = recipe("mbpo")
    train(run(**TINY, **DREAM), tmp_path / "whole", progress=Silent())
    update, calls = Fit.update, []

    def stop(self, batch=None):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return update(self, batch)

    monkeypatch.setattr(Fit, "update", stop)
    with pytest.raises(KeyboardInterrupt):
        train(run(**TINY, **DREAM), tmp_path / "cut", progress=Silent(), save_every_s=0)
    train(run(**TINY, **DREAM), tmp_path / "cut", progress=Silent())
    assert results(tmp_path / "cut") == results(tmp_path / "whole")
    assert len(calls) > 2
    assert any("model/held_mse" in row for row in results(tmp_path / "whole"))


def test_sac_alone_and_pets_run_from_collecting_to_the_judge(tmp_path):
    train(recipe("sac")(**TINY), tmp_path / "sac", progress=Silent())
    small = {"env": "Pendulum-v1", "time_limit": 20, "updates": 2, "steps_per_update": 20}
    small |= {"prefill": 20, "horizon": 2, "samples": 6, "particles": 2, "epochs": 2, "episodes": 5}
    train(recipe("pets")(**small), tmp_path / "pets", progress=Silent())
    for name in ("sac", "pets"):
        rows = results(tmp_path / name)
        assert any("collect/return" in row for row in rows)
        assert {"judge"} <= {row["stage"] for row in rows}
