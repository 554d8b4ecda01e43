"""Sessions of the player without any network: hand-worked dreams, forks, histories and drivers."""

from __future__ import annotations

import io

import numpy as np
import player_parts as parts
import pytest
import test_recipes
import torch
from PIL import Image

from reverie.core import registry
from reverie.core.errors import BadConfig, BadData, ReverieError, SpaceMismatch, UnknownName
from reverie.core.types import Act, Box, Discrete
from reverie.data.episode import Episode
from reverie.data.store import Store
from reverie.envs import rules
from reverie.models import world_models_2018
from reverie.player import branches as history
from reverie.player import show
from reverie.player.album import Nearest
from reverie.player.hands import hands_of
from reverie.player.messages import Command, pack, parse, unpack
from reverie.player.pictures import encoded, uploaded
from reverie.player.session import Session
from reverie.player.subject import compose, subject_of
from reverie.player.together import together
from reverie.progress import Silent
from reverie.recipes import world_models_2018 as stages
from reverie.train import train


def do(session, word, **fields):
    session.obey(Command(word, fields))


def steps(session, count, action=None):
    """Hold an action for so many steps of this session alone."""
    do(session, "act", action=action, n=0)
    for _ in range(count):
        together(session.subject, [session])


def seen(session):
    header, pictures = unpack(show.frame(session))
    return header, pictures


def levels(session, branch=0):
    """The brightness at every moment that a branch keeps."""
    return [int(m.state.x) for m in session.branches.get(branch).moments]


# -- dream beside reality --------------------------------------------------------------------------


def test_dream_and_world_part_by_the_drift_and_it_is_shown():
    session = Session(parts.subject(parts.Lamp(drift=3.0), world=lambda _: parts.LampWorld()), 0)
    steps(session, 4, action=2)
    header, pictures = seen(session)
    assert header["t"] == 4
    dream, real = pictures[header["branches"][0]["picture"]], pictures[header["real"]["picture"]]
    assert (dream == 10 + 4 * 5).all() and (real == 10 + 4 * 2).all()
    assert header["real"]["pixel"] == 12 and header["real"]["apart"] == 12
    assert (pictures[header["real"]["difference"]] == 24).all()  # twice as bright
    assert header["real"]["reward"] == 2 and header["branches"][0]["reward"] == 5


def test_waking_up_puts_the_dream_where_reality_is():
    session = Session(parts.subject(parts.Lamp(drift=3.0), world=lambda _: parts.LampWorld()), 0)
    steps(session, 4, action=2)
    do(session, "wake")
    assert levels(session)[-1] == 18
    assert seen(session)[0]["real"]["pixel"] == 0
    steps(session, 1, action=0)
    assert levels(session)[-1] == 21


def test_after_its_end_reality_stands_still_and_the_dream_goes_on():
    session = Session(parts.subject(world=lambda _: parts.LampWorld(last=2)), 0)
    steps(session, 5, action=1)
    header, pictures = seen(session)
    assert "ended" in header["real"]["over"] and header["real"]["pixel"] is None
    assert (pictures[header["real"]["picture"]] == 12).all()
    assert levels(session) == [10, 11, 12, 13, 14, 15]


def test_a_world_that_breaks_does_not_end_the_dream():
    session = Session(parts.subject(world=lambda _: parts.LampWorld(breaks=2)), 0)
    steps(session, 4, action=1)
    header, _ = seen(session)
    assert header["real"] is None and "OSError" in header["why"]
    assert levels(session) == [10, 11, 12, 13, 14]


def test_a_recording_is_beside_the_dream_while_the_same_is_done():
    session = Session(parts.subject(parts.Lamp(drift=1.0)), 0)
    do(session, "begin", episode=0, step=2)  # then 2, 2, 2 were recorded
    do(session, "drive", who="recording")
    steps(session, 2)
    header, pictures = seen(session)
    assert (pictures[header["real"]["picture"]] == 15).all() and header["real"]["pixel"] == 2
    assert header["recorded"]
    do(session, "drive", who="you")
    steps(session, 1, action=0)
    header, _ = seen(session)
    assert header["real"] is None and "something else" in header["why"]


