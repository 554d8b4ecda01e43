"""Ensembles against brute force, torch's own likelihood, Gymnasium's worlds and a known noise."""

import copy
import math

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reverie.checkpoint import load_model, save_model
from reverie.core.errors import BadConfig, BadData, SpaceMismatch
from reverie.core.types import Box, Discrete
from reverie.data.episode import Episode
from reverie.data.store import Store
from reverie.imagine import rollout
from reverie.learner import GradientLearner
from reverie.models import known
from reverie.models.ensemble import LOWER, MBPO, PETS, EnsembleConfig, Transitions, Z
from reverie.models.ensemble_fit import Fit, FitConfig, Rows
from reverie.nn.members import Members
from reverie.nn.scale import Scale
from reverie.nn.soft_nll import soft_nll
from reverie.planners.cem import CEM
from reverie.planners.gradient import Gradient
from reverie.planners.icem import ICEM
from reverie.planners.mcts import MCTS
from reverie.planners.mppi import MPPI
from reverie.planners.objective import Doubt, Return, Sum
from reverie.planners.selection import PUCT
from reverie.planners.shooting import RandomShooting
from reverie.recipes.pets import pets, transitions

NOISE = 0.05
LINE = {"vector": Box((2,), -torch.inf, torch.inf)}


def ensemble(actions=None, kind=PETS, **changes):
    torch.manual_seed(0)
    config = EnsembleConfig(**{"layers": 2, "units": 32, "ends": None, **changes})
    return kind(config, LINE, actions or Box((1,)))


