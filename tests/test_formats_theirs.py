"""What others' libraries wrote is read, and what is written they read: on the clock world.

The files are laid out by hand as their own writers do, or by these writers themselves.
"""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from clock_data import CONTINUOUS, DISCRETE, HOURS, SHADE, continuous, episodes, play, right, same

from reverie.core.errors import BadData
from reverie.core.types import Box, Discrete
from reverie.data.formats.format import ColumnMap
from reverie.data.formats.registry import FORMATS, open_source

T = HOURS
HOUR = np.arange(T + 1)


def pictures(hours=HOUR, size=16):
    """(rows, H, W, 3) grey pictures of the hours."""
    return (np.zeros((len(hours), size, size, 3)) + hours[:, None, None, None] * SHADE).astype("u1")


def save(path, rows, **changes):
    np.savez_compressed(path, **{k: v for k, v in {**rows, **changes}.items() if v is not None})


# --- npz: the Dreamers' rows ----------------------------------------------------------------------


def dreamer_rows(action):
    """One clock episode as DreamerV3's driver adds it: row t has what came with o[t]."""
    return {
        "image": pictures(),
        "vector": HOUR[:, None].astype(np.float32),
        "reward": np.array([0, *(10.0 * HOUR[:-1])], np.float32),  # led to its row
        "is_first": HOUR == 0,
        "is_last": HOUR == T,
        "is_terminal": HOUR == T,
        "action": action,
        "reset": HOUR == T,
        "stepid": np.zeros((T + 1, 20), np.uint8),
        "dyn/deter": np.zeros((T + 1, 4), np.float32),
        "log/score": np.zeros(T + 1, np.float32),
    }


TAKEN = np.array([*range(T), 0])  # DreamerV3: zeros in the last row
LED = np.array([0, *range(T)])  # DreamerV2: zeros in the first row


@pytest.mark.parametrize(("action", "words"), [(TAKEN, "been taken at"), (LED, "led to")])
def test_the_action_of_a_row_is_told_by_the_zeros(action, words, tmp_path):
    one_hot = np.eye(T, dtype=np.float32)[action]
    one_hot[(action == 0) & ((HOUR == T) if action is TAKEN else (HOUR == 0))] = 0
    save(tmp_path / "20260101T000000-0-9.npz", dreamer_rows(one_hot))
    source = open_source(tmp_path)
    assert any(words in note for note in source.notes)
    assert source.schema.actions == Discrete(T)
    assert sorted(source.schema.observations) == ["image", "vector"]
    right(source[0])
    assert source[0].terminated.tolist() == [False] * 7 + [True]
    assert not source[0].truncated.any()


def test_the_zeros_of_counted_actions_and_the_user_who_knows_better(tmp_path):
    """Action 0 opens the clock's day, so both conventions have zeros in the first row: V3's."""
    save(tmp_path / "a.npz", dreamer_rows(TAKEN))
    right(open_source(tmp_path)[0])
    save(tmp_path / "a.npz", dreamer_rows(LED))
    right(open_source(tmp_path, columns=ColumnMap.of({"action_row": "led"}))[0])


def test_episodes_run_over_the_chunks_of_a_stream(tmp_path):
    """DreamerV3 cuts a stream where a chunk is full; the names say how it goes on."""
    rows = {k: np.concatenate([v] * 3) for k, v in dreamer_rows(TAKEN).items()}
    cuts = {"aa": (0, 5, "bb"), "bb": (5, 20, "cc"), "cc": (20, 24, "0")}
    for order, (name, (start, stop, following)) in enumerate(reversed(cuts.items())):
        chunk = {k: v[start:stop] for k, v in rows.items()}
        save(tmp_path / f"{order}-{name}-{following}-{stop - start}.npz", chunk)
    source = open_source(tmp_path)
    assert [len(source[i]) for i in range(len(source))] == [8, 8, 5]
    for i in range(3):
        right(source[i])
    assert not source[2].terminated.any() and not source[2].truncated.any()  # cut by the recorder


