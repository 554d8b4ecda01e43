"""Converting: whole or absent, one episode in memory, and a model can draw from all of it."""

import argparse
import dataclasses
import errno
import json
import logging
import os
import signal
import time
import weakref

import numpy as np
import pytest
from clock_data import CONTINUOUS, DISCRETE, HOURS, continuous, episodes, play, right, same
from PIL import Image

from reverie import data_cli
from reverie.core.errors import BadConfig, BadData, SpaceMismatch, StorageFull, UnknownName
from reverie.core.types import Box, Discrete
from reverie.data import convert as convert_module
from reverie.data.bounds import Bounds
from reverie.data.convert import check_spaces, convert, open_data, parts_of, split
from reverie.data.formats.registry import FORMATS, detect, open_source
from reverie.data.sample import Sampler
from reverie.data.schema import Schema
from reverie.data.sheet import contact_sheet
from reverie.data.source import Subset
from reverie.data.stats import measure
from reverie.data.store import Store
from reverie.data.validate import validate
from reverie.progress import Lines


def npz(path, found=None, schema=DISCRETE):
    FORMATS["npz"].write(path, schema, iter(found or episodes()))
    return path


def nothing_beside(path):
    return [p.name for p in path.parent.iterdir() if p.name.startswith(f".{path.name}")] == []


# --- convert --------------------------------------------------------------------------------------


def test_convert_says_what_it_did(tmp_path):
    done = convert(npz(tmp_path / "a"), tmp_path / "deep" / "b")
    assert (done.source, done.target, done.episodes) == ("npz", "store", 11)
    assert done.steps == sum(len(e) for e in episodes()) and done.notes == ()
    assert done.size == sum(f.stat().st_size for f in (tmp_path / "deep/b").iterdir())
    store = Store.open(tmp_path / "deep" / "b", writable=True)
    assert store.report == ""
    store.append(episodes()[0])  # it goes on growing as any store
    for i, episode in enumerate(episodes()):
        same(store[i], episode)
    assert nothing_beside(tmp_path / "deep" / "b")


def test_the_targets_name_or_the_user_picks_the_format(tmp_path):
    pytest.importorskip("h5py")
    assert convert(npz(tmp_path / "a"), tmp_path / "b.hdf5").target == "hdf5"
    assert detect(tmp_path / "b.hdf5").name == "hdf5"
    assert convert(tmp_path / "b.hdf5", tmp_path / "c", to="npz").target == "npz"
    with pytest.raises(UnknownName, match="There is no format 'zarr'"):
        convert(tmp_path / "a", tmp_path / "d", to="zarr")
    with pytest.raises(BadConfig, match="Format video can only be read"):
        convert(tmp_path / "a", tmp_path / "d", to="video")
    with pytest.raises(BadData, match="something is there. Remove it, or choose another path"):
        convert(tmp_path / "a", tmp_path / "c")
    assert not (tmp_path / "d").exists()


