"""World models on frozen encoders: rollouts, causality, the encoders, messages."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reverie.agent import RandomAgent
from reverie.core.check import check_world_model
from reverie.core.errors import BadCheckpoint, BadConfig, MissingExtra, ShapeMismatch, SpaceMismatch
from reverie.core.registry import recipe
from reverie.core.types import Batch, Box, Rollout
from reverie.data.fill import fill
from reverie.data.sample import gather
from reverie.data.store import Store
from reverie.envs.toy import TwoRooms
from reverie.learner import GradientLearner
from reverie.models.frozen import FrozenEncoder, TimmFrames, TransformersFrames, prepared
from reverie.models.vjepa2_ac import DINOWM, SCHOOLS, VJEPA2AC, FrozenWorldConfig
from reverie.planners.objective import GoalDistance, goal_of
from reverie.progress import Silent
from reverie.recipes import frozen as recipes
from reverie.recipes import jepa
from reverie.recipes.masked import CLIPS
from reverie.train import train

PICTURE = {"image": Box((1, 1, 2), 0, 255, "uint8")}
PLAIN = FrozenWorldConfig(normalise=False, history=2, block=2, leaps=2, width=8, layers=2)


class Pixels(FrozenEncoder):
    """Features are the two pixels of a picture."""

    grid, width = (1, 1), 2

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1)[:, None].float()


class Count(nn.Module):
    """The true predictor: each pixel moves by twice what was done."""

    def forward(self, z: Tensor, action: Tensor, n: Tensor) -> Tensor:
        assert (action[:, -1, :, 0] > 0).sum(-1).equal(n)  # nothing after the moment asked for
        return self.everywhere(z, action, n)[:, -1]

    def everywhere(self, z: Tensor, action: Tensor, n: Tensor) -> Tensor:
        del n
        return z + 2 * action.sum(2)


def walked(rows: int, steps: int) -> Batch:
    """Pixels that count what was done: 1 or 2 a step."""
    action = torch.randint(1, 3, (rows, steps, 2)) / 2
    place = torch.cat([torch.zeros(rows, 1, 2), 2 * action.cumsum(1)], 1)
    no = torch.zeros(rows, steps, dtype=torch.bool)
    obs = {"image": place.to(torch.uint8)[:, :, None, None]}
    return Batch(obs, action, None, no, no, ~no, torch.zeros(rows, steps + 1) > 0, {})


def rooms(path, episodes: int = 4) -> None:
    fill(
        *(path, lambda seed: TwoRooms(2, observe=("image",), seed=seed), RandomAgent(Box((2,)))),
        episodes=episodes,
        seed=0,
    )


@pytest.mark.parametrize("name", SCHOOLS)
def test_the_schools_keep_the_contract(name):
    assert len(check_world_model(SCHOOLS[name].small(), overfit_updates=0)) == 14


def test_the_rollout_is_judged_where_it_lands():
    """A published code once judged it one step off: with the true predictor all terms are 0."""
    model = VJEPA2AC(PLAIN, PICTURE, Box((2,)), Pixels()).eval()
    model.predictor = Count()
    data = walked(16, 6)
    terms = model._loss(data, None).terms
    assert [float(terms[k]) for k in ("teacher", "rollout", "inside", "earlier")] == [0.0] * 4
    moved = 2 * data.action[:, 2:4].sum(1).mean()
    assert float(terms["copy"]) == pytest.approx(float(moved))
    data.obs["image"][:, 5:] += 9  # only what two leaps in a row land on
    again = model._loss(data, None).terms
    assert float(again["rollout"]) == pytest.approx(9)
    assert float(again["teacher"]) == float(again["earlier"]) == 0
    data.mask[:, 4] = False  # and what lies behind a seam does not count
    assert float(model._loss(data, None).terms["rollout"]) == 0


@pytest.mark.parametrize("token", [True, False])
def test_the_predictor_is_causal_from_frame_to_frame(token):
    config = replace(PLAIN, token=token, history=3)
    predictor = VJEPA2AC(config, PICTURE, Box((2,)), Pixels()).predictor.eval()
    nn.init.normal_(predictor.leave.weight)
    z, action, full = torch.randn(2, 3, 2), torch.randn(2, 3, 2, 2), torch.tensor([2, 2])
    told = predictor.everywhere(z, action, full)
    torch.testing.assert_close(predictor(z, action, full), told[:, -1])
    late, done = z.clone(), action.clone()
    late[:, 2], done[:, 2] = 9.0, 9.0
    torch.testing.assert_close(predictor.everywhere(late, done, full)[:, :2], told[:, :2])
    done[:, 1] = 9.0
    changed = predictor.everywhere(z, done, full)
    torch.testing.assert_close(changed[:, :1], told[:, :1])
    assert not torch.allclose(changed[:, 1], told[:, 1], atol=1e-3)  # the action is heard


@torch.no_grad()
def test_normalised_predictions_stay_on_their_manifold():
    """Pitfall 8: after every step of a rollout each patch has mean 0 and deviation 1."""
    model = SCHOOLS["vjepa2_ac"].small().eval()
    nn.init.normal_(model.predictor.leave.weight)
    state = model.observe(
        None, None, model.encode({"image": torch.randint(256, (2, 3, 32, 32)).byte()})
    )
    for _ in range(3):
        state = model.predict(state, torch.ones(2, 2))
        patches = model.embed(state).unflatten(-1, (-1, model.encoder.width))
        assert patches.mean(-1).abs().max() < 1e-4
        assert patches.std(-1, unbiased=False).mean().item() == pytest.approx(1, abs=1e-2)


def test_only_the_predictor_learns():
    model = SCHOOLS["dino_wm"].small()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    learner, no = GradientLearner(model.parts()), torch.zeros(4, 3, dtype=torch.bool)
    image = torch.randint(256, (4, 4, 3, 32, 32), dtype=torch.uint8)
    first = torch.zeros(4, 4, dtype=torch.bool)
    data = Batch({"image": image}, torch.rand(4, 3, 2), None, no, no, ~no, first, {})
    for _ in range(3):
        learner.update(data)
    changed = {name for name, p in model.state_dict().items() if not torch.equal(p, before[name])}
    assert changed and all(name.startswith("predictor.") for name in changed)


def test_kept_features_are_what_the_encoder_sees(tmp_path):
    model = SCHOOLS["vjepa2_ac"].small().eval()
    rooms(tmp_path / "data")
    recipes.keep_features(model.encoder, tmp_path / "data", Silent())
    with Store.open(tmp_path / "data") as store:
        data = gather(store, np.array([0, 3, 60]), 3)
    assert data.obs["features"].shape == (3, 4, 4, 8)
    bare = data._replace(obs={"image": data.obs["image"]})
    kept = data._replace(obs={"features": data.obs["features"]})
    torch.manual_seed(1)
    wanted = model._loss(bare, None).total
    torch.manual_seed(1)
    torch.testing.assert_close(model._loss(kept, None).total, wanted)
    strange = data._replace(obs={"features": data.obs["features"][..., :3]})
    with pytest.raises(SpaceMismatch, match=r"reads 'features' of shape \(4, 8\), but .* \(4, 3\)"):
        model._loss(strange, None)


def test_what_cannot_be_is_one_sentence():
    model = SCHOOLS["vjepa2_ac"].small()
    small = {"image": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}
    with pytest.raises(SpaceMismatch, match=r"shape \(3, 32, 32\), but .* \(3, 16, 16\)"):
        goal_of(model, small)  # a goal of another shape
    state = model.observe(None, None, model.encode({"image": torch.zeros(2, 3, 32, 32).byte()}))
    seen = type(state)(*(torch.stack([x, x], 1) for x in state))
    with pytest.raises(ShapeMismatch, match=r"goals of 9 numbers, but the model's .* have 32"):
        GoalDistance(model.heads, torch.zeros(2, 9))(Rollout(seen, torch.zeros(2, 1, 2)))
    with pytest.raises(SpaceMismatch, match="V-JEPA 2-AC predicts under actions, but the world"):
        VJEPA2AC(PLAIN, PICTURE, None, Pixels())
    with pytest.raises(SpaceMismatch, match="DINO-WM reads 'image'"):
        DINOWM(PLAIN, {"vector": Box((3,))}, Box((2,)), Pixels())
    model = VJEPA2AC(PLAIN, PICTURE, Box((2,)), Pixels())
    with pytest.raises(ShapeMismatch, match=r"segments of 6 transitions .* but these have 5\."):
        model._loss(walked(2, 5), None)


# -- encoders of other libraries ------------------------------------------------------------------


@pytest.fixture
def library():
    """transformers, told that the hub is out of reach."""
    found = pytest.importorskip("transformers", reason="pip install 'reverie[transformers]'")
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    found.logging.disable_progress_bar()
    return found


def test_a_vjepa2_of_transformers_sees_each_frame_alone(library, tmp_path):
    config = library.VJEPA2Config(
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "crop_size": 16},
        **{"patch_size": 8, "frames_per_clip": 4, "tubelet_size": 2, "pred_hidden_size": 16},
        **{"pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 2},
    )
    library.VJEPA2Model(config).save_pretrained(tmp_path / "tiny")
    encoder = TransformersFrames(str(tmp_path / "tiny"))
    assert (encoder.grid, encoder.width) == ((2, 2), 32)
    image = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    found = encoder(image)
    assert found.shape == (3, 4, 32) and not found.requires_grad
    model = library.VJEPA2Model.from_pretrained(tmp_path / "tiny").eval()
    pixels = prepared(image, 16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        clip = torch.stack([pixels, pixels], 1)
        wanted = model(pixel_values_videos=clip, skip_predictor=True).last_hidden_state
    torch.testing.assert_close(found, wanted)
    with pytest.raises(BadConfig, match=r"patches of 8 x 8 pixels, but 20 x 20 do not"):
        TransformersFrames(str(tmp_path / "tiny"), side=20)


def test_a_dinov2_gives_its_patches_without_the_class_token(library, tmp_path):
    config = library.Dinov2Config(
        **{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2},
        **{"image_size": 28, "patch_size": 14},
    )
    library.Dinov2Model(config).save_pretrained(tmp_path / "tiny")
    encoder = TransformersFrames(str(tmp_path / "tiny"), side=42)
    assert (encoder.grid, encoder.width) == ((3, 3), 32)
    found = encoder(torch.randint(256, (2, 3, 20, 20), dtype=torch.uint8))  # resized
    assert found.shape == (2, 9, 32)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_dino_wm_learns_two_rooms_on_a_saved_encoder(library, tmp_path, monkeypatch):
    config = library.Dinov2Config(
        **{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2},
        **{"image_size": 32, "patch_size": 16},
    )
    library.Dinov2Model(config).save_pretrained(tmp_path / "tiny")
    _tiny(monkeypatch)
    run = recipe("dino_wm.two_rooms")(encoder=str(tmp_path / "tiny"), updates=2)
    train(run, tmp_path / "run", progress=Silent())
    assert [stage.name for stage in run.stages(tmp_path)] == ["collect", "model", "judge"]


def test_a_model_that_is_no_encoder_of_patches_is_refused(library, tmp_path):
    config = library.BertConfig(
        **{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
        **{"intermediate_size": 8, "vocab_size": 9},
    )
    library.BertModel(config).save_pretrained(tmp_path / "tiny")
    with pytest.raises(BadConfig, match="of kind 'bert', whose patch features are not known"):
        TransformersFrames(str(tmp_path / "tiny"))


def test_a_hub_name_that_cannot_be_reached_is_one_sentence(library):
    with pytest.raises(BadCheckpoint, match=r"'facebook/vjepa2-none' was asked for.* saved model"):
        TransformersFrames("facebook/vjepa2-none")


def test_a_backbone_of_timm_comes_from_a_folder(tmp_path):
    timm = pytest.importorskip("timm", reason="pip install 'reverie[timm]'")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes)
    model.pretrained_cfg["input_size"] = (3, 32, 32)
    timm.models.save_for_hf(model, str(tmp_path / "tiny"), model_args=sizes)
    encoder = TimmFrames(f"local-dir:{tmp_path / 'tiny'}")
    assert (encoder.grid, encoder.width) == ((4, 4), 32)
    image = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        wanted = model.eval().forward_features((image / 255 - 0.5) / 0.5)[:, 1:]
    torch.testing.assert_close(encoder(image), wanted)


@pytest.mark.parametrize(("name", "package"), [("any/model", "transformers"), ("timm:any", "timm")])
def test_a_missing_library_is_named_with_its_command(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'reverie\[{package}\]'"):
        recipe("dino_wm.two_rooms")(encoder=name)


# -- recipes --------------------------------------------------------------------------------------


def _tiny(monkeypatch):
    monkeypatch.setattr(jepa, "EPISODES", 3)
    monkeypatch.setattr(jepa, "JUDGED", 5)
    monkeypatch.setattr(recipes, "BATCH", 4)
    monkeypatch.setattr(recipes, "PLANNER", replace(recipes.PLANNER, samples=4, elites=2))


def test_from_collecting_to_the_judge(tmp_path, monkeypatch):
    _tiny(monkeypatch)
    thin = replace(CLIPS.networks, width=8, layers=1, heads=2, narrow=8, predictor_layers=1)
    monkeypatch.setattr(recipes, "ROOMS", replace(recipes.ROOMS, patch=16, networks=thin))
    run = recipe("vjepa2_ac.two_rooms")(seed=1, encoder_updates=2, updates=2)
    train(run, tmp_path, progress=Silent())
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    seen = list(dict.fromkeys(row["stage"] for row in rows))
    assert seen == ["encoder", "model", "judge"]
    value = json.loads((tmp_path / "evaluation.json").read_text())
    assert [score["name"] for score in value["scores"]] == ["planner", "random"]
    with Store.open(tmp_path / "data") as store:
        assert store.observations["features"].shape == (4, 8)
        image = torch.from_numpy(store.columns["obs.image"][5:6].copy())
        kept = torch.from_numpy(store.columns["obs.features"][5:6].copy())
    torch.testing.assert_close(run.model.encoder(image), kept)
