"""TD-MPC2: counts, the pitfalls of its losses, planning with it, and what it refuses."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reverie import envs
from reverie.checkpoint import load_model
from reverie.core import registry, tree
from reverie.core.check import check_world_model
from reverie.core.errors import BadConfig, BadData, NonFinite, SpaceMismatch
from reverie.core.probe import sample_batch
from reverie.core.types import Box, Discrete
from reverie.data.store import Store
from reverie.learner import GradientLearner
from reverie.models.tdmpc2 import SIZES, TDMPC2, TDMPC2Config, default, discount_of, sized
from reverie.nn.normed import Critics, Slow, shifted
from reverie.plan_agent import PlanAgent
from reverie.planners.cem import CEM
from reverie.planners.mcts import MCTS
from reverie.planners.mppi import MPPI
from reverie.planners.objective import Return
from reverie.planners.selection import Gumbel
from reverie.recipes.tdmpc2 import planning
from reverie.run import Run, Stage
from reverie.train import train

THIN = TDMPC2Config(latent=16, units=16, encoder=16, critics=2, channels=4, task=4)
VECTOR = {"vector": Box((3,), -2.0, 2.0)}


def thin(actions=Box((2,)), observations=VECTOR, **changes):  # noqa: B008
    torch.manual_seed(0)
    return TDMPC2(replace(THIN, **changes), observations, actions).eval()


def batch_of(model, rows=8, steps=3, seed=0, *, whole=True):
    """Made-up segments; `whole`: without ends and seams."""
    batch = sample_batch(model, (rows, steps), seed, obs=None, extra=None)
    if not whole:
        return batch
    first = torch.zeros_like(batch.first)
    first[:, 0] = True
    never = {name: torch.zeros_like(batch.mask) for name in ("terminated", "truncated")}
    return batch._replace(first=first, mask=torch.ones_like(batch.mask), **never)


def losses(model, batch):
    """The model's and the policy's, as one update has them, without steps."""
    model_part, policy_part = model.parts()
    loss = model_part.loss(batch, None)
    return loss, policy_part.loss(batch, tree.detach(loss.states))


def awake(model):
    """The same with Qs and rewards that say something."""
    for last in (model.critics.weights[2], model.targets.weights[2], model.reward[-1].weight):
        nn.init.normal_(last, std=0.5)
    return model


# -- counts ---------------------------------------------------------------------------------------


def test_the_size_5m_has_as_many_weights_as_the_reference():
    model = default()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 4_960_618
    assert model.config == sized("5M")


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_what_their_names_say(name):
    with torch.device("meta"):
        model = TDMPC2(sized(name), {"vector": Box((24,), -1.0, 1.0)}, Box((6,)))
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == pytest.approx(1e6 * int(name[:-1]), rel=0.3)


def test_the_discount_follows_from_the_length_of_an_episode():
    assert discount_of(500) == pytest.approx(0.99)
    assert discount_of(200) == pytest.approx(0.975)
    assert (discount_of(25), discount_of(100_000)) == (0.95, 0.995)


# -- the contract ---------------------------------------------------------------------------------


def test_tasks_and_discrete_actions_keep_the_contract():
    observations = {**VECTOR, "task": Discrete(3)}
    assert "gradients" in check_world_model(awake(thin(Discrete(3), observations)))


def test_it_is_registered_with_a_card():
    model = registry.instance("tdmpc2", small=True)
    assert registry.model("tdmpc2") is TDMPC2
    has = {name for name in ("reward", "value", "policy", "embed", "features", "cont", "decode")
           if getattr(model.heads, name) is not None}  # fmt: skip
    assert has == {*model.card.heads, "cont"}  # the small one's episodes end


def test_tasks_make_the_same_observation_another_state_and_ride_along():
    model = thin(observations={**VECTOR, "task": Discrete(5)})
    nn.init.normal_(model.tasks.weight, std=10.0)
    obs = {"vector": torch.ones(5, 3), "task": torch.arange(5)}
    state = model.encode(obs)
    assert torch.pdist(state.z).min() > 1e-4
    assert state.task.norm(dim=-1).tolist() == pytest.approx([1.0] * 5)  # at most 1
    after = model.predict(state, torch.zeros(5, 2))
    assert torch.equal(after.task, state.task)
    assert torch.pdist(after.z).min() > 1e-4


def test_latents_are_on_simplices():
    model = registry.instance("tdmpc2", small=True)
    batch = batch_of(model)
    state = model.encode({name: x[:, 0] for name, x in batch.obs.items()})
    for z in (state.z, model.predict(state, batch.action[:, 0]).z):
        assert (z >= 0).all()
        torch.testing.assert_close(z.view(8, -1, 8).sum(-1), torch.ones(8, 2))


# -- pitfalls of the losses -----------------------------------------------------------------------


def test_rewards_and_qs_begin_at_zero():
    """Zero weights in the last layers: early plans are not led astray."""
    model = thin()
    state = model.encode({"vector": torch.randn(4, 3)})
    assert model.heads.reward(state, torch.rand(4, 2), None).tolist() == [0.0] * 4
    assert model.heads.value(state).tolist() == [0.0] * 4


def test_steps_weigh_by_powers_of_rho():
    """Uniform over 101 bins, the cross-entropy is log 101 at every step: rho .5, mean over 3."""
    loss, _ = losses(thin(), batch_of(thin()))
    wanted = math.log(101) * (1 + 0.5 + 0.25) / 3
    assert loss.terms["reward"] == pytest.approx(wanted, rel=1e-5)
    assert loss.terms["value"] == pytest.approx(wanted, rel=1e-5)
    total = 20 * loss.terms["consistency"] + 0.1 * loss.terms["reward"] + 0.1 * loss.terms["value"]
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-5)


def test_consistency_is_zero_where_the_dynamics_say_what_the_encoder_says():
    model, batch = thin(), batch_of(thin())
    batch.obs["vector"][:] = batch.obs["vector"][:, :1]  # nothing moves
    assert losses(model, batch)[0].terms["consistency"] > 1e-6

    class Stay(nn.Module):
        def forward(self, x):
            return x[:, :16]

    model.dynamics = nn.Sequential(Stay())
    assert losses(model, batch)[0].terms["consistency"] < 1e-12


def test_consistency_pulls_predictions_and_never_its_goal():
    model, batch = thin(), batch_of(thin())
    batch.obs["vector"].requires_grad_()
    loss = model.parts()[0].loss(batch, None)
    (found,) = torch.autograd.grad(loss.total, batch.obs["vector"])
    assert found[:, 0].abs().sum() > 0
    assert found[:, 1:].abs().sum() == 0


def targets_of(model, batch, monkeypatch):
    """What the Qs are to say (B, T)."""
    kept = []
    real = type(model)._targets

    def spy(self, *given):
        kept.append(real(self, *given))
        return kept[-1]

    monkeypatch.setattr(type(model), "_targets", spy)
    model.parts()[0].loss(batch, None)
    monkeypatch.undo()
    return kept[0]


def test_targets_come_from_what_was_seen_and_not_from_the_unroll(monkeypatch):
    model, batch = awake(thin()), batch_of(thin())
    model.acts.policy = _Still  # no draw
    before = targets_of(model, batch, monkeypatch)
    nn.init.normal_(model.dynamics[0].linear.weight)
    assert torch.equal(targets_of(model, batch, monkeypatch), before)
    nn.init.normal_(model.encoder.net.vectors[0].linear.weight, std=10.0)
    assert not torch.allclose(targets_of(model, batch, monkeypatch), before)


class _Still:
    def __init__(self, raw):
        self._action = raw[:, :2].tanh()

    def sample(self):
        return self._action


def test_what_terminated_is_worth_its_reward_and_what_was_cut_is_not(monkeypatch):
    model, batch = awake(thin()), batch_of(thin())
    batch.terminated[0, 1] = batch.truncated[1, 2] = True
    target = targets_of(model, batch, monkeypatch)
    same = target == batch.reward
    assert same.nonzero().tolist() == [[0, 1]]


def test_a_target_is_the_least_of_two_drawn_qs():
    """Five Qs that say 1, 2, .. 5: the least of two is k with probability (5 - k) / 10."""
    model = thin(critics=5, discount=0.9)
    batch = batch_of(model, rows=2)
    with torch.no_grad():
        for k in range(5):
            place = math.log1p(k + 1) / 0.2 + 50  # symlog(k + 1) in bins
            low = int(place)
            model.targets.biases[2][k] = -100
            model.targets.biases[2][k, 0, low] = math.log(low + 1 - place)
            model.targets.biases[2][k, 0, low + 1] = math.log(place - low)
    drawn, seen = Counter(), losses(model, batch)[0].states
    for _ in range(400):
        with torch.no_grad():
            target = model._targets(batch.reward, batch.terminated, seen)
        q = (target - batch.reward) / 0.9
        assert q.std() < 1e-3  # one pair for all
        drawn[round(q.mean().item())] += 1
    assert set(drawn) == {1, 2, 3, 4}
    for k, times in drawn.items():
        assert times / 400 == pytest.approx((5 - k) / 10, abs=0.08)


def test_the_policy_learns_from_qs_that_do_not():
    model, batch = awake(thin()), batch_of(thin())
    _, loss = losses(model, batch)
    everything = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss.total, [*everything.values()], allow_unused=True)
    reached = {n for n, g in zip(everything, found, strict=True) if g is not None and g.any()}
    assert reached == {n for n in everything if n.startswith("actor.")}


def test_the_scale_is_of_first_moments_alone_and_at_least_one(monkeypatch):
    model, batch, seen = awake(thin()), batch_of(thin()), []
    monkeypatch.setattr(
        model.range, "forward", lambda q: seen.append(tuple(q.shape)) or torch.ones(())
    )
    losses(model, batch)
    assert seen == [(8,)]
    monkeypatch.undo()
    assert losses(thin(), batch)[1].terms["scale"] == 1.0  # all Qs are 0


def test_the_policy_is_to_please_qs_divided_by_their_scale(monkeypatch):
    model, batch = awake(thin(entropy=0.0)), batch_of(thin())
    totals = []
    for scale in (1.0, 4.0):
        monkeypatch.setattr(model.range, "forward", lambda _, s=scale: torch.tensor(s))
        torch.manual_seed(1)
        totals.append(losses(model, batch)[1].total.item())
    assert totals[0] == pytest.approx(4 * totals[1], rel=1e-4)


def test_for_discrete_actions_the_policys_worth_is_the_exact_expectation():
    acts = thin(Discrete(3)).acts
    policy = acts.policy(torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]))
    worth = torch.tensor([5.0, -1.0, 2.0])
    found, entropy = acts.worth(policy, lambda one_hot: one_hot @ worth)
    chance = torch.stack([policy.log_prob(torch.full((2,), a)).exp() for a in range(3)])
    torch.testing.assert_close(found, worth @ chance)
    assert entropy[0] > entropy[1] > 0


def test_slow_qs_follow_by_a_hundredth():
    model = awake(thin())
    slow = [p.clone() for p in model.targets.parameters()]
    model.parts()[0].after()
    pairs = zip(slow, model.critics.parameters(), model.targets.parameters(), strict=True)
    for before, quick, after in pairs:
        torch.testing.assert_close(after, 0.99 * before + 0.01 * quick)


def test_qs_drop_units_while_they_train_and_slow_ones_never():
    model = awake(thin(dropout=0.5)).train()
    x = torch.randn(6, 18)
    assert not torch.equal(model.critics(x, slice(2)), model.critics(x, slice(2)))
    assert torch.equal(model.targets(x, slice(2)), model.targets(x, slice(2)))
    model.eval()
    assert torch.equal(model.critics(x, slice(2)), model.critics(x, slice(2)))


def test_the_ensemble_is_its_members_side_by_side():
    """Against each member built of torch's own modules."""
    torch.manual_seed(0)
    many = Critics(3, 5, 8, 4, 0.0)
    for parameter in many.parameters():
        nn.init.normal_(parameter)
    x, order = torch.randn(7, 5), torch.tensor([2, 0])
    found = many(x, order)
    for row, k in enumerate(order):
        y = x
        for layer in range(2):
            y = y @ many.weights[layer][k] + many.biases[layer][k]
            y = F.mish(F.layer_norm(y, (8,), many.gains[layer][k], many.shifts[layer][k]))
        wanted = y @ many.weights[2][k] + many.biases[2][k]
        torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=1e-4)


