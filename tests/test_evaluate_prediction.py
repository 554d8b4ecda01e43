"""Prediction judged: perfect oracles, growing damage, models without actions, missing heads."""

import numpy as np
import pytest
import torch
from damaged import Blind, Lent, Noisy, Still, Wrapped, by_name, segments

from reverie.core.errors import BadData, SpaceMismatch
from reverie.core.tree import take
from reverie.envs.oracle import Clock, TwoRooms
from reverie.evaluate import prediction
from reverie.evaluate.forecast import Held
from reverie.evaluate.measure import measure_from_json

SEEN = ("image", "goal", "vector")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    return segments(tmp_path_factory.mktemp("rooms") / "s", "two_rooms", episodes=24, observe=SEEN)


@pytest.fixture(scope="module")
def clocks(tmp_path_factory):
    path = tmp_path_factory.mktemp("clocks") / "s"
    return segments(path, "clock", context=2, horizon=4, episodes=48)


def judged(model, held, **kwargs):
    generator = torch.Generator().manual_seed(0)
    return by_name(prediction.measures(model, held, generator=generator, **kwargs))


def values(make, held, name, levels=(0, 0.5, 1, 2, 4)):
    return [judged(make(level), held)[name].value.value for level in levels]


def test_the_true_model_is_perfect(rooms):
    found = judged(TwoRooms(), rooms, oracle=TwoRooms(), truth="vector")
    assert set(found) == {
        *("psnr", "ssim", "state_r2", "embedding_error", "useful_horizon", "reward_r2")
    }
    perfect = {"psnr": 60, "ssim": 1, "state_r2": 1, "embedding_error": 0, "reward_r2": 1}
    for name, value in {**perfect, "useful_horizon": rooms.horizon + 1}.items():
        assert tuple(found[name].value) == pytest.approx((value,) * 3, abs=1e-5), name
        assert found[name].baselines["oracle"].value == pytest.approx(value, abs=1e-5)


def test_everyone_else_stands_beside_it_and_is_worse(rooms):
    for name, measure in judged(TwoRooms(), rooms, oracle=TwoRooms()).items():
        assert set(measure.baselines) == {"copy", "mean", "action-blind", "oracle"}
        sign = 1 if measure.better == "higher" else -1
        for who in ("copy", "mean", "action-blind"):
            assert sign * measure.baselines[who].value < sign * measure.value.value, (name, who)


def test_curves_have_a_point_for_every_step_and_survive_json(rooms):
    found = judged(Noisy(TwoRooms(), 0.3, ("position",)), rooms)
    for name in ("psnr", "ssim", "state_r2", "embedding_error", "reward_r2"):
        assert len(found[name].curve) == rooms.horizon
        assert {len(c) for c in found[name].baseline_curves.values()} == {rooms.horizon}
        assert measure_from_json(found[name].to_json()) == found[name]
    curve = [point.value for point in found["psnr"].curve]
    assert curve[0] > curve[-1] + 3


@pytest.fixture(scope="module")
def damaged(rooms):
    return [judged(Noisy(TwoRooms(), noise, ("position",)), rooms) for noise in (0, 0.5, 1, 2, 4)]


@pytest.mark.parametrize("name", ["psnr", "ssim", "state_r2", "embedding_error"])
def test_more_damage_is_worse(damaged, name):
    scores = [found[name].value.value for found in damaged]
    assert scores == sorted(scores, reverse=name != "embedding_error")
    assert len(set(scores)) == 5


def test_more_damage_shortens_the_useful_horizon(damaged, rooms):
    scores = [found["useful_horizon"].value.value for found in damaged]
    assert scores[0] == rooms.horizon + 1 and scores[-1] == 1
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 2


def test_more_damage_blurs_rewards(clocks, generator):
    def blurred(level):
        true = Clock().heads.reward

        def reward(s, a, n):
            return true(s, a, n) + level * torch.randn(len(a), generator=generator)

        return Lent(Clock(), reward=reward)

    scores = values(blurred, clocks, "reward_r2", (0, 1, 4, 16))
    assert scores[0] == 1
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4


