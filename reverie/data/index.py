"""The episode index: fixed-size records with checksums. Imports core only.

A record is written after everything it speaks of, so the records that are sound, and whose rows
are there, are exactly the whole episodes.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

RECORD = np.dtype(
    [
        ("start", "<u8"),  # first row
        ("steps", "<u8"),  # T; the episode takes T+1 rows
        ("info_start", "<u8"),  # byte in info.jsonl
        ("info_bytes", "<u4"),
        ("checksum", "<u4"),  # crc32 of the 28 bytes before
    ]
)


def record(start: int, steps: int, info_start: int, info_bytes: int) -> np.ndarray:
    """(1,) record of an episode."""
    one = np.array([(start, steps, info_start, info_bytes, 0)], RECORD)
    one["checksum"] = _checksum(one)
    return one


def read(path: Path) -> tuple[np.ndarray, int, bool]:
    """Read the records up to the first that is not sound.

    Returns:
        (E,) sound records, how many bytes follow them, and whether sound ones are among those.
    """
    data = path.read_bytes()
    records = np.frombuffer(data, RECORD, count=len(data) // RECORD.itemsize)
    sound = np.array([r["checksum"] == _checksum(r) for r in records], bool)
    ends = np.concatenate([[0], np.cumsum(records["steps"] + 1)[:-1]]).astype(np.uint64)
    whole = len(records) if (good := sound & (records["start"] == ends)).all() else good.argmin()
    whole = int(whole)
    return records[:whole].copy(), len(data) - whole * RECORD.itemsize, bool(sound[whole:].any())


def info_end(records: np.ndarray) -> int:
    """Bytes of info.jsonl that these records speak of."""
    return int(records["info_start"][-1] + records["info_bytes"][-1]) if len(records) else 0


def _checksum(one: np.ndarray) -> int:
    """Of all fields but the last."""
    return zlib.crc32(one.tobytes()[: RECORD.itemsize - 4])