def steps_of(n, *, noise=NOISE, actions=None, seed=0):
    """A point on a line, moved by 0.3 a with noise; its second number never varies."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(n, generator=rng) * 2 - 1
    if isinstance(actions, Discrete):
        action = torch.randint(3, (n,), generator=rng)
        push = action.float() - 1
    else:
        action = torch.rand(n, 1, generator=rng) * 2 - 1
        push = action[:, 0]
    after = x + 0.3 * push + noise * torch.randn(n, generator=rng)
    seven = torch.full((n,), 7.0)
    none = torch.zeros(n, dtype=torch.bool)
    return Transitions(
        torch.stack([x, seven], 1), action, -after.square(), torch.stack([after, seven], 1), none
    )


@pytest.fixture(scope="module")
def fitted():
    """An ensemble that knows the line."""
    model = ensemble()
    Fit(model, lambda: steps_of(1000), FitConfig(epochs=30)).update()
    return model


def seen(model, *xs):
    x = torch.tensor([[x, 7.0] for x in xs])
    return model.observe(None, None, model.encode({"vector": x}))


# -- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("member", [[0, 2, 2, 1, 2, 0], [1, 1, 1], [2]])
def test_rows_through_their_member_are_those_of_asking_everyone(member):
    torch.manual_seed(0)
    net, member = Members(3, 4, 5, layers=2, units=8), torch.tensor(member)
    x = torch.randn(len(member), 4)
    everyone = net(x)
    wanted = torch.stack([everyone[m, row] for row, m in enumerate(member)])
    torch.testing.assert_close(net.of(x, member), wanted)


def test_members_are_mlps_of_their_own():
    torch.manual_seed(0)
    net = Members(2, 3, 1, layers=1, units=4, activation="relu")
    x = torch.randn(5, 3)
    for m in range(2):
        hidden = F.relu(F.linear(x, net.weights[0][m].T, net.biases[0][m, 0]))
        wanted = F.linear(hidden, net.weights[1][m].T, net.biases[1][m, 0])
        torch.testing.assert_close(net(x)[m], wanted)


def test_first_weights_are_as_wide_as_the_paper_has_them():
    torch.manual_seed(0)
    net = Members(5, 200, 200, layers=1, units=200)
    assert net.weights[0].std().item() == pytest.approx(1 / (2 * math.sqrt(200)), rel=0.02)
    assert net.biases[0].abs().max() == 0


def test_scales_are_those_of_all_rows_and_what_never_varies_has_one():
    rows = np.random.default_rng(0).normal(1000, [1e-3, 50, 0], (500, 3)).astype(np.float32)
    scale = Scale(3)
    for part in np.split(rows, [10, 11, 300]):
        scale.add(torch.from_numpy(part), torch.ones(len(part)))
    scale.add(torch.full((4, 3), 9e9), torch.zeros(4))  # rows that do not count
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(scale.mean, wide.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scale.std[:2], wide.std(0)[:2], rtol=1e-4)
    assert scale.std[2] == 1
    torch.testing.assert_close(scale.back(scale.scaled(torch.ones(2, 3))), torch.ones(2, 3))


# -- what it says ---------------------------------------------------------------------------------


def test_the_likelihood_is_torchs():
    model = ensemble()
    rows, target = torch.randn(40, 3), torch.randn(40, 3)
    nll, square = model.errors(rows, target)
    mean, log_var = model.said(model.net(rows))
    wide = target.expand_as(mean)
    wanted = F.gaussian_nll_loss(mean, wide, log_var.exp(), reduction="none").mean(-1)
    torch.testing.assert_close(nll / 2, wanted)
    torch.testing.assert_close(square, F.mse_loss(mean, wide, reduction="none").mean(-1))


def test_the_log_variance_stays_within_its_bounds_and_the_floor_never_falls():
    model = ensemble()
    with torch.no_grad():
        model.lower.fill_(-30)
        raw = torch.tensor([-1e4, -5.0, 0.0, 1e4])[:, None].expand(-1, 6)
        log_var = model.said(raw)[1]
    assert log_var.min() == pytest.approx(-10, abs=1e-3)
    assert log_var.max() <= 0.5 + 1e-3
    assert (log_var.diff(dim=0) > 0).all()


@pytest.mark.parametrize("spread", [1.0, 60.0])
def test_gradients_by_hand_are_autograds(spread):
    """The products', the likelihood's and those of the bounds, also far beyond these."""
    torch.manual_seed(0)
    model = PETS(EnsembleConfig(3, 3, 2, 8), {"vector": Box((4,), -9.0, 9.0)}, Box((2,)))
    with torch.no_grad():
        model.lower.copy_(torch.tensor([-10.0, -3.0, -11.0, -1.0, -10.0]))
        model.net.weights[-1] *= spread
    rows, target = torch.randn(3, 7, 6), torch.randn(3, 7, 5)
    nll = model.errors(rows, target)[0].mean(1)
    wanted = torch.autograd.grad(nll.sum(), [*model.net.parameters(), model.lower, model.upper])
    for p in model.net.parameters():
        p.grad = torch.full_like(p, 7.0)  # is written over
    raw, trace = model.net.traced(rows)
    torch.testing.assert_close(raw, model.net(rows).detach())
    found, pull, lower, upper = soft_nll(raw, target, model.lower, model.upper, LOWER)
    torch.testing.assert_close(found, nll.detach(), rtol=1e-5, atol=1e-6)
    model.net.pull(trace, pull)
    grads = [p.grad for p in model.net.parameters()]
    for ours, theirs in zip([*grads, lower, upper], wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_fit_steps_as_adam_on_the_loss_would():
    """One epoch of one batch, beside torch's Adam on the loss that autograd differentiates."""
    torch.manual_seed(0)
    model = ensemble(ends="learned")
    twin = copy.deepcopy(model)
    fit = Fit(model, lambda: None, FitConfig(batch=50))
    data = Rows(torch.randn(50, 3), torch.randn(50, 3), torch.randn(50, 2), torch.rand(50) < 0.5)
    own = torch.randint(50, (len(model.elites), 50))
    adam = torch.optim.Adam(
        twin.parameters(), lr=model.config.lr, weight_decay=model.config.weight_decay
    )
    torch.manual_seed(1)
    fit.epoch(data, own)
    torch.manual_seed(1)
    order = own.gather(1, torch.rand(own.shape).argsort(1))
    nll, _ = twin.errors(data.rows[order], data.target[order])
    first = order[0]
    miss = twin.ending_loss(data.after[first], data.terminated[first])
    (nll.mean(1).sum() + twin.bounds() + miss).backward()
    adam.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_nan_reaches_the_loss():
    raw = torch.zeros(1, 2, 2)
    raw[0, 1, 0] = math.nan
    assert soft_nll(raw, torch.zeros(1, 2, 1), -torch.ones(1), torch.ones(1), -10.0)[0].isnan()