def test_what_a_format_loses_is_said(tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("pyarrow")
    done = convert(npz(tmp_path / "a"), tmp_path / "b", to="lerobot")
    assert done.notes == ("Images are written as H.264 video, which is not lossless.",)


def test_progress_is_told(tmp_path, capsys):
    convert(npz(tmp_path / "a"), tmp_path / "b", progress=Lines())
    assert "convert 11/11 (100%)" in capsys.readouterr().out


def test_a_bad_episode_leaves_nothing(tmp_path):
    played = [continuous(e) for e in episodes()]
    played[7] = dataclasses.replace(played[7], action=played[7].action * 30)
    path = npz(tmp_path / "a", played, CONTINUOUS)
    for to in ("store", "npz"):
        with pytest.raises(BadData, match=r"Episode 7: action must lie in \[-1.0, 1.0\], but it"):
            convert(path, tmp_path / "b", to=to)
        assert not (tmp_path / "b").exists() and nothing_beside(tmp_path / "b")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    path = npz(tmp_path / "a")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(convert_module, "_sync", full)
    with pytest.raises(StorageFull, match="nothing was written there"):
        convert(path, tmp_path / "b")
    assert not (tmp_path / "b").exists() and nothing_beside(tmp_path / "b")


def test_one_episode_at_a_time_is_in_memory(tmp_path, monkeypatch):
    path = npz(tmp_path / "a", [play(8, number=i) for i in range(30)])
    alive, most = [], 0

    class Watched:
        def __init__(self, source):
            self.source, self.schema, self.notes = source, source.schema, ()

        def __len__(self):
            return len(self.source)

        def __getitem__(self, i):
            nonlocal most
            most = max(most, sum(ref() is not None for ref in alive))
            episode = self.source[i]
            alive.append(weakref.ref(episode))
            return episode

    opened = convert_module.registry.open_source
    monkeypatch.setattr(
        convert_module.registry, "open_source", lambda *a, **k: Watched(opened(*a, **k))
    )
    for name in ("store", "npz", "hdf5", "hdf5_flat", "minari", "lerobot"):
        if name not in {"store", "npz"}:
            pytest.importorskip("minari")
            pytest.importorskip("av")
        alive.clear()
        convert(path, tmp_path / name, to=name)
        assert len(alive) == 30
    assert most <= 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("to", ["store", "npz", "hdf5_flat"])
def test_a_convert_that_is_killed_leaves_the_target_absent_or_whole(to, tmp_path):
    if to.startswith("hdf5"):
        pytest.importorskip("h5py")
    path = npz(tmp_path / "a", [play(8, number=i) for i in range(40)])
    target, begun = tmp_path / "b", time.perf_counter()
    convert(path, target, to=to)
    took = time.perf_counter() - begun
    seen = set()
    rng = np.random.default_rng(0)
    for share in (*rng.uniform(0, 1.2, 8), 20):
        convert_module._remove(target)
        child = os.fork()
        if not child:
            try:
                convert(path, target, to=to)
            finally:
                os._exit(0)
        time.sleep(0.01 + took * share)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        seen.add(target.exists())
        if target.exists():
            source = open_source(target)
            assert len(source) == 40
            same(source[39], play(8, number=39))
    assert seen == {True, False}
    convert_module._remove(target)
    convert(path, target, to=to)
    assert nothing_beside(target)  # what killed runs left is swept up


# --- split ----------------------------------------------------------------------------------------


def test_parts_share_no_episode_and_lose_none(tmp_path):
    path = npz(tmp_path / "a", [play(8, number=i) for i in range(20)])
    counts = split(path, tmp_path / "b", {"train": 0.7, "test": 0.3}, seed=3)
    assert counts == {"train": 14, "test": 6}
    numbers = {
        part: [e.info["number"] for e in Store.open(tmp_path / "b" / part)] for part in counts
    }
    assert sorted(numbers["train"] + numbers["test"]) == list(range(20))
    assert numbers["train"] == sorted(numbers["train"]) != list(range(14))
    assert parts_of(20, {"train": 0.7, "test": 0.3}, 3) == numbers
    assert parts_of(20, {"train": 0.7, "test": 0.3}, 4) != numbers
    assert nothing_beside(tmp_path / "b")


def test_shares_that_cannot_be_are_refused(tmp_path):
    path = npz(tmp_path / "a")
    for fractions, words in [
        ({"train": 0.7, "test": 0.2}, "sum to 1, but these are"),
        ({"train": 1.5, "test": -0.5}, "above 0"),
        ({"../train": 0.5, "test": 0.5}, "a part was to be named '../train'|A part was"),
        ({"train": 0.99, "test": 0.01}, "Part test would hold none of 11 episodes"),
    ]:
        with pytest.raises(BadConfig, match=words):
            split(path, tmp_path / "b", fractions)
    assert not (tmp_path / "b").exists()


# --- a model trains from it -----------------------------------------------------------------------


def test_a_sampler_draws_from_any_format(tmp_path, caplog):
    pytest.importorskip("h5py")
    path, targets = npz(tmp_path / "a"), ["store", "hdf5", "hdf5_flat"]
    stores = [convert(path, tmp_path / f"b{i}", to=to).target for i, to in enumerate(targets)]
    assert stores == ["store", "hdf5", "hdf5_flat"]
    for name in ("a", "b0", "b1", "b2"):
        with caplog.at_level(logging.WARNING):
            store = open_data(tmp_path / name)
        sampler = Sampler(store, 32, 5, seed=1, prefetch=0)
        for _ in range(3):
            batch = next(sampler)
            hour = batch.obs["vector"][..., 0]
            real = batch.mask
            assert (batch.action[real] == hour[:, :-1][real]).all()
            assert (batch.reward[real] == 10 * hour[:, :-1][real]).all()
            assert (hour[:, 1:][real] == hour[:, :-1][real] + 1).all()
            assert (batch.obs["image"][..., 0, 0, 0] == 25 * hour).all()
        sampler.close()
    text = caplog.text
    assert (
        "a (npz, " in text
        and "converted once to the store" in text
        and " kB), which may be deleted" in text
    )
    assert "b0 (" not in text  # a store is opened as it is
    assert not (tmp_path / "b0.store").exists()


def test_what_was_converted_is_opened_again_until_the_data_changes(tmp_path, monkeypatch):
    path = npz(tmp_path / "a")
    first = open_data(path)
    assert first.path == tmp_path / "a.store" and len(first) == 11
    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "_make", lambda *_: pytest.fail("converted again"))
        assert len(open_data(path)) == 11
    small = open_data(path, size=4)
    assert small.path == tmp_path / "a.store4"
    assert small.observations["image"] == Box((3, 4, 4), 0.0, 255.0, "uint8")
    assert open_data(tmp_path / "a.store", size=4).path == tmp_path / "a.store.store4"
    elsewhere = open_data(path, cache=tmp_path / "c" / "kept")
    assert elsewhere.path == tmp_path / "c" / "kept" and len(elsewhere) == 11
    convert_module._remove(path)
    npz(path, episodes()[:4])
    assert len(open_data(path)) == 4
    assert nothing_beside(tmp_path / "a.store")
    (tmp_path / "d").mkdir()
    with pytest.raises(BadData, match="but something else is there. Name another folder"):
        open_data(path, cache=tmp_path / "d")


