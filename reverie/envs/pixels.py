"""From a rendered frame (H, W, C) to the small (C, size, size) image that models read.

One rule for every world: each output pixel is the mean of the area of input that it covers, so
shrinking never drops a thin object, and stretching repeats pixels. Compiled by numba: about 25
microseconds for 160x120 RGB to 64x64. Imports core only.
"""

from __future__ import annotations

import numba
import numpy as np

from reverie.core.errors import BadConfig


class AreaResize:
    """Area-averages frames of one shape.

    Args:
        height: input rows.
        width: input columns.
        out_height: output rows.
        out_width: output columns.
    """

    def __init__(self, height: int, width: int, out_height: int, out_width: int) -> None:
        self.shape = (height, width)
        self.out_shape = (out_height, out_width)
        self._rows = _taps(height, out_height)
        self._columns = _taps(width, out_width)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """A new image of the frame.

        Args:
            frame: (H, W, C) or (H, W) uint8.

        Returns:
            (C, out_height, out_width) uint8, C = 1 for a frame without channels.
        """
        frame = np.ascontiguousarray(frame if frame.ndim == 3 else frame[..., None])
        image = np.empty((frame.shape[2], *self.out_shape), dtype=np.uint8)
        if self.shape == self.out_shape:
            image[:] = frame.transpose(2, 0, 1)
        else:
            _resize(frame, *self._rows, *self._columns, image)
        return image


def check_rows(rows: tuple[int, int] | None, height: int) -> tuple[int, int]:
    """The (top, bottom) of the rows to keep, all of them for None.

    Args:
        rows: rows top..bottom-1 are kept.
        height: rows of the picture.

    Raises:
        BadConfig: if they are not within the picture.
    """
    top, bottom = (0, height) if rows is None else rows
    if not 0 <= top < bottom <= height:
        raise BadConfig(
            f"rows must be (top, bottom) with 0 <= top < bottom <= {height}, the height of the "
            f"picture, but it is {rows}."
        )
    return top, bottom


def _taps(size: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of out cells: the first input cell (out,), and the weights from it on (out, K)."""
    low = np.arange(out) * size / out
    high = low + size / out
    first = np.floor(low + 1e-9).astype(np.int64)
    cells = first[:, None] + np.arange(int(np.ceil(size / out)) + 1)
    overlap = np.minimum(high[:, None], cells + 1) - np.maximum(low[:, None], cells)
    overlap = np.where(overlap > 1e-9, overlap, 0.0)
    return first, (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _resize(  # pragma: no cover - compiled
    frame: np.ndarray,
    row_first: np.ndarray,
    row_weight: np.ndarray,
    column_first: np.ndarray,
    column_weight: np.ndarray,
    image: np.ndarray,
) -> None:
    """Rows first, into one averaged line, then columns; rounds half up."""
    height, width, channels = frame.shape
    flat = frame.reshape(height, width * channels)
    line = np.empty(width * channels, np.float32)
    for i in range(len(row_first)):
        line[:] = 0
        for k in range(row_weight.shape[1]):
            weight = row_weight[i, k]
            if weight > 0:
                source = flat[row_first[i] + k]
                for j in range(width * channels):
                    line[j] += weight * np.float32(source[j])
        for j in range(len(column_first)):
            for c in range(channels):
                total = np.float32(0.5)
                for k in range(column_weight.shape[1]):
                    weight = column_weight[j, k]
                    if weight > 0:
                        total += weight * line[(column_first[j] + k) * channels + c]
                image[c, i, j] = np.uint8(total)