def test_a_slow_module_moves_as_under_a_smaller_rate():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1))
    slow = Slow(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1)), 0.3)
    slow.net.load_state_dict({k: v / 0.3 for k, v in plain.state_dict().items()})
    rates = ((plain, torch.optim.Adam(plain.parameters(), 3e-3)),
             (slow, torch.optim.Adam(slow.parameters(), 1e-2)))  # fmt: skip
    x = torch.randn(64, 4)
    for _ in range(50):
        for net, optimizer in rates:
            optimizer.zero_grad()
            (net(x)[:, 0] - x.sum(-1)).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(slow(x), plain(x), atol=2e-4, rtol=1e-3)
    assert (plain(x)[:, 0] - x.sum(-1)).square().mean() < x.sum(-1).square().mean()


def test_shifted_pictures_are_crops_of_padded_ones():
    torch.manual_seed(0)
    image = torch.randint(256, (20, 2, 6, 7), dtype=torch.uint8)
    found = shifted(image)
    padded = F.pad(image.float(), (3, 3, 3, 3), mode="replicate")
    places = set()
    for n in range(20):
        hits = [
            (i, j)
            for i in range(7)
            for j in range(7)
            if torch.equal(padded[n, :, i : i + 6, j : j + 7], found[n].float())
        ]
        assert len(hits) == 1
        places.add(hits[0])
    assert len(places) > 10
    assert found.dtype == torch.uint8


