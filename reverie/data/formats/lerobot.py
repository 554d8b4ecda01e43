"""LeRobot v3 data sets, read with pyarrow and PyAV; the lerobot package is not needed.

`meta/info.json` says what there is, `meta/episodes/` where each episode lies, `data/` holds one
row a frame, `videos/CAMERA/` the frames. A row holds o[t], the action taken there, and what came
next: `next.reward`, `next.done`. The observation after the last action is not recorded, so others'
last steps have no o[t+1] and are left out. Our writer adds a row for o[T], its action zeros and its
reward 0, and `next.terminated` and `next.truncated`. Imports core and data.

Source: huggingface.co/docs/lerobot, "LeRobotDataset v3.0"; lerobot 0.4, datasets/.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core import registry
from reverie.core.errors import BadData
from reverie.data.formats.format import ColumnMap, Format, Note
from reverie.data.formats.lerobot_write import CLOCK, NOTE, feature_key, write
from reverie.data.formats.reader import Raw, Reader
from reverie.data.formats.rows import Rows, align
from reverie.data.source import Source, is_picture

_BOOKS = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
_SLACK = 0.5  # of a frame, by which a picture's time may differ from its row's


class _Table:
    """The episodes of a data set."""

    def __init__(self, path: Path, told: ColumnMap) -> None:
        self.where, self.said, self._path = str(path), [], path
        self.action_range = None
        self._info = _info(path)
        self._features: dict[str, Any] = self._info["features"]
        self._rate = float(self._info["fps"])
        note = path / NOTE
        self.note = Note.load(note.read_text(encoding="utf-8"), path) if note.is_file() else None
        self._index = _episodes(path)
        self._action = self._pick(told.action, "action")
        self._reward = self._pick(told.reward, "next.reward")
        self._terminated = self._pick(told.terminated, "next.terminated")
        self._truncated = self._pick(told.truncated, "next.truncated") or self._pick(
            told.truncated, "next.done"
        )

    def __len__(self) -> int:
        return len(self._index)

    def columns(self) -> Sequence[str]:
        """Observations, by their names in the file, or by ours where the file is."""
        if self.note:
            return list(self.note.schema.observations)
        found = [
            name
            for name, feature in self._features.items()
            if name.startswith("observation") and feature["dtype"] not in {"string", "language"}
        ]
        return found

    def actions(self, i: int) -> np.ndarray | None:
        """(T, ...) of an episode."""
        return self._columns(i, [self._action])[self._action][:-1] if self._action else None

    def raw(self, i: int, names: Sequence[str]) -> Raw:
        """One episode."""
        keys = {name: self._key(name) for name in names}
        extra = {name: f"extra.{name}" for name in (self.note.schema.extra if self.note else {})}
        flags = [self._action, self._reward, self._terminated, self._truncated]
        films = {key for key in keys.values() if self._features[key]["dtype"] == "video"}
        wanted = {*keys.values(), *extra.values(), *flags, *CLOCK} - films - {""}
        rows = self._columns(i, sorted(wanted))
        times = self._times(i, rows)
        obs = {
            name: self._pictures(i, key, times) if key in films else rows[key]
            for name, key in keys.items()
        }
        raw, cut = align(
            Rows(
                obs=self._gray(obs),
                following={},
                action=rows.get(self._action),
                reward=rows.get(self._reward),
                terminated=rows.get(self._terminated),
                truncated=rows.get(self._truncated),
                extra={name: rows[key] for name, key in extra.items()},
            ),
            f"Episode {i} of {self.where}",
            action_row="taken",
            reward_row="taken",
        )
        if cut and not self.note:
            self.said.append(
                "LeRobot does not record the observation after the last action, so the last step "
                "of each episode, with its reward and its end, is left out."
            )
        tasks = {} if self.note else {"task": ", ".join(self._index[i].get("tasks") or [])}
        return raw._replace(info=tasks)

    def _pick(self, told: str | None, usual: str) -> str:
        """The column to read, "" if there is none."""
        if told is None:
            return usual if usual in self._features else ""
        if told and told not in self._features:
            raise BadData(
                f"The mapping names column {told}, but {self.where} has "
                f"{sorted(self._features)}. Name one of these."
            )
        return told

    def _key(self, name: str) -> str:
        """A column's name in the file."""
        return feature_key(name, self.note.schema) if self.note else name

    def _gray(self, obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Pictures of one channel were written as three equal ones."""
        spaces = self.note.schema.observations if self.note else {}
        return {
            name: value.mean(3, keepdims=True).round().astype(np.uint8)
            if name in spaces and is_picture(spaces[name]) and spaces[name].shape[0] == 1  # type: ignore[union-attr]
            else value
            for name, value in obs.items()
        }

    def _columns(self, i: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Rows of an episode from its parquet file."""
        parquet = registry.require("pyarrow.parquet", "data")
        place = self._index[i]
        file = self._path / self._info["data_path"].format(
            chunk_index=place["data/chunk_index"], file_index=place["data/file_index"]
        )
        number = place["episode_index"]
        try:
            table = parquet.read_table(
                file, columns=list(names), filters=[("episode_index", "=", number)]
            )
            return {name: self._array(table[name]) for name in names}
        except (OSError, KeyError, ValueError) as error:
            raise BadData(
                f"Episode {number} of {self.where} cannot be read from {file.name} ({error}). "
                "Copy the data again."
            ) from None

    def _array(self, column: Any) -> np.ndarray:
        """(rows, ...) of a column; lists become an axis, encoded pictures pixels."""
        column = column.combine_chunks()
        kind = str(column.type)
        if kind.startswith("struct"):
            return np.stack([_decoded(cell["bytes"]) for cell in column.to_pylist()])
        if kind.startswith("fixed_size_list"):
            flat = column.flatten()
            if "list" not in str(flat.type):
                return flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)
        if "list" in kind:
            return np.asarray(column.to_pylist(), np.float32)
        return column.to_numpy(zero_copy_only=False)

    def _times(self, i: int, rows: dict[str, np.ndarray]) -> np.ndarray:
        """(rows,) seconds of each row since its episode began."""
        frame, seconds = (rows[name].reshape(-1) for name in CLOCK)
        length = int(self._index[i]["length"])
        steps = np.abs(seconds - frame / self._rate) * self._rate
        if len(frame) != length or (frame != np.arange(length)).any() or steps.max() > _SLACK:
            raise BadData(
                f"Episode {i} of {self.where} has {len(frame)} rows of {length}, or their times "
                f"are not {self._rate:g} a second: frames are missing. Record it again or drop it."
            )
        return seconds.astype(np.float64)

    def _pictures(self, i: int, key: str, times: np.ndarray) -> np.ndarray:
        """(rows, H, W, 3) the frames at these times of an episode."""
        place = self._index[i]
        file = self._path / self._info["video_path"].format(
            video_key=key,
            chunk_index=place[f"videos/{key}/chunk_index"],
            file_index=place[f"videos/{key}/file_index"],
        )
        wanted = times + float(place[f"videos/{key}/from_timestamp"])
        return _frames(file, wanted, _SLACK / self._rate)