def test_a_recording_that_ends_gives_the_hand_back():
    session = Session(parts.subject(), 0)
    do(session, "begin", episode=0, step=4)
    do(session, "drive", who="recording")
    steps(session, 3)
    header, _ = seen(session)
    assert header["driver"] == "you" and "no next action" in header["notices"][0]
    assert seen(session)[0]["notices"] == []


def test_without_world_and_data_the_dream_begins_in_grey():
    session = Session(parts.subject(episodes=[]), 0)
    assert levels(session) == [127]
    assert "grey" in seen(session)[0]["why"]


# -- forks, time, memory ---------------------------------------------------------------------------


def test_two_branches_go_two_ways_and_the_old_one_keeps_its_action():
    session = Session(parts.subject(), 0)
    steps(session, 2, action=1)
    do(session, "fork")
    steps(session, 3, action=2)
    assert levels(session, 0) == [10, 11, 12, 13, 14, 15]
    assert levels(session, 1) == [10, 11, 12, 14, 16, 18]
    header, pictures = seen(session)
    assert [int(pictures[b["picture"]][0, 0, 0]) for b in header["branches"]] == [15, 18]
    assert header["branches"][1]["fork"] == 2 and header["selected"] == 1


def test_another_key_in_the_past_is_a_fork_and_no_key_is_a_replay():
    session = Session(parts.subject(), 0)
    steps(session, 6, action=1)
    do(session, "act", action=None, n=1)
    do(session, "seek", time=2)
    together(session.subject, [session])
    assert (len(session.branches.all), session.branches.time) == (1, 3)
    steps(session, 2, action=2)
    assert levels(session, 1) == [10, 11, 12, 13, 15, 17]
    assert levels(session, 0) == [10, 11, 12, 13, 14, 15, 16]  # as it was
    do(session, "select", branch=0)
    steps(session, 3, action=None)
    assert session.branches.time == 6 and len(session.branches.all) == 2


def test_a_branch_that_ended_earlier_stands_still():
    session = Session(parts.subject(), 0)
    steps(session, 2, action=1)
    do(session, "fork")
    do(session, "select", branch=0)
    steps(session, 3, action=1)
    do(session, "select", branch=1)
    assert session.branches.time == 5
    do(session, "seek", time=3)
    do(session, "fork")
    steps(session, 1, action=2)
    do(session, "select", branch=0)
    do(session, "seek", time=5)
    frozen = {b["id"]: b["frozen"] for b in seen(session)[0]["branches"]}
    assert frozen == {0: False, 1: False, 2: True}


def test_branches_are_limited_closed_and_refused():
    session = Session(parts.subject(), 0)
    for _ in range(history.MOST - 1):
        do(session, "fork")
    with pytest.raises(BadData, match="4 branches are open.*Close one"):
        do(session, "fork")
    do(session, "close", branch=3)
    assert session.branches.selected == 0
    with pytest.raises(BadData, match="The first branch has reality beside it"):
        do(session, "close", branch=0)
    with pytest.raises(BadData, match="There is no branch 9"):
        do(session, "select", branch=9)


def test_history_is_a_ring_and_says_where_it_begins(monkeypatch):
    monkeypatch.setattr(history, "LONGEST", 5)
    session = Session(parts.subject(), 0)
    steps(session, 12, action=1)
    header, _ = seen(session)
    assert (header["first"], header["end"], header["keep"]) == (8, 12, 5)
    assert levels(session) == [18, 19, 20, 21, 22]
    do(session, "seek", time=0)
    assert session.branches.time == 8 and not session.playing


def test_heavy_states_leave_fewer_moments():
    light, heavy = torch.zeros(1, 10), torch.zeros(1, 2**20)  # 4 MB
    keep = [history.room(history.Moment((x,), history.Glimpse())) for x in (light, heavy)]
    assert keep[0] == history.LONGEST
    assert keep[1] * history.MOST * 2 * 4 * 2**20 <= history.BYTES


def test_a_kept_moment_does_not_keep_the_batch():
    found = parts.subject()
    sessions = [Session(found, i) for i in range(8)]
    for session in sessions:
        do(session, "act", action=1, n=0)
    together(found, sessions)
    state = sessions[0].branches.steered.moments[-1].state
    assert state.x.untyped_storage().nbytes() == 4