def test_pictures_are_shifted_while_training_alone():
    model = thin(observations={"image": Box((3, 64, 64), 0, 255, "uint8")})
    obs = {"image": torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8)}
    assert torch.equal(model.encode(obs).z, model.encode(obs).z)
    model.train()
    assert not torch.equal(model.encode(obs).z, model.encode(obs).z)


def test_a_seam_ends_what_counts():
    """What comes after it in a row changes nothing, although its mask is True again."""
    model, batch = awake(thin(episodic=True)), batch_of(thin(), steps=3)
    batch.mask[0, 1] = False
    batch.first[0, 2] = True
    torch.manual_seed(0)
    before = [loss.total.item() for loss in losses(model, batch)]
    batch.reward[0, 2] += 100.0
    batch.terminated[0, 2] = True
    torch.manual_seed(0)
    model.range.ends.zero_()
    assert [loss.total.item() for loss in losses(model, batch)] == pytest.approx(before)


def test_bf16_losses_are_near_those_of_float32():
    model, batch = awake(thin()), batch_of(thin(), rows=64)
    found = {}
    for precision in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision):
            found[precision] = losses(model, batch)[0].total.item()
    assert found[True] == pytest.approx(found[False], rel=0.03)
    GradientLearner(model.parts(), precision="bf16").update(batch)


