"""Probes beside their controls, collapse alarms on known spectra, straightness by hand."""

import numpy as np
import pytest
import torch
from damaged import Lent, Noisy, by_name, segments

from reverie.envs.oracle import TwoRooms
from reverie.evaluate import probes, understanding
from reverie.evaluate.bands import band, explained, told


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    path = tmp_path_factory.mktemp("rooms") / "s"
    return segments(path, "two_rooms", horizon=8, episodes=30, observe=("vector",))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    path = tmp_path_factory.mktemp("drawn") / "s"
    return segments(path, "two_rooms", horizon=8, episodes=60, observe=("image", "vector"))


def judged(model, held, **kwargs):
    generator = torch.Generator().manual_seed(0)
    return by_name(understanding.measures(model, held, generator=generator, **kwargs))


@pytest.fixture(scope="module")
def perfect(drawn):
    blind = Lent(TwoRooms(), features=lambda s: torch.sin(40 * s.position))
    return judged(TwoRooms(), drawn, truth="vector", untrained=blind)


def test_the_true_state_tells_itself_now_and_foreseen(perfect):
    for name in ("probe_linear", "probe_linear_ahead"):
        assert tuple(perfect[name].value) == pytest.approx((1, 1, 1), abs=1e-4)
    for name in ("probe_mlp", "probe_mlp_ahead"):
        assert perfect[name].value.value > 0.98


def test_the_controls_stand_beside_it(perfect):
    for name in ("probe_linear", "probe_mlp"):
        found = perfect[name]
        assert set(found.baselines) == {"untrained", "shuffled labels", "pixels"}
        assert found.baselines["shuffled labels"].value <= 0.02
        assert found.baselines["untrained"].value < found.value.value - 0.1
        assert 0.5 < found.baselines["pixels"].value < found.value.value
        assert len(perfect[f"{name}_ahead"].curve) == 8


@pytest.fixture
def quick(monkeypatch):
    """An MLP that hardly learns, where it is not what is tested."""
    monkeypatch.setattr(probes, "UPDATES", 20)


def test_shuffled_labels_tell_nothing_on_average(rooms, quick):
    found = []
    for seed in range(4):
        random = torch.Generator().manual_seed(seed)
        measures = understanding.measures(TwoRooms(), rooms, truth="vector", generator=random)
        found += [m.baselines["shuffled labels"].value for m in measures if "labels" in str(m)]
    assert len(found) == 8 and np.mean(found) <= 0.02


def test_more_damage_to_what_is_foreseen_is_worse_and_to_what_is_seen_nothing(rooms):
    found = [
        judged(Noisy(TwoRooms(), noise, ("position",)), rooms, truth="vector")
        for noise in (0, 1, 3)
    ]
    for name in ("probe_linear_ahead", "probe_mlp_ahead"):
        scores = [x[name].value.value for x in found]
        assert scores == sorted(scores, reverse=True) and len(set(scores)) == 3
    assert found[0]["probe_linear"] == found[2]["probe_linear"]


def test_blurred_states_tell_less(rooms, generator, quick):
    def blurred(noise):
        def features(s):
            return s.position + noise * torch.randn(s.position.shape, generator=generator)

        return Lent(TwoRooms(), features=features)

    scores = [
        judged(blurred(noise), rooms, truth="vector")["probe_linear"].value.value
        for noise in (0, 2, 8, 32)
    ]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.999 and scores[-1] < 0.2


def test_without_the_truth_there_are_no_probes(rooms):
    assert set(judged(TwoRooms(), rooms)) == {"dead_dimensions", "effective_rank", "straightness"}
    assert judged(Lent(TwoRooms(), embed=None, features=None), rooms, truth="vector") == {}


def test_no_episode_is_told_by_a_probe_that_saw_it(generator):
    """Each episode has a code of its own that says all: on other episodes it says nothing."""
    code = torch.randn(40, 1, 30, generator=generator).expand(40, 4, 30)
    label = torch.randn(40, 1, 1, generator=generator).expand(40, 4, 1)
    for probe in (probes.ridge, probes.mlp):
        guess = probe(probes.Task(code, label), code, generator)
        found = band(told(guess, label), explained).value
        assert found.value < 0.1


def test_an_mlp_tells_what_no_line_can(generator):
    x = 2 * torch.rand(60, 6, 1, generator=generator) - 1
    task = probes.Task(x, (3 * x).cos())
    line, bent = (
        band(told(probe(task, x, generator), task.targets), explained).value.value
        for probe in (probes.ridge, probes.mlp)
    )
    assert line < 0.1 and bent > 0.9


def test_ridge_equals_least_squares_where_there_is_no_noise(generator):
    x = torch.randn(20, 5, 3, generator=generator)
    weights = torch.randn(3, 2, generator=generator)
    guess = probes.ridge(probes.Task(x, x @ weights + 4), x, generator)
    torch.testing.assert_close(guess, x @ weights + 4, rtol=1e-3, atol=1e-3)


def test_pixels_keep_the_directions_of_largest_variance(generator):
    """Frames of two blinking blocks have two components."""
    on = torch.randint(2, (10, 6, 2), generator=generator).float()
    frames = torch.zeros(10, 6, 3, 8, 8)
    frames[..., :4, :4] = 200 * on[..., :1, None, None]
    frames[..., 4:, 4:] = 100 * on[..., 1:, None, None]
    found = probes.components(frames.to(torch.uint8))
    assert found.shape == (10, 6, 2)
    wanted = torch.cdist((frames / 255).flatten(2).flatten(0, 1), (frames / 255)[0].flatten(1))
    torch.testing.assert_close(
        torch.cdist(found.flatten(0, 1), found[0]), wanted, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("spectrum", "rank"),
    [
        ([1, 1, 1, 1], 4),
        ([9, 0, 0, 0], 1),
        ([1, 1, 0, 0], 2),
        # singular values 2 and 1: entropy of (2/3, 1/3) is 0.6365
        ([4, 1, 0, 0], 1.8899),
        ([0, 0, 0, 0], 0),
    ],
)
def test_effective_rank_of_known_spectra(spectrum, rank, generator):
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0].numpy()
    covariance = turn @ np.diag(np.array(spectrum, dtype=float)) @ turn.T
    assert understanding.effective_rank(covariance[None])[0] == pytest.approx(rank, abs=1e-3)


def test_a_collapsed_embedding_raises_both_alarms(rooms):
    def collapsed(share):
        def embed(s):
            return s.position * torch.tensor([1.0, share])

        return Lent(TwoRooms(), embed=embed)

    found = [judged(collapsed(share), rooms) for share in (1, 0.1, 0.01, 0.001)]
    ranks = [x["effective_rank"].value.value for x in found]
    assert ranks == sorted(ranks, reverse=True) and ranks[0] > 1.9 and ranks[-1] < 1.1
    dead = [x["dead_dimensions"].value.value for x in found]
    assert dead[0] == 0 and dead[-1] == 0.5


def test_straightness_by_hand():
    line = torch.tensor([[0.0, 0], [1, 0], [2, 0], [5, 0]])
    corner = torch.tensor([[0.0, 0], [1, 0], [1, 1], [1, 1]])
    back = torch.tensor([[0.0, 0], [1, 0], [0, 0], [1, 0]])
    total, count = understanding.straightness(torch.stack([line, corner, back]).double())
    assert total.tolist() == [2, 0, -2] and count.tolist() == [2, 1, 2]
