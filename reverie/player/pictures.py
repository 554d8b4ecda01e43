"""Pictures from outside and films for outside: an upload read safely, frames as GIF or mp4.

Imports core and evaluate.
"""

from __future__ import annotations

import io
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from reverie.core.errors import BadData, SpaceMismatch
from reverie.core.model import WorldModel
from reverie.core.registry import require
from reverie.core.types import Box
from reverie.evaluate.film import gif

UPLOAD = 4 << 20  # bytes of a file
PIXELS = 16_000_000  # of a picture
FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
_SIDE = 256  # pixels that a frame of a film has at least, in height


def uploaded(data: bytes, model: WorldModel[Any]) -> np.ndarray:
    """A picture file as the model's own observation.

    Args:
        data: of a PNG, JPEG, GIF or WebP file; of a moving one the first frame counts.
        model: that is to dream on from it.

    Returns:
        (C, H, W) uint8.

    Raises:
        BadData: if it is no such picture, or too large.
        SpaceMismatch: if the model does not see pictures alone.
    """
    space = model.observations.get("image")
    channels = space.shape[0] if isinstance(space, Box) and len(space.shape) == 3 else 0
    if not isinstance(space, Box) or channels not in {1, 3} or len(model.observations) > 1:
        raise SpaceMismatch(
            f"A dream can begin in a picture only if the model sees one picture and nothing else, "
            f"but {model.heads.owner} reads {', '.join(model.observations)}. "
            "Begin from a real frame instead."
        )
    if len(data) > UPLOAD:
        raise BadData(f"A picture has at most {UPLOAD} bytes here, but this one has more.")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture = _read(data, "RGB" if channels == 3 else "L", space.shape[1:])
    pixels = np.asarray(picture, dtype=np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if channels == 3 else pixels[None])


def _read(data: bytes, mode: str, size: tuple[int, ...]) -> Image.Image:
    """A picture of one mode, cut to the right shape around its middle and resized."""
    height, width = size
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            if file.width * file.height > PIXELS:
                raise BadData(f"A picture has at most {PIXELS} pixels here; this one has more.")
            flat = file.convert("RGB")
    except BadData:
        raise
    except Exception as error:  # noqa: BLE001  # a decoder of foreign bytes may raise anything
        raise BadData(
            f"This file is not a picture that can be read ({type(error).__name__}). "
            f"Send one of {', '.join(FORMATS)}."
        ) from None
    scale = max(width / flat.width, height / flat.height)
    cut_w, cut_h = width / scale, height / scale
    left, top = (flat.width - cut_w) / 2, (flat.height - cut_h) / 2
    box = (left, top, left + cut_w, top + cut_h)
    return flat.resize((width, height), Image.Resampling.BOX, box=box).convert(mode)


def encoded(frames: np.ndarray, kind: str, fps: float) -> bytes:
    """A film.

    Args:
        frames: (N, 3, h, w) uint8.
        kind: "gif" or "mp4".
        fps: frames a second.

    Raises:
        MissingExtra: if mp4 is asked for and the package `av` is not installed.
    """
    k = max(1, -(-_SIDE // frames.shape[-2]))
    large = frames.repeat(k, -1).repeat(k, -2)
    return gif(large, fps=min(fps, 50), hold=0.5) if kind == "gif" else _mp4(large, fps)


def _mp4(frames: np.ndarray, fps: float) -> bytes:
    """H.264 in mp4, which every browser and messenger plays."""
    av: Any = require("av", "video")
    file = io.BytesIO()
    height, width = frames.shape[-2] // 2 * 2, frames.shape[-1] // 2 * 2
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "18"}
        for frame in frames[..., :height, :width]:
            pixels = np.ascontiguousarray(frame.transpose(1, 2, 0))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
