"""I-JEPA and V-JEPA: the contract, the sheet's pitfalls, the recipes, and bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from reverie.agent import RandomAgent
from reverie.core.check import check_world_model
from reverie.core.errors import BadConfig, BadData, ShapeMismatch, SpaceMismatch
from reverie.core.registry import recipe
from reverie.core.types import Batch, Box, Discrete
from reverie.data.fill import fill
from reverie.data.sample import Sampler
from reverie.data.store import Store
from reverie.envs.toy import Sprites
from reverie.evaluate import sprites
from reverie.imagine import rollout
from reverie.learner import GradientLearner
from reverie.models import ijepa, vjepa
from reverie.models.ijepa import IJEPA, PIXELS, IJEPAConfig
from reverie.models.vjepa import VJEPA, VJEPAConfig
from reverie.nn.masked import MaskedConfig, normalised, signs
from reverie.nn.vit import Grid, cut
from reverie.progress import Silent
from reverie.recipes import masked as recipes
from reverie.train import train

THIN = MaskedConfig(16, 1, 2, 8, 1, 2, momentum=0.9, momentum_updates=10)


def pictures(rows: int, frames: int) -> Batch:
    image = torch.randint(256, (rows, frames, 3, 32, 32), dtype=torch.uint8)
    no = torch.zeros(rows, frames - 1, dtype=torch.bool)
    return Batch({"image": image}, None, None, no, no, ~no, torch.zeros(rows, frames) > 0, {})


@pytest.mark.parametrize("school", [ijepa, vjepa])
def test_they_keep_the_contract(school):
    assert len(check_world_model(school.small(), overfit_updates=60)) == 15


# -- pitfalls -------------------------------------------------------------------------------------


@pytest.mark.parametrize("school", [ijepa, vjepa])
def test_targets_have_no_gradient_no_learned_scale_and_come_from_the_slow_copy(school):
    """Pitfall 2."""
    model = school.small()
    with torch.no_grad():
        for p in model.masked.target.parameters():
            p.mul_(1.5)
    values = model.masked.encoder.embed.in_features
    pixels = torch.randint(256, (2, model.grid.size, values), dtype=torch.uint8)
    found = model.masked.targets(pixels)
    assert not found.requires_grad
    assert found.mean(-1).abs().max() < 1e-5
    assert found.var(-1, unbiased=False).mean() == pytest.approx(1, abs=1e-3)
    assert not torch.allclose(found, normalised(model.masked.encoder(pixels)), atol=1e-2)


def test_the_momentum_rises_to_one_and_the_copy_stands_still():
    """Pitfalls 3 and 4: .9 at first, 1 after ten updates, on a line."""
    masked = ijepa.IJEPA(IJEPAConfig(patch=8, networks=THIN, least=4), PIXELS).masked
    weight, slow = masked.encoder.embed.weight, masked.target.copy.embed.weight
    with torch.no_grad():
        slow.zero_()
        weight.fill_(1.0)
    masked.follow()
    assert float(slow[0, 0]) == pytest.approx(1 - 0.91)  # momentum .9 + .1 * 1 / 10
    for _ in range(9):
        masked.follow()
    before = slow.clone()
    masked.follow()
    assert torch.equal(slow, before) and float(before[0, 0]) < 1
    assert masked.state_dict()["updates"] == 11  # a resumed run goes on from there


def test_a_predictor_that_knows_has_no_loss_and_a_seam_does_not_count():
    """The error is that of the places asked for: an oracle of the targets gets exactly 0."""
    model = VJEPA(VJEPAConfig(patch=8, frames=4, networks=THIN, least=2, still=0.0), PIXELS)
    data = pictures(6, 4)
    wanted = model.masked.targets(cut(data.obs["image"], model.grid))

    class Knows(nn.Module):
        def forward(self, tokens, where, asked, *, kind=0):
            return wanted.gather(1, asked[..., None].expand(-1, -1, 16))

    model.masked.predictor = Knows()
    found = model._loss(data, None).terms
    assert [float(found[name]) for name in ("short", "long", "future")] == [0.0] * 3
    wanted = wanted + torch.tensor([1.0] * 5 + [7.0])[:, None, None]
    data.mask[5, 1] = False
    found = model._loss(data, None).terms
    assert [float(found[n]) for n in ("short", "long", "future")] == pytest.approx([1.0] * 3)


def test_features_that_tell_the_place_alone_ring_the_alarm():
    """Pitfall 1: a deviation over all tokens would look healthy."""
    grid, rows = Grid(1, 3, 3), torch.ones(64, dtype=torch.bool)
    place = torch.randn(9, 8)
    collapsed = (place + 0.001 * torch.randn(64, 2, 9, 8)).flatten(1, 2)
    assert collapsed.std() > 0.5
    assert signs(collapsed, grid, rows)["std"] < 0.01
    assert signs(torch.randn(64, 18, 8), grid, rows)["std"] > 0.9


def test_without_a_slow_copy_it_collapses_and_the_alarm_sees_it():
    """Momentum 0 is no slow copy at all: soon features tell the place alone."""
    networks = replace(THIN, momentum=0.0, momentum_updates=10**6)
    config = IJEPAConfig(patch=8, networks=networks, least=4)
    model = IJEPA(replace(config, optim=config.optim._replace(lr=1e-2)), PIXELS)
    learner, frames = GradientLearner(model.parts()), sprites.clips(32, 2, seed=1).frames
    batch = pictures(32, 2)._replace(obs={"image": frames[:, 0].contiguous()})
    stds = [float(learner.update(batch)["model/std"]) for _ in range(80)]
    assert stds[-1] < stds[0] / 2


def test_centred_targets_are_what_is_special_to_a_clip():
    """What all clips share at a place goes, and only training moves what that is."""
    networks = replace(THIN, centred=True)
    masked = IJEPA(IJEPAConfig(patch=8, networks=networks, least=4), PIXELS).masked.train()
    pixels = torch.randint(256, (64, 16, 192), dtype=torch.uint8)
    bare = normalised(masked.target(pixels))
    found = masked.targets(pixels)  # the first batch gives the mean
    assert bare.mean(0).abs().mean() > 0.3 > 3 * found.mean(0).abs().mean()
    masked.eval()
    kept = masked.centre.clone()
    masked.targets(pixels[:3])
    assert torch.equal(masked.centre, kept)


# -- prediction -----------------------------------------------------------------------------------


def test_ijepa_tells_hidden_places_without_looking_at_them():
    model = ijepa.small().eval()
    one = model.encode({"image": torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)})
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[:, [5, 6]] = True
    other = one.pixels.clone()
    other[:, [5, 6]] = 255 - other[:, [5, 6]]
    told = model.predict(one, None, z=hidden)
    again = model.predict(ijepa.State(other, one.tokens), None, z=hidden)
    torch.testing.assert_close(told.tokens, again.tokens)
    assert torch.equal(told.tokens[:, 0], one.tokens[:, 0])
    assert not torch.allclose(told.tokens[:, 5], one.tokens[:, 5], atol=1e-2)
    with pytest.raises(ShapeMismatch, match=r"z must have shape \(2, 16\), but it has \(2, 9\)"):
        model.predict(one, None, z=hidden[:, :9])


def test_vjepa_looks_no_further_than_its_clip():
    """F = 4 in tubelets of 2: two steps ahead are told from two frames; then features stay."""
    model = vjepa.small().eval()
    frames = torch.randint(256, (1, 6, 3, 32, 32), dtype=torch.uint8)
    state = model.observe(None, None, frames[:, 0])
    for t in range(1, 5):
        state = model.observe(state, None, frames[:, t])
    assert torch.equal(state.frames, frames[:, 1:5])
    states = rollout(model, state, None, horizon=4).states
    assert states.ahead[0].tolist() == [0, 1, 2, 2, 2]
    assert not torch.allclose(states.tokens[:, 1], states.tokens[:, 2], atol=1e-3)
    torch.testing.assert_close(states.tokens[:, 2], states.tokens[:, 3])
    after = model.observe(type(state)(*(x[:, 2] for x in states)), None, frames[:, 5])
    wanted = frames[:, [4, 4, 4, 5]]  # the two moments that nobody looked at stood still
    assert torch.equal(after.frames, wanted)


def test_vjepa_foresees_from_what_is_not_hidden():
    """One step ahead the newest tubelet is hidden: its seen frame must not leak."""
    model = vjepa.small().eval()
    frames = torch.randint(256, (1, 4, 3, 32, 32), dtype=torch.uint8)
    other = frames.clone()
    other[:, -1] = 255 - other[:, -1]
    tokens, ahead = torch.zeros(1, 16, 16), torch.zeros(1, dtype=torch.int64)
    told = [model.predict(vjepa.State(x, tokens, ahead), None).tokens for x in (frames, other)]
    torch.testing.assert_close(*told)


# -- sprites --------------------------------------------------------------------------------------


def test_a_probe_reads_the_truth_and_nothing_from_noise():
    shown = sprites.clips(40, 3, seed=5)
    assert shown.frames.shape == (40, 6, 3, 3, 32, 32)
    assert all(x.value > 0.99 for x in sprites.probed(shown.truth, shown.truth).values())
    noise = sprites.probed(torch.randn(40, 6, 4), shown.truth)
    assert noise["place"].value < 0.05 and noise["identity"].value == pytest.approx(0.25, abs=0.12)


def test_impossible_frames_differ_from_real_ones_where_the_shape_is():
    teleport, vanish = sprites.impossible(30, context=4, seed=3)
    real = teleport.past.batch.obs["image"]
    assert real.shape == (30, 5, 3, 32, 32)
    assert torch.equal(real, vanish.past.batch.obs["image"])
    area = (vanish.edited["image"] != real[:, -1]).any(1).sum((1, 2))  # the shape and its soft rim
    assert area.min() > 60 and area.max() < 130
    moved = (teleport.edited["image"] != real[:, -1]).any(1).sum((1, 2))
    assert (moved > 1.1 * area).all()


# -- recipes and bad input ------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(recipes, "EPISODES", 6)
    monkeypatch.setattr(recipes, "PROBED", 8)
    monkeypatch.setattr(recipes, "PAIRS", 6)
    monkeypatch.setattr(recipes, "BATCH", 4)


@pytest.mark.parametrize("name", ["ijepa", "vjepa"])
def test_from_collecting_to_the_judge(name, few, tmp_path):
    run = recipe(name)(seed=1, updates=2)
    train(run, tmp_path, progress=Silent())
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"model/std", "model/rank", "model/motion"} <= set(rows[0])
    judged = {key.partition("/")[2] for row in rows for key in row if key.startswith("finish/")}
    surprises = {"surprise at teleport", "surprise at vanish"} if name == "vjepa" else set()
    assert judged == {"place", "velocity", "identity"} | surprises


def test_folders_of_mp4_are_learned_from(few, tmp_path):
    av = pytest.importorskip("av")
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(2):
        with av.open(str(folder / f"{i}.mp4"), "w") as file:
            stream = file.add_stream("mpeg4", rate=10, width=48, height=48, pix_fmt="yuv420p")
            for _ in range(9):
                picture = np.random.default_rng(i).integers(256, size=(48, 48, 3), dtype=np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode())
    run = recipe("vjepa")(data=str(folder), side=32, updates=1)
    train(run, tmp_path / "run", progress=Silent())
    assert run.model.observations["image"].shape == (3, 32, 32)
    assert run.world is None


def test_bad_input_is_one_sentence(tmp_path):
    with pytest.raises(BadConfig, match=r"I-JEPA cuts .* patches of 5 x 5 pixels, but 32 x 32"):
        IJEPA(IJEPAConfig(patch=5), PIXELS)
    with pytest.raises(BadConfig, match="2 frames in tubelets of 2 are one moment"):
        VJEPA(VJEPAConfig(frames=2), PIXELS)
    with pytest.raises(SpaceMismatch, match=r"V-JEPA reads 'image' .* but found .*vector"):
        VJEPA(VJEPAConfig(), {"vector": Box((3,))})
    with pytest.raises(ShapeMismatch, match=r"4 frames \(3 transitions\), but these have 3"):
        vjepa.small()._loss(pictures(2, 3), None)
    fill(
        *(tmp_path / "data", lambda seed: Sprites(2, seed=seed), RandomAgent(Discrete(1))),
        episodes=2,  # of 24 steps
        seed=0,
    )
    long = Sampler(Store.open(tmp_path / "data"), 2, 31, packed=False, prefetch=0)
    with pytest.raises(BadData, match=r"31 transitions were asked for, but .* has none"):
        next(long)  # a window longer than an episode
