"""unroll, rollout, imagine and Dream against worlds with known answers."""

import itertools

import numpy as np
import pytest
import torch
from conformance import assert_conforms

from reverie.core import tree
from reverie.core.errors import BadConfig, MissingHead, ShapeMismatch, SpaceMismatch
from reverie.core.types import Box
from reverie.envs.toy import ORACLES, WORLDS
from reverie.imagine import Dream, imagine, rollout, unroll


def begin(model, n, generator=None):
    """States at the clock's or grid's first observation."""
    shape = model.observations["vector"].shape
    return model.observe(None, None, model.encode({"vector": torch.zeros(n, *shape)}))


def clock_start(n, generator):
    return begin(ORACLES["clock"](), n)


def test_rollout_stacks_the_given_state_first():
    model = ORACLES["clock"]()
    actions = torch.zeros(2, 3, dtype=torch.int64)
    found = rollout(model, begin(model, 2), actions)
    assert found.states.time.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert found.actions is actions


def test_rollout_equals_iterated_predict_with_the_same_noise():
    model = ORACLES["linear_gaussian"]()
    actions = torch.randn(3, 5, 1)
    start = model.observe(None, None, torch.randn(3, 1))
    found = rollout(model, start, actions, generator=torch.Generator().manual_seed(4))
    generator, state = torch.Generator().manual_seed(4), start
    for t in range(5):
        state = model.predict(state, actions[:, t], generator=generator)
        assert torch.equal(found.states.mean[:, t + 1], state.mean)
        assert torch.equal(found.states.cov[:, t + 1], state.cov)


def test_imagine_acts_on_imagined_states():
    model = ORACLES["clock"]()
    found = imagine(model, begin(model, 2), lambda s: s.time.long(), 8)
    assert found.actions.tolist() == [list(range(8))] * 2
    states = tree.unstack(found.states, 9)
    reward = torch.stack(
        [model.heads.reward(states[t], found.actions[:, t], states[t + 1]) for t in range(8)], 1
    )
    assert reward.tolist() == [[0, 10, 20, 30, 40, 50, 60, 70]] * 2
    assert reward[0].sum() == model.heads.value(begin(model, 1)).item() == 280


def test_imagined_return_under_optimal_gains_is_the_closed_form(generator):
    """LQG: the mean imagined return equals the Riccati solution's optimum."""
    model = ORACLES["linear_gaussian"]()
    gains = torch.as_tensor(model.system.riccati(30)[0]).float()
    system, n = model.system, 4000
    x = torch.as_tensor(np.random.default_rng(0).multivariate_normal(system.mean, system.cov, n))
    seen = x[:, :1].float() + system.R[0, 0] ** 0.5 * torch.randn(n, 1, generator=generator)
    state = model.observe(None, None, seen)
    total = torch.zeros(n)
    run = unroll(model, state, lambda s, t: -s.mean @ gains[t].T, 30, generator=generator)
    for before, action, after in run:
        total += model.heads.reward(before, action, after)
    error = total.std().item() / n**0.5
    assert abs(total.mean().item() - system.optimal_return(30)) < 3 * error < 0.1


def test_gradients_flow_through_a_rollout():
    """d(position after H pushes)/d(push) of the noise-free cart, by hand: 0.02 + 0.04 (1 + 0.9)."""
    model = ORACLES["linear_gaussian"]()
    push = torch.zeros(1, 3, 1, requires_grad=True)
    start = model.observe(None, None, torch.zeros(1, 1))
    end = rollout(model, start, push).states.mean[0, -1, 0]
    (gradient,) = torch.autograd.grad(end, push)
    by_push = [0.02 + 0.2 * 0.2 * 1.9, 0.02 + 0.2 * 0.2, 0.02]
    # The filter draws what it then takes in, so the gain does not shorten the path.
    np.testing.assert_allclose(gradient[0, :, 0], by_push, rtol=1e-5)


def test_unroll_is_lazy():
    model, calls = ORACLES["clock"](), []

    def act(state, t):
        calls.append(t)
        return torch.zeros(1, dtype=torch.int64)

    run = unroll(model, begin(model, 1), act, 10**9)
    assert [after.time.item() for _, _, after in itertools.islice(run, 3)] == [1, 2, 3]
    assert calls == [0, 1, 2]