def test_it_learns_what_a_bandit_pays():
    """One moment, the reward is the action, then the end: reward, Q and policy find it."""
    model = thin(Box((1,)), lr=3e-3)
    learner, generator = GradientLearner(model.parts()), torch.Generator().manual_seed(0)
    whole = batch_of(model, rows=64)
    for _ in range(300):
        batch = tree.map(lambda x: x[:, :1], whole)
        batch = batch._replace(obs={"vector": whole.obs["vector"][:, :2]}, first=whole.first[:, :2])
        action = torch.rand(64, 1, 1, generator=generator) * 2 - 1
        reward = action[..., 0]
        learner.update(
            batch._replace(action=action, reward=reward, terminated=torch.ones_like(batch.mask))
        )
    state = model.encode({"vector": torch.zeros(3, 3)})
    action = torch.tensor([[-0.5], [0.5], [1.0]])
    paid = model.heads.reward(state, action, None)
    assert paid.tolist() == pytest.approx([-0.5, 0.5, 1.0], abs=0.2)
    assert model.heads.value(state).min() > 0.7
    assert model.heads.policy(state).mode.min() > 0.8


# -- planning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("actions", [Box((2,)), Discrete(3)], ids=["box", "discrete"])
def test_the_shared_planners_plan_in_it(actions):
    model = awake(thin(actions, episodic=True))
    state = model.encode({"vector": torch.randn(3, 3)})
    aim = Return(model.heads, discount=0.99, bootstrap=True)
    planners = [CEM(horizon=3, samples=32, elites=8, iterations=2)]
    if isinstance(actions, Box):
        planners.append(MPPI(3, 32, 2, 8, proposals=4))
    for planner in planners:
        plan = planner.plan(model, state, aim, generator=torch.Generator().manual_seed(0))
        assert plan.actions.shape[:2] == (3, 3)
        assert plan.score.isfinite().all()
    search = MCTS(Gumbel(), 8, samples=4)
    assert search.plan(model, state).score.isfinite().all()


