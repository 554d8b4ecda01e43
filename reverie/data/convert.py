"""From any format to any other, one episode in memory, and the target whole or absent.

    convert("demos.hdf5", "demos")                     # to the library's own store
    store = open_data("demos.hdf5")                    # the same, kept beside the data

Everything is written under a temporary name beside the target and renamed when it is on disk, so
a run that is killed leaves nothing under the target's name. Imports core, progress and data.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reverie.core.errors import BadConfig, BadData, ReverieError, SpaceMismatch
from reverie.core.types import Space
from reverie.data.episode import Episode
from reverie.data.files import full_disk, sync_folder
from reverie.data.formats import registry
from reverie.data.formats.format import ColumnMap, Format
from reverie.data.source import Source, Subset, is_picture
from reverie.data.store import Store
from reverie.progress import Progress, Silent

_log = logging.getLogger(__name__)
_SOURCE = "source.json"  # in a cached store: what it was made from
_HDF5 = frozenset({".h5", ".hdf5", ".hdf"})


class Converted(NamedTuple):
    """What `convert` did."""

    source: str  # format
    target: str  # format
    episodes: int
    steps: int
    size: int  # bytes on disk
    notes: tuple[str, ...]  # what was guessed, dropped or rounded


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: str | None = None,
    columns: ColumnMap | None = None,
    size: int | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Write the episodes at one path to another, in another format.

    Args:
        source: a file or folder of any format.
        target: where nothing is yet.
        to: the format's name; None: hdf5 for a target that ends so, else the library's store.
        columns: what the source's columns are called, where that cannot be guessed.
        size: height and width to which images are averaged; None: as they are.
        progress: told of the episodes that are done.

    Raises:
        BadData: if the source is of no known format or damaged, the target is taken, or an
            episode breaks the contract. Nothing is left at the target.
        BadConfig: if the format can only be read.
        MissingExtra: if a library is not installed.
        StorageFull: if the disk is full.
    """
    source, target = Path(source), Path(target)
    form = registry.writable(to or _usual(target))
    _check_new(target)
    found = registry.detect(source)
    episodes = registry.open_source(source, columns=columns, size=size)
    with _whole(target) as temporary:
        steps = _write(form, temporary, episodes, progress or Silent())
    lost = form.lossy and any(is_picture(s) for s in episodes.schema.observations.values())
    notes = (*episodes.notes, *((form.lossy,) if lost else ()))
    return Converted(found.name, form.name, len(episodes), steps, bytes_at(target), notes)