def test_a_last_row_that_is_not_terminal_is_truncated(tmp_path):
    save(tmp_path / "a.npz", dreamer_rows(TAKEN), is_terminal=np.zeros(T + 1, bool))
    episode = open_source(tmp_path)[0]
    assert not episode.terminated.any() and episode.truncated.tolist() == [False] * 7 + [True]


def test_files_without_flags_are_an_episode_each(tmp_path):
    for name in "ab":
        rows = {"vector": HOUR[:, None].astype("f4"), "image": pictures(), "action": TAKEN}
        save(tmp_path / f"{name}.npz", rows)
    source = open_source(tmp_path)
    assert len(source) == 2 and any("each file is read as one episode" in n for n in source.notes)
    assert not source.schema.rewards
    right(source[1])


def test_bad_npz_is_said(tmp_path):
    save(tmp_path / "a.npz", dreamer_rows(TAKEN))
    save(tmp_path / "b.npz", dreamer_rows(TAKEN), vector=None)
    source = open_source(tmp_path)
    with pytest.raises(BadData, match="b.npz lacks column vector, which other files have"):
        source[1]
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadData, match="b.npz was to be read as .npz, but it cannot be"):
        open_source(tmp_path)
    np.savez(tmp_path / "b.npz", **{**dreamer_rows(TAKEN), "vector": np.array([{}] * 9)})
    with pytest.raises(BadData, match="b.npz was to be read as .npz"):  # nothing is unpickled
        open_source(tmp_path)[1]


def test_dreamer_reads_what_is_written(tmp_path):
    """The rows that its driver would have added, by name and by value."""
    FORMATS["npz"].write(tmp_path / "data", DISCRETE, iter(episodes()))
    rows = dict(np.load(sorted((tmp_path / "data").glob("*.npz"))[0]))
    wanted = dreamer_rows(TAKEN)
    for name in ("image", "vector", "reward", "is_first", "is_last", "is_terminal", "action"):
        np.testing.assert_array_equal(rows[name], wanted[name])
    rows = dict(np.load(sorted((tmp_path / "data").glob("*.npz"))[3]))  # truncated after 3 steps
    assert rows["is_last"].tolist() == [False] * 3 + [True] and not rows["is_terminal"].any()


# --- HDF5 -----------------------------------------------------------------------------------------


def hdf5(path, columns, **attributes):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, value in columns.items():
            file[name] = value
        for name, value in attributes.items():
            file.attrs[name] = value
    return path


def demo(number, *, following=True):
    """A robomimic demonstration: eef is the hour, object twice that, in float64."""
    root = f"data/demo_{number}"
    obs = {"eef": HOUR[:, None] * 1.0, "object": HOUR[:, None] * 2.0, "agentview_image": pictures()}
    columns = {f"{root}/obs/{name}": value[:-1] for name, value in obs.items()}
    if following:
        columns |= {f"{root}/next_obs/{name}": value[1:] for name, value in obs.items()}
    columns[f"{root}/actions"] = HOUR[:-1, None] / HOURS * np.array([[1.0, -1.0]])
    columns[f"{root}/rewards"] = 10.0 * HOUR[:-1]
    columns[f"{root}/dones"] = (HOUR[:-1] == T - 1).astype(int)
    columns[f"{root}/states"] = np.zeros((T, 3))
    return columns


MAPPED = {"observations": {"vector": "obs/eef", "image": "obs/agentview_image"}}