def test_a_world_that_does_not_fit_is_one_sentence(tmp_path):
    store = open_data(npz(tmp_path / "a"))
    check_spaces(store, {"vector": Box((1,))}, Discrete(HOURS), "toy/clock")
    check_spaces(store, {"image": Box((3, 16, 16), 0, 255, "uint8")}, None, "film")
    with pytest.raises(
        SpaceMismatch, match=r"toy/x shows 'vector' of shape \(4,\), but .* has \(1"
    ):
        check_spaces(store, {"vector": Box((4,))}, None, "toy/x")
    with pytest.raises(SpaceMismatch, match=r"'depth' .* has nothing there \(it has \['image'"):
        check_spaces(store, {"depth": Box((4,))}, None, "toy/x")
    with pytest.raises(SpaceMismatch, match=r"takes actions Discrete\(n=3\), but .* Discrete\(n=8"):
        check_spaces(store, {"vector": Box((1,))}, Discrete(3), "toy/x")
    with pytest.raises(SpaceMismatch, match=r"takes actions of shape \(2,\), but"):
        check_spaces(store, {"vector": Box((1,))}, Box((2,)), "toy/x")


def test_the_range_that_nobody_told_is_taken_from_the_data(tmp_path):
    """Torques of -3..5 and a still element: mapped into [-1, 1], and back."""
    world = np.stack([np.linspace(-3, 5, 9), np.full(9, 2.0)], 1).astype("f4")
    obs = np.arange(9, dtype="f4")[:, None]
    path = tmp_path / "a"
    path.mkdir()
    np.savez(path / "e.npz", vector=obs, action=world, is_first=np.arange(9) == 0)
    store = open_data(path)
    assert store.schema.bounds == Bounds((-3.0, 1.0), (4.0, 3.0))  # the last row is no action
    action = store[0].action
    assert action[0].tolist() == [-1, 0] and action[-1].tolist() == [1, 0]
    np.testing.assert_allclose(store.schema.bounds.to_world(action), world[:-1], atol=1e-6)
    assert any("[-1, 1] stands for what the data holds" in n for n in open_source(path).notes)