def test_the_value_at_a_plans_end_is_the_mean_of_two_qs_at_the_policys_action():
    """Five Qs that say 1, 2, .. 5 whatever is done: the first two are asked."""
    model = thin(critics=5)
    with torch.no_grad():
        model.critics.biases[2][:] = -100
        for k, low in enumerate((53, 55, 57, 58, 59)):
            model.critics.biases[2][k, 0, low] = 100
    said = [math.expm1(0.2 * (low - 50)) for low in (53, 55)]
    state = model.encode({"vector": torch.randn(2, 3)})
    assert model.heads.value(state).tolist() == pytest.approx([sum(said) / 2] * 2, rel=1e-4)


def test_an_elite_is_drawn_by_its_weight():
    """Half the candidates are worth log 3 more at temperature 1: three of four plans are such."""
    model = thin(Box((1,)))
    state, generator = model.encode({"vector": torch.zeros(1, 3)}), torch.Generator().manual_seed(0)
    planner = MPPI(1, 32, 1, 32, temperature=1.0, std=0.5, choose="elite")

    def worth(run):
        return math.log(3) * (run.actions[:, 0, 0] > 0)

    plans = [planner.plan(model, state, worth, generator=generator) for _ in range(400)]
    good = torch.cat([plan.actions[:, 0, 0] > 0 for plan in plans]).float()
    assert good.mean().item() == pytest.approx(0.75, abs=0.05)
    scores = torch.cat([plan.score for plan in plans])
    torch.testing.assert_close(scores, math.log(3) * good)  # of the elite itself


def test_noise_is_added_to_explore_and_stays_within_the_bounds():
    model = thin(Box((1,)))
    state = model.encode({"vector": torch.zeros(1, 3)})
    sure = MPPI(2, 64, 4, 4, temperature=100.0, std_min=0.3, choose="elite")
    spread = {}
    for choose in ("elite", "noisy"):
        planner, g = replace(sure, choose=choose), torch.Generator().manual_seed(0)
        found = [
            planner.plan(model, state, lambda run: run.actions.sum((1, 2)), generator=g).actions
            for _ in range(40)
        ]
        spread[choose] = torch.cat(found)
        assert spread[choose].abs().max() <= 1
    assert spread["elite"].min() > 0.9
    assert spread["noisy"].min() < 0.7


def test_only_the_mean_is_kept_between_plans():
    planner, model = MPPI(3, 32, 1, 8, std=2.0, choose="noisy"), thin()
    state = model.encode({"vector": torch.randn(2, 3)})
    plan = planner.plan(model, state, Return(model.heads), generator=torch.Generator())
    assert set(plan.extra) == {"warm_mean"}
    assert not torch.equal(plan.extra["warm_mean"], plan.actions)


def test_a_plan_agent_explores_by_its_other_planner():
    model = thin()
    obs, first = {"vector": torch.zeros(2, 3)}, torch.ones(2, dtype=torch.bool)

    class Fixed(MPPI):
        def plan(self, model, state, objective, *, warm=None, generator=None):
            plan = super().plan(model, state, objective, warm=warm, generator=generator)
            return plan._replace(actions=torch.full_like(plan.actions, self.std))

    agent = PlanAgent(
        model,
        Fixed(2, 8, 1, 4, std=0.25),
        Return(model.heads),
        explore=Fixed(2, 8, 1, 4, std=0.75),
    )
    for explore, wanted in ((False, 0.25), (True, 0.75)):
        _, act = agent.act(None, obs, first, explore=explore)
        assert act.action.tolist() == [[wanted] * 2] * 2


def test_mppi_refuses_a_word_it_does_not_know():
    with pytest.raises(BadConfig, match="choose is 'best'. Choose 'mean', 'elite' or 'noisy'"):
        MPPI(choose="best")  # type: ignore[arg-type]


# -- a run ----------------------------------------------------------------------------------------