def test_a_prediction_is_the_members_mean_and_so_many_deviations():
    model = ensemble()
    model.targets.add(torch.randn(100, 3) * 3 + 1, torch.ones(100))
    state, action = seen(model, 0.1, 0.5), torch.tensor([[0.2], [-0.9]])
    member = torch.tensor([3, 1])

    def at(noise):
        return model.predict(state, action, z=Z(member, torch.full((2, 2), noise)))

    raw = model.net(model._read(state.x, action))[member, torch.arange(2)]
    mean, log_var = model.said(raw)
    std, shift = model.targets.std, model.targets.mean
    torch.testing.assert_close(at(0.0).x, state.x + (mean * std + shift)[:, :2])
    torch.testing.assert_close(at(0.0).reward, (mean * std + shift)[:, 2])
    torch.testing.assert_close(at(2.0).x - at(0.0).x, 2 * (std * log_var.exp().sqrt())[:, :2])
    model.temperature = 0.5
    torch.testing.assert_close((at(2.0).x - at(0.0).x), (std * log_var.exp().sqrt())[:, :2])


def test_a_trajectory_keeps_its_member_or_has_another_each_step():
    state, actions = seen(ensemble(), *[0.0] * 200), torch.zeros(200, 6, 1)
    stays = rollout(ensemble(), state, actions).states.member
    assert (stays[:, 0] == -1).all()
    assert (stays[:, 1:] == stays[:, 1:2]).all()
    assert set(stays[:, 1].tolist()) == {0, 1, 2, 3, 4}
    changes = rollout(ensemble(propagation="ts_one"), state, actions).states.member
    assert (changes[:, 2] != changes[:, 1]).float().mean() == pytest.approx(0.8, abs=0.1)


def test_everyone_foretells_until_elites_are_told_apart():
    model = ensemble(members=7, elites=2, kind=MBPO)
    state, action = seen(model, *[0.0] * 300), torch.zeros(300, 1)
    assert len(set(model.predict(state, action).member.tolist())) == 7
    Fit(model, lambda: steps_of(60), FitConfig(epochs=2)).update()
    chosen = set(model.predict(state, action).member.tolist())
    assert chosen == set(model.elites[:2].tolist())


@pytest.mark.parametrize(("precision", "far"), [("bf16", 0.01), ("medium", 0.01)])
def test_quick_products_are_nearly_those_of_float32(precision, far, fitted):
    quick = ensemble(precision=precision)
    quick.load_state_dict(fitted.state_dict())
    state, action = seen(fitted, *torch.linspace(-1, 1, 64).tolist()), torch.full((64, 1), 0.5)
    z = Z(torch.arange(64) % 5, torch.zeros(64, 2))
    gap = quick.predict(state, action, z=z).x - fitted.predict(state, action, z=z).x
    assert gap.abs().max() < far
    assert torch.get_float32_matmul_precision() == "highest"  # the choice ends with the call


def test_a_saved_ensemble_is_built_again_with_what_it_knows(tmp_path, fitted):
    save_model(tmp_path, fitted)
    again, state, action = load_model(tmp_path), seen(fitted, 0.3), torch.ones(1, 1)
    z = Z(torch.tensor([2]), torch.ones(1, 2))
    assert torch.equal(again.predict(state, action, z=z).x, fitted.predict(state, action, z=z).x)
    assert again.config == fitted.config


