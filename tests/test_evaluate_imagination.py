"""Control over the imagination: actions that count, forks of the true world, turned actions."""

import math

import numpy as np
import pytest
import torch
from damaged import Blind, Lent, Noisy, Wrapped, by_name

from reverie.core.errors import BadConfig, BadData, MissingHead
from reverie.envs.oracle import Grid, TwoRooms
from reverie.envs.toy import WORLDS
from reverie.evaluate import imagination
from reverie.evaluate.fork import Forks, fork


def rooms(num_envs, seed):
    return WORLDS["two_rooms"](num_envs, seed=seed, observe=("image", "vector"))


@pytest.fixture(scope="module")
def forks():
    return fork(rooms, pairs=40, context=3, horizon=6, seed=0)


class Turned(Wrapped):
    """Takes every action for another one, turned by an angle."""

    def __init__(self, model, angle):
        super().__init__(model)
        c, s = math.cos(angle), math.sin(angle)
        self.turn = torch.tensor([[c, s], [-s, c]])

    def predict(self, state, action, *, z=None, generator=None):
        return super().predict(state, action @ self.turn, z=z, generator=generator)


def judged(model, forks, **kwargs):
    generator = torch.Generator().manual_seed(0)
    return by_name(
        imagination.measures(model, forks.one, forks=forks, generator=generator, **kwargs)
    )


def test_forks_share_their_past_and_then_part(forks):
    one, other = forks.one.batch, forks.other.batch
    for name in ("image", "vector"):
        assert torch.equal(one.obs[name][:, :3], other.obs[name][:, :3])
    assert torch.equal(one.action[:, :2], other.action[:, :2])
    assert (one.action[:, 2:] != other.action[:, 2:]).any(-1).all()
    assert one.obs["image"].shape == (40, 9, 3, 32, 32) and one.obs["image"].dtype == torch.uint8
    assert one.action.shape == (40, 8, 2) and forks.one.horizon == 6
    # what was recorded is what the rules say, one action between two observations
    model = TwoRooms()
    for t in range(8):
        before = model.encode({"vector": one.obs["vector"][:, t]})
        after = model.predict(before, one.action[:, t]).position
        torch.testing.assert_close(after, one.obs["vector"][:, t + 1, :2], atol=1e-4, rtol=0)


def test_the_true_model_is_in_full_control(forks):
    found = judged(TwoRooms(), forks, oracle=TwoRooms())
    assert set(found) == {"controllability", "delta_psnr", "counterfactual"}
    for name in ("controllability", "counterfactual"):
        assert tuple(found[name].value) == pytest.approx((1, 1, 1), abs=1e-5)
    assert found["delta_psnr"].value.low > 20
    assert found["delta_psnr"].baselines["oracle"] == found["delta_psnr"].value
    assert len(found["counterfactual"].curve) == 6


def test_a_model_that_ignores_its_actions_has_no_control(forks):
    for measure in judged(Blind(TwoRooms()), forks).values():
        assert tuple(measure.value) == (0, 0, 0), measure.name


def test_noise_drawn_twice_alike_is_no_control(forks):
    """Both dreams draw the same noise, so a random model does not seem to follow its actions."""
    found = judged(Noisy(Blind(TwoRooms()), 2.0, ("position",)), forks)
    assert found["controllability"].value.value == found["counterfactual"].value.value == 0


def test_the_farther_actions_are_turned_the_less_control(forks):
    found = [judged(Turned(TwoRooms(), angle), forks) for angle in (0, 0.5, 1.0, 2.0, math.pi)]
    for name in ("controllability", "delta_psnr", "counterfactual"):
        scores = [x[name].value.value for x in found]
        assert scores == sorted(scores, reverse=True) and len(set(scores)) == 5, name
        assert scores[-1] < 0
    # away from the walls the cosine is that of the angle
    assert found[1]["counterfactual"].curve[0].value == pytest.approx(math.cos(0.5), abs=0.1)


def test_more_noise_is_less_control(forks):
    models = [Noisy(TwoRooms(), noise, ("position",)) for noise in (0, 0.5, 1, 3)]
    found = [judged(model, forks) for model in models]
    for name in ("controllability", "delta_psnr"):
        scores = [x[name].value.value for x in found]
        assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4, name


def test_cosine_by_hand():
    a = torch.tensor([[3.0, 4], [1, 0], [0, 0]]).double()
    b = torch.tensor([[4.0, 3], [0, 2], [1, 1]]).double()
    assert imagination.cosine(a, b).tolist() == pytest.approx([0.96, 0, 0])


def test_discrete_actions_and_pairs_that_end_early_are_left_out():
    grid = fork(lambda n, s: WORLDS["grid"](n, seed=s), pairs=200, context=2, horizon=5)
    assert 5 <= len(grid.one.batch.mask) < 200
    assert not grid.one.batch.terminated[:, :-1].any()
    assert judged(Grid(), grid)["counterfactual"].value.value == pytest.approx(1)


def test_without_actions_there_is_nothing_to_control(forks):
    watching = Lent(TwoRooms())
    watching.actions = None
    assert judged(watching, forks) == {}
    assert imagination.counterfactual(watching, forks) == []


def test_actions_that_make_no_difference_have_no_direction(forks):
    assert imagination.counterfactual(TwoRooms(), Forks(forks.one, forks.one)) == []


def test_only_what_the_heads_allow(forks):
    assert set(judged(Lent(TwoRooms(), embed=None), forks)) == {"delta_psnr"}
    assert "delta_psnr" not in judged(Lent(TwoRooms(), decode=None), forks)
    with pytest.raises(MissingHead, match="counterfactual needs embed"):
        imagination.counterfactual(Lent(TwoRooms(), embed=None), forks)


def test_a_world_that_is_not_deterministic_cannot_be_forked():
    seeds = iter(range(10))

    def world(num_envs, seed):
        env = rooms(num_envs, seed)
        reset, other = env.reset, next(seeds)
        env.reset = lambda *, seed=None, options=None: reset(seed=other, options=options)
        return env

    with pytest.raises(BadData, match="'image' differs in 8 of 8 rows"):
        fork(world, pairs=8, context=2, horizon=3)


def test_forks_that_do_not_last_are_refused():
    bandit = WORLDS["bandit"]
    with pytest.raises(BadData, match="only 0 of 9 pairs last that long"):
        fork(lambda n, s: bandit(n, seed=s), pairs=9, context=2, horizon=3)
    with pytest.raises(BadConfig, match="at least 1 are needed, but they are 0 and 3"):
        fork(rooms, pairs=9, context=0, horizon=3)


def test_the_same_seed_plays_the_same_forks(forks):
    again = fork(rooms, pairs=40, context=3, horizon=6, seed=0)
    other = fork(rooms, pairs=40, context=3, horizon=6, seed=1)
    assert np.array_equal(again.other.batch.action, forks.other.batch.action)
    assert not np.array_equal(other.other.batch.action, forks.other.batch.action)