TINY = {"updates": 12, "prefill": 20, "pretrain": 4, "batch": 8, "evaluate_every": 6,
        "episodes": 2, "time_limit": 10}  # fmt: skip


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_a_run_collects_learns_evaluates_and_is_loaded(env, tmp_path):
    run = registry.recipe("tdmpc2")(env=env, **TINY)
    train(run, tmp_path)
    store = Store.open(tmp_path / "data")
    steps = store.steps
    store.close()
    assert 20 + 8 - 2 <= steps <= 20 + 8 + 2 * 10  # as many as updates after the first four
    again = load_model(tmp_path)
    obs = {"vector": torch.zeros(2, *run.model.observations["vector"].shape)}
    assert torch.equal(again.encode(obs).z, run.model.encode(obs).z)
    agent = planning(again, 3, small=True)
    _, act = agent.act(None, obs, torch.ones(2, dtype=torch.bool))
    assert act.action.shape[0] == 2


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (VECTOR, None, "chooses actions, but the world has none"),
        (VECTOR, Box((1,), 0.0, 1.0), r"acts in \[-1, 1\], but the Box is 0.0..1.0"),
        ({"grid": Box((4, 4))}, Box((1,)), "'grid' is Box"),
        ({"task": Discrete(3)}, Box((1,)), "reads a picture or a vector, but there is only"),
        ({"image": Box((3, 32, 32), 0, 255, "uint8")}, Box((1,)), "at least 39x39"),
    ],
)
def test_spaces_without_a_brick_are_refused(observations, actions, message):
    with pytest.raises(SpaceMismatch, match=message):
        TDMPC2(THIN, observations, actions)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(BadConfig, match="latent is 20, which is no multiple of simplex, 8"):
        thin(latent=20)
    with pytest.raises(BadConfig, match="size is '3M'. Choose one of 1M, 5M"):
        sized("3M")


def test_a_wrong_observation_is_refused_where_it_acts_and_where_it_learns():
    model = thin()
    agent, first = planning(model, 3, small=True), torch.ones(2, dtype=torch.bool)
    with pytest.raises(SpaceMismatch, match="reads 'vector' of shape"):
        agent.act(None, {"vector": torch.zeros(2, 4)}, first)
    with pytest.raises(SpaceMismatch, match="reads observation 'vector', but the data has"):
        agent.act(None, {"image": torch.zeros(2, 3)}, first)
    batch = batch_of(model)
    with pytest.raises(SpaceMismatch, match="reads observation 'vector'"):
        losses(model, batch._replace(obs={}))
    with pytest.raises(BadData, match="learns from rewards"):
        losses(model, batch._replace(reward=None))


@pytest.mark.parametrize(
    ("given", "channels"),
    [({}, 9), ({"frames": 2}, 6), ({"observe": "both"}, 3), ({"observe": "vector"}, None)],
)
def test_where_there_are_only_pictures_it_sees_three_moments(given, channels):
    """Nothing is remembered between decisions: one picture would hide how things move."""
    run = registry.recipe("tdmpc2")(**{"env": "CartPole-v1", "observe": "image", **TINY, **given})
    pictures = [s for s in run.model.observations.values() if len(s.shape) == 3]
    assert {space.shape[0] for space in pictures} == ({channels} if channels else set())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_reward_that_is_not_finite_stops_the_run(value, tmp_path):
    """symlog and clamping would hide an infinity."""
    model, batch = thin(), batch_of(thin())
    batch.reward[2, 1] = value

    class Always:
        def __next__(self):
            return batch

        def state_dict(self):
            return {}

    stage = Stage(
        "learn", 3, learner=lambda: GradientLearner(model.parts()), sampler=Always, log_every=1
    )
    run = Run("bad", 0, model, lambda _: (stage,))
    with pytest.raises(NonFinite, match="asks for finite numbers, but model/"):
        train(run, tmp_path)
    assert next(tmp_path.glob("nonfinite_learn_*.safetensors")).stat().st_size > 0


def test_a_world_that_pays_nan_is_refused_at_the_door(tmp_path):
    env = envs.make("Pendulum-v1", 1, seed=0, time_limit=5)
    store = Store.create(tmp_path / "data", *envs.spaces(env))
    from reverie.agent import RandomAgent
    from reverie.data.collect import collect

    (episode,) = collect(env, RandomAgent(envs.spaces(env)[1]), episodes=1, seed=0)
    env.close()
    reward = np.full_like(episode.reward, np.nan)
    with pytest.raises(BadData, match="reward"):
        store.append(replace(episode, reward=reward))
    store.close()