# -- many at once ----------------------------------------------------------------------------------


def test_all_steps_are_predicted_in_one_call_and_nobody_notices_the_others():
    model = parts.Lamp()
    found = parts.subject(model)
    sessions = [Session(found, i) for i in range(3)]
    do(sessions[1], "fork")
    for i, session in enumerate(sessions):
        do(session, "act", action=i, n=0)
    model.calls.clear()
    together(found, sessions)
    together(found, sessions)
    assert model.calls == [4, 4]
    assert [levels(session)[-1] for session in sessions] == [10, 10, 14]
    assert levels(sessions[1], 1) == [10, 11, 12]


def test_temperatures_are_kept_apart_and_given_back():
    model = world_models_2018.small().eval()
    found = compose("wm", "", model, None, episodes=[])
    cold, hot = Session(found, 0), Session(found, 0)
    do(cold, "temperature", value=0.05)
    do(hot, "temperature", value=2.0)
    for session in (cold, hot):
        do(session, "uncertain", on=True)
        do(session, "act", action=1, n=0)
    spreads = {id(cold): [], id(hot): []}
    for _ in range(30):
        together(found, [cold, hot])
        for session in (cold, hot):
            spreads[id(session)].append(session.branches.steered.moments[-1].spread)
    assert model.temperature == 1.0
    # The noise grows with the root of the temperature: about 6.3 times.
    assert np.mean(spreads[id(hot)]) > 3 * np.mean(spreads[id(cold)])


def test_the_spread_of_guesses_is_that_of_the_noise():
    session = Session(parts.subject(parts.Lamp(noise=2.0)), 0)
    do(session, "uncertain", on=True)
    steps(session, 300, action=0)
    variance = np.mean([m.spread**2 for m in list(session.branches.steered.moments)[1:]])
    assert variance == pytest.approx(2.0**2 / 2, rel=0.1)  # one of two numbers is noisy
    do(session, "uncertain", on=False)
    steps(session, 1, action=0)
    assert session.branches.steered.moments[-1].spread is None


def test_a_model_without_a_temperature_says_so():
    with pytest.raises(BadData, match="no temperature"):
        do(Session(parts.subject(), 0), "temperature", value=1.0)


# -- who acts --------------------------------------------------------------------------------------


def test_without_an_idle_action_the_dream_waits():
    session = Session(parts.subject(), 0)
    for _ in range(3):
        assert together(session.subject, [session]) == []
    assert session.waiting and session.branches.time == 0
    do(session, "act", action=2, n=7)
    do(session, "act", action=None, n=8)  # let go before the step came: the tap still counts
    for _ in range(3):
        together(session.subject, [session])
    assert levels(session) == [10, 12] and session.waiting
    assert seen(session)[0]["n"] == 8


def test_the_agent_sees_the_dream_as_if_it_were_the_world():
    class Thermostat:
        """Brightens up to 20."""

        def initial(self, batch):
            return 0

        def act(self, carry, obs, first, *, explore=False, generator=None):
            assert bool(first[0]) == (carry == 0)
            assert obs["image"].dtype == torch.uint8
            dark = obs["image"].flatten(1)[:, 0] < 20
            return carry + 1, Act(torch.where(dark, 2, 0), {})

    session = Session(parts.subject(agent=Thermostat()), 0)
    do(session, "drive", who="agent")
    steps(session, 8)
    assert levels(session) == [10, 12, 14, 16, 18, 20, 20, 20, 20]


def test_the_models_own_policy_acts_and_is_shown():
    class Sure(parts.Lamp):
        """Knows that the lamp should be brightened by one."""

        @property
        def heads(self):
            probs = torch.tensor([0.0, 1.0, 0.0])
            policy = torch.distributions.Categorical(probs=probs)
            return super().heads._replace(policy=lambda s: policy.expand(s.x.shape))

    session = Session(parts.subject(Sure()), 0)
    do(session, "drive", who="policy")
    steps(session, 3)
    assert levels(session) == [10, 11, 12, 13]
    assert seen(session)[0]["branches"][0]["policy"] == [0, 1, 0]


