import errno
import json
import logging
import os
import shutil
import signal
import time

import numpy as np
import pytest

from reverie.core.errors import BadData, SpaceMismatch, StorageFull
from reverie.core.types import Box, Discrete
from reverie.data.episode import Episode
from reverie.data.store import Store

OBSERVATIONS = {"image": Box((1, 4, 4), 0, 255, "uint8"), "vector": Box((2,))}
EXTRA = {"value": Box(()), "probs": Box((3,))}


def make(index, steps=None):
    """An episode whose every number tells where it belongs."""
    steps = steps or 2 + index % 4
    rows = np.arange(steps + 1) + 10 * index
    return Episode(
        obs={
            "image": np.broadcast_to(rows[:, None, None, None], (steps + 1, 1, 4, 4)).astype("u1"),
            "vector": np.stack([rows, -rows], 1).astype("f4"),
        },
        action=rows[:-1] % 5,
        reward=rows[:-1].astype("f4") / 2,
        terminated=np.arange(steps) == (steps - 1 if index % 2 else -1),
        truncated=np.arange(steps) == (steps - 1 if index % 2 == 0 else -1),
        extra={"value": rows[:-1].astype("f4"), "probs": np.eye(3, dtype="f4")[rows[:-1] % 3]},
        info={"seed": index, "success": bool(index % 2)},
    )


def create(path, episodes=0):
    store = Store.create(path, OBSERVATIONS, Discrete(5), EXTRA)
    for i in range(episodes):
        assert store.append(make(i)) == i
    return store


def same(a, b):
    assert a.info == b.info
    pairs = [(a.action, b.action), (a.reward, b.reward)]
    pairs += [(a.terminated, b.terminated), (a.truncated, b.truncated)]
    pairs += [(a.obs[k], b.obs[k]) for k in a.obs] + [(a.extra[k], b.extra[k]) for k in a.extra]
    assert a.obs.keys() == b.obs.keys() and a.extra.keys() == b.extra.keys()
    for x, y in pairs:
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


