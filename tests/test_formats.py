"""Every format brings the clock world back as it was: nothing shifted, no end mistaken."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from clock_data import CONTINUOUS, DISCRETE, SPACES, continuous, episodes, play, right, same

from reverie.core.errors import BadConfig, BadData, MissingExtra, UnknownName
from reverie.core.types import Box, Discrete
from reverie.data.bounds import Bounds
from reverie.data.episode import Episode
from reverie.data.formats import registry
from reverie.data.formats.format import ColumnMap
from reverie.data.formats.registry import FORMATS, detect, open_source
from reverie.data.schema import Schema
from reverie.data.source import Stored
from reverie.data.store import Store

WRITTEN = [name for name, form in FORMATS.items() if form.write]
NEEDS = {"minari": "minari", "lerobot": "pyarrow", "hdf5": "h5py", "hdf5_flat": "h5py"}
LOSSY = {"lerobot": ("image",)}


def write(name, path, schema, found):
    pytest.importorskip(NEEDS.get(name, "numpy"))
    if name == "lerobot":
        pytest.importorskip("av")
    FORMATS[name].write(path, schema, iter(found))
    return path


@pytest.mark.parametrize("name", WRITTEN)
def test_the_clock_survives(name, tmp_path):
    played = episodes()
    source = open_source(write(name, tmp_path / "data", DISCRETE, played))
    assert len(source) == len(played) == 11
    assert source.schema == DISCRETE and source.notes == ()
    for i, episode in enumerate(played):
        found = source[i]
        right(found, pixels=1 if name in LOSSY else 0)
        same(found, episode, lossy=LOSSY.get(name, ()))
    ends = [(bool(source[i].terminated[-1]), bool(source[i].truncated[-1])) for i in range(11)]
    assert ends == [(True, False), *[(False, True)] * 7, (True, False), *[(False, False)] * 2]
    same(source[-1], played[10], lossy=LOSSY.get(name, ()))
    with pytest.raises(IndexError):
        source[11]


@pytest.mark.parametrize("name", WRITTEN)
def test_actions_that_are_numbers_survive_bit_by_bit(name, tmp_path):
    played = [continuous(episode) for episode in episodes()]
    source = open_source(write(name, tmp_path / "data", CONTINUOUS, played))
    for i, episode in enumerate(played):
        right(source[i], pixels=1 if name in LOSSY else 0)
        same(source[i], episode, lossy=LOSSY.get(name, ()))


@pytest.mark.parametrize("name", WRITTEN)
def test_the_worlds_own_range_is_kept(name, tmp_path):
    bounds = Bounds((-2.0, 0.0), (2.0, 8.0))
    schema = dataclasses.replace(CONTINUOUS, bounds=bounds)
    played = [continuous(episode) for episode in episodes()]
    source = open_source(write(name, tmp_path / "data", schema, played))
    assert source.schema.bounds == bounds
    for i, episode in enumerate(played):
        np.testing.assert_allclose(source[i].action, episode.action, atol=1e-6)
        # t / 8 of [-1, 1] is t / 4 of [-2, 2], and -t / 8 is 4 - t / 2 of [0, 8]
        hours = np.arange(len(episode))
        world = np.stack([hours / 4, 4 - hours / 2], 1)
        np.testing.assert_allclose(bounds.to_world(source[i].action), world, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in WRITTEN if n != "minari"])
def test_video_and_silence_survive(name, tmp_path):
    """Neither actions nor rewards; both ends at once, where the last step was also the limit."""
    schema = Schema.of(SPACES, None, {}, rewards=False)
    played = [dataclasses.replace(e, action=None, reward=None, extra={}) for e in episodes()]
    both = np.arange(8) == 7
    played.append(dataclasses.replace(played[0], terminated=both, truncated=both))
    source = open_source(write(name, tmp_path / "data", schema, played))
    for i, episode in enumerate(played):
        right(source[i], pixels=1 if name in LOSSY else 0)
        same(source[i], episode, lossy=LOSSY.get(name, ()))


@pytest.mark.parametrize("name", ["store", "npz", "hdf5", "hdf5_flat", "minari"])
def test_odd_kinds_survive(name, tmp_path):
    """Observations of other dtypes and shapes, images of 4 channels, a counted observation."""
    spaces = {
        "planes": Box((4, 10, 12), 0.0, 255.0, "uint8"),
        "grid": Box((2, 3), -1e9, 1e9, "float64"),
        "on": Box((2,), 0.0, 1.0, "bool"),
        "state": Discrete(7),
    }
    rng = np.random.default_rng(0)
    count, no = 6, np.zeros(5, bool)
    obs = {
        "planes": rng.integers(0, 256, (count, 4, 10, 12)).astype(np.uint8),
        "grid": rng.normal(size=(count, 2, 3)),
        "on": rng.random((count, 2)) < 0.5,
        "state": rng.integers(0, 7, count),
    }
    reward = rng.normal(size=5).astype(np.float32)
    episode = Episode(obs, rng.integers(0, 3, 5), reward, no, no.copy())
    schema = Schema.of(spaces, Discrete(3), {}, rewards=True)
    source = open_source(write(name, tmp_path / "data", schema, [episode, episode]))
    assert source.schema == schema
    same(source[1], episode)


def test_lossy_images_stay_close(tmp_path):
    """Random smooth pictures of 64 x 64 through H.264 keep at least 40 dB."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (41, 3, 8, 8)).astype(np.uint8)
    image = np.stack([np.kron(frame, np.ones((1, 8, 8), np.uint8)) for frame in coarse])
    no = np.zeros(40, bool)
    episode = Episode({"image": image}, np.zeros(40, np.int64), np.zeros(40, "f4"), no, no.copy())
    space = {"image": Box((3, 64, 64), 0.0, 255.0, "uint8")}
    schema = Schema.of(space, Discrete(2), {}, rewards=True)
    found = open_source(write("lerobot", tmp_path / "data", schema, [episode]))[0].obs["image"]
    error = ((found.astype(float) - image) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 40


def test_gray_and_odd_pictures_go_through_video(tmp_path):
    space = {"image": Box((1, 15, 17), 0.0, 255.0, "uint8")}
    shades = (np.arange(6) * 40)[:, None, None, None]
    image = (np.zeros((6, 1, 15, 17)) + shades).astype(np.uint8)
    no = np.zeros(5, bool)
    episode = Episode({"image": image}, None, None, no, no.copy())
    path = write(
        "lerobot", tmp_path / "data", Schema.of(space, None, {}, rewards=False), [episode] * 3
    )
    for i in range(3):
        found = open_source(path)[i].obs["image"]
        assert found.shape == image.shape
        assert np.abs(found.astype(int) - image).max() <= 1


def test_images_are_averaged_on_request(tmp_path):
    path = write("npz", tmp_path / "data", DISCRETE, episodes())
    source = open_source(path, size=4)
    assert source.schema.observations["image"] == Box((3, 4, 4), 0.0, 255.0, "uint8")
    assert source.schema.actions == Discrete(8) and len(source) == 11
    assert source[0].obs["image"].shape == (9, 3, 4, 4)
    right(source[0])
    plain = Schema.of({"vector": SPACES["vector"]}, Discrete(8), {}, rewards=True)
    bare = dataclasses.replace(play(8), obs={"vector": play(8).obs["vector"]}, extra={})
    path = write("npz", tmp_path / "plain", plain, [bare])
    with pytest.raises(BadConfig, match=r"has \['vector'\], 0 of which are images"):
        open_source(path, size=4)


# --- finding and refusing -------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITTEN)
def test_formats_are_found_by_what_is_inside(name, tmp_path):
    path = write(name, tmp_path / "things.misleading", DISCRETE, episodes()[:2])
    assert detect(path).name == ("hdf5" if name == "hdf5_flat" else name)


def test_an_unknown_format_lists_all_and_what_brings_them(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadData) as caught:
        detect(tmp_path)
    for name, form in FORMATS.items():
        assert f"{name} ({form.title}" in str(caught.value)
    assert "pip install 'reverie[data]'" in str(caught.value)
    with pytest.raises(BadData, match=r"asked for at .*nowhere, but nothing is there"):
        detect(tmp_path / "nowhere")
    with pytest.raises(UnknownName, match="Did you mean minari"):
        registry.named("minary")


def test_a_missing_library_is_one_command(tmp_path, monkeypatch):
    for name, package in {"hdf5": "h5py", "minari": "minari", "lerobot": "pyarrow"}.items():
        path = write(name, tmp_path / name, DISCRETE, episodes()[:2])
        with monkeypatch.context() as patch:
            for loaded in [m for m in sys.modules if m.split(".")[0] == package]:
                patch.delitem(sys.modules, loaded)
            patch.setitem(sys.modules, package, None)
            assert detect(path).name == name  # finding needs no library
            with pytest.raises(MissingExtra, match=r"pip install 'reverie\[data\]'"):
                open_source(path)


def test_what_can_only_be_read_is_not_written():
    with pytest.raises(BadConfig, match=r"Format video can only be read. Write one of: store"):
        registry.writable("video")


def test_minari_has_no_place_for_silence(tmp_path):
    schema = Schema.of(SPACES, None, {}, rewards=False)
    with pytest.raises(BadData, match=r"always has actions and rewards.*Choose store, npz"):
        write("minari", tmp_path / "data", schema, [])


def test_what_lerobot_cannot_hold_is_said(tmp_path):
    schema = Schema.of({"image": Box((4, 8, 8), 0, 255, "uint8")}, None, {}, rewards=False)
    with pytest.raises(BadData, match=r"images of one or three channels here. Choose store"):
        write("lerobot", tmp_path / "data", schema, [])


@pytest.mark.parametrize("name", ["npz", "hdf5_flat"])
def test_names_that_mean_something_else_are_refused(name, tmp_path):
    schema = Schema.of({"reward": Box((1,))}, None, {}, rewards=False)
    with pytest.raises(BadData, match="'reward' was to be written as"):
        write(name, tmp_path / "data", schema, [])


def test_derived_observations_are_read_as_if_recorded(tmp_path):
    with Store.create(tmp_path / "s", {"vector": Box((1,), 0, 8)}, Discrete(8)) as store:
        store.append(
            dataclasses.replace(play(8), obs={"vector": play(8).obs["vector"]}, extra={}, info={})
        )
        store.add_observations({"twice": Box((1,))}, lambda x: {"twice": 2 * x["vector"]})
    source = Stored(Store.open(tmp_path / "s"))
    assert source.schema.derived == ()
    path = write("npz", tmp_path / "data", source.schema, [source[0]])
    assert open_source(path)[0].obs["twice"][3] == 6


def test_a_damaged_note_is_said(tmp_path):
    path = write("npz", tmp_path / "data", DISCRETE, episodes()[:2])
    (path / "reverie.json").write_text('{"schema": 3}')
    with pytest.raises(BadData, match="note about .* is damaged"):
        open_source(path)


# --- what the user says ---------------------------------------------------------------------------


def test_a_mapping_file(tmp_path):
    told = {"observations": {"vector": ["a", "b"]}, "reward": None, "action_row": "led"}
    (tmp_path / "map.json").write_text(json.dumps(told))
    columns = ColumnMap.load(tmp_path / "map.json")
    assert columns.observations == {"vector": ("a", "b")}
    assert columns.reward == "" and columns.action is None and columns.action_row == "led"
    with pytest.raises(BadConfig, match="mapping has no field rewards. It has: episodes, lengths"):
        ColumnMap.of({"rewards": "r"})
    with pytest.raises(BadConfig, match="action_row of a mapping is 'taken' or 'led', not 'after'"):
        ColumnMap.of({"action_row": "after"})
    with pytest.raises(BadConfig, match=r"observations of a mapping is \{modality: column\}"):
        ColumnMap.of({"observations": ["a"]})
    with pytest.raises(BadConfig, match="cannot be read"):
        ColumnMap.load(tmp_path / "none.json")


def test_bounds():
    assert Bounds.of([-1, -1], [1, 1]) is None
    bounds = Bounds.of([0.0], [10.0])
    assert bounds.from_world(np.array([[0.0], [5.0], [10.0]])).tolist() == [[-1], [0], [1]]
    assert bounds.to_world(np.array([[-1.0], [0.5]])).tolist() == [[0], [7.5]]
    assert Bounds.from_json(bounds.to_json()) == bounds
    with pytest.raises(BadData, match="low < high for each element"):
        Bounds((0.0, 1.0), (1.0, 1.0))