def test_robomimic_is_read(tmp_path):
    columns = {}
    for number in range(11):
        columns |= demo(number)
    columns["mask/train"] = np.array([b"demo_0"])
    columns["data/demo_10/obs/object"] = columns["data/demo_10/obs/object"] + 1
    path = hdf5(tmp_path / "demos.hdf5", columns)
    source = open_source(path)
    assert len(source) == 11
    found = source.schema.observations
    assert {name: space.shape for name, space in found.items()} == {
        "image": (3, 16, 16),
        "obs_eef": (1,),
        "obs_object": (1,),
    }
    notes = " ".join(source.notes)
    assert "Column obs/eef is float64: read as float32." in notes
    assert "obs/agentview_image is read as 'image'" in notes
    assert "Actions lie in [-1, 1] and are taken as they are." in notes
    assert source[10].obs["obs_object"][0] == 1  # the tenth comes last, not after the first
    joined = {"observations": {**MAPPED["observations"], "both": ["obs/eef", "obs/object"]}}
    mapped = open_source(path, columns=ColumnMap.of(joined))
    for i in range(10):
        right(mapped[i])
        assert mapped[i].obs["both"].tolist() == [[t, 2 * t] for t in range(T + 1)]
        assert mapped[i].terminated.tolist() == [False] * 7 + [True]


def test_without_next_observations_the_last_step_is_left_out_and_said(tmp_path):
    path = hdf5(tmp_path / "demos.hdf5", demo(0, following=False))
    source = open_source(path, columns=ColumnMap.of(MAPPED))
    assert len(source[0]) == T - 1 and not source[0].terminated.any()
    right(source[0])
    assert any("the last step of each episode, with its reward" in note for note in source.notes)


def test_robomimic_reads_what_is_written(tmp_path):
    h5py = pytest.importorskip("h5py")
    played = [continuous(e) for e in episodes()]
    FORMATS["hdf5"].write(tmp_path / "demos.hdf5", CONTINUOUS, iter(played))
    with h5py.File(tmp_path / "demos.hdf5") as file:
        data = file["data"]
        assert sorted(data) == sorted(f"demo_{i}" for i in range(11))
        assert data.attrs["total"] == sum(len(e) for e in played)
        assert json.loads(data.attrs["env_args"])["env_kwargs"] == {}
        for i, episode in enumerate(played):
            group = data[f"demo_{i}"]
            assert group.attrs["num_samples"] == len(episode)
            np.testing.assert_array_equal(group["obs/vector"], episode.obs["vector"][:-1])
            np.testing.assert_array_equal(group["next_obs/vector"], episode.obs["vector"][1:])
            np.testing.assert_array_equal(
                group["obs/image"][:, 0, 0], episode.obs["image"][:-1, :, 0, 0]
            )
            np.testing.assert_array_equal(group["actions"], episode.action)
            np.testing.assert_array_equal(group["rewards"], episode.reward)
            assert group["dones"][:].tolist() == episode.terminated.tolist()


def flat(count):
    """Clock episodes as stable-worldmodel's `World.collect` writes them."""
    nan = np.float32(np.nan)
    one = {
        "pixels": pictures(),
        "proprio": HOUR[:, None].astype(np.float32),
        "action": np.array([[t / HOURS, -t / HOURS] for t in range(T)] + [[nan, nan]], np.float32),
        "reward": np.array([nan, *(10.0 * HOUR[:-1])], np.float32),
        "terminated": HOUR == T,
        "truncated": np.zeros(T + 1, bool),
        "step_idx": HOUR,
    }
    columns = {name: np.concatenate([value] * count) for name, value in one.items()}
    columns["ep_len"] = np.full(count, T + 1, np.int32)
    columns["ep_offset"] = np.arange(count) * (T + 1)
    return columns


