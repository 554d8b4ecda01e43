"""Area averaging, by hand and by brute force on a repeated frame; pictures of several moments."""

import numpy as np
import pytest

from reverie import envs
from reverie.core.errors import BadConfig
from reverie.envs.pixels import AreaResize


def test_whole_cells_are_averaged():
    frame = np.array([[0, 10, 100, 200], [20, 30, 100, 200]], dtype=np.uint8)
    assert AreaResize(2, 4, 1, 2)(frame).tolist() == [[[15, 150]]]


def test_cells_that_are_cut_count_by_their_area():
    # Three cells onto two: each output covers one and a half of them.
    frame = np.array([[0, 90, 240]], dtype=np.uint8)
    assert AreaResize(1, 3, 1, 2)(frame).tolist() == [[[30, 190]]]


def test_stretching_repeats_pixels():
    frame = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    image = AreaResize(2, 2, 4, 4)(frame)
    assert image.shape == (3, 4, 4)
    np.testing.assert_array_equal(image, frame.transpose(2, 0, 1).repeat(2, 1).repeat(2, 2))


def test_equals_brute_force_at_the_size_of_doom():
    frame = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    # 120 = 8 * 15 and 64 = 8 * 8, 160 = 32 * 5 and 64 = 32 * 2: every output is a whole number of
    # cells of the frame repeated 8 and 2 times.
    fine = frame.repeat(8, 0).repeat(2, 1).astype(float)
    expected = fine.reshape(64, 15, 64, 5, 3).mean((1, 3)).transpose(2, 0, 1)
    image = AreaResize(120, 160, 64, 64)(frame)
    assert image.dtype == np.uint8
    assert np.abs(image - expected).max() <= 0.501


def test_same_size_is_a_copy():
    frame = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = AreaResize(5, 7, 5, 7)(frame)
    np.testing.assert_array_equal(image, frame.transpose(2, 0, 1))
    assert not np.shares_memory(image, frame)


# -- pictures of several moments ------------------------------------------------------------------


def test_pictures_of_three_moments_are_joined_the_oldest_first():
    plain = envs.make("toy/two_rooms", 3, seed=4)
    joined = envs.make("toy/two_rooms", 3, seed=4, frames=3)
    assert envs.spaces(joined)[0]["image"].shape == (9, 32, 32)
    first, found = plain.reset(seed=4)[0]["image"], joined.reset(seed=4)[0]["image"]
    assert (found.reshape(3, 3, 3, 32, 32) == first[:, None]).all()  # it stands for those before
    seen = [first]
    for step in range(4):
        action = np.full((3, 2), 0.5 if step % 2 else -0.5, np.float32)
        seen.append(plain.step(action)[0]["image"])
        found = joined.step(action)[0]["image"]
    assert (found == np.concatenate(seen[-3:], 1)).all()
    assert (seen[-1] != seen[-2]).any()
    assert joined.observation_space.contains(joined.step(action)[0])


def test_a_row_that_begins_anew_forgets_alone():
    env = envs.make("toy/two_rooms", 2, seed=0, frames=2)
    env.reset(seed=0)
    before = env.step(np.ones((2, 2), np.float32))[0]["image"]
    after = env.reset(options={"reset_mask": np.array([True, False])})[0]["image"]
    assert (after[0, :3] == after[0, 3:]).all()
    assert (after[1] == before[1]).all()
    assert (after[1, :3] != after[1, 3:]).any()


def test_vectors_stay_as_they_are():
    env = envs.make("CartPole-v1", 2, seed=0, observe="both", frames=2)
    seen = env.reset(seed=0)[0]
    assert seen["vector"].shape == (2, 4)
    assert seen["image"].shape == (2, 6, 64, 64)
    env.close()


@pytest.mark.parametrize("frames", [0, 3])
def test_there_must_be_pictures_to_join(frames):
    name = "CartPole-v1" if frames else "toy/two_rooms"
    with pytest.raises(BadConfig, match="1 or more to a world with pictures"):
        envs.make(name, frames=frames)
