"""Area averaging: worked by hand, and against brute force on a repeated frame."""

import numpy as np

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