def test_the_planner_walks_the_grid_to_its_goal_and_shows_what_it_weighed():
    session = Session(subject_of("toy/grid"), 3)
    grid = rules.GridMap()
    do(session, "drive", who="planner")
    torch.manual_seed(0)
    together(session.subject, [session])
    plan = unpack(show.frame(session))[0]["plan"]
    assert len(plan["scores"]) == 4 and plan["scores"][0] == max(plan["scores"])
    assert unpack(show.frame(session))[0]["plan"] is None  # told once
    for _ in range(20):
        together(session.subject, [session])
    assert grid.goal[int(session.branches.steered.moments[-1].state.cell)]


def test_the_planner_heads_for_a_real_frame_that_is_its_goal():
    found = compose(
        "rooms",
        "",
        registry.instance("toy/two_rooms"),
        None,
        environment="toy/two_rooms",
        episodes=[_room(8, 8), _room(8, 24)],
    )
    session = Session(found, 0)
    do(session, "begin", episode=0, step=0)
    do(session, "goal", episode=1, step=0)
    do(session, "drive", who="planner")
    steps(session, 20)
    place = session.branches.steered.moments[-1].state.position[0]
    assert (place - torch.tensor([8.0, 24.0])).norm() < 2 * rules.REACH


def _room(x, y):
    vector = np.array([[x, y, 30, 30, rules.DOOR]] * 2, np.float32)
    off = np.zeros(1, bool)
    return Episode({"vector": vector}, np.zeros((1, 2), np.float32), None, off, off)


def test_who_cannot_act_is_refused_before_anything_changes():
    session = Session(parts.subject(episodes=[]), 0)
    with pytest.raises(BadConfig, match="Nobody called 'agent' can act here: you, planner can"):
        do(session, "drive", who="agent")
    assert session.driver.who == "you"


# -- what is played --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*registry.names("oracle"), *registry.names("model")])
def test_every_registered_model_can_be_played(name):
    found = subject_of(name)
    session = Session(found, 0)
    for word in found.drivers:
        do(session, "drive", who=word)
        steps(session, 1, action=found.hands.action(found.hands.array(None)))
    header, pictures = seen(session)
    assert header["t"] >= 1 and header["notices"] == []
    row = header["branches"][0]
    assert row["picture"] is not None or row["vector"] is not None
    if row["picture"] is not None:
        assert pictures[row["picture"]].dtype == np.uint8
    session.close()


def tiny_run():
    return stages.run_of(test_recipes.tiny())


def test_a_trained_run_is_played_with_its_world_its_data_and_its_agent(tmp_path, monkeypatch):
    for name, few in (("STARTS", 20), ("CONTEXT", 3), ("JUDGED", 5), ("SPREAD", 0.0)):
        monkeypatch.setattr(stages, name, few)
    monkeypatch.setitem(registry._PATHS["recipe"], "tiny", f"{__name__}:tiny_run")
    train(tiny_run(), tmp_path, progress=Silent())
    found = subject_of(str(tmp_path))
    assert list(found.drivers) == ["you", "agent", "planner", "recording"]
    assert len(found.album) == 5  # those that were played when it was judged
    assert found.hands.keys[0].label == "push left"
    session = Session(found, 0)
    for who in ("agent", "planner", "recording"):
        do(session, "drive", who=who)
        steps(session, 2)
        header, pictures = seen(session)
        assert header["driver"] == who and header["notices"] == []
    assert header["real"]["pixel"] > 0 and header["real"]["apart"] > 0
    real = pictures[header["real"]["picture"]]
    played = Store.open(tmp_path / "played")[_episode(session)].obs["image"]
    np.testing.assert_array_equal(real, played[2])
    session.close()


def _episode(session):
    """Which of the album's episodes a session has beside it, found by its first frame."""
    first = session.branches.get(0).moments[0].real.picture
    album = session.subject.album
    return next(i for i in range(len(album)) if (album.frame(i, 0) == first).all())


def test_an_oracle_agrees_with_its_world():
    session = Session(subject_of("toy/two_rooms"), 5)
    rng = np.random.default_rng(0)
    for _ in range(40):
        steps(session, 1, action=tuple(rng.uniform(-1, 1, 2)))
        header, _ = seen(session)
        assert header["real"]["pixel"] < 0.1 and header["real"]["apart"] < 1e-3


