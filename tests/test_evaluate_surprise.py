"""Violation of expectation: what cannot be surprises the true model, and damage blunts it."""

import pytest
import torch
from damaged import Lent, Noisy, Wrapped, by_name

from reverie.core.types import Box
from reverie.envs import rules
from reverie.envs.oracle import RoomState, TwoRooms
from reverie.envs.toy import WORLDS
from reverie.evaluate import surprise
from reverie.evaluate.fork import fork

PHYSICAL = {"surprise_teleport", "surprise_vanish", "surprise_wall"}


@pytest.fixture(scope="module")
def clips():
    return {pairs.name: pairs for pairs in surprise.two_rooms(60, context=3)}


@pytest.fixture(scope="module")
def held():
    def world(num_envs, seed):
        return WORLDS["two_rooms"](num_envs, seed=seed, observe=("image", "vector"))

    return fork(world, pairs=20, context=3, horizon=2).one


class Eyes(Wrapped):
    """The true model from pixels: the red dot's place and brightness, at `gray` of all channels."""

    def __init__(self, gray=False):
        super().__init__(TwoRooms())
        self.observations = {"image": Box((3, 32, 32), 0, 255, "uint8")}
        self.gray = gray

    def encode(self, obs):
        image = obs["image"].float()
        dot = image.amax(1) * (image.amax(1) > 140) if self.gray else image[:, 0]
        mass = dot.sum((1, 2)).clamp(min=1)
        at = torch.arange(32) + 0.5
        x, y = (dot.sum(1) * at).sum(1) / mass, (dot.sum(2) * at).sum(1) / mass
        blank = torch.zeros(len(x), 2)
        return RoomState(torch.stack([x, y], 1), blank, torch.full((len(x),), rules.DOOR))


def judged(model, held, edits=None, **kwargs):
    generator = torch.Generator().manual_seed(0)
    return by_name(surprise.measures(model, held, edits=edits, generator=generator, **kwargs))


def test_clips_are_true_until_their_last_frame(clips):
    """Played by the rules of the world; only then are they edited."""
    env = WORLDS["two_rooms"](60, observe=("image", "goal", "vector"))
    env.reset(seed=0)
    for pairs in clips.values():
        batch = pairs.past.batch
        env.position, env.goal = (
            batch.obs["vector"][:, 0, i : i + 2].numpy().copy() for i in (0, 2)
        )
        for t in range(3):
            seen = env.step(batch.action[:, t].numpy())[0]
            for name in ("vector", "image"):
                wanted = torch.from_numpy(seen[name]).float()
                off = (wanted - batch.obs[name][:, t + 1].float()).abs().max()
                assert off <= (1 if name == "image" else 1e-4)
        env.reset(seed=0)


def test_what_the_edits_break(clips):
    real = {name: pairs.past.batch.obs["image"][:, -1] for name, pairs in clips.items()}
    places = {name: pairs.past.batch.obs["vector"][:, -1, :2] for name, pairs in clips.items()}
    leap = clips["teleport"].edited["vector"][:, :2] - places["teleport"]
    assert (leap.norm(dim=1) >= 8).all()
    assert (clips["vanish"].edited["image"][:, 0] == 0).all()
    assert torch.equal(clips["vanish"].edited["image"][:, 1:], real["vanish"][:, 1:])
    assert (places["wall"][:, 0] == rules.WALL_RIGHT).all()  # it was stopped
    assert (clips["wall"].edited["vector"][:, 0] < rules.WALL_LEFT).all()
    assert torch.equal(clips["recolour"].edited["image"][:, 1], real["recolour"][:, 0])
    assert [name for name, pairs in clips.items() if pairs.nuisance] == ["recolour"]


def test_the_true_model_is_never_surprised_by_what_is_real(clips, held):
    found = judged(TwoRooms(), held, clips.values(), oracle=TwoRooms())
    assert set(found) == {"surprise_teleport", "surprise_wall"}  # numbers do not show the others
    for measure in found.values():
        assert tuple(measure.value) == tuple(measure.baselines["oracle"]) == (1, 1, 1)
    real, edited = surprise.surprise(TwoRooms(), clips["teleport"])
    assert real.max() < 1e-4 and edited.min() > 7


def test_with_eyes_it_sees_all_that_is_impossible(clips, held):
    found = judged(Eyes(), held, clips.values())
    assert set(found) == {*PHYSICAL, "surprise_recolour"}
    for name in PHYSICAL:
        assert found[name].value.value > 0.95 and found[name].better == "higher"
    assert found["surprise_recolour"].better == "lower"
    # red is what it looks for, so colours surprise it; who looks at brightness alone is not
    assert found["surprise_recolour"].value.value > 0.9
    gray = judged(Eyes(gray=True), held, clips.values())
    assert gray["surprise_recolour"].value.value < 0.6
    assert gray["surprise_teleport"].value.value > 0.95


@pytest.mark.parametrize("name", ["teleport", "wall"])
def test_more_damage_is_less_sure_of_the_impossible(clips, held, name):
    scores = [
        judged(Noisy(TwoRooms(), noise, ("position",)), held, [clips[name]])[
            f"surprise_{name}"
        ].value.value
        for noise in (0, 5, 15, 60)
    ]
    assert scores[0] == 1 and scores[-1] < 0.75
    assert scores == sorted(scores, reverse=True) and len(set(scores)) >= 3


def test_splices_need_no_rules(held):
    """The default: the next frame of another episode, a mean frame, other colours."""
    found = judged(Eyes(), held)
    assert set(found) == {"surprise_teleport", "surprise_vanish", "surprise_recolour"}
    assert found["surprise_teleport"].value.value > 0.9
    pairs = {p.name: p for p in surprise.splices(held)}
    batch = pairs["teleport"].past.batch
    assert torch.equal(batch.obs["vector"], held.batch.obs["vector"][:, :4])
    assert torch.equal(pairs["teleport"].edited["vector"], batch.obs["vector"][:, -1].roll(10, 0))


def test_without_an_embedding_nothing_is_surprising(clips, held):
    assert judged(Lent(TwoRooms(), embed=None, features=None), held, clips.values()) == {}
    assert judged(Lent(TwoRooms(), embed=None), held, [clips["teleport"]])  # features will do
