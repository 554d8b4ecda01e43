"""Doubt judged: a Kalman filter is calibrated by its closed form, a surer or wider one is not."""

import numpy as np
import pytest
import torch
from damaged import Lent, Noisy, Wrapped, by_name, segments
from scipy import stats

from reverie.core.errors import BadConfig
from reverie.envs.kalman import LinearGaussian
from reverie.envs.oracle import Grid, TwoRooms
from reverie.evaluate import probabilistic


@pytest.fixture(scope="module")
def carts(tmp_path_factory):
    """Whole episodes: the filter's first belief is true of their beginnings only."""
    path = tmp_path_factory.mktemp("carts") / "s"
    return segments(path, "linear_gaussian", context=5, horizon=12, episodes=96, time_limit=16)


@pytest.fixture(scope="module")
def grids(tmp_path_factory):
    path = tmp_path_factory.mktemp("grids") / "s"
    return segments(path, "grid", context=1, horizon=5, episodes=96, slip=0.3)


class Sure(Wrapped):
    """Draws with a share of the true spread."""

    def __init__(self, model, share):
        super().__init__(model)
        self.share = share

    def predict(self, state, action, *, z=None, generator=None):
        z = self.share * torch.randn(len(state.mean), 1, generator=generator)
        return super().predict(state, action, z=z)


def judged(model, held, **kwargs):
    generator = torch.Generator().manual_seed(0)
    return by_name(probabilistic.measures(model, held, generator=generator, **kwargs))


def test_the_kalman_filter_is_calibrated(carts):
    found = judged(LinearGaussian(), carts)
    assert set(found) == {"spread_skill", "pit_distance", "gaussian_nll"}
    assert found["spread_skill"].value.value < 0.1  # the ratio is within a tenth of 1
    assert "as it should be" in found["spread_skill"].what
    fair = 0.8687 / 96**0.5  # the mean of Kolmogorov's law
    assert found["pit_distance"].value.value < 1.3 * fair
    assert found["pit_distance"].baselines["calibrated"].value == pytest.approx(fair, rel=0.3)
    assert found["gaussian_nll"].value.high < found["gaussian_nll"].baselines["mean"].low


def test_its_likelihood_is_that_of_the_closed_form(carts):
    """One step ahead a belief's mean moves by K S^(1/2) z: its entropy is the best NLL there is."""
    first = judged(LinearGaussian(), carts, draws=256)["gaussian_nll"].curve[0]
    system = LinearGaussian().system
    belief = system.filtered(carts.context)[-1]
    prior = system.A @ belief @ system.A.T + system.Q
    gain = prior @ system.C.T / (system.C @ prior @ system.C.T + system.R)
    spread = np.sqrt((gain @ (system.C @ prior @ system.C.T + system.R) @ gain.T).diagonal())
    entropy = np.mean([stats.norm(scale=s).entropy() for s in spread])
    assert first.low - 0.05 < entropy < first.high + 0.05


NAMES = ("spread_skill", "pit_distance", "gaussian_nll")


def test_the_surer_the_worse(carts):
    found = [judged(Sure(LinearGaussian(), share), carts) for share in (1, 0.5, 0.2, 0.05)]
    for name in NAMES:
        scores = [measures[name].value.value for measures in found]
        assert scores == sorted(scores) and len(set(scores)) == 4, name
    assert "too narrow" in found[-1]["spread_skill"].what


def test_the_wider_the_worse(carts):
    models = [Noisy(LinearGaussian(), noise, ("mean",)) for noise in (0, 0.1, 0.5, 2)]
    found = [judged(model, carts) for model in models]
    for name in NAMES:
        scores = [measures[name].value.value for measures in found]
        assert scores == sorted(scores) and len(set(scores)) == 4, name
    assert "too wide" in found[-1]["spread_skill"].what


def test_spread_skill_of_a_known_gaussian():
    """16 draws and the truth from one N(0, 3^2): the ratio is 1, whatever the spread."""
    x = 3 * np.random.default_rng(0).normal(size=(20_000, 17))
    spread, error = x[:, 1:].var(1, ddof=1).mean(), ((x[:, 1:].mean(1) - x[:, 0]) ** 2).mean()
    found = probabilistic.spread_skill(np.array([[spread]]), np.array([[error]]), 16)
    assert found.item() == pytest.approx(1, abs=0.01)


def test_pit_distance_by_hand():
    """Three draws, four places: all below is 3/4 off, even places are not off at all."""
    shares = np.array([[[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0, 0, 0.5]]])
    assert probabilistic.pit_distance(shares)[0].tolist() == [0.75, 0, 0.25]


def test_calibration_error_by_hand():
    """Half the steps say 0.9 and 0.7 come; half say 0.1 and 0.1 come: 0.5 x 0.2."""
    bins = np.array([[[0.5, 0.5], [0.45, 0.05], [0.35, 0.05]]])
    assert probabilistic.calibration_error(bins)[0] == pytest.approx(0.1)


def test_gaussian_nll_equals_scipys(generator):
    x, mean = torch.randn(2, 5, 3, generator=generator)
    variance = torch.rand(5, 3, generator=generator) + 0.1
    wanted = -stats.norm(mean, variance.sqrt()).logpdf(x).mean(-1)
    np.testing.assert_allclose(probabilistic.gaussian_nll(x, mean, variance), wanted, rtol=1e-5)


def test_a_model_that_never_draws_says_nothing_of_its_doubt(tmp_path):
    held = segments(tmp_path / "s", "two_rooms", horizon=4, episodes=8, observe=("vector",))
    assert judged(TwoRooms(), held) == {}
    assert judged(Lent(LinearGaussian(), embed=None, features=None), held) == {}


def test_endings_of_the_slippery_grid_are_calibrated_and_skewed_ones_are_not(grids):
    model = Grid(slip=0.3)

    def skewed(share):
        cont = model.heads.cont
        return Lent(model, cont=lambda s: (1 - share) * cont(s) + share * (1 - cont(s)))

    scores = [
        judged(skewed(share), grids)["ending_calibration"].value.value
        for share in (0, 0.1, 0.3, 0.9)
    ]
    assert scores == sorted(scores) and scores[0] < 0.03 < scores[1]
    found = judged(model, grids, oracle=model)["ending_calibration"]
    assert set(found.baselines) == {"action-blind", "oracle"}


def test_one_draw_has_no_spread(carts):
    with pytest.raises(BadConfig, match="at least 2 draws, but 1"):
        judged(LinearGaussian(), carts, draws=1)