def test_a_state_without_pictures_is_shown_by_the_nearest_real_one():
    pictures = np.stack([parts.picture(x) for x in (0, 100, 200)])
    album = Nearest(pictures, np.array([[0.0, 0], [5, 0], [9, 9]]))
    assert (album.of(np.array([4.0, 1])) == 100).all()
    cart = subject_of("cartpole")
    if cart.nearest is not None:  # its pictures need an extra
        session = Session(cart, 0)
        header, drawn = seen(session)
        assert header["branches"][0]["alike"] and drawn[0].shape == (3, 96, 96)


def test_an_unknown_name_lists_what_can_be_played():
    with pytest.raises(UnknownName, match="no run .* at 'toy/nothing'.*toy/two_rooms"):
        subject_of("toy/nothing")


def test_hands_know_what_actions_do():
    doom = hands_of(Discrete(3), "doom/take_cover")
    assert doom.idle == 1 and doom.keys[0].keys[:2] == ("ArrowLeft", "a")
    codes = hands_of(Discrete(8), None, learned=True)
    assert codes.idle is None and codes.keys[7].label == "code 7" and codes.keys[7].keys == ("8",)
    many = hands_of(Discrete(40), None)
    assert len({key for k in many.keys for key in k.keys}) == 36 and len(many.keys) == 40
    car = hands_of(Box((3,)), "CarRacing-v3")
    assert car.idle == (0.0, -1.0, -1.0) and len(car.keys) == 4
    assert car.array(None).tolist() == [0, -1, -1]
    plain = hands_of(Box((2, 3)), None)
    assert plain.size == 6 and plain.array((1, 0, 0, 0, 0, -1)).shape == (2, 3)


# -- messages and pictures -------------------------------------------------------------------------


def test_frames_survive_the_wire():
    rng = np.random.default_rng(0)
    given = [rng.integers(0, 256, (3, h, w), dtype=np.uint8) for h, w in ((4, 5), (1, 1), (7, 2))]
    header, pictures = unpack(pack({"a": float("nan"), "b": [1.23456789]}, given))
    assert header["a"] is None and header["b"] == [1.23457]
    for one, other in zip(given, pictures, strict=True):
        np.testing.assert_array_equal(one, other)


HANDS = {
    "d": hands_of(Discrete(3), None),
    "b": hands_of(Box((2,)), None),
    "n": hands_of(None, None),
}


def test_commands_that_are_right_come_through():
    assert parse('{"do":"act","action":2,"n":1}', HANDS["d"]).fields == {"action": 2, "n": 1}
    assert parse('{"do":"act","action":[1,-0.5],"n":1}', HANDS["b"]).fields["action"] == (1, -0.5)
    assert parse('{"do":"act","action":null,"n":0}', HANDS["n"]).fields["action"] is None
    assert parse('{"do":"begin","episode":null,"step":3}', HANDS["d"]).do == "begin"


@pytest.mark.parametrize(
    ("hands", "text", "match"),
    [
        ("d", "", "cannot be read"),
        ("d", "[" * 4000, "cannot be read"),
        ("d", "x" * 5000, "at most 4096 bytes"),
        ("d", "\u00e9" * 3000, "at most 4096 bytes"),
        ("d", "[]", "a JSON object with a word"),
        ("d", '{"do":5}', "a JSON object with a word"),
        ("d", '{"do":"explode"}', "no command of that name"),
        ("d", '{"do":"fork","x":1}', "exactly the fields"),
        ("d", '{"do":"act","action":3,"n":0}', "below 3"),
        ("d", '{"do":"act","action":true,"n":0}', "below 3"),
        ("d", '{"do":"act","action":1.0,"n":0}', "below 3"),
        ("d", '{"do":"act","action":1,"n":-1}', "whole number from 0"),
        ("d", '{"do":"act","action":1,"n":1e999}', "whole number from 0"),
        ("d", '{"do":"rate","value":NaN}', "cannot be read"),
        ("d", '{"do":"rate","value":1e400}', "a number from 1 to 60"),
        ("d", '{"do":"rate","value":true}', "a number from 1 to 60"),
        ("d", '{"do":"play","on":1}', "true or false"),
        ("d", '{"do":"drive","who":"root"}', "one of you"),
        ("d", '{"do":"seek","time":' + "9" * 3000 + "}", "whole number from 0"),
        ("b", '{"do":"act","action":[1],"n":0}', "a list of 2 numbers"),
        ("b", '{"do":"act","action":[1,2],"n":0}', "a number from -1 to 1"),
        ("n", '{"do":"act","action":0,"n":0}', "nothing acts here"),
    ],
)
def test_commands_that_are_wrong_are_refused(hands, text, match):
    with pytest.raises(BadData, match=match):
        parse(text, HANDS[hands])