# --- looking at it --------------------------------------------------------------------------------


def test_statistics_by_hand(tmp_path):
    source = open_source(npz(tmp_path / "a", [play(8), play(3), play(8, cut=5)]))
    found = measure(source)
    assert found.lengths.tolist() == [8, 3, 5]
    assert found.returns.tolist() == [280, 30, 100]  # 10 (0 + ... + 7), 10 (0 + 1 + 2), ...
    assert found.ends == {"terminated": 1, "truncated": 1, "cut": 1}
    assert found.actions.tolist() == [[3, 3, 3, 2, 2, 1, 1, 1]]
    assert found.success == (3, 2)
    hours = np.concatenate([np.arange(9), np.arange(4), np.arange(6)])
    vector = found.columns["obs.vector"]
    assert vector.count == 19 and vector.mean == pytest.approx(hours.mean())
    assert vector.std == pytest.approx(hours.std()) and vector.high.tolist() == [8]
    image = found.columns["obs.image"]
    assert image.mean == pytest.approx([25 * hours.mean()] * 3) and image.count == 19 * 256
    value = json.loads(json.dumps(found.to_json()))
    assert value["episodes"] == 3 and value["returns"]["high"] == 280
    assert value["columns"]["reward"]["rows"] == 16


def test_a_histogram_of_numbers(tmp_path):
    action = np.array([[-1.0], [-0.95], [0.0], [0.999], [1.0]], np.float32)
    no = np.zeros(5, bool)
    played = dataclasses.replace(play(5), action=action, extra={}, terminated=no, truncated=no)
    schema = Schema.of(DISCRETE.observations, Box((1,)), {}, rewards=True)
    found = measure(open_source(npz(tmp_path / "a", [played], schema)))
    assert found.actions.tolist() == [[2, 0, 0, 0, 0, 1, 0, 0, 0, 2]]


def test_a_contact_sheet_shows_the_hours(tmp_path):
    source = open_source(npz(tmp_path / "a"))
    contact_sheet(source, tmp_path / "sheet.png")
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert picture.shape == (4 + 6 * 114, 4 + 10 * 100, 3)
    middle = picture[4 + 14 + 48]  # of the first row of tiles: hours 0..8 of the first episode
    assert [int(middle[4 + 100 * k + 48, 0]) for k in range(9)] == [25 * k for k in range(9)]


def test_what_has_no_images_is_drawn_as_traces(tmp_path):
    plain = Schema.of({"vector": Box((1,), 0, 8)}, Discrete(8), {}, rewards=True)
    bare = [
        dataclasses.replace(e, obs={"vector": e.obs["vector"]}, extra={}) for e in episodes()[:3]
    ]
    contact_sheet(open_source(npz(tmp_path / "a", bare, plain)), tmp_path / "sheet.png")
    picture = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    assert (picture < 128).sum() > 100 and picture.std() > 5


def test_validate_reads_any_format(tmp_path):
    path = npz(tmp_path / "a", [play(8, number=i) for i in range(6)])
    report = validate(open_source(path))
    assert report.ok and report.episodes == 6 and report.steps == 48
    assert any("All 6 terminated episodes end after exactly 8 steps" in n for n in report.notes)
    files = sorted(path.glob("*.npz"))
    rows = dict(np.load(files[2]))
    rows["reward"][4] = np.nan
    np.savez(files[2], **rows)
    rows = dict(np.load(files[4]))
    rows["is_terminal"][3] = True
    np.savez(files[4], **rows)
    report = validate(open_source(path))
    assert any(
        "reward holds NaN or infinity in 1 episodes, the first is 2" in f for f in report.findings
    )
    assert any("Episode 4 breaks the contract: Only the last step" in f for f in report.findings)
    assert report.episodes == 6 and report.steps == 40