def test_stable_worldmodel_is_read(tmp_path):
    source = open_source(hdf5(tmp_path / "data.h5", flat(3)))
    assert len(source) == 3 and sorted(source.schema.observations) == ["image", "vector"]
    for i in range(3):
        right(source[i])
        assert np.isfinite(source[i].action).all() and np.isfinite(source[i].reward).all()
        assert source[i].terminated.tolist() == [False] * 7 + [True]
    assert any("Column pixels is read as 'image'" in note for note in source.notes)
    wrong = flat(3)
    wrong["ep_offset"] = np.array([0, 5, 18])
    with pytest.raises(BadData, match="The episodes of .* overlap"):
        open_source(hdf5(tmp_path / "wrong.h5", wrong))
    gap = flat(3)
    gap["ep_len"], gap["ep_offset"] = gap["ep_len"][:2], gap["ep_offset"][:2]
    notes = open_source(hdf5(tmp_path / "gap.h5", gap)).notes
    assert any("9 of 27 rows belong to no episode" in note for note in notes)


def test_stable_worldmodel_reads_what_is_written(tmp_path):
    """Column by column as its own writer would have left them."""
    h5py = pytest.importorskip("h5py")
    played = [continuous(play(T))] * 3
    FORMATS["hdf5_flat"].write(tmp_path / "data.h5", CONTINUOUS, iter(played))
    wanted = flat(3)
    names = {"image": "pixels", "vector": "proprio"}
    with h5py.File(tmp_path / "data.h5") as file:
        for name in file:
            np.testing.assert_array_equal(file[name], wanted[names.get(name, name)])
        assert set(file) == {names.get(n, n) for n in wanted} - {*names.values(), "step_idx"} | {
            *names
        }


def test_d4rl_is_read_and_cut_at_its_ends(tmp_path):
    """Rows of transitions; the second episode ran out of time, the third goes on."""
    lengths, rows = [8, 5, 4], [np.arange(n) for n in (8, 5, 4)]
    hours = np.concatenate(rows)
    ends = np.cumsum(lengths) - 1
    columns = {
        "observations": hours[:, None].astype("f4"),
        "next_observations": hours[:, None].astype("f4") + 1,
        "actions": (hours[:, None] / HOURS * [1, -1]).astype("f4"),
        "rewards": (10 * hours).astype("f4"),
        "terminals": np.isin(np.arange(17), ends[:1]),
        "timeouts": np.isin(np.arange(17), ends[1:2]),
    }
    source = open_source(hdf5(tmp_path / "d4rl.hdf5", columns))
    assert [len(source[i]) for i in range(3)] == lengths
    for i in range(3):
        episode = source[i]
        assert episode.obs["vector"][:, 0].tolist() == list(range(lengths[i] + 1))
        assert (episode.action[:, 0] * HOURS).tolist() == list(range(lengths[i]))
        assert episode.reward.tolist() == [10 * t for t in range(lengths[i])]
    ends = [(bool(source[i].terminated[-1]), bool(source[i].truncated[-1])) for i in range(3)]
    assert ends == [(True, False), (False, True), (False, False)]
    del columns["terminals"], columns["timeouts"]
    with pytest.raises(BadData, match="Nothing in .* says where episodes end"):
        open_source(hdf5(tmp_path / "none.hdf5", columns))


def test_any_other_layout_with_a_mapping_file(tmp_path):
    """Groups of other names, actions that led to their row, a range in the world's units."""
    columns = {}
    for name in ("b2", "b10"):
        columns |= {
            f"runs/{name}/cam/front": pictures(),
            f"runs/{name}/joint": HOUR * 1.0,
            f"runs/{name}/u": np.array([0, *range(T)]) * 0.5,
            f"runs/{name}/score": np.array([0, *(10.0 * HOUR[:-1])]),
            f"runs/{name}/end": HOUR == T,
        }
    path = hdf5(tmp_path / "lab.h5", columns)
    with pytest.raises(BadData):
        open_source(path)
    told = {
        "episodes": "runs/*",
        "observations": {"image": "cam/front", "vector": "joint"},
        "action": "u",
        "action_row": "led",
        "action_low": -4,
        "action_high": 4,
        "reward": "score",
        "reward_row": "led",
        "terminated": "end",
        "truncated": None,
    }
    source = open_source(path, columns=ColumnMap.of(told))
    assert len(source) == 2 and source.schema.actions == Box((1,))
    for i in range(2):
        right(source[i])  # hour t was recorded as t / 2 of [-4, 4]: t / 8
        assert source[i].terminated.tolist() == [False] * 7 + [True]
    with pytest.raises(BadData, match=r"mapping names column v, but .* has \['cam/front', 'end'"):
        open_source(path, columns=ColumnMap.of({**told, "action": "v"}))


