"""HDF5 in flat columns, to be written; reading is `reverie.data.formats.hdf5`'s.

Imports core and data.
"""

from __future__ import annotations

from pathlib import Path

from reverie.data.formats.format import Format
from reverie.data.formats.hdf5 import read
from reverie.data.formats.hdf5_write import write_columns


def _detect(path: Path) -> bool:
    """Never: the same files are found as hdf5, which tells the layouts apart."""
    return False


FORMAT = Format(
    name="hdf5_flat",
    title="an HDF5 file in stable-worldmodel's flat columns (to write; read as hdf5)",
    extra="data",
    lossy="",
    detect=_detect,
    read=read,
    write=write_columns,
)
