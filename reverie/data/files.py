"""The few file operations that make the store safe. Imports core only.

Whole files are replaced by rename; rows are written at an offset and forced to disk before any
index mentions them; a full disk is one clear error.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from reverie.core.errors import BadData, StorageFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def full_disk(path: Path, kept: Callable[[], str]) -> Iterator[None]:
    """Turn 'no space left' inside the block into a sentence.

    Args:
        path: what was being written.
        kept: says what is whole nevertheless, to end the first sentence.

    Raises:
        StorageFull: if the disk or the quota is full; every other error passes.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StorageFull(
            f"The disk is full while writing {path}; {kept()}. Free some space and run again."
        ) from None


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all bytes at an offset, however many calls that takes."""
    while len(data):
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def replace(path: Path, data: bytes) -> None:
    """Put a whole file in place: it holds the old bytes or the new ones, never a part."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        write_at(descriptor, memoryview(data), 0)
        os.fsync(descriptor)
        os.replace(temporary, path)
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Held:
    """The files that the one writer of a folder holds open, and its right to write.

    The right is given free when the process ends, however it ends.

    Args:
        folder: where the files are.

    Raises:
        BadData: if another process is writing there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = os.open(folder / "writer.lock", os.O_RDWR | os.O_CREAT, 0o644)
        self._open: dict[str, int] = {}
        self.close = weakref.finalize(self, _close, self._open, self._lock)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise BadData(
                f"{folder} is being written by another process. Wait for it, or open it to read."
            ) from None

    def hold(self, names: Iterable[str]) -> None:
        """Hold these files open, and no others."""
        wanted = set(names)
        for name in self._open.keys() - wanted:
            os.close(self._open.pop(name))
        for name in wanted - self._open.keys():
            self._open[name] = os.open(self._folder / name, os.O_RDWR)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return os.fstat(self._open[name]).st_size

    def write(self, name: str, data: bytes | memoryview, offset: int) -> None:
        """Write all bytes at an offset."""
        write_at(self._open[name], memoryview(data), offset)

    def sync(self, *names: str) -> None:
        """Force files to the disk."""
        for name in names:
            os.fsync(self._open[name])

    def cut(self, sizes: Mapping[str, int]) -> int:
        """Make files just so long; returns how many bytes were dropped."""
        dropped = 0
        for name, size in sizes.items():
            dropped += max(0, self.size(name) - size)
            os.ftruncate(self._open[name], size)
        return dropped


def _close(descriptors: dict[str, int], lock: int) -> None:
    """Close descriptors; the lock last, which frees the writer's place."""
    while descriptors:
        os.close(descriptors.popitem()[1])
    os.close(lock)