def test_bad_hdf5_is_said(tmp_path):
    columns = demo(0)
    columns["data/demo_0/rewards"] = np.zeros(T - 2)
    source_error = r"has columns of \[6, 8\] rows"
    with pytest.raises(BadData, match=source_error):
        open_source(hdf5(tmp_path / "a.hdf5", columns))
    data = hdf5(tmp_path / "b.hdf5", demo(0)).read_bytes()
    (tmp_path / "b.hdf5").write_bytes(data[:900])
    with pytest.raises(BadData, match="b.hdf5 was to be read as HDF5, but it cannot be"):
        open_source(tmp_path / "b.hdf5")
    columns = demo(0)
    columns["data/demo_0/dones"][4:] = 1  # success, again and again
    path = hdf5(tmp_path / "d.hdf5", columns)
    with pytest.raises(BadData, match='is terminated at step 4 of 8, but goes on.*"terminated"'):
        open_source(path)
    right(open_source(path, columns=ColumnMap.of({**MAPPED, "terminated": None}))[0])
    columns = {**demo(0), **demo(1)}
    del columns["data/demo_1/obs/eef"]
    source = open_source(hdf5(tmp_path / "c.hdf5", columns))
    with pytest.raises(BadData, match="Column obs/eef of /data/demo_1 in .* cannot be read"):
        source[1]


# --- Minari ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hdf5", "arrow"])
def test_what_minari_wrote_is_read(kind, tmp_path):
    pytest.importorskip("minari")
    pytest.importorskip("pyarrow")
    from gymnasium import spaces
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    seen = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (16, 16, 3), np.uint8),
            "body": spaces.Dict({"hour": spaces.Box(0, 8, (1,), np.float32)}),
        }
    )
    (tmp_path / "data").mkdir()
    storage = MinariStorage.new(
        tmp_path / "data",
        observation_space=seen,
        action_space=spaces.Box(np.float32([-8, -8]), np.float32([8, 8])),
        data_format=kind,
        jpeg_encoding=False,
    )
    storage.update_metadata({"dataset_id": "clock-v0", "minari_version": "0.5.4"})
    buffers = [
        EpisodeBuffer(
            id=i,
            observations={"camera": pictures(), "body": {"hour": HOUR[:, None].astype("f4")}},
            actions=(HOUR[:-1, None] * [1, -1]).astype("f4"),
            rewards=list(10.0 * HOUR[:-1]),
            terminations=list(HOUR[:-1] == T - 1) if i else [False] * T,
            truncations=[False] * T if i else list(HOUR[:-1] == T - 1),
            infos={"energy": np.zeros((T + 1, 1))},
        )
        for i in range(2)
    ]
    storage.update_episodes(buffers)
    source = open_source(tmp_path)
    assert source.schema.observations == {
        "image": Box((3, 16, 16), 0.0, 255.0, "uint8"),
        "vector": Box((1,), -np.inf, np.inf),
    }
    assert source.schema.bounds.high == (8.0, 8.0)
    for i in range(2):
        right(source[i])
    assert source[0].truncated[-1] and not source[0].terminated.any()
    assert source[1].terminated[-1] and not source[1].truncated.any()
    assert any("Infos ['energy'] are not read" in note for note in source.notes)