# -- learning -------------------------------------------------------------------------------------


def test_the_line_is_learned_with_its_noise(fitted):
    state, action = seen(fitted, *torch.linspace(-0.8, 0.8, 50).tolist()), torch.full((50, 1), 0.5)
    after = fitted.predict(state, action, z=Z(torch.zeros(50).long(), torch.zeros(50, 2)))
    torch.testing.assert_close(after.x, state.x + torch.tensor([0.15, 0.0]), atol=0.04, rtol=0)
    moved = (
        fitted.targets.std[0]
        * fitted.said(fitted.net(fitted._read(state.x, action)))[1].div(2).exp()[..., 0].mean()
    )
    assert moved.item() == pytest.approx(NOISE, rel=0.25)


def test_doubt_grows_away_from_the_data_and_chance_does_not_stand_for_it(fitted):
    action = torch.zeros(3, 1)
    epistemic = fitted.heads.epistemic(seen(fitted, 0.0, 2.5, 6.0), action)
    assert epistemic[0] < epistemic[1] < epistemic[2]
    assert epistemic[2] > 5 * epistemic[0]
    near = fitted.heads.aleatoric(seen(fitted, 0.0), action[:1])
    assert near > 2 * epistemic[0]


def test_the_two_uncertainties_are_those_of_two_members_that_disagree():
    model = ensemble(members=2, elites=2)
    with torch.no_grad():
        for weight in model.net.weights:
            weight.zero_()
        model.upper.fill_(10), model.lower.fill_(-10)
        model.net.biases[-1].copy_(torch.tensor([[[1.0] * 3 + [2.0] * 3], [[4.0] * 3 + [2.0] * 3]]))
    epistemic, aleatoric = model.uncertainty(seen(model, 0.0), torch.zeros(1, 1))
    assert epistemic.item() == pytest.approx(1.5)
    assert aleatoric.item() == pytest.approx(math.exp(1.0), rel=1e-3)


def test_planners_can_be_charged_for_doubt(fitted):
    state, actions = seen(fitted, 0.0, 6.0), torch.zeros(2, 3, 1)
    run = rollout(fitted, state, actions, generator=torch.Generator().manual_seed(0))
    doubt = Doubt(fitted.heads)(run)
    assert doubt[1] < doubt[0] < 0
    alone = sum(fitted.heads.epistemic(type(state)(*(x[:, t] for x in run.states)), actions[:, t])
                for t in range(3))  # fmt: skip
    torch.testing.assert_close(doubt, -alone)
    both = Sum((1.0, Return(fitted.heads)), (2.0, Doubt(fitted.heads)))(run)
    torch.testing.assert_close(both, Return(fitted.heads)(run) + 2 * doubt)


def test_parts_learn_from_any_stream_of_batches():
    from reverie.core.probe import sample_batch

    model = ensemble(ends="learned")
    learner = GradientLearner(model.parts())
    batch = sample_batch(model, (16, 8), 0, obs=None, extra=None)
    first = learner.update(batch)["ensemble/nll"].item()
    for _ in range(100):
        last = learner.update(batch)["ensemble/nll"].item()
    assert last < first - 0.3
    assert model.inputs.count == 101 * batch.mask.sum()


def test_what_was_held_out_stays_held_out_as_data_grows():
    model = ensemble()
    fit = Fit(model, lambda: steps_of(100), seed=3)
    data = steps_of(300)
    held = [fit._parted(Transitions(*(x[:n] for x in data)))[1].after[:, 0] for n in (100, 300)]
    assert torch.equal(held[1][: len(held[0])], held[0])
    assert len(held[1]) == pytest.approx(60, abs=20)
    known_, out = fit._parted(data)
    assert len(known_.rows) + len(out.rows) == 300
    assert not set(known_.after[:, 0].tolist()) & set(out.after[:, 0].tolist())