def split(
    source: str | Path,
    target: str | Path,
    fractions: Mapping[str, float],
    *,
    seed: int = 0,
    to: str = "store",
    columns: ColumnMap | None = None,
    size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write the episodes at a path as parts that share none, all parts or none of them.

    Which episode falls into which part follows from the seed and their number alone.

    Args:
        source: a file or folder of any format.
        target: a folder that is not there yet; each part is a name inside.
        fractions: part -> share of the episodes; they sum to 1.
        seed: of the shuffle.
        to: the format of the parts.
        columns: what the source's columns are called, where that cannot be guessed.
        size: height and width to which images are averaged; None: as they are.
        progress: told of the episodes that are done.

    Returns:
        Part -> its number of episodes.

    Raises:
        BadConfig: if the fractions do not sum to 1, or a part would be empty.
        BadData: as `convert`.
    """
    target = Path(target)
    form = registry.writable(to)
    _check_new(target)
    episodes = registry.open_source(source, columns=columns, size=size)
    parts = parts_of(len(episodes), fractions, seed)
    suffix = ".hdf5" if to.startswith("hdf5") else ""
    with _whole(target) as temporary:
        temporary.mkdir()
        for name, chosen in parts.items():
            part = Subset(episodes, chosen)
            _write(form, temporary / f"{name}{suffix}", part, progress or Silent(), name)
    return {name: len(chosen) for name, chosen in parts.items()}


def parts_of(episodes: int, fractions: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Episode numbers of each part, in their own order.

    Args:
        episodes: how many there are.
        fractions: part -> share; they sum to 1.
        seed: of the shuffle.

    Raises:
        BadConfig: if the fractions do not sum to 1, a name cannot be a file's, or a part would be
            empty.
    """
    shares = np.asarray(list(fractions.values()), float)
    if not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise BadConfig(
            f"Fractions are above 0 and sum to 1, but these are {list(fractions.values())}. "
            "Change one."
        )
    if wrong := [name for name in fractions if not re.fullmatch(r"\w[\w-]*", name)]:
        raise BadConfig(f"A part was to be named {wrong[0]!r}. Use letters, digits and - or _.")
    ends = np.round(np.cumsum(shares) * episodes).astype(int)
    order = np.random.default_rng(seed).permutation(episodes)
    parts = {
        name: sorted(part.tolist())
        for name, part in zip(fractions, np.split(order, ends[:-1]), strict=True)
    }
    if empty := [name for name, part in parts.items() if not part]:
        raise BadConfig(
            f"Part {empty[0]} would hold none of {episodes} episodes. Give it a larger fraction."
        )
    return parts


def open_data(
    path: str | Path,
    *,
    cache: str | Path | None = None,
    columns: ColumnMap | None = None,
    size: int | None = None,
    progress: Progress | None = None,
) -> Store:
    """A store of the data at a path, whatever its format, for a sampler to draw from.

    A store is opened as it is. Anything else is converted once into a store beside it (or in a
    folder that is named), which is opened again as long as the data stays the same; a log line
    says where it is and how large.

    Args:
        path: a file or folder of any format.
        cache: where the converted store goes; None: PATH.store or PATH.store64 beside the data.
        columns: what the columns are called, where that cannot be guessed.
        size: height and width to which images are averaged; None: as they are.
        progress: told of the episodes that are converted.

    Raises:
        BadData: if nothing is there, no format knows it, or it is damaged.
        MissingExtra: if its library is not installed.
    """
    path = Path(path).absolute()
    form = registry.detect(path)
    if form.name == "store" and size is None:
        return Store.open(path)
    name = f"{path.name}.store{size or ''}"
    kept = path.with_name(name) if cache is None else Path(cache)
    told = {"data": _fingerprint(path), "columns": repr(columns or ColumnMap()), "size": size}
    if _made_from(kept) != told:
        _make(path, kept, told, columns, size, progress or Silent())
        _log.warning(
            "%s (%s, %s) was converted once to the store %s (%s), which may be deleted.",
            *(path, form.name, readable(bytes_at(path)), kept, readable(bytes_at(kept))),
        )
    return Store.open(kept)


def check_spaces(
    store: Store, observations: Mapping[str, Space], actions: Space | None, world: str
) -> None:
    """Refuse data that a world's models could not be trained on.

    Args:
        store: the data.
        observations: of the world; the data may have more.
        actions: of the world; None: not looked at.
        world: its name, for the message.

    Raises:
        SpaceMismatch: naming the first difference.
    """
    for name, space in observations.items():
        found = store.observations.get(name)
        if found is None or (found.shape if hasattr(found, "shape") else ()) != _shape(space):  # type: ignore[union-attr]
            has = "nothing" if found is None else str(_shape(found))
            raise SpaceMismatch(
                f"{world} shows '{name}' of shape {_shape(space)}, but {store.path} has {has} "
                f"there (it has {sorted(store.observations)}). Convert the data with --size, "
                "rename its columns in a mapping file, or choose another world."
            )
    if actions is not None and _kind(actions) != _kind(store.actions):
        raise SpaceMismatch(
            f"{world} takes actions {_kind(actions)}, but {store.path} has {_kind(store.actions)}. "
            "Choose data recorded with these actions, or another world."
        )


def readable(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 1e3:,.0f} kB" if size < 1e6 else f"{size / 1e6:,.1f} MB"


def bytes_at(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _write(form: Format, path: Path, source: Source, progress: Progress, name: str = "") -> int:
    """Write all episodes; returns how many steps they have."""
    steps = 0

    def stream() -> Iterator[Episode]:
        nonlocal steps
        with progress.task(f"convert {name}".strip(), len(source)) as task:
            for i in range(len(source)):
                episode = source[i]
                _check(source, i, episode)
                yield episode
                steps += len(episode)
                task.advance(1, steps=steps)

    if form.write is None or len(source) == 0:
        raise BadData("Episodes were to be converted, but there is none. Record some.")
    form.write(path, source.schema, stream())
    return steps


def _check(source: Source, i: int, episode: Episode) -> None:
    """Refuse an episode that does not keep to the schema, whatever the format would take."""
    try:
        source.schema.rows_of(episode)
    except ReverieError as error:
        raise type(error)(f"Episode {i}: {error}") from None


def _make(
    path: Path,
    kept: Path,
    told: dict[str, Any],
    columns: ColumnMap | None,
    size: int | None,
    progress: Progress,
) -> None:
    """Convert into a cached store, in the place of an older one."""
    if kept.exists() and _made_from(kept) is None:
        raise BadData(
            f"{path} was to be converted to {kept}, but something else is there. "
            "Name another folder for the converted store."
        )
    source = registry.open_source(path, columns=columns, size=size)
    with _whole(kept) as temporary:
        _write(registry.named("store"), temporary, source, progress)
        (temporary / _SOURCE).write_text(json.dumps(told), encoding="utf-8")
        shutil.rmtree(kept, ignore_errors=True)


def _made_from(kept: Path) -> dict[str, Any] | None:
    """What a cached store was made from; None: it is none."""
    try:
        return json.loads((kept / _SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _fingerprint(path: Path) -> list[list[Any]]:
    """Names, sizes and times of all files: they differ once the data does."""
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    stats = [(file, file.stat()) for file in files]
    return [[file.name, stat.st_size, stat.st_mtime_ns] for file, stat in stats]


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A temporary path that becomes the target once the block ends and all is on disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with full_disk(target, lambda: "nothing was written there"):
            yield temporary
            _sync(temporary)
            temporary.rename(target)
        sync_folder(target.parent)
    finally:
        _remove(temporary)


def _sweep(target: Path) -> None:
    """Remove what killed runs left beside a target."""
    for path in target.parent.glob(f".{target.name}.*.tmp"):
        pid = path.name.split(".")[-2]
        if pid.isdecimal() and not _runs(int(pid)):
            _remove(path)


def _runs(pid: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Force a file, or all in a folder, to disk."""
    for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
        sync_folder(file)


def _check_new(target: Path) -> None:
    if target.exists():
        raise BadData(
            f"Data was to be written to {target}, but something is there. "
            "Remove it, or choose another path."
        )


def _usual(target: Path) -> str:
    """The format that a target's name speaks of."""
    return "hdf5" if target.suffix.lower() in _HDF5 else "store"


def _shape(space: Space) -> tuple[int, ...]:
    return getattr(space, "shape", ())


def _kind(space: Space | None) -> str:
    """A space as it is compared: the range of a Box does not matter."""
    if space is None:
        return "none"
    return f"of shape {space.shape}" if hasattr(space, "shape") else str(space)  # type: ignore[union-attr]