def test_rollout_refuses_what_does_not_fit():
    model = ORACLES["clock"]()
    start = begin(model, 2)
    with pytest.raises(SpaceMismatch, match="no actions were given"):
        rollout(model, start, None, horizon=3)
    with pytest.raises(SpaceMismatch, match="int64, but these are torch.float32"):
        rollout(model, start, torch.zeros(2, 3))
    with pytest.raises(ShapeMismatch, match=r"\(2, 3\), but it has \(4, 3\)"):
        rollout(model, start, torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(BadConfig, match="at least 1 step"):
        imagine(model, start, lambda s: s.time.long(), 0)


# -- Dream ---------------------------------------------------------------------------------------


def grid_start(n, generator):
    return begin(ORACLES["grid"](), n)


@pytest.mark.parametrize(("name", "start"), [("clock", clock_start), ("grid", grid_start)])
def test_dream_conforms_as_real_worlds_do(name, start):
    assert_conforms(lambda n: Dream(ORACLES[name](), start, n, time_limit=20))


@pytest.mark.parametrize("name", ["clock", "grid"])
def test_dream_of_a_true_model_is_the_world(name):
    """Step by step equal, ends and rewards included."""
    model = ORACLES[name]()
    real = WORLDS[name](5, time_limit=7)
    dream = Dream(model, lambda n, g: begin(model, n), 5, time_limit=7)
    assert dream.single_observation_space == real.single_observation_space
    assert dream.single_action_space == real.single_action_space
    seen = real.reset()[0], dream.reset()[0]
    real.action_space.seed(0)
    for _ in range(60):
        np.testing.assert_array_equal(seen[0]["vector"], seen[1]["vector"])
        action = real.action_space.sample()
        a, b = real.step(action), dream.step(action)
        for x, y in zip(a[1:4], b[1:4], strict=True):
            np.testing.assert_array_equal(x, y)
        seen = a[0], b[0]
        over = a[2] | a[3]
        if over.any():
            options = {"reset_mask": over}
            seen = real.reset(options=options)[0], dream.reset(options=options)[0]


def test_dream_pays_survival_where_there_is_no_reward_head():
    model = ORACLES["clock"]()
    heads = model.heads._replace(reward=None, cont=lambda n: torch.where(n.time < 3, 0.9, 0.0))
    dream = Dream(model, clock_start, 4000, heads=heads, seed=1)
    dream.reset()
    action = np.zeros(4000, dtype=np.int64)
    _, reward, terminated, truncated, _ = dream.step(action)
    assert abs(terminated.mean() - 0.1) < 0.02 and not truncated.any()
    np.testing.assert_array_equal(reward, 1.0 - terminated)


def test_dream_draws_no_more_starts_than_begin_and_rounds_pixels():
    model, drawn = ORACLES["two_rooms"](), []
    model.observations = {**model.observations, "image": Box((3, 32, 32), 0, 255, "uint8")}

    def start(n, generator):
        drawn.append(n)
        return model.encode({"vector": torch.rand(n, 5, generator=generator) * 10 + 2})

    dream = Dream(model, start, 3)
    obs, _ = dream.reset(seed=0)
    assert obs["image"].dtype == np.uint8 and obs["image"].shape == (3, 3, 32, 32)
    shade = model.heads.decode(dream.state)["image"]
    assert np.abs(obs["image"] - shade.numpy()).max() <= 0.5
    before = obs["vector"].copy()
    obs, _ = dream.reset(options={"reset_mask": np.array([False, True, False])})
    assert drawn == [1, 3, 1]
    changed = (obs["vector"] != before).any(1)
    assert changed.tolist() == [False, True, False]


def test_dream_needs_to_draw_and_to_pay():
    model = ORACLES["clock"]()
    with pytest.raises(MissingHead, match="Dream needs decode; toy/clock has reward, cont"):
        Dream(model, clock_start, heads=model.heads._replace(decode=None))
    with pytest.raises(MissingHead, match=r"Dream \(without a reward head\) needs cont"):
        Dream(model, clock_start, heads=model.heads._replace(reward=None, cont=None))


def test_dream_of_a_model_without_actions_has_one_action_to_watch():
    model = ORACLES["clock"]()
    model.actions = None
    dream = Dream(model, clock_start, 2, heads=model.heads._replace(reward=None))
    assert dream.single_action_space.n == 1
    dream.reset()
    obs, reward, *_ = dream.step(np.zeros(2, dtype=np.int64))
    assert obs["vector"].tolist() == [[1], [1]] and reward.tolist() == [1, 1]