def test_each_member_keeps_its_own_best_weights_and_fitting_never_makes_it_worse():
    model, data = ensemble(lr=1.0), steps_of(80)  # a rate that ruins it
    fit = Fit(model, lambda: data, FitConfig(epochs=3))
    before = fit._held_errors(fit._parted(data)[1])
    found = fit.update()
    after = fit._held_errors(fit._parted(data)[1])
    assert (after <= before + 1e-6).all()
    assert found["held_mse"] == pytest.approx(after.mean().item(), rel=1e-4)


def test_endings_are_learned_from_true_ends():
    data = steps_of(800)
    data = data._replace(terminated=data.after[:, 0] > 0.5)
    model = ensemble(ends="learned")
    Fit(model, lambda: data, FitConfig(epochs=15)).update()
    cont = model.heads.cont(seen(model, 0.0, 0.3, 0.8, 1.0))
    assert (cont[:2] > 0.8).all() and (cont[2:] < 0.1).all()


def test_bad_data_is_one_sentence():
    good = steps_of(40)
    with pytest.raises(BadData, match="Nothing varies in the 40 steps .* recorded"):
        still = torch.ones(40, 2)
        Fit(ensemble(), lambda: good._replace(before=still, after=still)).update()
    with pytest.raises(BadData, match="'reward' of step 7 of 40 is not"):
        reward = good.reward.clone()
        reward[7] = torch.nan
        Fit(ensemble(), lambda: good._replace(reward=reward)).update()
    with pytest.raises(BadData, match="but there are 9. Collect more"):
        Fit(ensemble(), lambda: Transitions(*(x[:9] for x in good))).update()


def test_what_cannot_be_built_is_refused():
    with pytest.raises(SpaceMismatch, match="PETS foretells the observation 'vector'.*'image'"):
        PETS(EnsembleConfig(), {"image": Box((3, 8, 8), 0, 255, "uint8")}, Box((1,)))
    with pytest.raises(BadConfig, match="6 elites of 5"):
        EnsembleConfig(elites=6)
    with pytest.raises(BadConfig, match="propagation is 'ts2'"):
        EnsembleConfig(propagation="ts2")
    with pytest.raises(BadConfig, match="reward of CartPole-v1 was asked for as a known"):
        pets(env="CartPole-v1", reward="known")
    with pytest.raises(BadConfig, match="0 < held < 1"):
        FitConfig(held=0.0)


# -- data and worlds ------------------------------------------------------------------------------


def test_steps_of_a_store_leave_seams_out_and_clocks_are_no_ends(tmp_path):
    def episode(start, *, terminated, truncated):
        last = np.array([False, True])
        x = np.arange(start, start + 3, dtype=np.float32)[:, None].repeat(2, 1)
        return Episode(
            {"vector": x},
            np.array([[0.1], [0.2]], np.float32),
            np.array([start, start + 1], np.float32),
            last & terminated,
            last & truncated,
        )

    with Store.create(tmp_path / "s", LINE, Box((1,))) as store:
        store.append(episode(0, terminated=False, truncated=True))
        store.append(episode(10, terminated=True, truncated=False))
        found = transitions(store, torch.device("cpu"))
    assert found.before[:, 0].tolist() == [0, 1, 10, 11]
    assert found.after[:, 0].tolist() == [1, 2, 11, 12]
    assert found.reward.tolist() == [0, 1, 10, 11]
    assert found.terminated.tolist() == [False, False, False, True]


def test_the_known_reward_is_gymnasiums():
    env = gymnasium.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        before, action = env._get_obs(), rng.uniform(-1, 1, 1).astype(np.float32)
        after, reward, *_ = env.step(2 * action)
        rows = (torch.from_numpy(x)[None].float() for x in (before, action, after))
        assert known.pendulum_reward(*rows).item() == pytest.approx(float(reward), abs=1e-4)