def _frames(file: Path, times: np.ndarray, slack: float) -> np.ndarray:
    """(rows, H, W, 3) the frames of a video at these times, in order."""
    av: Any = registry.require("av", "data")
    found: list[np.ndarray] = []
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            container.seek(int(times[0] / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                at = float(frame.pts * stream.time_base)
                if at < times[len(found)] - slack:
                    continue
                if at > times[len(found)] + slack:
                    break
                found.append(frame.to_ndarray(format="rgb24"))
                if len(found) == len(times):
                    return np.stack(found)
    except (av.FFmpegError, IndexError) as error:
        raise BadData(
            f"{file} was to be read as a video, but it cannot be ({error}). Copy the data again."
        ) from None
    raise BadData(
        f"{file} has no frame at {times[len(found)]:.3f} s, which its table speaks of. "
        "Copy the data again, or drop that episode."
    )


def _decoded(data: bytes) -> np.ndarray:
    """(H, W, C) pixels of an encoded picture."""
    from PIL import Image

    picture = np.asarray(Image.open(io.BytesIO(data)))
    return picture if picture.ndim == 3 else picture[..., None]


def _info(path: Path) -> dict[str, Any]:
    """meta/info.json of a data set of this version."""
    info = json.loads((path / "meta" / "info.json").read_text(encoding="utf-8"))
    version = str(info["codebase_version"])
    if not version.startswith("v3."):
        raise BadData(
            f"{path} is a LeRobot data set of version {version}, but v3 is read. Convert it with "
            "LeRobot's own script (lerobot.datasets.v30.convert_dataset_v21_to_v30)."
        )
    return info


def _episodes(path: Path) -> list[dict[str, Any]]:
    """Where each episode lies, by its number."""
    parquet = registry.require("pyarrow.parquet", "data")
    found = []
    for file in sorted((path / "meta" / "episodes").rglob("*.parquet")):
        names = [n for n in parquet.read_schema(file).names if not n.startswith("stats/")]
        found += parquet.read_table(file, columns=names).to_pylist()
    return sorted(found, key=lambda place: place["episode_index"])


def _detect(path: Path) -> bool:
    try:
        text = (path / "meta" / "info.json").read_text(encoding="utf-8")
        return "codebase_version" in json.loads(text)
    except (OSError, ValueError):
        return False


def _read(path: Path, columns: ColumnMap) -> Source:
    return Reader(_Table(path, columns), columns)


FORMAT = Format(
    name="lerobot",
    title="a LeRobot v3 data set: a folder with meta/info.json, parquet and mp4",
    extra="data",
    lossy="Images are written as H.264 video, which is not lossless.",
    detect=_detect,
    read=_read,
    write=write,
)