def test_more_damage_blurs_endings(clocks):
    def soft(noise):
        model = Noisy(Clock(), noise, ("time",))
        return Lent(model, cont=lambda s: torch.sigmoid(4 * (7.5 - s.time)))

    assert tuple(judged(Clock(), clocks)["termination_auc"].value) == (1, 1, 1)
    scores = values(soft, clocks, "termination_auc", (0, 0.4, 1.2, 6))
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4


def test_a_model_that_ignores_its_actions_equals_its_action_blind_twin(rooms):
    found = judged(Blind(TwoRooms()), rooms)
    for measure in found.values():
        assert measure.baselines["action-blind"] == measure.value


def test_a_model_that_copies_is_as_good_as_copying(rooms):
    found = judged(Still(TwoRooms()), rooms)
    for name in ("psnr", "ssim", "state_r2", "embedding_error", "useful_horizon"):
        assert found[name].value == found[name].baselines["copy"], name
    assert found["embedding_error"].value.value == 1


def test_useful_horizon_by_hand():
    error = np.array([[0.1, 0.4, 0.6, 0.2], [0.1, 0.2, 0.3, 0.4], [0.9, 0.0, 0.0, 0.0]])
    assert prediction.useful_horizon(error, np.ones((3, 4))).tolist() == [3, 5, 1]


def test_only_what_the_heads_and_the_data_allow(rooms):
    none = dict.fromkeys(("reward", "decode", "embed"))
    assert judged(Lent(TwoRooms(), **none), rooms) == {}
    assert set(judged(Lent(TwoRooms(), reward=None, decode=None), rooms)) == {
        "embedding_error",
        "useful_horizon",
    }
    blank = rooms.batch._replace(reward=torch.zeros_like(rooms.batch.reward))
    assert "reward_r2" not in judged(TwoRooms(), Held(blank, rooms.context))


def test_a_model_without_actions_has_no_action_blind_twin(rooms):
    class Watching(Wrapped):
        def __init__(self):
            super().__init__(TwoRooms())
            self.actions = None

        def predict(self, state, action, *, z=None, generator=None):
            assert action is None
            return state

    for measure in judged(Watching(), rooms).values():
        assert "action-blind" not in measure.baselines


def test_who_cannot_read_the_segments_is_refused_and_such_an_oracle_left_out(clocks, rooms):
    images = rooms.batch._replace(obs={"image": rooms.batch.obs["image"]})
    with pytest.raises(SpaceMismatch, match="reads observation 'vector', but the data has"):
        judged(TwoRooms(), Held(images, rooms.context))
    with pytest.raises(SpaceMismatch, match="of shape"):
        judged(Clock(), clocks, oracle=TwoRooms())
    unread = Lent(TwoRooms())
    unread.observations = {"touch": unread.observations["vector"]}
    assert "oracle" not in judged(Clock(), clocks, oracle=unread)["state_r2"].baselines


def test_endings_are_compared_among_moments_as_far_ahead(clocks):
    """Who only counts the steps ahead cannot tell one episode from another: 0.5."""

    class Counting(Wrapped):
        def predict(self, state, action, *, z=None, generator=None):
            return state._replace(time=state.time + 1)

        def observe(self, state, action, h, **kwargs):
            return h._replace(time=torch.zeros_like(h.time))

    found = judged(Lent(Counting(Clock()), cont=lambda s: 1 - s.time / 10), clocks)
    assert found["termination_auc"].value == pytest.approx((0.5, 0.5, 0.5))


def test_too_few_episodes_are_refused(rooms):
    few = Held(take(rooms.batch, slice(0, 4)), rooms.context)
    with pytest.raises(BadData, match="at least 5 episodes"):
        judged(TwoRooms(), few)
