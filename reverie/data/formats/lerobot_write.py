"""Episodes to LeRobot v3: parquet for numbers, H.264 for images. Imports core and data."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core import registry
from reverie.core.errors import BadData
from reverie.core.types import Box, Space
from reverie.data.episode import Episode
from reverie.data.formats.format import Note
from reverie.data.formats.layout import pictures_last, taken, world_action
from reverie.data.moments import Moments
from reverie.data.schema import Schema, dtype_of
from reverie.data.source import is_picture

NOTE = "meta/reverie.json"
CLOCK = ("frame_index", "timestamp")
RATE = 30  # frames a second in the files: the data does not tell, and LeRobot wants a number
_DATA_BYTES, _VIDEO_BYTES = 100 << 20, 200 << 20  # of one file, LeRobot's own limits
_CHUNK = 1000  # files in a folder
_NO_TASK = "not told"
_QUALITY = {"crf": "10", "g": "2", "bf": "0"}  # H.264, full colour; a key frame every 2 frames
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_BOOKS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64"}
_BOOKS |= {"index": "int64", "task_index": "int64"}


def feature_key(name: str, schema: Schema) -> str:
    """What an observation is called in LeRobot."""
    if is_picture(schema.observations[name]):
        return f"observation.images.{name}"
    return "observation.state" if name == "vector" else f"observation.{name}"


def write(path: Path, schema: Schema, episodes: Iterable[Episode]) -> None:
    """Write a data set.

    Raises:
        BadData: if an observation is neither a vector nor an image of one or three channels.
        MissingExtra: if pyarrow or PyAV is not installed.
    """
    _check(schema)
    path.mkdir()
    writer = _Writer(path, schema)
    infos = []
    try:
        for episode in episodes:
            writer.add(episode)
            infos.append(episode.info)
    finally:
        writer.close()
    writer.finish()
    (path / NOTE).write_text(Note(schema, tuple(infos)).dump(), encoding="utf-8")


class _File:
    """Where the next rows go: numbered files in numbered folders."""

    def __init__(self, path: Path, template: str, limit: int) -> None:
        self._path, self._template, self._limit = path, template, limit
        self.chunk, self.number = 0, 0

    def here(self) -> Path:
        """The file, in a folder that exists."""
        file = self._path / self._template.format(chunk_index=self.chunk, file_index=self.number)
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def full(self) -> bool:
        """Whether the next episode goes to a new file."""
        file = self.here()
        return file.exists() and file.stat().st_size >= self._limit

    def turn(self) -> None:
        """Go on with a new file."""
        self.number += 1
        if self.number == _CHUNK:
            self.chunk, self.number = self.chunk + 1, 0


class _Film:
    """The video files of one camera."""

    def __init__(self, path: Path, key: str, shape: tuple[int, ...]) -> None:
        self.key = key
        self._shape = shape
        self._file = _File(path, _VIDEO.replace("{video_key}", key), _VIDEO_BYTES)
        self._container: Any = None
        self._stream: Any = None
        self._frames = 0

    def add(self, pictures: np.ndarray) -> dict[str, Any]:
        """Append (rows, H, W, 1 or 3) frames; returns where they are."""
        av: Any = registry.require("av", "data")
        if self._container is not None and self._file.full():
            self.close()
            self._file.turn()
        if self._container is None:
            self._open(av)
        start = self._frames
        for picture in pictures:
            rgb = np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts = self._frames
            frame.time_base = Fraction(1, RATE)
            self._mux(frame)
            self._frames += 1
        where = f"videos/{self.key}"
        return {
            f"{where}/chunk_index": self._file.chunk,
            f"{where}/file_index": self._file.number,
            f"{where}/from_timestamp": start / RATE,
            f"{where}/to_timestamp": self._frames / RATE,
        }

    def _open(self, av: Any) -> None:
        self._container = av.open(str(self._file.here()), "w")
        self._stream = self._container.add_stream("libx264", rate=RATE, options=dict(_QUALITY))
        self._stream.height, self._stream.width = self._shape[1:]
        self._stream.pix_fmt = "yuv444p"
        self._stream.codec_context.time_base = Fraction(1, RATE)
        self._frames = 0

    def close(self) -> None:
        """End the file."""
        if self._container is not None:
            self._mux(None)
            self._container.close()
            self._container = None

    def _mux(self, frame: Any) -> None:
        """Encode a frame, or None: all that the encoder still holds."""
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


class _Writer:
    """The open files of a data set that is being written."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self._pa = registry.require("pyarrow", "data")
        self._parquet = registry.require("pyarrow.parquet", "data")
        self._path, self._schema = path, schema
        self._films = {
            name: _Film(path, feature_key(name, schema), space.shape)  # type: ignore[union-attr]
            for name, space in schema.observations.items()
            if is_picture(space)
        }
        self._data = _File(path, _DATA, _DATA_BYTES)
        self._table: Any = None
        self._places: list[dict[str, Any]] = []
        self._tasks: dict[str, int] = {}
        self._moments: dict[str, Moments] = {}
        self._rows = 0

    def add(self, episode: Episode) -> None:
        """Append an episode as T+1 rows."""
        columns = self._columns(episode)
        count = len(episode) + 1
        if self._table is not None and self._data.full():
            self._table.close()
            self._table = None
            self._data.turn()
        table = self._pa.table({name: self._array(x) for name, x in columns.items()})
        if self._table is None:
            self._table = self._parquet.ParquetWriter(self._data.here(), table.schema)
        self._table.write_table(table)
        place = {
            "episode_index": len(self._places),
            "tasks": [str(episode.info.get("task", _NO_TASK))],
            "length": count,
            "data/chunk_index": self._data.chunk,
            "data/file_index": self._data.number,
            "dataset_from_index": self._rows,
            "dataset_to_index": self._rows + count,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        pictures = pictures_last(self._schema, episode)
        for name, film in self._films.items():
            place |= film.add(pictures[name])
            self._measure(film.key, pictures[name].reshape(-1, pictures[name].shape[3]) / 255)
        self._places.append(place)
        self._rows += count

    def _columns(self, episode: Episode) -> dict[str, np.ndarray]:
        """(T+1, ...) columns of an episode that are no images."""
        schema, count = self._schema, len(episode) + 1
        columns = {
            feature_key(name, schema): value
            for name, value in episode.obs.items()
            if name not in self._films
        }
        action = world_action(schema, episode)
        if action is not None:
            columns["action"] = taken(action)
        if episode.reward is not None:
            columns["next.reward"] = taken(episode.reward)
        columns |= {f"extra.{name}": taken(value) for name, value in episode.extra.items()}
        ended = taken(episode.terminated | episode.truncated)
        columns |= {
            "next.done": ended,
            "next.terminated": taken(episode.terminated),
            "next.truncated": taken(episode.truncated),
        }
        for name, value in columns.items():
            self._measure(name, value)
        task = str(episode.info.get("task", _NO_TASK))
        number = self._tasks.setdefault(task, len(self._tasks))
        return {
            **columns,
            "timestamp": (np.arange(count) / RATE).astype(np.float32),
            "frame_index": np.arange(count),
            "episode_index": np.full(count, len(self._places)),
            "index": np.arange(self._rows, self._rows + count),
            "task_index": np.full(count, number),
        }

    def _measure(self, name: str, rows: np.ndarray) -> None:
        self._moments.setdefault(name, Moments()).add(rows.reshape(len(rows), -1))

    def _array(self, value: np.ndarray) -> Any:
        """A column of numbers, or of lists of one length."""
        width = int(np.prod(value.shape[1:]))
        flat = self._pa.array(np.ascontiguousarray(value).reshape(-1))
        return flat if width == 1 else self._pa.FixedSizeListArray.from_arrays(flat, width)

    def close(self) -> None:
        """End all files."""
        for film in self._films.values():
            film.close()
        if self._table is not None:
            self._table.close()
            self._table = None

    def finish(self) -> None:
        """Write what is known only now: the index, the tasks, the statistics, info.json."""
        folder = self._path / "meta" / "episodes" / "chunk-000"
        folder.mkdir(parents=True)
        self._parquet.write_table(
            self._pa.Table.from_pylist(self._places), folder / "file-000.parquet"
        )
        self._parquet.write_table(self._task_table(), self._path / "meta" / "tasks.parquet")
        stats = {name: self._statistics(name, found) for name, found in self._moments.items()}
        self._json("stats.json", stats)
        self._json("info.json", self._info())

    def _task_table(self) -> Any:
        """Tasks as LeRobot reads them with pandas: the text is the index."""
        table = self._pa.table({"task_index": list(self._tasks.values()), "task": [*self._tasks]})
        kinds = {"task_index": "int64", "task": "unicode"}
        columns = [
            {"name": n, "field_name": n, "pandas_type": k, "numpy_type": m, "metadata": None}
            for (n, k), m in zip(kinds.items(), ("int64", "object"), strict=True)
        ]
        told = {"index_columns": ["task"], "column_indexes": [], "columns": columns}
        told |= {"creator": {}, "pandas_version": "2.0.0"}
        return table.replace_schema_metadata({"pandas": json.dumps(told)})

    def _statistics(self, name: str, found: Moments) -> dict[str, Any]:
        """Of one feature, as LeRobot normalises with them; images channel by channel."""
        camera = name in {film.key for film in self._films.values()}

        def shaped(value: np.ndarray) -> list[Any]:
            if camera:
                value = np.broadcast_to(value, 3).reshape(3, 1, 1)
            return value.tolist()

        values = {"min": found.low, "max": found.high, "mean": found.mean, "std": found.std}
        return {**{key: shaped(x) for key, x in values.items()}, "count": [self._rows]}

    def _info(self) -> dict[str, Any]:
        """meta/info.json."""
        return {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": len(self._places),
            "total_frames": self._rows,
            "total_tasks": len(self._tasks),
            "chunks_size": _CHUNK,
            "data_files_size_in_mb": _DATA_BYTES >> 20,
            "video_files_size_in_mb": _VIDEO_BYTES >> 20,
            "fps": RATE,
            "splits": {"train": f"0:{len(self._places)}"},
            "data_path": _DATA,
            "video_path": _VIDEO if self._films else None,
            "features": self._features(),
        }

    def _features(self) -> dict[str, Any]:
        """What each column is."""
        schema = self._schema
        found = {
            feature_key(name, schema): _picture(space) if is_picture(space) else _numbers(space)
            for name, space in schema.observations.items()
        }
        if schema.actions is not None:
            found["action"] = _numbers(schema.actions)
        if schema.rewards:
            found["next.reward"] = _numbers(Box(()))
        found |= {f"extra.{name}": _numbers(space) for name, space in schema.extra.items()}
        for name in ("next.done", "next.terminated", "next.truncated"):
            found[name] = _numbers(Box((), dtype="bool"))
        books = {n: {"dtype": kind, "shape": [1], "names": None} for n, kind in _BOOKS.items()}
        return {**found, **books}

    def _json(self, name: str, value: Any) -> None:
        (self._path / "meta" / name).write_text(json.dumps(value, indent=1), encoding="utf-8")


def _numbers(space: Space) -> dict[str, Any]:
    """A feature of numbers."""
    shape = list(space.shape) if isinstance(space, Box) else []
    return {"dtype": dtype_of(space).name, "shape": shape or [1], "names": None}


def _picture(space: Space) -> dict[str, Any]:
    """A feature of video frames."""
    _, height, width = space.shape  # type: ignore[union-attr]
    told = {"video.height": height, "video.width": width, "video.channels": 3, "video.fps": RATE}
    told |= {"video.codec": "h264", "video.pix_fmt": "yuv444p", "has_audio": False}
    return {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {**told, "video.is_depth_map": False},
    }


def _check(schema: Schema) -> None:
    """Refuse what has no place there."""
    for name, space in (*schema.observations.items(), *schema.extra.items()):
        shape = space.shape if isinstance(space, Box) else ()
        if is_picture(space) and shape[:1] in {(1,), (3,)}:
            continue
        if len(shape) > 1 or is_picture(space):
            raise BadData(
                f"'{name}' of shape {shape} was to be written as lerobot, which holds vectors and "
                "images of one or three channels here. Choose store, npz or hdf5."
            )