NO_FORK_WARNING = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def fork(work):
    """Work in a child process that has all modules already; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def whole(store, episodes):
    """The store holds just the first episodes, each as it was written."""
    assert len(store) == episodes
    for i in range(episodes):
        same(store[i], make(i))


# --- what goes in comes out -----------------------------------------------------------------------


def test_episodes_come_back(tmp_path):
    with create(tmp_path / "s", 9) as store:
        whole(store, 9)
    store = Store.open(tmp_path / "s")
    whole(store, 9)
    assert store.report == ""
    same(store[-1], make(8))
    assert [e.info["seed"] for e in store] == list(range(9))
    assert store.info(3) == {"seed": 3, "success": True}
    assert store.lengths.tolist() == [2, 3, 4, 5, 2, 3, 4, 5, 2]
    assert store.steps == 30 and store.rows == 39
    assert store.starts.tolist() == [0, 3, 7, 12, 18, 21, 25, 30, 36]
    with pytest.raises(IndexError):
        store[9]


def test_numpy_alone_reads_it(tmp_path):
    create(tmp_path / "s", 3).close()
    image = np.load(tmp_path / "s" / "obs.image.npy", mmap_mode="r")
    first = np.load(tmp_path / "s" / "first.npy")
    reward = np.load(tmp_path / "s" / "reward.npy")
    assert image.shape == (12, 1, 4, 4) and image.dtype == np.uint8
    assert image[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12, 13, 20, 21, 22, 23, 24]
    assert np.flatnonzero(first).tolist() == [0, 3, 7]
    # rows that end an episode hold zeros for what has only T
    assert reward.tolist() == [0, 0.5, 0, 5, 5.5, 6, 0, 10, 10.5, 11, 11.5, 0]


def test_video_has_neither_actions_nor_rewards(tmp_path):
    space = {"image": Box((3, 2, 2), 0, 255, "uint8")}
    store = Store.create(tmp_path / "s", space, None, rewards=False)
    image, no = np.ones((4, 3, 2, 2), np.uint8), np.zeros(3, bool)
    store.append(Episode({"image": image}, None, None, no, no))
    assert store[0].action is None and store[0].reward is None
    assert sorted(store.columns) == ["first", "obs.image", "terminated", "truncated"]
    with pytest.raises(SpaceMismatch, match="records no rewards, but the episode has some"):
        store.append(Episode({"image": image}, None, np.zeros(3, "f4"), no, no))


def test_views_stay_while_it_grows(tmp_path):
    store = create(tmp_path / "s", 1)
    before = store.columns["obs.vector"]
    store.append(make(1))
    assert len(before) == 3 and before[:, 0].tolist() == [0, 1, 2]
    assert len(store.columns["obs.vector"]) == 7


def test_truncate_forgets_and_appends_go_on(tmp_path):
    store = create(tmp_path / "s", 6)
    store.truncate(2)
    whole(store, 2)
    store.append(make(2))
    store.close()
    store = Store.open(tmp_path / "s", writable=True)
    whole(store, 3)
    assert store.report == ""
    store.truncate(0)
    assert len(store) == 0 and store.rows == 0
    with pytest.raises(BadData, match="to keep 1 episodes, but it has 0"):
        store.truncate(1)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"obs": {"vector": np.zeros((3, 2), "f4")}}, SpaceMismatch, "records observations"),
        ({"extra": {}}, SpaceMismatch, "records extra ['probs', 'value'], but the episode has []"),
        ({"action": None}, SpaceMismatch, "needs actions, but the episode has none"),
        ({"action": np.array([0, 5])}, BadData, "action must lie in [0, 4], but it reaches from 0"),
        ({"action": np.zeros((2, 1), "f4")}, SpaceMismatch, "action must be int64 of shape ()"),
        ({"reward": np.array([0, np.nan], "f4")}, BadData, "reward must be finite, but row 1"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused(tmp_path, changes, error, sentence):
    store = create(tmp_path / "s", 1)
    fields = {**vars(make(0)), **changes}
    with pytest.raises(error) as caught:
        store.append(Episode(**fields))
    assert sentence in str(caught.value)
    store.append(make(1))
    whole(store, 2)


def test_modalities_of_another_shape_or_dtype_are_refused(tmp_path):
    store = create(tmp_path / "s")
    good = make(0)
    for bad in (np.zeros((3, 1, 4, 5), "u1"), np.zeros((3, 1, 4, 4), "f4")):
        with pytest.raises(SpaceMismatch, match="must be uint8 of shape \\(1, 4, 4\\)"):
            store.append(Episode(**{**vars(good), "obs": {**good.obs, "image": bad}}))
    wild = np.full((3, 2), np.inf, "f4")
    with pytest.raises(BadData, match="must be finite, but row 0"):
        store.append(Episode(**{**vars(good), "obs": {**good.obs, "vector": wild}}))
    assert len(store) == 0


def test_box_actions_out_of_range_are_refused(tmp_path):
    store = Store.create(tmp_path / "s", {"vector": Box((1,))}, Box((1,)))
    no = np.zeros(2, bool)
    obs = {"vector": np.zeros((3, 1), "f4")}
    with pytest.raises(BadData, match="Rescale it"):
        store.append(Episode(obs, np.array([[0.0], [1.01]], "f4"), np.zeros(2, "f4"), no, no))
    store.append(Episode(obs, np.array([[-1.0], [1.0]], "f4"), np.zeros(2, "f4"), no, no))


def test_paths_and_names_that_cannot_be_are_refused(tmp_path):
    create(tmp_path / "s").close()
    with pytest.raises(BadData, match="something is there. Open it with Store.open"):
        create(tmp_path / "s")
    with pytest.raises(BadData, match="names are made of letters"):
        Store.create(tmp_path / "t", {"../x": Box((1,))}, None)
    with pytest.raises(BadData, match="has shape \\(0,\\), so no element"):
        Store.create(tmp_path / "t", {"x": Box((0,))}, None)
    with pytest.raises(BadData, match="at least one observation"):
        Store.create(tmp_path / "t", {}, None)
    assert not (tmp_path / "t").exists()
    with pytest.raises(BadData, match="there is no schema.json"):
        Store.open(tmp_path / "t")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not a store's schema"),
        ("[]", "is not a store's schema"),
        ("{}", "KeyError: 'version'"),
        ('{"version": 99}', "is a store of version 99, but this is version 1"),
    ],
)
def test_another_schema_is_refused(tmp_path, text, sentence):
    create(tmp_path / "s").close()
    (tmp_path / "s" / "schema.json").write_text(text)
    with pytest.raises(BadData) as caught:
        Store.open(tmp_path / "s")
    assert sentence in str(caught.value)


def test_a_missing_column_is_refused(tmp_path):
    create(tmp_path / "s", 1).close()
    (tmp_path / "s" / "reward.npy").unlink()
    with pytest.raises(BadData, match="lacks its file reward.npy"):
        Store.open(tmp_path / "s")


# --- who writes -----------------------------------------------------------------------------------


def test_reading_is_not_writing(tmp_path):
    store = create(tmp_path / "s", 1)
    with pytest.raises(BadData, match="is open to read only. Use Store.open"):
        Store.open(tmp_path / "s").append(make(1))
    store.close()
    with pytest.raises(BadData, match="is open to read only"):
        store.append(make(1))
    whole(store, 1)


def test_a_second_writer_in_this_process_is_noticed(tmp_path):
    store = create(tmp_path / "s", 1)
    Store.open(tmp_path / "s", writable=True).append(make(1))
    with pytest.raises(BadData, match="was changed by another writer"):
        store.append(make(1))


@NO_FORK_WARNING
def test_a_second_writing_process_is_refused(tmp_path):
    store = create(tmp_path / "s", 1)

    def second():
        with pytest.raises(BadData, match="is being written by another process. Wait for it"):
            Store.open(tmp_path / "s", writable=True)

    assert os.waitstatus_to_exitcode(os.waitpid(fork(second), 0)[1]) == 0
    store.append(make(1))


# --- torn tails -----------------------------------------------------------------------------------


def test_a_torn_index_opens_at_the_last_whole_episode(tmp_path, caplog):
    create(tmp_path / "s", 4).close()
    index = tmp_path / "s" / "episodes.bin"
    data = index.read_bytes()
    assert len(data) == 4 * 32
    for size in range(len(data)):
        index.write_bytes(data[:size])
        store = Store.open(tmp_path / "s")
        whole(store, size // 32)
        assert bool(store.report) == bool(size % 32)
    assert "opens at its 3 whole episodes: 31 bytes of episodes.bin are torn" in store.report
    assert store.report in caplog.text


@pytest.mark.parametrize("name", ["obs.image.npy", "reward.npy", "first.npy", "info.jsonl"])
def test_a_torn_column_opens_at_the_last_whole_episode(tmp_path, name, caplog):
    caplog.set_level(logging.CRITICAL)
    create(tmp_path / "s", 4).close()
    column = tmp_path / "s" / name
    data = column.read_bytes()
    counts = []
    for size in [*range(0, len(data), 7), len(data) - 1]:
        shutil.copytree(tmp_path / "s", tmp_path / "torn")
        (tmp_path / "torn" / name).write_bytes(data[:size])
        store = Store.open(tmp_path / "torn")
        counts.append(len(store))
        whole(store, len(store))
        assert f"{name} end" in store.report
        if size % 70 == 0:
            with Store.open(tmp_path / "torn", writable=True) as writer:
                for i in range(len(writer), 5):
                    writer.append(make(i))
            whole(Store.open(tmp_path / "torn"), 5)
            assert len(np.load(tmp_path / "torn" / "obs.image.npy")) == 21
        shutil.rmtree(tmp_path / "torn")
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 3


def test_flipped_bits_in_the_index_are_noticed(tmp_path):
    create(tmp_path / "s", 4).close()
    index = tmp_path / "s" / "episodes.bin"
    data = bytearray(index.read_bytes())
    for at in range(32, 64):
        data[at] ^= 1
        index.write_bytes(data)
        whole(Store.open(tmp_path / "s"), 1)
        with pytest.raises(BadData, match="is damaged at episode 1, but has whole ones behind it"):
            Store.open(tmp_path / "s", writable=True)
        data[at] ^= 1


def test_an_append_that_was_cut_short_is_dropped_and_said(tmp_path):
    create(tmp_path / "s", 2).close()
    with (tmp_path / "s" / "obs.image.npy").open("ab") as file:
        file.write(bytes(100))
    assert Store.open(tmp_path / "s").report == ""  # may be a writer at work
    with Store.open(tmp_path / "s", writable=True) as store:
        assert "100 bytes of an append that was cut short are gone" in store.report
        store.append(make(2))
        whole(store, 3)


@NO_FORK_WARNING
def test_a_killed_writer_loses_no_whole_episode(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    create(tmp_path / "s").close()

    def write():
        store = Store.open(tmp_path / "s", writable=True)
        while True:
            store.append(make(len(store)))

    rng = np.random.default_rng(0)
    before = 0
    for _ in range(12):
        writer = fork(write)
        time.sleep(rng.uniform(0.01, 0.1))
        os.kill(writer, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) == -signal.SIGKILL
        store = Store.open(tmp_path / "s")
        assert len(store) >= before
        before = len(store)
        whole(store, before)
    assert before > 0


# --- full disks -----------------------------------------------------------------------------------


def full_after(monkeypatch, budget, code=errno.ENOSPC):
    """From now on the disk takes so many bytes, then some of a write, then none."""
    left = [budget]
    real = os.pwrite

    def pwrite(descriptor, data, offset):
        if not left[0]:
            raise OSError(code, os.strerror(code))
        written = real(descriptor, bytes(data)[: left[0]], offset)
        left[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_what_was_whole(tmp_path, monkeypatch, code):
    store = create(tmp_path / "s", 2)
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "s").iterdir()}
    steps = 4  # of episode 2: 5 rows of 16 + 8 + 8 + 4 + 1 + 1 + 1 + 4 + 12 bytes
    rows, info, headers = (steps + 1) * 55, len('{"seed": 2, "success": false}\n'), 9 * 256
    total = rows + info + headers + 32
    for budget in [*range(0, total, 97), rows, rows + info, total - 32, total - 1]:
        with monkeypatch.context() as patch:
            full_after(patch, budget, code)
            with pytest.raises(StorageFull, match="its 2 episodes are whole. Free some space"):
                store.append(make(2))
        assert {p.name: p.stat().st_size for p in (tmp_path / "s").iterdir()} == sizes
        whole(store, 2)
        whole(Store.open(tmp_path / "s"), 2)
    store.append(make(2))
    whole(store, 3)


def test_other_disk_errors_pass(tmp_path, monkeypatch):
    store = create(tmp_path / "s", 1)
    with monkeypatch.context() as patch:
        full_after(patch, 10, errno.EIO)
        with pytest.raises(OSError, match="Input/output"):
            store.append(make(1))
    store.append(make(1))
    whole(store, 2)


def test_a_full_disk_makes_no_half_store(tmp_path, monkeypatch):
    full_after(monkeypatch, 700)
    with pytest.raises(StorageFull, match="no store was made"):
        create(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


# --- derived observations -------------------------------------------------------------------------


LATENT = {"mu": Box((2,)), "logvar": Box((1,))}


def encode(rows):
    mean = rows["image"].reshape(len(rows["image"]), -1).mean(1).astype("f4")
    return {"mu": np.stack([mean, 2 * mean], 1), "logvar": -mean[:, None]}


def test_latents_become_observations(tmp_path):
    seen = []

    def fn(rows):
        seen.append(len(rows["image"]))
        return encode(rows)

    with create(tmp_path / "s", 5) as store:
        store.add_observations(LATENT, fn, block=8)
        assert seen == [8, 8, 5]
        assert store.schema.derived == ("mu", "logvar")
    store = Store.open(tmp_path / "s")
    assert store.observations == {**OBSERVATIONS, **LATENT}
    assert store[1].obs["mu"].tolist() == [[10, 20], [11, 22], [12, 24], [13, 26]]
    assert store[1].obs["logvar"][:, 0].tolist() == [-10, -11, -12, -13]
    assert np.load(tmp_path / "s" / "obs.mu.0.npy").shape == (21, 2)


def test_doing_it_again_replaces_them(tmp_path):
    store = create(tmp_path / "s", 2)
    store.add_observations(LATENT, encode)
    files = {p.name for p in (tmp_path / "s").iterdir()}
    old = store.columns["obs.mu"]
    store.add_observations(LATENT, lambda rows: {n: x + 1 for n, x in encode(rows).items()})
    assert old[1].tolist() == [1, 2]
    assert store[0].obs["mu"][1].tolist() == [2, 3]
    store.add_observations(LATENT, encode)
    assert {p.name for p in (tmp_path / "s").iterdir()} == files


def test_appending_needs_them_dropped(tmp_path):
    store = create(tmp_path / "s", 2)
    store.add_observations(LATENT, encode)
    with pytest.raises(SpaceMismatch, match="derived observations \\['mu', 'logvar'\\]"):
        store.append(make(2))
    with pytest.raises(BadData, match="What was recorded stays"):
        store.drop_observations("mu", "vector")
    store.drop_observations("mu", "logvar")
    store.append(make(2))
    whole(store, 3)
    assert not list((tmp_path / "s").glob("obs.mu*"))


@pytest.mark.parametrize(
    ("spaces", "fn", "error", "sentence"),
    [
        ({"image": Box((1,))}, encode, BadData, "but they were recorded. Choose other names"),
        ({"mu": Box((2,))}, encode, SpaceMismatch, "the function returned ['logvar', 'mu']"),
        ({"mu": Box((3,)), "logvar": Box((1,))}, encode, SpaceMismatch, "computed 'mu' must be"),
        ({"x": Box(())}, lambda r: {"x": np.zeros(1, "f4")}, SpaceMismatch, "returned 1"),
        (
            {"x": Box(())},
            lambda r: {"x": np.full(len(r["image"]), np.nan, "f4")},
            BadData,
            "must be finite",
        ),
    ],
)
def test_wrong_functions_change_nothing(tmp_path, spaces, fn, error, sentence):
    store = create(tmp_path / "s", 2)
    files = {p.name for p in (tmp_path / "s").iterdir()}
    with pytest.raises(error) as caught:
        store.add_observations(spaces, fn)
    assert sentence in str(caught.value)
    assert {p.name for p in (tmp_path / "s").iterdir()} == files
    whole(store, 2)


@NO_FORK_WARNING
def test_killed_while_computing_leaves_the_store_as_it_was(tmp_path):
    create(tmp_path / "s", 3).close()

    def compute():
        calls = []

        def fn(rows):
            calls.append(1)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return encode(rows)

        Store.open(tmp_path / "s", writable=True).add_observations(LATENT, fn, block=4)

    assert os.waitstatus_to_exitcode(os.waitpid(fork(compute), 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "s" / "obs.mu.0.npy").exists()
    whole(Store.open(tmp_path / "s"), 3)
    with Store.open(tmp_path / "s", writable=True) as store:
        assert not (tmp_path / "s" / "obs.mu.0.npy").exists()
        store.add_observations(LATENT, encode)
        assert store[2].obs["mu"][0].tolist() == [20, 40]


def test_a_full_disk_while_computing_leaves_the_store_as_it_was(tmp_path, monkeypatch):
    store = create(tmp_path / "s", 3)
    files = {p.name for p in (tmp_path / "s").iterdir()}
    with monkeypatch.context() as patch:
        full_after(patch, 100)  # the schema does not fit
        with pytest.raises(StorageFull, match="no observation was added"):
            store.add_observations(LATENT, encode)
    assert {p.name for p in (tmp_path / "s").iterdir()} == files
    whole(store, 3)
    assert json.loads((tmp_path / "s" / "schema.json").read_text())["version"] == 1