def test_elements_that_never_change_are_named(tmp_path):
    rng = np.random.default_rng(0)
    vector = rng.normal(size=(9, 4)).astype("f4")
    vector[:, [1, 3]] = 2
    no = np.zeros(8, bool)
    episode = dataclasses.replace(
        play(8), obs={"vector": vector}, extra={}, terminated=no, truncated=no
    )
    report = validate([episode] * 3)
    assert "obs['vector'] never changes in 2 elements: 1, 3." in report.notes


# --- the command line -----------------------------------------------------------------------------


def run(capsys, *arguments):
    parser = argparse.ArgumentParser()
    data_cli.options(parser)
    data_cli.run(parser.parse_args([str(a) for a in arguments]), [])
    return capsys.readouterr().out


def test_the_five_words(tmp_path, capsys, monkeypatch):
    pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    path = npz(tmp_path / "a")
    out = run(capsys, "convert", path, tmp_path / "b.hdf5", "--size", 8)
    assert "b.hdf5 holds 11 episodes" in out and "as hdf5; they were npz." in out
    out = run(capsys, "inspect", tmp_path / "b.hdf5")
    for words in ("hdf5, ", "(3, 8, 8)", "Discrete(n=8)", "2 terminated, 7 truncated, 2 cut"):
        assert words in out
    assert "b.hdf5-sheet.png" in out and (tmp_path / "b.hdf5-sheet.png").is_file()
    assert "keeps the data contract" in run(capsys, "validate", tmp_path / "b.hdf5")
    out = run(capsys, "split", path, tmp_path / "c", "--parts", "one=0.5,two=0.5", "--to", "npz")
    assert "11 episodes" in out and detect(tmp_path / "c" / "one").name == "npz"
    out = run(capsys, "stats", path)
    for words in ("reward", "histogram", "0 to 280"):
        assert words in out
    value = json.loads(run(capsys, "stats", path, "--json"))
    assert value["steps"] == sum(len(e) for e in episodes())
    with pytest.raises(BadConfig, match=r"Parts are NAME=SHARE,NAME=SHARE, but these are 'half'"):
        run(capsys, "split", path, tmp_path / "d", "--parts", "half")


def test_a_mapping_file_on_the_command_line(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "lab.h5", "w") as file:
        for i in range(3):
            group = file.create_group(f"runs/{i}")
            group["seen"], group["did"] = np.arange(9.0)[:, None], np.arange(8)
    (tmp_path / "map.json").write_text(
        json.dumps({"episodes": "runs/*", "observations": {"vector": "seen"}, "action": "did"})
    )
    run(capsys, "convert", tmp_path / "lab.h5", tmp_path / "b", "--mapping", tmp_path / "map.json")
    store = Store.open(tmp_path / "b")
    assert len(store) == 3 and store.actions == Discrete(8) and not store.schema.rewards
    assert store[2].obs["vector"][:, 0].tolist() == list(range(9))
    assert store[2].action.tolist() == list(range(8))


def test_validate_fails_by_its_verdict(tmp_path, capsys):
    pixels = np.zeros((9, 8, 8, 3), np.uint8)
    (tmp_path / "a").mkdir()
    np.savez(tmp_path / "a" / "e.npz", image=pixels, is_first=np.arange(9) == 0)
    with pytest.raises(BadData, match="breaks the data contract"):
        run(capsys, "validate", tmp_path / "a")
    out = capsys.readouterr().out
    assert "obs['image'] never changes in 8 steps." in out
    assert "No actions are recorded.\nNo rewards are recorded.\n" in out


def test_some_of_the_episodes(tmp_path):
    some = Subset(open_source(npz(tmp_path / "a")), [3, 0])
    assert len(some) == 2 and len(some[0]) == 3 and len(some[1]) == 8
    right(some[0])
