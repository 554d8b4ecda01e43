"""Folders of mp4, webm or GIF as video without actions and rewards. Imports core and data.

Each file is one episode. Frames are decoded by PyAV, one file at a time; all files must show
pictures of one size (or be resized). Read only: what is written as a video loses actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core import registry
from reverie.core.errors import BadData
from reverie.core.types import Box
from reverie.data.episode import Episode
from reverie.data.formats.format import ColumnMap, Format
from reverie.data.schema import Schema
from reverie.data.source import Source

_HEAD = 12  # bytes that tell what a file is


class _Videos:
    """A source whose episodes are files."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self._path, self._files = path, files
        first = next(frames(files[0]))
        self._shape = first.transpose(2, 0, 1).shape
        spaces = {"image": Box(self._shape, 0.0, 255.0, "uint8")}
        self.schema = Schema.of(spaces, None, {}, rewards=False)
        self.notes = ("Videos hold neither actions, rewards nor ends: every episode is cut.",)

    def __len__(self) -> int:
        """How many files there are."""
        return len(self._files)

    def __getitem__(self, i: int) -> Episode:
        """All frames of a file."""
        file = self._files[i]
        images = [np.ascontiguousarray(frame.transpose(2, 0, 1)) for frame in frames(file)]
        shapes = {image.shape for image in images}
        if shapes != {self._shape}:
            raise BadData(
                f"{file} shows pictures of {sorted(shapes)}, but {self._files[0]} of "
                f"{self._shape}. Videos of one data set have one size: keep others elsewhere."
            )
        if len(images) < 2:
            raise BadData(f"{file} has a single frame, so no step. Move it away.")
        no = np.zeros(len(images) - 1, bool)
        where = file.name if file == self._path else file.relative_to(self._path).as_posix()
        return Episode({"image": np.stack(images)}, None, None, no, no.copy(), info={"file": where})


def frames(file: Path) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 pictures of a video in the order of time.

    Raises:
        BadData: if it cannot be decoded.
        MissingExtra: if PyAV is not installed.
    """
    av: Any = registry.require("av", "data")
    try:
        with av.open(str(file)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        raise BadData(
            f"{file} was to be read as a video, but it cannot be ({error}). "
            "Copy it again, or move it away."
        ) from None


def is_video(path: Path) -> bool:
    """Whether a file begins as mp4 (or mov), webm (or Matroska) or GIF."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or head[:4] == b"GIF8"


def _files(path: Path) -> list[Path]:
    """The videos at or below a path, in the order of their names."""
    if path.is_file():
        return [path] if is_video(path) else []
    return [file for file in sorted(path.rglob("*")) if is_video(file)]


def _detect(path: Path) -> bool:
    return bool(_files(path))


def _read(path: Path, columns: ColumnMap) -> Source:
    return _Videos(path, _files(path))


FORMAT = Format(
    name="video",
    title="a folder of mp4, webm or GIF files (read only: no actions)",
    extra="data",
    lossy="",
    detect=_detect,
    read=_read,
    write=None,
)