def png(colour, size=(30, 20), kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def test_a_dream_begins_in_an_uploaded_picture():
    session = Session(parts.subject(), 0)
    pixels = uploaded(png((77, 77, 77)), session.subject.model)
    assert pixels.shape == parts.SHAPE
    session.upload(pixels)
    steps(session, 1, action=2)
    assert levels(session) == [77, 79]
    assert "your picture" in seen(session)[0]["why"]


def test_an_upload_is_cut_around_its_middle():
    picture = Image.new("RGB", (300, 100), (255, 0, 0))
    picture.paste((0, 255, 0), (75, 0, 225, 100))  # the middle, of the model's 6:4
    file = io.BytesIO()
    picture.save(file, "PNG")
    pixels = uploaded(file.getvalue(), parts.Lamp())
    assert (pixels[1] == 255).all() and (pixels[0] == 0).all()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "not a picture"),
        (b"GIF89a" + bytes(50), "not a picture"),
        (png((1, 2, 3))[:60], "not a picture"),
        (png((1, 2, 3), (8000, 8000)), "pixels here"),
        (png((1, 2, 3), kind="BMP"), "Send one of PNG"),
        (bytes(5 << 20), "at most 4194304 bytes"),
    ],
    ids=["empty", "torn gif", "torn png", "bomb", "other kind", "huge"],
)
def test_uploads_that_cannot_be_used_are_refused(data, match):
    with pytest.raises(BadData, match=match):
        uploaded(data, parts.Lamp())


def test_an_upload_for_a_model_that_reads_numbers_is_refused():
    with pytest.raises(SpaceMismatch, match="reads vector.*Begin from a real frame"):
        uploaded(png((1, 2, 3)), registry.instance("toy/two_rooms"))


def test_a_film_shows_dream_and_reality_and_opens_elsewhere():
    session = Session(parts.subject(parts.Lamp(drift=9.0), world=lambda _: parts.LampWorld()), 0)
    steps(session, 7, action=1)
    frames = show.film(session)
    assert frames.shape == (8, 3, 4, 12)
    assert (frames[-1, :, :, :6] == 80).all() and (frames[-1, :, :, 6:] == 17).all()
    with Image.open(io.BytesIO(encoded(frames, "gif", 24.0))) as file:
        assert file.n_frames == 8 and file.height >= 256
    av = pytest.importorskip("av", reason="mp4 needs the extra 'video'")
    with av.open(io.BytesIO(encoded(frames, "mp4", 24.0))) as file:
        drawn = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(drawn) == 8
    assert abs(float(drawn[-1][:, : drawn[-1].shape[1] // 3].mean()) - 80) < 4


def test_numbers_alone_make_no_film():
    session = Session(subject_of("toy/clock"), 0)
    with pytest.raises(BadData, match="made of numbers alone"):
        show.film(session)


def test_every_refusal_is_one_that_a_person_can_mend():
    session = Session(parts.subject(), 0)
    for word, fields in (
        ("begin", {"episode": 9, "step": 0}),
        ("begin", {"episode": 0, "step": 99}),
        ("goal", {"episode": 0, "step": 99}),
        ("wake", {}),
    ):
        before = levels(session)
        if word == "wake":
            do(session, "fork")
        with pytest.raises(ReverieError, match=r"\. \w.*|Only the first branch"):
            do(session, word, **fields)
        assert levels(session) == before