@pytest.mark.parametrize("name", ["CartPole-v1", "Hopper-v5", "InvertedPendulum-v5"])
def test_known_endings_are_gymnasiums(name):
    if name != "CartPole-v1":
        pytest.importorskip("mujoco")
    env = gymnasium.make(name)
    env.action_space.seed(0)
    ends, both = known.ENDS[name], set()
    for episode in range(10):
        env.reset(seed=episode)
        over = False
        while not over:
            obs, _, over, late, _ = env.step(env.action_space.sample())
            row = torch.from_numpy(np.asarray(obs, np.float32))[None]
            assert bool(ends(row)) == over
            both.add(over)
            over = over or late
    assert both == {False, True}


def test_what_is_said_of_a_worlds_endings():
    said = [known.ends_of(n) for n in ("Hopper-v5", "Pendulum-v1", "dmc/walker-walk", "Other-v0")]
    assert said == ["Hopper-v5", None, None, "learned"]


def test_nothing_is_earned_after_an_end(monkeypatch, fitted):
    monkeypatch.setitem(known.ENDS, "line", lambda after: after[:, 0] > 0.25)
    model = ensemble(ends="line")
    model.load_state_dict(fitted.state_dict())
    state, actions = seen(model, 0.1), torch.ones(1, 4, 1)
    run = rollout(model, state, actions, generator=torch.Generator().manual_seed(0))
    assert (run.states.x[0, 1:, 0] > 0.25).all()  # over after the first step
    assert Return(model.heads)(run).item() == pytest.approx(run.states.reward[0, 1].item())


# -- who may plan in it ---------------------------------------------------------------------------

BOXES = {
    "CEM": CEM(horizon=4, samples=40, iterations=3, elites=6, particles=5),
    "ICEM": ICEM(horizon=4, samples=40, iterations=3, elites=6, particles=5),
    "MPPI": MPPI(horizon=4, samples=60, iterations=4, elites=12, particles=5, temperature=10.0),
    "Gradient": Gradient(horizon=4, starts=4, steps=20, lr=0.2, particles=5),
    "RandomShooting": RandomShooting(horizon=4, samples=300, particles=5),
}


@pytest.mark.parametrize("name", BOXES)
def test_planners_of_a_box_walk_to_the_middle_of_the_line(name, fitted):
    generator = torch.Generator().manual_seed(0)
    plan = BOXES[name].plan(
        fitted, seen(fitted, 0.9, -0.9), Return(fitted.heads), generator=generator
    )
    assert plan.actions[0, 0, 0] < -0.6 and plan.actions[1, 0, 0] > 0.6
    x = torch.tensor([0.9, -0.9])
    worth = torch.zeros(2)
    for action in plan.actions[..., 0].clamp(-1, 1).unbind(1):
        x = x + 0.3 * action
        worth -= x.square() + NOISE**2
    assert (worth > -0.9).all()  # the best is -0.47; to stand still is -3.2
    torch.testing.assert_close(plan.score, worth, atol=0.3, rtol=0)


@pytest.mark.parametrize("name", ["CEM", "MCTS"])
def test_planners_of_discrete_actions_do_too(name):
    actions = Discrete(3)
    model = ensemble(actions)
    Fit(model, lambda: steps_of(600, actions=actions), FitConfig(epochs=30)).update()
    state = seen(model, 0.9, -0.9)
    if name == "CEM":
        planner = CEM(horizon=3, samples=30, iterations=3, elites=5, particles=4)
        plan = planner.plan(model, state, Return(model.heads))
    else:
        even = torch.distributions.Categorical
        heads = model.heads._replace(
            value=lambda s: -3 * s.x[:, 0].square(),
            policy=lambda s: even(logits=torch.zeros(len(s.x), 3)),
        )
        plan = MCTS(PUCT(), simulations=30, heads=heads).plan(model, state, None)
    assert plan.actions[:, 0].tolist() == [0, 2]