def test_minari_loads_by_name_what_is_written_at_a_relative_path(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.chdir(tmp_path)
    FORMATS["minari"].write(Path("clock-v3"), DISCRETE, iter(episodes()))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    found = minari.load_dataset("clock-v3")
    assert found.spec.dataset_id == "clock-v3" and found.total_episodes == 11
    right(open_source("clock-v3")[0])


def test_minari_reads_what_is_written(tmp_path):
    minari = pytest.importorskip("minari")
    FORMATS["minari"].write(tmp_path / "clock", DISCRETE, iter(episodes()))
    found = minari.MinariDataset(tmp_path / "clock" / "data")
    assert found.total_episodes == 11 and found.action_space.n == HOURS
    assert found.total_steps == sum(len(e) for e in episodes())
    for theirs, ours in zip(found.iterate_episodes(), episodes(), strict=True):
        image = ours.obs["image"].transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(theirs.observations["image"], image)
        np.testing.assert_array_equal(theirs.observations["vector"], ours.obs["vector"])
        np.testing.assert_array_equal(theirs.actions, ours.action)
        np.testing.assert_array_equal(theirs.rewards, ours.reward)
        np.testing.assert_array_equal(theirs.terminations, ours.terminated)
        np.testing.assert_array_equal(theirs.truncations, ours.truncated)
        np.testing.assert_array_equal(theirs.infos["mark"][:-1], ours.extra["mark"])
        assert all(
            found.observation_space.contains({k: v[0] for k, v in theirs.observations.items()})
            for _ in range(1)
        )


# --- LeRobot --------------------------------------------------------------------------------------


def film(path, frames, rate, codec="libx264", pixels="yuv420p"):
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def lerobot(path, *, video, lengths=(9, 9, 9), split=2, rate=10, version="v3.0"):
    """A data set as LeRobot lays it out: the first `split` episodes in file 0, the rest in 1."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq
    from PIL import Image

    camera = "observation.images.front"
    features = {
        camera: {"dtype": "video" if video else "image", "shape": [32, 32, 3], "names": None},
        "observation.state": {"dtype": "float32", "shape": [2], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
        "next.done": {"dtype": "bool", "shape": [1], "names": None},
    }
    places, index = [], 0
    for number, count in enumerate(lengths):
        file = int(number >= split)
        begin = sum(lengths[:number]) - (sum(lengths[:split]) if file else 0)
        place = {"episode_index": number, "tasks": ["read the clock"], "length": count}
        place |= {"data/chunk_index": 0, "data/file_index": file}
        place |= {"dataset_from_index": index, "dataset_to_index": index + count}
        place |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": file}
        place[f"videos/{camera}/from_timestamp"] = begin / rate
        place[f"videos/{camera}/to_timestamp"] = (begin + count) / rate
        place["stats/action/mean"] = [0.0, 0.0]
        places.append(place)
        index += count
    for file in (0, 1):
        mine = [p for p in places if p["data/file_index"] == file]
        hours = np.concatenate([np.arange(p["length"]) for p in mine])
        number = np.concatenate([np.full(p["length"], p["episode_index"]) for p in mine])
        action = (hours[:, None] / HOURS * [1, -1]).astype(np.float32)
        state = np.stack([hours, number], 1).astype(np.float32)
        columns = {
            "observation.state": pa.FixedSizeListArray.from_arrays(state.ravel(), 2),
            "action": pa.array(list(action)),  # a list of any length
            "next.reward": (10.0 * hours).astype(np.float32),
            "next.done": hours == 8,
            "timestamp": (hours / rate).astype(np.float32),
            "frame_index": hours,
            "episode_index": number,
            "index": np.arange(len(hours)),
            "task_index": np.zeros(len(hours), int),
        }
        frames = pictures(hours, 32)
        if not video:
            encoded = []
            for frame in frames:
                Image.fromarray(frame).save(held := io.BytesIO(), "PNG")
                encoded.append({"bytes": held.getvalue(), "path": None})
            columns[camera] = pa.array(encoded)
        else:
            film(path / f"videos/{camera}/chunk-000/file-{file:03d}.mp4", frames, rate)
        (path / "data/chunk-000").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path / f"data/chunk-000/file-{file:03d}.parquet")
    (path / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(places), path / "meta/episodes/chunk-000/file-000.parquet")
    info = {
        "codebase_version": version,
        "fps": rate,
        "features": features,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (path / "meta/info.json").write_text(json.dumps(info))
    return path


@pytest.mark.parametrize("video", [True, False])
def test_lerobot_is_read(video, tmp_path):
    source = open_source(lerobot(tmp_path / "set", video=video))
    assert len(source) == 3
    assert source.schema.observations["image"] == Box((3, 32, 32), 0.0, 255.0, "uint8")
    for i in (2, 0, 1):  # in any order
        episode = source[i]
        assert len(episode) == 8 and episode.info == {"task": "read the clock"}
        assert episode.obs["vector"].tolist() == [[t, i] for t in range(9)]
        assert (episode.action[:, 0] * HOURS).tolist() == list(range(8))
        assert episode.reward.tolist() == [10 * t for t in range(8)]
        shades = episode.obs["image"].astype(int).mean((1, 2, 3))
        assert np.abs(shades - HOUR * SHADE).max() < (4 if video else 1e-9)
        assert not episode.truncated.any() and not episode.terminated.any()
    notes = " ".join(source.notes)
    assert "LeRobot does not record the observation after the last action" in notes


def test_a_gap_in_lerobot_is_said(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = lerobot(tmp_path / "set", video=True)
    file = path / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    source = open_source(path)
    keep = [i for i in range(18) if i != 12]
    pq.write_table(table.take(pa.array(keep)), file)
    with pytest.raises(BadData, match="Episode 1 of .* has 8 rows of 9.*frames are missing"):
        source[1]
    right_rows = source[0]
    assert len(right_rows) == 8
    video = path / "videos/observation.images.front/chunk-000/file-001.mp4"
    film(video, pictures(np.arange(4), 32), 10)
    with pytest.raises(BadData, match="file-001.mp4 has no frame at 0.400 s"):
        source[2]
    video.write_bytes(video.read_bytes()[:60])
    with pytest.raises(BadData, match="file-001.mp4 was to be read as a video"):
        source[2]


def test_an_older_lerobot_is_refused_with_the_mend(tmp_path):
    with pytest.raises(BadData, match="of version v2.1, but v3 is read. Convert it with"):
        open_source(lerobot(tmp_path / "set", video=False, version="v2.1"))


def test_others_read_the_lerobot_that_is_written(tmp_path):
    """With pyarrow, pandas and PyAV alone, as LeRobot's loader goes about it."""
    av = pytest.importorskip("av")
    pandas = pytest.importorskip("pandas")
    pq = pytest.importorskip("pyarrow.parquet")
    played = [continuous(e) for e in episodes()]
    path = tmp_path / "set"
    FORMATS["lerobot"].write(path, CONTINUOUS, iter(played))
    info = json.loads((path / "meta/info.json").read_text())
    rows = sum(len(e) + 1 for e in played)
    assert info["codebase_version"] == "v3.0" and info["splits"] == {"train": "0:11"}
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (11, rows, 1)
    tasks = pandas.read_parquet(path / "meta/tasks.parquet")
    assert tasks.loc["not told"].task_index == 0
    table = pq.read_table(path / "data")
    assert set(info["features"]) == set(table.column_names) | {"observation.images.image"}
    assert table["index"].to_pylist() == list(range(rows))
    index = pq.read_table(path / "meta/episodes").to_pylist()
    with av.open(str(path / "videos/observation.images.image/chunk-000/file-000.mp4")) as film:
        shades = [f.to_ndarray(format="rgb24").mean() for f in film.decode(video=0)]
    for place, episode in zip(index, played, strict=True):
        part = table.slice(place["dataset_from_index"], place["length"])
        count = len(episode)
        assert part.num_rows == count + 1
        state = np.array(part["observation.state"].to_pylist(), "f4").reshape(-1, 1)
        np.testing.assert_array_equal(state, episode.obs["vector"])
        np.testing.assert_array_equal(np.array(part["action"].to_pylist())[:-1], episode.action)
        assert part["next.reward"].to_pylist() == [*(10.0 * np.arange(count)), 0.0]
        assert part["frame_index"].to_pylist() == list(range(count + 1))
        first = round(place["videos/observation.images.image/from_timestamp"] * info["fps"])
        seen = shades[first : first + count + 1]
        assert np.abs(np.array(seen) - SHADE * np.arange(count + 1)).max() < 1.5
    stats = json.loads((path / "meta/stats.json").read_text())
    hours = np.concatenate([np.arange(len(e) + 1) for e in played])
    assert stats["observation.state"]["mean"] == pytest.approx([hours.mean()])
    assert stats["observation.state"]["std"] == pytest.approx([hours.std()])
    assert stats["observation.state"]["max"] == [8.0] and stats["action"]["count"] == [rows]
    shape = np.array(stats["observation.images.image"]["mean"]).shape
    assert shape == (3, 1, 1)
    assert stats["observation.images.image"]["mean"][0][0][0] == pytest.approx(
        hours.mean() * SHADE / 255
    )


# --- video ----------------------------------------------------------------------------------------


def test_folders_of_videos_are_read(tmp_path):
    film(tmp_path / "a" / "one.mp4", pictures(HOUR, 32), 10)
    film(tmp_path / "b" / "two.webm", pictures(HOUR, 32), 10, "libvpx-vp9")
    film(tmp_path / "c.gif", pictures(HOUR, 32), 10, "gif", "rgb8")
    (tmp_path / "readme.txt").write_text("clips")
    source = open_source(tmp_path)
    assert [source[i].info["file"] for i in range(3)] == ["a/one.mp4", "b/two.webm", "c.gif"]
    assert source.schema.actions is None and not source.schema.rewards
    for i in range(3):
        episode = source[i]
        assert episode.action is None and episode.reward is None
        assert not episode.terminated.any() and not episode.truncated.any()
        shades = episode.obs["image"].astype(int).mean((1, 2, 3))
        assert np.abs(shades - HOUR * SHADE).max() < (40 if i == 2 else 5)  # a GIF of 8 bits
    assert open_source(tmp_path, size=8)[0].obs["image"].shape == (9, 3, 8, 8)
    assert len(open_source(tmp_path / "c.gif")) == 1
    film(tmp_path / "d.mp4", pictures(HOUR, 48), 10)
    with pytest.raises(BadData, match="d.mp4 shows pictures of .*48, 48.*, but .*one.mp4 of"):
        open_source(tmp_path)[3]
    (tmp_path / "e.gif").write_bytes(b"GIF89a" + bytes(40))
    with pytest.raises(BadData, match="e.gif was to be read as a video, but it cannot be"):
        open_source(tmp_path)[4]
    film(tmp_path / "d.mp4", pictures(HOUR[:1], 32), 10)
    with pytest.raises(BadData, match="d.mp4 has a single frame"):
        open_source(tmp_path)[3]


def test_a_round_trip_through_all_of_them(tmp_path):
    """The clock goes from format to format and comes out bit for bit."""
    for package in ("h5py", "minari"):
        pytest.importorskip(package)
    played, path = episodes(), tmp_path / "0"
    FORMATS["store"].write(path, DISCRETE, iter(played))
    for i, name in enumerate(["npz", "hdf5", "minari", "hdf5_flat", "store"], 1):
        source = open_source(path)
        path = tmp_path / str(i)
        FORMATS[name].write(path, source.schema, (source[k] for k in range(len(source))))
    source = open_source(path)
    for i, episode in enumerate(played):
        same(source[i], episode)
