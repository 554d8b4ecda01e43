"""Patches, positions, blocks and masks: counted by hand, and beside torch's own layers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from reverie.core.errors import BadConfig
from reverie.nn.blockmask import Blocks, future, hidden_block, multiblock, tubes
from reverie.nn.vit import Block, Grid, MaskedPredictor, Sketch, ViT, cut, grid_of, positions, take

PICTURE = Grid(1, 14, 14)  # 224 pixels in patches of 16
TARGET = Blocks(4, (0.15, 0.2), (0.75, 1.5))
CONTEXT = Blocks(1, (0.85, 1.0), (1.0, 1.0))


def test_the_published_clip_has_1568_patches():
    """16 frames of 224 pixels, tubelets of 2 x 16 x 16: 8 x 14 x 14."""
    grid = grid_of((3, 224, 224), 16, frames=16, tubelet=2, who="V-JEPA")
    assert grid == (8, 14, 14)
    assert grid.size == 1568


def test_patches_are_numbered_frame_by_frame_row_by_row():
    clip = torch.arange(4 * 4 * 6).view(1, 4, 1, 4, 6)  # frames of 4 x 6, numbered through
    found = cut(clip, Grid(2, 2, 3))  # tubelets of 2 frames, patches of 2 x 2
    assert found.shape == (1, 12, 8)
    assert found[0, 0].tolist() == [0, 1, 6, 7, 24, 25, 30, 31]  # both frames, top left
    assert found[0, 4].tolist() == [14, 15, 20, 21, 38, 39, 44, 45]  # second row, second column
    assert found[0, 6].tolist() == [48, 49, 54, 55, 72, 73, 78, 79]  # the next tubelet


def test_what_does_not_divide_is_one_sentence():
    with pytest.raises(BadConfig, match=r"5 x 5 pixels, but 32 x 32 do not.* patch of 2 or 4 or 8"):
        grid_of((3, 32, 32), 5, who="I-JEPA")
    with pytest.raises(BadConfig, match=r"clips of 7 frames in tubelets of 2.* multiple of 2"):
        grid_of((3, 32, 32), 4, frames=7, tubelet=2, who="V-JEPA")
    with pytest.raises(BadConfig, match="3 heads do not divide a width of 8"):
        Block(8, 3)


def test_positions_by_hand():
    """Two axes of width 4: one frequency, 1, each; rows first."""
    found = positions((2, 3), 4)
    assert found.shape == (6, 4)
    wanted = [math.sin(1), math.cos(1), math.sin(2), math.cos(2)]  # row 1, column 2
    assert found[5].tolist() == pytest.approx(wanted)


def test_positions_in_three_axes_fill_any_width_and_tell_all_places_apart():
    found = positions((4, 8, 8), 64)  # 11 frequencies an axis are 66 numbers
    assert found.shape == (256, 64)
    assert torch.cdist(found, found).fill_diagonal_(9).min() > 0.1


def test_a_block_is_torchs_own_transformer_layer():
    ours = Block(12, 3).eval()
    theirs = nn.TransformerEncoderLayer(
        *(12, 3, 48), dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    pairs = {
        "self_attn.in_proj_weight": ours.mix.weight,
        "self_attn.in_proj_bias": ours.mix.bias,
        "self_attn.out_proj.weight": ours.out.weight,
        "self_attn.out_proj.bias": ours.out.bias,
        "linear1.weight": ours.mlp[0].weight,
        "linear1.bias": ours.mlp[0].bias,
        "linear2.weight": ours.mlp[2].weight,
        "linear2.bias": ours.mlp[2].bias,
        "norm1.weight": ours.before.weight,
        "norm1.bias": ours.before.bias,
        "norm2.weight": ours.between.weight,
        "norm2.bias": ours.between.bias,
    }
    theirs.load_state_dict(pairs)
    x, causal = torch.randn(2, 5, 12), torch.ones(5, 5).tril().bool()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x, causal), theirs(x, src_mask=~causal))


def test_an_encoder_never_looks_at_what_it_is_not_shown():
    grid = Grid(1, 2, 2)
    vit = ViT(grid, 3, width=8, layers=2, heads=2).eval()
    one = torch.randint(256, (2, 4, 3), dtype=torch.uint8)
    other = one.clone()
    other[:, 2:] = 255 - other[:, 2:]
    where = torch.tensor([[0, 1], [1, 0]])
    shown = vit(one, where=where)
    torch.testing.assert_close(shown, vit(other, where=where))
    seen = torch.tensor([True, True, False, False]).expand(2, 4)
    masked = vit(one, seen=seen)  # the same by a mask, in the order of the places
    torch.testing.assert_close(masked[0, :2], shown[0])
    torch.testing.assert_close(masked[1, :2], shown[1].flip(0))
    assert not torch.allclose(vit(one)[:, :2], masked[:, :2], atol=1e-3)


def test_a_predictor_is_told_the_place_and_not_the_content():
    """Pitfall 7: the tokens at places that are asked for change nothing."""
    grid = Grid(1, 3, 3)
    predictor = MaskedPredictor(grid, 8, width=4, layers=2, heads=2, kinds=2).eval()
    tokens, hidden = torch.randn(1, 9, 8), torch.zeros(1, 9, dtype=torch.bool)
    hidden[:, [4, 7]] = True
    found = predictor.fill(tokens, hidden)
    other = torch.where(hidden[..., None], torch.randn(1, 9, 8), tokens)
    torch.testing.assert_close(predictor.fill(other, hidden), found)
    shown, asked = (~hidden).nonzero()[:, 1][None], torch.tensor([[7, 4]])
    told = predictor(take(tokens, shown), shown, asked)
    torch.testing.assert_close(told, found[:, [7, 4]])
    assert not torch.allclose(told[:, 0], told[:, 1], atol=1e-4)  # places differ
    with torch.no_grad():
        predictor.asking[1] += torch.randn(4)
    again = predictor(take(tokens, shown), shown, asked, kind=1)
    assert not torch.allclose(again, told, atol=1e-4)  # each kind has its own mask token


def test_a_sketch_keeps_distances():
    x = torch.randn(50, 2000) * torch.linspace(0, 1, 2000)
    sketch = Sketch(2000)
    assert sketch(x).shape == (50, 128)
    ratio = torch.pdist(sketch(x)) / torch.pdist(x)
    assert ratio.mean() == pytest.approx(1, abs=0.05)
    assert ratio.std() < 1.2 * (1 / 256) ** 0.5  # of the distance, not its square
    assert torch.equal(Sketch(40)(x[:, :40]), x[:, :40])
    assert torch.equal(Sketch(2000)(x), sketch(x))


# -- masks ----------------------------------------------------------------------------------------


def test_multiblock_masks_by_the_sheet():
    for _ in range(20):
        found = multiblock(PICTURE, 64, TARGET, CONTEXT, least=10)
        b, n, m = found.asked.shape
        assert (b, n) == (64, 4)
        assert 0.75 * 0.15 * 196 <= m <= 1.25 * 0.2 * 196  # whole patches round the area
        hidden = torch.zeros(64, 196, dtype=torch.bool).scatter(1, found.asked.flatten(1), True)
        if found.shown.shape[1] > 10:
            assert not hidden.gather(1, found.shown).any()
        assert all(len(set(row)) == len(row) for row in found.shown.tolist())
        rows, columns = found.asked // 14, found.asked % 14
        height = rows.amax(2) - rows.amin(2) + 1
        width = columns.amax(2) - columns.amin(2) + 1
        assert (height * width == m).all()  # blocks are whole rectangles
        assert len(set(found.asked[:, 0, 0].tolist())) > 20  # places are each row's own


def test_a_crowded_picture_still_shows_enough():
    found = multiblock(Grid(1, 4, 4), 200, Blocks(4, (0.5, 0.5), (1.0, 1.0)), CONTEXT, least=5)
    assert found.shown.shape == (200, 5)


def test_tubes_hide_a_place_at_every_moment():
    """Pitfall of the sheet: another moment must not show what is asked for."""
    grid = Grid(8, 14, 14)
    short = tubes(grid, 32, Blocks(8, (0.15, 0.15), (0.75, 1.5)), least=4)
    long = tubes(grid, 32, Blocks(2, (0.7, 0.7), (0.75, 1.5)), least=4)
    for found in (short, long):
        shown, asked = found.shown % grid.area, found.asked % grid.area
        assert found.shown.shape[1] % 8 == found.asked.shape[1] % 8 == 0
        for row in range(32):
            assert not set(shown[row].tolist()) & set(asked[row].tolist())
            assert set(shown[row, : len(shown[row]) // 8].tolist()) == set(shown[row].tolist())
    assert short.shown.shape[1] > long.shown.shape[1]
    assert long.shown.shape[1] < 0.35 * grid.size  # about 90% is hidden


def test_the_future_is_all_that_comes_later():
    cuts = set()
    for _ in range(30):
        found = future(Grid(4, 2, 3), 5)
        assert found.shown.max() < found.asked.min()
        assert found.shown.shape[1] + found.asked.shape[1] == 24
        cuts.add(found.shown.shape[1])
    assert cuts == {6, 12, 18}


def test_the_drawn_block_of_a_prediction_comes_from_its_generator():
    draw = [
        hidden_block(
            *(PICTURE, 7, Blocks(1, (0.15, 0.2), (0.75, 1.5))),
            torch.Generator().manual_seed(seed),
            torch.device("cpu"),
        )
        for seed in (0, 0, 1)
    ]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])
    assert (draw[0].sum(1) == draw[0].sum(1)[0]).all()
