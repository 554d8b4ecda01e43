"""LeWorldModel as published: counts, causality, keys that are kept, short windows, frozen norms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from reverie.core import tree
from reverie.core.check import check_world_model
from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.types import Batch, Box, Discrete, Space
from reverie.models.blocks import Blocks
from reverie.models.jepa import NOTHING, PAPER, PIXELS, JEPAConfig, LeWorldModel
from reverie.nn.causal import CausalConfig, CausalPredictor
from reverie.nn.leap import ViTConfig, ViTEncoder
from reverie.planners.cem import CEM
from reverie.planners.objective import GoalDistance
from reverie.planners.score import Candidates

SIZES = CausalConfig(layers=2, heads=2, head=4, hidden=16, smooth=4)
THIN = replace(PAPER, latent=8, block=2, lr=2e-3, vit=ViTConfig(16, 8, 1, 2, 16), causal=SIZES)
VECTOR: dict[str, Space] = {"vector": Box((3,), -4.0, 4.0)}


def predictor(seed: int = 0) -> CausalPredictor:
    """Thin; K = 3, D = 8, blocks of 2 actions of 2 numbers; what leads the layers is not zero."""
    torch.manual_seed(seed)
    net = CausalPredictor(latent=8, action=2, history=3, block=2, config=SIZES)
    return led(net).eval()


def led(net: nn.Module) -> nn.Module:
    for name, weight in net.named_parameters():
        if "lead" in name:
            nn.init.normal_(weight, std=0.5)
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer)
    return net


def model(actions: Space = Box((2,))) -> LeWorldModel:  # noqa: B008
    torch.manual_seed(0)
    made = LeWorldModel(replace(THIN, vit=None, channels=()), VECTOR, actions)
    return led(made).eval()


def lived(world: LeWorldModel, steps: int, rows: int = 2):
    """States of an episode of so many steps, and what was done in it."""
    g = torch.Generator().manual_seed(steps)
    seen = torch.randn(rows, steps + 1, 3, generator=g)
    action = torch.rand(rows, steps, 2, generator=g) * 2 - 1
    state = world.observe(None, None, world.encode({"vector": seen[:, 0]}))
    for t in range(steps):
        state = world.observe(state, action[:, t], world.encode({"vector": seen[:, t + 1]}))
    return state


def test_the_published_sizes():
    """A ViT-Tiny of patch 16 with a head of 1000 classes has 5,717,416 weights everywhere."""
    vit = ViTEncoder((3, 224, 224), 192, ViTConfig(patch=16))
    body = sum(p.numel() for n, p in vit.named_parameters() if not n.startswith("project"))
    assert body + 192 * 1000 + 1000 == 5_717_416
    whole = LeWorldModel(PAPER, {"image": Box((3, 224, 224), 0, 255, "uint8")}, Box((2,)))
    count = {n: sum(p.numel() for p in part.parameters()) for n, part in whole.named_children()}
    head = sum(p.numel() for p in whole.predictor.project.parameters())
    assert count["encoder"] - head == pytest.approx(5.5e6, rel=0.01)  # "about 5M" and a projector
    assert count["predictor"] - head == pytest.approx(10.9e6, rel=0.01)  # "about 10M"
    assert sum(count.values()) == pytest.approx(18e6, rel=0.01)


def test_the_encoder_is_the_vit_of_transformers():
    library = pytest.importorskip("transformers")
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = library.ViTConfig(
        **sizes, intermediate_size=48, image_size=8, patch_size=4, layer_norm_eps=1e-5
    )
    theirs = library.ViTModel(config, add_pooling_layer=False).eval()
    ours = ViTEncoder((3, 8, 8), 5, ViTConfig(4, 12, 2, 3, 16)).eval()
    embedding = theirs.embeddings
    pairs = [
        (ours.embed.weight, embedding.patch_embeddings.projection.weight.flatten(1)),
        (ours.embed.bias, embedding.patch_embeddings.projection.bias),
        (ours.token, embedding.cls_token),
        (ours.place, embedding.position_embeddings[0]),
    ]
    for block, layer in zip(ours.blocks, theirs.layers, strict=True):
        three = [getattr(layer.attention, f"{name}_proj") for name in "qkv"]
        pairs += [(block.mix.weight, torch.cat([x.weight for x in three]))]
        pairs += [(block.out.weight, layer.attention.o_proj.weight)]
        pairs += [(block.mlp[0].weight, layer.mlp.fc1.weight)]
        pairs += [(block.mlp[2].weight, layer.mlp.fc2.weight)]
        for own in (block.mix, block.out, block.mlp[0], block.mlp[2]):
            nn.init.zeros_(own.bias)  # as theirs begin
    with torch.no_grad():
        embedding.position_embeddings.normal_()
        embedding.cls_token.normal_()
        for mine, given in pairs:
            mine.copy_(given)
    image = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    found = theirs(image / 127.5 - 1).last_hidden_state[:, 0]
    torch.testing.assert_close(ours.body(image), found)


def test_the_thin_instance_keeps_the_contract():
    assert len(check_world_model(LeWorldModel(THIN, PIXELS, Box((2,))), steps=6)) == 15


@pytest.mark.parametrize("actions", [Box((2,)), Discrete(3)])
def test_with_vectors_and_either_kind_of_action(actions):
    assert check_world_model(model(actions), steps=6)


def test_at_first_no_layer_does_anything():
    torch.manual_seed(0)
    net = CausalPredictor(latent=8, action=2, history=3, block=2, config=SIZES).eval()
    z, action, n = torch.randn(4, 3, 8), torch.randn(4, 3, 2, 2), torch.tensor([1, 2, 2, 1])
    wanted = net.project(net.norm(z + net.place)[:, -1])
    assert torch.equal(net(z, action, n), wanted)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_no_token_sees_what_comes_after_it(at):
    net, full = predictor(), torch.tensor([2, 2])
    z, action = torch.randn(2, 3, 8), torch.randn(2, 3, 2, 2)
    before = net.everywhere(z, action, full)
    for given in (z, action):
        changed = given.clone()
        changed[:, at] += torch.randn_like(changed[:, at])
        pair = (changed, action) if given is z else (z, changed)
        after = net.everywhere(*pair, full)
        assert torch.equal(after[:, :at], before[:, :at])
        assert ((after - before)[:, at:].abs().amax(-1) > 1e-6).all()  # and all later ones do


def test_windows_begin_at_the_first_place_however_short():
    """The newest f of three frames give what `everywhere` gives at the f-th of them alone."""
    net, n = predictor(), torch.tensor([2, 1])
    z, action = torch.randn(2, 3, 8), torch.randn(2, 3, 2, 2)
    for f in (1, 2, 3):
        short = torch.cat([z[:, 3 - f :], torch.randn(2, 3 - f, 8)], 1)
        done = torch.cat([action[:, 3 - f :], torch.randn(2, 3 - f, 2, 2)], 1)
        wanted = net.everywhere(short, done, torch.tensor([2, 2]))[:1, f - 1]
        found = net(z, action, n, torch.tensor([f, f]))
        torch.testing.assert_close(found[:1], wanted)
        assert not torch.allclose(found[1], net(z, action, n.flip(0), torch.tensor([f, f]))[1])


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 9])
def test_keys_that_are_kept_change_nothing(steps):
    """Blocks foreseen for all candidates at once are those of `predict`, step by step."""
    world = model()
    blocks, state = Blocks(world), lived(world, steps)
    plans = torch.rand(2, 5, 4, 4) * 2 - 1  # 5 candidates, 4 blocks of 2 actions of 2 numbers
    found = blocks.foresee(state, plans)
    walked, single = tree.repeat(state, 5), tree.repeat(state, 5)
    for t in range(4):
        block = plans[:, :, t].flatten(0, 1)
        walked = blocks.predict(walked, block)
        for action in block.unflatten(-1, (2, 2)).unbind(1):
            single = world.predict(single, action)
        for here, there, one in zip(tree.unstack(found, 5)[t + 1], walked, single, strict=True):
            torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(there, one)


def test_rows_of_different_age_are_planned_side_by_side():
    world = model()
    states = [lived(world, steps, 1) for steps in (0, 2, 7)]
    plans = torch.rand(3, 4, 3, 4) * 2 - 1
    found = Blocks(world).foresee(tree.cat(states), plans).z
    for i, state in enumerate(states):
        alone = Blocks(world).foresee(state, plans[i : i + 1]).z
        torch.testing.assert_close(found[4 * i : 4 * i + 4], alone)


def test_planning_moves_no_norm_and_no_candidate_sees_another():
    world = model()
    state, buffers = lived(world, 3), {n: b.clone() for n, b in world.named_buffers()}
    goal = GoalDistance(world.heads, torch.randn(2, 8), over="last")
    given = Candidates(Blocks(world), state, goal)
    plans = torch.rand(2, 6, 3, 4) * 2 - 1
    among = given.score(plans)
    torch.testing.assert_close(given.score(plans[:, 2:3]), among[:, 2:3])
    plan = CEM(horizon=3, samples=64, iterations=6, elites=8, std=1.0).plan(
        Blocks(world), state, goal, generator=torch.Generator().manual_seed(0)
    )
    assert plan.actions.shape == (2, 3, 4)
    assert (plan.score > among.amax(1)).all()
    assert all(torch.equal(b, buffers[n]) for n, b in world.named_buffers())


def test_every_frame_of_the_window_is_judged():
    """The world goes 0, 1, 2, 3 and all predictions are 0: 1, 4, 9, and 9 for the moment."""
    config = JEPAConfig(terms=NOTHING, latent=2, history=3, block=1, leaps=1, causal=SIZES)
    world = LeWorldModel(config, {"vector": Box((2,), -9.0, 9.0)}, Box((2,)))
    world.encoder = nn.Identity()
    for weight in world.predictor.project[-1].parameters():
        nn.init.zeros_(weight)
    place = torch.arange(4.0).view(1, 4, 1).expand(5, 4, 2)
    no, first = torch.zeros(5, 3, dtype=torch.bool), torch.zeros(5, 4, dtype=torch.bool)
    data = Batch({"vector": place}, torch.zeros(5, 3, 2), no.float(), no, no, ~no, first, {})
    assert world._loss(data, None).total.item() == pytest.approx((1 + 4 + 9 + 9) / 4)
    data.mask[:, 1] = False  # a seam: only the first step counts
    assert world._loss(data, None).total.item() == pytest.approx(1)


def test_what_cannot_be_is_one_sentence():
    with pytest.raises(BadConfig, match=r"patches of 14 x 14 pixels, but 32 x 32 do not divide"):
        LeWorldModel(PAPER, PIXELS, Box((2,)))
    with pytest.raises(BadConfig, match=r"reads pictures .* observation is of shape \(3,\)"):
        LeWorldModel(PAPER, VECTOR, Box((2,)))
    with pytest.raises(BadConfig, match="causal predictor, but this LeWorldModel has another"):
        Blocks(LeWorldModel(JEPAConfig(), VECTOR, Box((2,))))
    with pytest.raises(SpaceMismatch, match=r"in a Box of actions, not in Discrete\(n=3\)"):
        Blocks(model(Discrete(3)))
    world = model()
    inside = world.predict(lived(world, 2), torch.zeros(2, 2))
    with pytest.raises(BadConfig, match="but this state lies 1 steps inside one. Observe first"):
        Blocks(world).foresee(inside, torch.zeros(2, 1, 1, 4))
